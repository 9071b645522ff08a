"""GRPO steps of this package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beside_trl.cases import Case
from beside_trl.clock import PhaseClock
from beside_trl.floor import Answer
from grlo.recipe import load_recipe
from grlo.rollout import ChatRenderer
from grlo.settings import Recipe
from grlo.stages.train_data import load_prompts
from grlo.stages.train_parts import build_trainer
from grlo.training.trainer import Trainer

PRODUCTS = (
    "aten::addmm",
    "aten::mm",
    "aten::bmm",
    "aten::mkldnn_linear",
    "mkldnn::",
    # Operators of this package are products too.
    "grlo::",
)
COPIES = (
    "aten::copy_",
    "aten::cat",
    "aten::index",
    "aten::gather",
    "aten::scatter",
    "aten::masked_s",
    "aten::embedding",
    "aten::fill_",
    "aten::zero_",
)
KINDS = {
    "matrix products": PRODUCTS,
    "attention": ("aten::_scaled_dot_product",),
    "copies, gathers, scatters": COPIES,
    "optimizer": ("aten::_fused_adam", "aten::_foreach"),
}
"""Beginnings of the names of operators, by what these do."""
REST = "element by element, sums, the rest"


def write_recipe(case: Case) -> Recipe:
    """The recipe of a case; its defaults are those of GRPO here."""
    path = Path(case.folder) / "recipe.toml"
    path.write_text(
        f"""
[policy]
model = "{case.policy}"
compute_dtype = "float32"
gradient_checkpointing = false
[prompts]
sources = ["{case.prompts}"]
[sampling]
prompts_per_step = {case.num_prompts}
samples_per_prompt = {case.num_samples}
max_tokens = {case.max_tokens}
[reward]
name = "reward_model"
model = "{case.reward}"
[algorithm]
name = "grpo"
reduction = "sequence_mean_token_mean"
kl_coefficient = {case.beta}
kl_estimator = "k3"
kl_in = "loss"
[optimizer]
learning_rate = {case.learning_rate}
[training]
steps = {case.warmup_steps + case.steps}
num_minibatches = 1
micro_batch_tokens = 4096
device = "cpu"
num_threads = {case.threads}
""",
        encoding="utf-8",
    )
    return load_recipe([path])


def build(case: Case) -> Trainer:
    """The trainer as `grlo train` builds it."""
    recipe = write_recipe(case)
    renderer = ChatRenderer.from_pretrained(str(case.policy))
    return build_trainer(
        recipe, renderer=renderer, prompts=load_prompts(recipe, renderer), device="cpu"
    )


def measure(case: Case) -> dict[str, Any]:
    """Seconds of each phase of a step, and the answers of the counted steps."""
    trainer = build(case)
    clock = PhaseClock()
    trainer.engine.generate = clock.timed("generation", trainer.engine.generate)
    trainer.reward.score = clock.timed("scoring", trainer.reward.score)
    answers: list[Answer] = []
    clock.restart()
    for result in trainer.steps(start=1, stop=case.warmup_steps + case.steps):
        clock.stop()
        if result.step == case.warmup_steps:
            clock.restart()
        if result.step > case.warmup_steps:
            answers += [
                Answer(
                    result.step, r.prompt.messages[-1].content, r.prompt_tokens, r.completion.tokens
                )
                for r in result.rollouts
            ]
    return {"seconds": clock.seconds(case.steps), "answers": answers}


def profile(case: Case) -> dict[str, dict[str, float]]:
    """Share of each kind of operator in the processor time of each phase, after the warm-up."""
    import torch

    trainer = build(case)
    profilers: dict[str, torch.profiler.profile] = {}
    last = case.warmup_steps + 1

    @contextlib.contextmanager
    def watched(phase: str, step: int) -> Iterator[None]:
        if step < last:
            yield
            return
        activity = torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[activity]) as profilers[phase]:
            yield

    step = 1
    generate, score, update = trainer.engine.generate, trainer.reward.score, trainer.learner.update

    def watch(phase: str, function: Any) -> Any:
        def wrapper(*args: Any, **options: Any) -> Any:
            with watched(phase, step):
                return function(*args, **options)

        return wrapper

    trainer.engine.generate = watch("generation", generate)
    trainer.reward.score = watch("scoring", score)
    trainer.learner.update = watch("training", update)
    for result in trainer.steps(start=1, stop=last):
        step = result.step + 1
    return {phase: _shares(profiler) for phase, profiler in profilers.items()}


def _shares(profiler: Any) -> dict[str, float]:
    seconds = dict.fromkeys([*KINDS, REST], 0.0)
    for event in profiler.key_averages():
        kind = next(
            (kind for kind, starts in KINDS.items() if event.key.startswith(starts)),
            REST,
        )
        seconds[kind] += event.self_cpu_time_total
    total = sum(seconds.values()) or 1.0
    return {kind: value / total for kind, value in seconds.items()}
