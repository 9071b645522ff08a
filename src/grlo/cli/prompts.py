"""Sets of prompts: built, described, audited; those of a recipe by their pass rate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grlo.cli.options import Overrides, RayAddress, RayWorkers, Recipes, names, ray_cluster

DataFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="Prompts, preferences or demonstrations: .jsonl, .jsonl.gz, .parquet."
    ),
]


def pass_rate(
    recipes: Recipes,
    out: Annotated[Path, typer.Option(help="JSONL of the prompts that are kept.")],
    samples: Annotated[int, typer.Option(min=1, help="Answers per prompt.")] = 8,
    least: Annotated[float, typer.Option("--min", min=0, max=1, help="Lowest rate kept.")] = 0.1,
    most: Annotated[float, typer.Option("--max", min=0, max=1, help="Highest rate kept.")] = 0.9,
    overrides: Overrides = None,
) -> None:
    """Keeps the prompts that a recipe's policy answers right sometimes, not always or never."""
    from grlo.recipe import load_recipe

    recipe = load_recipe(recipes, overrides=overrides or ())

    from grlo.stages.pass_rate import pass_rate as run_pass_rate

    run_pass_rate(recipe, out=out, num_samples=samples, least=least, most=most)


def prompts_build(
    recipe: Annotated[Path, typer.Argument(help="TOML file: sources, filters, composition.")],
    out: Annotated[Path, typer.Option(help="Folder for the set, its manifest and its card.")],
    ray_address: RayAddress = None,
    ray_workers: RayWorkers = 0,
) -> None:
    """Makes a prompt set of several sources; every row that is dropped is kept with its reason."""
    from grlo.stages.prompts_build import build as run_build

    run_build(recipe, out=out, cluster=ray_cluster(ray_address, ray_workers))


def prompts_describe(
    file: DataFile,
    out: Annotated[
        Path | None, typer.Option(help="Folder for description.html and description.json.")
    ] = None,
    embed: Annotated[
        str | None, typer.Option(help="Folder or hub id of a sentence encoder, for topics.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of topics and their map.")] = 0,
) -> None:
    """Shows what a set consists of: tasks, turns, lengths, languages, duplicates, topics."""
    from grlo.stages.prompts_describe import describe_file

    describe_file(file, out=out, embed=embed, seed=seed)


def prompts_audit(
    file: DataFile,
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[AGAINST]...", help="Further files to audit against."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Suites, benchmarks or files of problems; by commas, repeatable. Default: full."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for audit.json, audit.html and hits.jsonl.")
    ] = Path("audit"),
    remove: Annotated[
        bool, typer.Option("--remove", help="Write FILE without the rows to drop, to --out.")
    ] = False,
    embed: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of a sentence encoder; default: shared words."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder with data files (default: $GRLO_DATA), or NAME=FILE; repeatable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the problems planted as a test.")] = 0,
    ray_address: RayAddress = None,
    ray_workers: RayWorkers = 0,
) -> None:
    """Finds the rows of FILE that hold problems of benchmarks, disguised or not."""
    from grlo.stages.data_places import data_places
    from grlo.stages.prompts_audit import audit as run_audit

    values = [name for value in against or () for name in names(value)] + (more or [])
    run_audit(
        file,
        values or ["full"],
        data_places(data or ()),
        out=out,
        remove=remove,
        embed=embed,
        seed=seed,
        cluster=ray_cluster(ray_address, ray_workers),
    )
