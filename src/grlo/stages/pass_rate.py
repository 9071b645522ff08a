"""`grlo pass-rate`: keeps the prompts that the policy answers right sometimes, not always or never.

A prompt whose answers are all right or all wrong teaches nothing by comparison of its samples.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

from rich.console import Console

from grlo import registry
from grlo.engines.hf import HFEngineSettings
from grlo.errors import DataError, RecipeError
from grlo.interfaces import BuildContext, Progress, Reward
from grlo.progress import progress_bar
from grlo.recipe import dump_recipe
from grlo.reporting.tables import make_table, percent
from grlo.rollout import ChatRenderer, sample
from grlo.rundir import append_jsonl, read_jsonl, write_atomic
from grlo.settings import Recipe
from grlo.stages.models import load_engine, weights_identity
from grlo.stages.runs import choose_device, open_policy
from grlo.stages.train_data import load_prompts
from grlo.types import Prompt, SamplingParams

# Prompts between two writes: what a kill may cost.
_CHUNK = 64
# Rollouts of training have steps from 1 on, those of evaluations 0.
_STEP = -1
_NUM_BARS, _WIDTH = 10, 40

Item = TypeVar("Item")


def pass_rate(
    recipe: Recipe, *, out: Path, num_samples: int, least: float, most: float
) -> list[float]:
    """Samples the recipe's policy on its prompts and writes those with a pass rate in the bounds.

    The rates are kept in `<name>.rates.jsonl` beside `out`: the same command, interrupted or with
    other bounds, samples no prompt twice. `out` gets the rows that are kept, `<name>.dropped.jsonl`
    the others; both have `pass_rate` and `samples` in `extra_info` and take the place of the
    recipe's `prompts.sources`. Suffixes are therefore not in them.

    Args:
        recipe: Policy, prompts, sampling and a reward whose scores lie between 0 and 1; shaping is
            left out.
        out: A .jsonl file.
        num_samples: Answers per prompt.
        least: Smallest mean score that is kept.
        most: Largest mean score that is kept.

    Returns:
        Mean score of every prompt of the recipe, in order.

    Raises:
        RecipeError: The bounds are none, or `out` is no .jsonl file.
        DataError: A score lies outside of [0, 1], a prompt has no scored answer, or the rates
            beside `out` are of another call.
    """
    if not 0 <= least <= most <= 1:
        raise RecipeError(f"the bounds {least} and {most} are none; expected 0 <= min <= max <= 1.")
    if out.suffix != ".jsonl":
        raise RecipeError(f"{out}: expected the name of a .jsonl file.")
    renderer = open_policy(recipe.policy, num_threads=recipe.training.num_threads)
    prompts = load_prompts(recipe, renderer)
    keys = [_key(prompt) for prompt in prompts]
    distinct = dict(zip(keys, prompts, strict=True))
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_suffix(".rates.jsonl")
    found = _finished(file, _identity(recipe, list(distinct), num_samples=num_samples))
    left = {key: prompt for key, prompt in distinct.items() if key not in found}
    if left:
        for rows in _measure(recipe, renderer, left, num_samples, num_before=len(found)):
            append_jsonl(file, rows)
            found |= {row["key"]: row for row in rows}
    rows = [
        _prompt_row(prompt, found[key], suffix=recipe.prompts.suffixes.get(prompt.style, ""))
        for key, prompt in zip(keys, prompts, strict=True)
    ]
    rates = [found[key]["pass_rate"] for key in keys]
    is_kept = [least <= rate <= most for rate in rates]
    _write(out, [row for row, keep in zip(rows, is_kept, strict=True) if keep])
    dropped = out.with_suffix(".dropped.jsonl")
    _write(dropped, [row for row, keep in zip(rows, is_kept, strict=True) if not keep])
    _show(rates, num_kept=sum(is_kept), out=out)
    return rates


def _measure(
    recipe: Recipe,
    renderer: ChatRenderer,
    prompts: Mapping[str, Prompt],
    num_samples: int,
    *,
    num_before: int,
) -> Iterator[list[dict[str, Any]]]:
    """Rows of key and pass rate, a chunk at a time.

    Args:
        prompts: By key.
        num_before: Prompts that have a rate, for the progress bar.
    """
    device = choose_device(recipe.training.device)
    settings = cast(HFEngineSettings, recipe.engine)
    reward: Reward = cast(Any, recipe.reward).build(
        context=BuildContext(device=device, seed=recipe.seed)
    )
    engine = load_engine(
        recipe.policy.model,
        renderer,
        device=device,
        dtype=settings.dtype or recipe.policy.compute_dtype,
        seed=recipe.seed,
        settings=settings,
        revision=recipe.policy.revision,
    )
    sampling = SamplingParams(
        max_tokens=recipe.sampling.max_tokens,
        temperature=recipe.sampling.temperature,
        num_samples=num_samples,
    )
    num_done, num_tokens = num_before, 0
    try:
        with progress_bar("prompts") as bar:
            for chunk in _chunks(prompts.items()):
                rollouts = sample(
                    engine,
                    renderer,
                    [prompt for _, prompt in chunk],
                    sampling,
                    seed=recipe.seed,
                    step=_STEP,
                    progress=_after(
                        bar,
                        num_prompts=num_done,
                        num_tokens=num_tokens,
                        num_samples=num_samples,
                        num_total=num_before + len(prompts),
                    ),
                )
                values = [score.value for score in reward.score(rollouts)]
                num_done += len(chunk)
                num_tokens += sum(len(rollout.completion.tokens) for rollout in rollouts)
                yield [
                    _rate(key, prompt, values[i * num_samples : (i + 1) * num_samples])
                    for i, (key, prompt) in enumerate(chunk)
                ]
    finally:
        engine.close()
        registry.close(reward)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _after(
    bar: Progress, *, num_prompts: int, num_tokens: int, num_samples: int, num_total: int
) -> Progress:
    """The progress of a chunk's answers as that of all prompts, after those that are done."""

    def show(*, done: int, total: int, tokens: int) -> None:
        bar(
            done=num_prompts + done // num_samples,
            total=num_total,
            tokens=num_tokens + tokens,
        )

    return show


def _rate(key: str, prompt: Prompt, values: Sequence[float | None]) -> dict[str, Any]:
    scored = [value for value in values if value is not None]
    if any(not 0 <= value <= 1 for value in scored):
        raise DataError(
            f"{prompt.source}: scores {scored} are no pass rates; expected scores between 0 and 1. "
            "Use reward.name = 'verified' with right = 1 and wrong = 0, and without unparsed "
            "(--set reward.unparsed=none)."
        )
    if not scored:
        raise DataError(f"{prompt.source}: none of {len(values)} answers could be scored.")
    return {"key": key, "pass_rate": statistics.fmean(scored), "samples": len(scored)}


def _key(prompt: Prompt) -> str:
    """Hash of what is asked and how it is graded; rows that agree in it have one rate."""
    parts = [prompt.id, prompt.style, prompt.reference, prompt.meta]
    try:
        text = json.dumps(parts, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{prompt.source}: extra_info cannot be written as JSON ({error}). Mend the row."
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(recipe: Recipe, keys: Sequence[str], *, num_samples: int) -> str:
    """Hash of what determines the rates: everything but training and the bounds."""
    table = dump_recipe(recipe)
    parts = [
        weights_identity(recipe.policy.model, revision=recipe.policy.revision),
        *(table["policy"][name] for name in ("template", "compute_dtype")),
        *(table["sampling"][name] for name in ("max_tokens", "temperature")),
        *(table["engine"]["dtype"], table["reward"], table["seed"], num_samples, keys),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _finished(file: Path, identity: str) -> dict[str, dict[str, Any]]:
    """Rows of earlier calls by key; a new file begins with the identity of its calls."""
    rows = read_jsonl(file)
    if not rows:
        append_jsonl(file, [{"identity": identity}])
        return {}
    if rows[0].get("identity") != identity:
        raise DataError(
            f"{file} was left by a call with another policy, prompts, reward or sampling. "
            "Remove it, or choose another --out."
        )
    return {row["key"]: row for row in rows[1:]}


def _prompt_row(prompt: Prompt, rate: Mapping[str, Any], *, suffix: str) -> dict[str, Any]:
    """A prompt in the row form that verl reads, as it was before the suffix."""
    *earlier, last = map(asdict, prompt.messages)
    last["content"] = last["content"].removesuffix(suffix)
    measured = {name: rate[name] for name in ("pass_rate", "samples")}
    return {
        "prompt": [*earlier, last],
        "ability": prompt.domain,
        "reward_model": {"style": prompt.style, "ground_truth": prompt.reference or ""},
        "extra_info": {**prompt.meta, **measured},
    }


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_atomic(file, "".join(lines))


def _show(rates: Sequence[float], *, num_kept: int, out: Path) -> None:
    """A histogram with bars of their own for never and always, and what is kept."""
    between = Counter(int(rate * _NUM_BARS) for rate in rates if 0 < rate < 1)
    width = 100 // _NUM_BARS
    bars = {"0": rates.count(0)}
    bars |= {f"{width * i} to {width * (i + 1)}": between[i] for i in range(_NUM_BARS)}
    bars |= {"100": rates.count(1)}
    rows = [
        [label, f"{count:,}", ("█" * round(_WIDTH * count / max(bars.values()))).ljust(_WIDTH, "░")]
        for label, count in bars.items()
    ]
    console = Console()
    console.print(make_table(["pass rate, %", "prompts", ""], rows))
    share = percent(num_kept / len(rates))
    text = f"{num_kept:,} of {len(rates):,} prompts ({share} %) are in {out}"
    console.print(text, markup=False, soft_wrap=True)
