"""Studies, and what runs leave for people to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from grlo.cli.options import RunDirectory, names
from grlo.errors import RecipeError


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="TOML file of a study.")],
    out: Annotated[Path, typer.Option(help="Folder of the study; gone on from if it holds it.")],
    seeds: Annotated[str, typer.Option(help="By commas, instead of those of the file.")] = "",
    parallel: Annotated[
        int, typer.Option(min=0, help="Arms at a time; 0: as the file has it.")
    ] = 0,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be run.")] = False,
    job: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Trains and measures several arms over several seeds at equal cost, and compares them."""
    from grlo.stages.study import plan as show_plan
    from grlo.stages.study import study as run_study
    from grlo.stages.study import study_job

    try:
        numbers = [int(text) for text in names(seeds)]
    except ValueError:
        raise RecipeError(f"--seeds {seeds}: expected whole numbers by commas.") from None
    if job:
        study_job(file, out=out, seeds=numbers, name=job)
    elif plan:
        show_plan(file, out=out, seeds=numbers)
    else:
        run_study(file, out=out, seeds=numbers, parallel=parallel)


def rollouts(
    run: RunDirectory,
    step: Annotated[int | None, typer.Option(help="Default: the last step.")] = None,
    sort: Annotated[
        Literal["reward", "length", "order"], typer.Option(help="What comes first: the highest.")
    ] = "reward",
    ascending: Annotated[bool, typer.Option("--ascending", help="The lowest first.")] = False,
    search: Annotated[str | None, typer.Option(help="Only rollouts with this text.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Default: all.")] = None,
    gold: Annotated[
        bool, typer.Option("--gold", help="What the gold signal scored, by its scores.")
    ] = False,
) -> None:
    """Shows what the model said during training."""
    from grlo.stages.rollouts import show

    show(
        run,
        step=step,
        sort=sort,
        descending=not ascending,
        search=search,
        limit=limit,
        kind="gold" if gold else "rollouts",
    )


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="A run, a study, or folders of `grlo evaluate`, the base model's first.",
        ),
    ],
    form: Annotated[
        Literal["html", "md", "json"], typer.Option("--format", help="md: for an appendix.")
    ] = "html",
    out: Annotated[Path | None, typer.Option(help="File; default: report.* beside it.")] = None,
) -> None:
    """One page of a run (also while it is going), of a study, or of evaluations side by side."""
    from grlo.stages.report import report_folders

    print(report_folders(folders, form=form, out=out))


def cost(
    run: RunDirectory,
    price: Annotated[
        float | None,
        typer.Option(min=0, help="Of a device-hour; default: prices.device_hour of the recipe."),
    ] = None,
) -> None:
    """Device-hours, tokens, FLOPs, utilisation, energy and money of a run by phase."""
    from grlo.stages.cost import cost as run_cost

    run_cost(run, price=price)
