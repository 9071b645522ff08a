"""Prompts and benchmarks of a training run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grlo.benchmarks.loading import choose, load_benchmarks
from grlo.benchmarks.spec import DataPlaces
from grlo.errors import DataError, RecipeError
from grlo.evaluation.periodic import metric_names
from grlo.interfaces import Benchmark
from grlo.prompts.sources import filter_overlong, read_prompts
from grlo.rewards import style_problems
from grlo.rollout import ChatRenderer
from grlo.settings import Recipe
from grlo.stages.evaluate import judge_of
from grlo.types import Prompt


def load_prompts(recipe: Recipe, renderer: ChatRenderer) -> list[Prompt]:
    """All prompts of the recipe that fit its length limit, in order.

    Raises:
        DataError: A row is malformed, or no prompt is left.
    """
    settings = recipe.prompts
    prompts = [
        prompt
        for source in settings.sources
        for prompt in read_prompts(
            source, default_style=settings.default_style, suffixes=settings.suffixes
        )
    ]
    prompts = prompts[: settings.limit or None]
    kept, dropped = filter_overlong(
        prompts,
        renderer,
        max_prompt_tokens=settings.max_prompt_tokens,
        overlong=settings.overlong,
    )
    if problems := style_problems(recipe.reward, kept):
        raise DataError("\n".join(problems))
    if dropped:
        print(
            f"{len(dropped)} of {len(prompts)} prompts exceed {settings.max_prompt_tokens} tokens"
        )
    if not kept:
        raise DataError(
            f"all {len(prompts)} prompts exceed prompts.max_prompt_tokens = "
            f"{settings.max_prompt_tokens}. Raise the limit."
        )
    return kept


def load_gold_prompts(
    recipe: Recipe, renderer: ChatRenderer, *, training: Sequence[Prompt]
) -> list[Prompt]:
    """Held-out prompts of the gold signal; none where it scores the rollouts of training.

    Raises:
        DataError: A row is malformed, no prompt is left, or the gold reward does not score what it
            would be given.
    """
    gold = recipe.gold
    if gold is None:
        return []
    prompts = [
        prompt
        for source in gold.sources
        for prompt in read_prompts(
            source, default_style=recipe.prompts.default_style, suffixes=recipe.prompts.suffixes
        )
    ]
    if problems := style_problems(gold.reward, prompts if gold.sources else training):
        raise DataError("\n".join(f"gold: {problem}" for problem in problems))
    kept, dropped = filter_overlong(
        prompts,
        renderer,
        max_prompt_tokens=recipe.prompts.max_prompt_tokens,
        overlong=recipe.prompts.overlong,
    )
    if dropped:
        print(f"gold: {len(dropped)} of {len(prompts)} prompts are too long")
    if gold.sources and not kept:
        raise DataError(f"gold.sources: none of {len(prompts)} prompts is left.")
    trained = {prompt.id for prompt in training}
    if seen := sum(prompt.id in trained for prompt in kept):
        print(f"gold: {seen} of {len(kept)} prompts are trained on, so they are not held out")
    return kept


def hash_prompts(prompts: list[Prompt]) -> str:
    """SHA-256 of the prompts that a run draws from, in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(f"{prompt.id}\x1f{prompt.style}\x1f{prompt.reference}\x1e".encode())
    return digest.hexdigest()


def load_evaluation(recipe: Recipe, *, device: str) -> list[Benchmark]:
    """The benchmarks that are run during training, ready to be run.

    Raises:
        RecipeError: There is no such suite, benchmark or judge, or `checkpoint.best_by` names a
            score that there will not be.
        DataError: The rows of a benchmark cannot be found or read.
    """
    settings = recipe.evaluation
    if settings is None:
        return []
    choice = choose(
        suite=settings.suite or None,
        names=settings.benchmarks,
        variants=settings.rows,
        limit=settings.limit,
    )
    choice = replace(
        choice,
        max_tokens=settings.max_tokens,
        num_samples=settings.num_samples,
        places=DataPlaces(folder=Path(settings.data) if settings.data else None),
    )
    judge = Path(settings.judge) if settings.judge else None
    benchmarks = load_benchmarks(
        choice, make_judge=judge_of(judge, device=device, seed=recipe.seed)
    )
    known = metric_names(benchmarks)
    best_by = recipe.checkpoint.best_by
    if best_by.startswith("eval/") and best_by not in known:
        raise RecipeError(
            f"checkpoint.best_by: there is no {best_by!r}; the section evaluation has "
            f"{', '.join(known)}."
        )
    return benchmarks
