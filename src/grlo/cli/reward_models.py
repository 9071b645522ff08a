"""Reward models on their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grlo.cli.options import Device, Template
from grlo.errors import RecipeError

RewardModel = Annotated[str, typer.Argument(help="Folder or hub id.")]
Preferences = Annotated[
    list[Path], typer.Argument(help="JSONL files of rows with messages, chosen and rejected.")
]


def reward_model_score(
    model: RewardModel,
    answers: Annotated[Path, typer.Argument(help="JSONL of rows with messages and response.")],
    out: Annotated[Path, typer.Option(help="JSONL to write: the rows with a score each.")],
    template: Template = None,
    device: Device = "auto",
) -> None:
    """Scores answers."""
    from grlo.rewards.reward_model import RewardModelSettings
    from grlo.stages.reward_model import score

    score(RewardModelSettings(model=model, template=template), answers, out=out, device=device)


def reward_model_accuracy(
    model: RewardModel,
    preferences: Annotated[
        list[Path] | None,
        typer.Argument(help="JSONL files of rows with messages, chosen and rejected."),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="Named set of pairs, such as rewardbench, judgebench, llmbar."),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Folder with local files, or NAME=FILE.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; named sets only.")] = False,
    template: Template = None,
    device: Device = "auto",
) -> None:
    """Measures how often the preferred answer gets the higher score."""
    from grlo.rewards.reward_model import RewardModelSettings
    from grlo.stages.data_places import data_places
    from grlo.stages.pair_accuracy import pair_accuracy
    from grlo.stages.reward_model import accuracy

    if bool(preferences) == bool(benchmark):
        raise RecipeError("give either files of preferences or --benchmark NAME.")
    settings = RewardModelSettings(model=model, template=template)
    if benchmark:
        places = data_places(data or [])
        pair_accuracy(settings, benchmark, places=places, device=device, as_json=as_json)
    elif as_json or data:
        raise RecipeError("--json and --data have no effect without --benchmark NAME.")
    elif preferences:
        accuracy(settings, preferences, device=device)


def reward_model_train(
    model: Annotated[str, typer.Argument(help="Language model or reward model to start from.")],
    preferences: Preferences,
    out: Annotated[Path, typer.Option(help="Folder of the reward model.")],
    steps: Annotated[int, typer.Option(min=1)],
    pairs_per_batch: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: Annotated[float, typer.Option(min=0)] = 1e-5,
    template: Template = None,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Fits a reward model to preferences by the Bradley-Terry model."""
    from grlo.stages.reward_model import train
    from grlo.training.preferences import RewardModelTraining

    settings = RewardModelTraining(
        model=model,
        steps=steps,
        pairs_per_batch=pairs_per_batch,
        learning_rate=learning_rate,
        template=template,
        seed=seed,
        device=device,
    )
    train(settings, preferences, out=out)
