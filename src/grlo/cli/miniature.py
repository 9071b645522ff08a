"""The embedded miniature: tried, and made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grlo.cli.options import names


def quickstart(
    run: Annotated[Path, typer.Option("--run", help="Run directory.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Of all arms.")] = 0,
) -> None:
    """Trains the embedded miniature in several ways, and reports what that did to four domains."""
    from grlo.stages.quickstart import quickstart as run_quickstart

    run_quickstart(run_dir=run, seed=seed)


def build_nano(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    seed: int = 0,
    tokens: Annotated[
        int, typer.Option(min=1, help="Corpus tokens that the base model is trained on.")
    ] = 6_000_000,
    separate_domains: Annotated[
        bool, typer.Option("--separate-domains", help="No document holds tasks of two domains.")
    ] = False,
    reward_domains: Annotated[
        str, typer.Option(help="Domains of the reward model's pairs: chat, math or both.")
    ] = "chat",
    prompts: Annotated[int, typer.Option(min=1, help="Chat prompts to train on.")] = 400,
    base: Annotated[
        Path | None, typer.Option(help="Model to take as the base instead of training one.")
    ] = None,
) -> None:
    """Rebuilds the embedded miniature, or another world of its kind: models, pairs and prompts."""
    from typing import cast

    from grlo.stages.build_nano import Domain, World, build

    world = World(
        seed=seed,
        num_tokens=tokens,
        mixed=not separate_domains,
        reward_domains=cast("tuple[Domain, ...]", tuple(names(reward_domains))),
        num_prompts=prompts,
    )
    print(build(out, world, base=base))
