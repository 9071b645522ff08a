"""`grlo pass-rate`: keeps the prompts that the policy answers right sometimes, not always or never.

A prompt whose answers are all right or all wrong teaches nothing by comparison of its samples.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from grlo import registry
from grlo.engines.hf import HFEngineSettings
from grlo.errors import DataError, RecipeError
from grlo.interfaces import BuildContext, Reward
from grlo.progress import progress_bar
from grlo.recipe import dump_recipe
from grlo.reporting.tables import make_table, percent
from grlo.rollout import ChatRenderer, sample
from grlo.rundir import append_jsonl, read_jsonl, write_atomic
from grlo.settings import Recipe
from grlo.stages.evaluate import load_engine
from grlo.stages.train import choose_device, hash_prompts, load_prompts
from grlo.types import Prompt, SamplingParams

# Prompts between two writes: what a kill may cost.
_CHUNK = 64
# Rollouts of training have steps from 1 on, those of evaluations 0.
_STEP = -1
_NUM_BARS = 10


def pass_rate(
    recipe: Recipe, *, out: Path, num_samples: int, least: float, most: float
) -> dict[str, float]:
    """Samples the recipe's policy on its prompts and writes those with a pass rate in the bounds.

    Interrupted, the same command goes on where it was. `out` gets the rows that are kept, a file
    `<name>.dropped.jsonl` beside it the others; both have `pass_rate` and `samples` in `extra_info`
    and are prompt files as training reads them.

    Args:
        recipe: Policy, prompts, sampling and a reward whose scores lie between 0 and 1.
        out: A .jsonl file.
        num_samples: Answers per prompt.
        least: Smallest mean score that is kept.
        most: Largest mean score that is kept.

    Returns:
        Mean score of every prompt by the prompt's id.

    Raises:
        RecipeError: The bounds are none, or `out` is no .jsonl file.
        DataError: A score lies outside of [0, 1], or `out` belongs to another call.
    """
    if not 0 <= least <= most <= 1:
        raise RecipeError(f"the bounds {least} and {most} are none; expected 0 <= min <= max <= 1.")
    if out.suffix != ".jsonl":
        raise RecipeError(f"{out}: expected the name of a .jsonl file.")
    disable_progress_bar()
    if recipe.training.num_threads:
        torch.set_num_threads(recipe.training.num_threads)
    renderer = ChatRenderer.from_pretrained(
        recipe.policy.model, revision=recipe.policy.revision, template=recipe.policy.template
    )
    prompts = list({prompt.id: prompt for prompt in load_prompts(recipe, renderer)}.values())
    partial = out.with_suffix(".partial.jsonl")
    identity = _identity(recipe, prompts, num_samples=num_samples)
    known = _finished(partial, identity)
    left = [prompt for prompt in prompts if prompt.id not in known]
    if left:
        for rows in _measure(recipe, renderer, left, num_samples=num_samples, total=len(prompts)):
            append_jsonl(partial, rows)
            known |= {row["id"]: row for row in rows}
    rates = {prompt.id: known[prompt.id]["pass_rate"] for prompt in prompts}
    kept = [prompt for prompt in prompts if least <= rates[prompt.id] <= most]
    dropped = [prompt for prompt in prompts if not least <= rates[prompt.id] <= most]
    write_atomic(out, _rows(kept, known))
    write_atomic(out.with_suffix(".dropped.jsonl"), _rows(dropped, known))
    partial.unlink(missing_ok=True)
    _show(list(rates.values()), num_kept=len(kept), out=out)
    return rates


def _measure(
    recipe: Recipe,
    renderer: ChatRenderer,
    prompts: Sequence[Prompt],
    *,
    num_samples: int,
    total: int,
) -> Iterator[list[dict[str, Any]]]:
    """Rows of id and pass rate, a chunk at a time."""
    device = choose_device(recipe.training.device)
    context = BuildContext(device=device, seed=recipe.seed)
    settings = cast(HFEngineSettings, recipe.engine)
    engine = load_engine(
        recipe.policy.model,
        renderer,
        device=device,
        dtype=settings.dtype or recipe.policy.compute_dtype,
        seed=recipe.seed,
        settings=settings,
    )
    reward: Reward = cast(Any, recipe.reward).build(context=context)
    sampling = SamplingParams(
        max_tokens=recipe.sampling.max_tokens,
        temperature=recipe.sampling.temperature,
        num_samples=num_samples,
    )
    before = total - len(prompts)
    try:
        with progress_bar("prompts") as progress:
            num_tokens = 0
            for start in range(0, len(prompts), _CHUNK):
                chunk = prompts[start : start + _CHUNK]
                rollouts = sample(engine, renderer, chunk, sampling, seed=recipe.seed, step=_STEP)
                scores = reward.score(rollouts)
                num_tokens += sum(len(rollout.completion.tokens) for rollout in rollouts)
                yield [
                    _row(prompt, [s.value for s in scores[i * num_samples : (i + 1) * num_samples]])
                    for i, prompt in enumerate(chunk)
                ]
                done = before + start + len(chunk)
                progress(done=done, total=total, tokens=num_tokens)
    finally:
        engine.close()
        registry.close(reward)


def _row(prompt: Prompt, values: Sequence[float | None]) -> dict[str, Any]:
    scored = [value for value in values if value is not None]
    if any(not 0 <= value <= 1 for value in scored):
        raise DataError(
            f"{prompt.source}: scores {scored} are no pass rates; expected scores between 0 and 1, "
            "as reward.name = 'verified' gives them."
        )
    if not scored:
        raise DataError(f"{prompt.source}: none of {len(values)} answers could be scored.")
    return {"id": prompt.id, "pass_rate": statistics.fmean(scored), "samples": len(scored)}


def _identity(recipe: Recipe, prompts: list[Prompt], *, num_samples: int) -> str:
    """What determines the rates: everything but the settings of training."""
    table = dump_recipe(recipe)
    parts = {key: table[key] for key in ("policy", "sampling", "reward", "seed")}
    text = json.dumps([parts, hash_prompts(prompts), num_samples], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _finished(partial: Path, identity: str) -> dict[str, dict[str, Any]]:
    """Rows of an interrupted call; a new file begins with the identity of its call."""
    rows = read_jsonl(partial)
    if not rows:
        append_jsonl(partial, [{"identity": identity}])
        return {}
    if rows[0].get("identity") != identity:
        raise DataError(
            f"{partial} was left by a call with another policy, prompts, reward or sampling. "
            "Remove it, or choose another --out."
        )
    return {row["id"]: row for row in rows[1:]}


def _rows(prompts: Sequence[Prompt], known: Mapping[str, Mapping[str, Any]]) -> str:
    """Prompts in the row form that verl reads."""
    rows = [
        {
            "prompt": [asdict(message) for message in prompt.messages],
            "ability": prompt.domain,
            "reward_model": {"style": prompt.style, "ground_truth": prompt.reference or ""},
            "extra_info": {
                **prompt.meta,
                "pass_rate": known[prompt.id]["pass_rate"],
                "samples": known[prompt.id]["samples"],
            },
        }
        for prompt in prompts
    ]
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _show(rates: Sequence[float], *, num_kept: int, out: Path) -> None:
    bars = [0] * (_NUM_BARS + 1)
    for rate in rates:
        bars[int(rate * _NUM_BARS)] += 1
    labels = [f"{100 * i // _NUM_BARS} to {100 * (i + 1) // _NUM_BARS}" for i in range(_NUM_BARS)]
    rows = [
        [label, f"{count:,}", "█" * round(40 * count / max(bars))]
        for label, count in zip([*labels, "100"], bars, strict=True)
    ]
    console = Console()
    console.print(make_table(["pass rate, %", "prompts", ""], rows))
    share = percent(num_kept / len(rates))
    console.print(f"{num_kept:,} of {len(rates):,} prompts ({share} %) are in {out}")
