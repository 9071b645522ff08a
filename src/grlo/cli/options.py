"""Options that several commands have, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grlo.errors import RecipeError

if TYPE_CHECKING:
    from grlo.ray_cluster import RayCluster

Recipes = Annotated[
    list[Path], typer.Argument(metavar="RECIPE...", help="TOML files; later ones win.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Overrides, such as training.steps=10."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
RunDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]
RayAddress = Annotated[
    str | None,
    typer.Option(help="Work is done on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local."),
]
RayWorkers = Annotated[
    int, typer.Option(min=0, help="Processes there; 0: one for each of its GPUs, or of its CPUs.")
]
Template = Annotated[
    str | None, typer.Option(help="Named chat template; default is the tokenizer's own.")
]


def ray_cluster(address: str | None, num_workers: int) -> RayCluster | None:
    """Where work is done, if not here."""
    from grlo.ray_cluster import RayCluster

    if address is None and num_workers:
        raise RecipeError("--ray-workers means nothing without --ray-address.")
    return None if address is None else RayCluster(address, num_workers)


def names(text: str) -> list[str]:
    """What stands between commas."""
    return [name for part in text.split(",") if (name := part.strip())]
