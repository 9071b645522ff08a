"""Demonstrations that a model has written itself: its answers to the prompts of a recipe.

Fine-tuning on them is a control: as much training on text of the same kind as reinforcement
learning sees, and no signal of what is good. Every answer is kept as it came. One that the limit
has cut is marked, so that no end is learnt from it; only empty ones are left out, as there is
nothing to imitate in them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import cast

from grlo.engines.hf import HFEngineSettings
from grlo.errors import DataError
from grlo.ledger import Ledger
from grlo.progress import progress_bar
from grlo.rollout import sample
from grlo.rundir import append_jsonl, read_jsonl, write_atomic
from grlo.settings import Recipe
from grlo.stages.models import load_engine, saved_shape
from grlo.stages.runs import choose_device, open_policy
from grlo.stages.train_data import load_prompts
from grlo.training.flops import generation
from grlo.types import SamplingParams

_CHUNK = 64
"""Prompts between two writes: what a kill may cost."""
# Rollouts of training have steps from 1 on, those of evaluations 0, of pass rates -1.
_STEP = -2


def draw_own_samples(
    recipe: Recipe, *, model: str, num_samples: int, out: Path, ledger_file: Path
) -> Path:
    """Writes the model's answers as demonstrations; goes on where an earlier call stopped.

    Args:
        recipe: Whose prompts are answered, by whose sampling.
        model: Folder or hub id of the model that answers.
        num_samples: Answers to every prompt.
        out: JSONL with `prompt, response, ends` and the prompt's place.
        ledger_file: JSONL of what it costs.

    Raises:
        DataError: The model has answered nothing at all to every prompt.
    """
    renderer = open_policy(recipe.policy, num_threads=recipe.training.num_threads)
    prompts = load_prompts(recipe, renderer)
    chunks = -(-len(prompts) // _CHUNK)
    costs = read_jsonl(ledger_file)
    done = max((row["step"] for row in costs), default=0)
    if done >= chunks:
        return out
    # A kill between the two files leaves rows that are not paid for yet: they are drawn again.
    kept = [row for row in read_jsonl(out) if row["chunk"] <= done]
    write_atomic(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    device = choose_device(recipe.training.device)
    settings = cast(HFEngineSettings, recipe.engine)
    ledger = Ledger(device=device, num_devices=1, attempt=0)
    engine = load_engine(
        model,
        renderer,
        device=device,
        dtype=settings.dtype or recipe.policy.compute_dtype,
        seed=recipe.seed,
        settings=settings,
    )
    sampling = SamplingParams(
        max_tokens=recipe.sampling.max_tokens,
        temperature=recipe.sampling.temperature,
        num_samples=num_samples,
    )
    shape = saved_shape(model)
    num_rows = len(kept)
    try:
        with progress_bar("own samples, prompts") as progress:
            for chunk in range(done + 1, chunks + 1):
                part = prompts[(chunk - 1) * _CHUNK : chunk * _CHUNK]
                with ledger.phase("generate", step=chunk) as cost:
                    rollouts = sample(
                        engine, renderer, part, sampling, seed=recipe.seed, step=_STEP
                    )
                    cost.tokens = sum(len(r.completion.tokens) for r in rollouts)
                    drawn = ((r.prompt_tokens, len(r.completion.tokens)) for r in rollouts)
                    cost.add({"engine": generation(shape, drawn)})
                rows = [
                    {
                        "prompt": [asdict(message) for message in rollout.prompt.messages],
                        "response": rollout.text,
                        "ends": rollout.completion.finish_reason == "stop",
                        "chunk": chunk,
                    }
                    for rollout in rollouts
                    if rollout.text.strip()
                ]
                append_jsonl(out, rows)
                append_jsonl(ledger_file, map(asdict, ledger.drain()))
                num_rows += len(rows)
                progress(done=min(chunk * _CHUNK, len(prompts)), total=len(prompts), tokens=0)
    finally:
        engine.close()
    if not num_rows:
        raise DataError(f"{model} gave an empty answer to each of {len(prompts)} prompts.")
    print(f"{num_rows} of {num_samples * len(prompts)} answers have text: {out}")
    return out
