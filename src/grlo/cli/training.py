"""Training by a recipe, and what may be looked at before."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from grlo.cli import STARTED
from grlo.cli.options import Overrides, Recipes
from grlo.errors import RecipeError

Budget = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND=AMOUNT",
        help="Ends the run at device-hours=2, tokens=1e8 (trained), generated-tokens=1e8, "
        "flops=1e18 or prompts=5000; repeatable.",
    ),
]
Devices = Annotated[
    int,
    typer.Option(min=1, help="GPUs of this machine, or processes on a CPU, that train together."),
]


def check(
    recipes: Recipes,
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="The run directory to be, checked as well.")
    ] = None,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights/--no-weights",
            help="--weights loads the models and tries a step; --no-weights looks only at files "
            "that are on this machine.",
        ),
    ] = True,
    devices: Devices = 1,
) -> None:
    """Shows what a recipe will do, and finds all that would fail later."""
    from grlo.stages.check import check as run_check

    run_check(recipes, overrides=overrides or (), run_dir=run, weights=weights, num_devices=devices)


def train(
    recipes: Recipes,
    run: Annotated[
        Path,
        # torchrun takes --run for a beginning of options of its own.
        typer.Option("--run", "--run-dir", help="Run directory; resumed if it holds a run."),
    ],
    overrides: Overrides = None,
    budget: Budget = None,
    devices: Devices = 1,
) -> None:
    """Trains a model by a recipe, or resumes a run."""
    from grlo.recipe import load_recipe

    recipe = load_recipe(recipes, overrides=[*(overrides or ()), *budget_overrides(budget or ())])

    if devices > 1:
        from grlo.stages.launching import launch

        launch(recipe, sys.argv[1:], num_devices=devices)
        return

    from grlo.training.distributed.ranks import is_follower

    if is_follower():
        from grlo.stages.train import follow_leader

        follow_leader(recipe)
        return

    from grlo.stages.train import train as run_train

    print(run_train(recipe, run_dir=run, started=STARTED))


def sft(
    recipes: Recipes,
    run: Annotated[Path, typer.Option("--run", help="Run directory; resumed if it holds a run.")],
    overrides: Overrides = None,
    budget: Budget = None,
) -> None:
    """Fine-tunes a model on demonstrations by a recipe, or resumes a run."""
    from grlo.recipe import load_recipe_of
    from grlo.settings import SFTRecipe

    recipe = load_recipe_of(
        SFTRecipe, recipes, overrides=[*(overrides or ()), *budget_overrides(budget or ())]
    )

    from grlo.stages.sft import sft as run_sft

    print(run_sft(recipe, run_dir=run, started=STARTED))


def budget_overrides(values: Sequence[str]) -> list[str]:
    """What `--budget` says as overrides of the recipe."""
    kinds = {
        "device-hours": "device_hours",
        "tokens": "trained_tokens",
        "generated-tokens": "generated_tokens",
        "flops": "flops",
        "prompts": "prompts",
    }
    overrides = []
    for value in values:
        kind, equals, amount = value.partition("=")
        try:
            number = float(amount)
        except ValueError:
            number = math.nan
        if kind not in kinds or not equals or not 0 < number < math.inf:
            raise RecipeError(
                f"--budget {value}: expected KIND=AMOUNT with one of {', '.join(kinds)} and a "
                "positive number."
            )
        overrides.append(f"budget.{kinds[kind]}={number!r}")
    return overrides
