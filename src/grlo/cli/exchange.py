"""What other programs take and leave: exports, launches, imports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grlo.cli.options import Overrides, Recipes, RunDirectory, names

Nodes = Annotated[int, typer.Option(min=1, help="Of the cluster, for verl.")]
GpusPerNode = Annotated[
    int, typer.Option("--gpus", min=1, help="Of each node, for policy, critic and vLLM.")
]
RewardGpus = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Of each reward actor, besides those; default: 1 with a reward model, else 0, which "
        "scores on CPUs.",
    ),
]
RewardActors = Annotated[int, typer.Option(min=1, help="Copies of the reward.")]


def export_hf(
    run: RunDirectory,
    out: Annotated[Path, typer.Option(help="New folder for the model and its card.")],
    step: Annotated[int | None, typer.Option(help="Default: the newest checkpoint.")] = None,
    evaluations: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of `grlo evaluate --out`, for the card; repeatable."),
    ] = None,
) -> None:
    """A checkpoint as a plain Hugging Face model, adapters merged in, with a model card."""
    from grlo.stages.export_hf import export_hf as run_export

    run_export(run, out=out, step=step, evaluations=evaluations or ())


def export_lm_eval(
    out: Annotated[Path, typer.Option(help="Folder for the tasks.")],
    suite: Annotated[str | None, typer.Option(help="quick (default), paper or full.")] = None,
    benchmarks: Annotated[str, typer.Option(help="Names or TOML files, by commas.")] = "",
    rows: Annotated[str, typer.Option(help="Any of sampled, greedy, 4-shot, by commas.")] = "",
    data: Annotated[
        list[str] | None, typer.Option(help="Folder of data files, or NAME=FILE; repeatable.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Problems of each benchmark, evenly spaced; 0: all.")
    ] = 0,
) -> None:
    """Task files for lm-evaluation-harness, which cross-check what it can grade."""
    from dataclasses import replace

    from grlo.benchmarks.loading import choose
    from grlo.stages.data_places import data_places
    from grlo.stages.export_lm_eval import export_lm_eval as run_export

    choice = choose(suite=suite, names=names(benchmarks), variants=names(rows), limit=limit)
    run_export(replace(choice, places=data_places(data or ())), out=out)


def export_verl(
    recipes: Recipes,
    out: Annotated[Path, typer.Option(help="New folder, which all nodes see.")],
    overrides: Overrides = None,
    nodes: Nodes = 1,
    gpus: GpusPerNode = 8,
    reward_gpus: RewardGpus = None,
    reward_actors: RewardActors = 1,
) -> None:
    """Data, configuration and script with which verl trains a recipe."""
    from grlo.recipe import load_recipe
    from grlo.stages.export_verl import cluster_for
    from grlo.stages.export_verl import export_verl as run_export

    recipe = load_recipe(recipes, overrides=overrides or ())
    cluster = cluster_for(
        recipe, nodes=nodes, gpus=gpus, reward_gpus=reward_gpus, reward_actors=reward_actors
    )
    print(run_export(recipe, out=out, cluster=cluster).script_file)


def launch_verl(
    recipes: Recipes,
    run: Annotated[
        Path,
        typer.Option(
            "--run", "--out", help="Run directory, which all nodes see; resumed if it holds a run."
        ),
    ],
    overrides: Overrides = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, such as auto; default: this machine.")
    ] = None,
    nodes: Nodes = 1,
    gpus: GpusPerNode = 8,
    reward_gpus: RewardGpus = None,
    reward_actors: RewardActors = 1,
) -> None:
    """Trains a model by a recipe on verl, or resumes a run."""
    from grlo.recipe import load_recipe
    from grlo.stages.export_verl import cluster_for
    from grlo.stages.launch_verl import launch_verl as run_launch

    recipe = load_recipe(recipes, overrides=overrides or ())
    cluster = cluster_for(
        recipe, nodes=nodes, gpus=gpus, reward_gpus=reward_gpus, reward_actors=reward_actors
    )
    print(run_launch(recipe, run_dir=run, cluster=cluster, ray_address=ray_address))


def import_verl(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Of grlo export verl.")],
    out: Annotated[Path, typer.Option(help="Run directory to make, or to complete.")],
) -> None:
    """A run directory of what verl has made of an export."""
    from grlo.stages.import_verl import import_verl as run_import

    run_import(folder, out=out)
