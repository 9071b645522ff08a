"""Whether the published recipe fits one GPU: its models together, in every phase of a step.

PPO with a policy and a critic of 4B, all of their parameters, and a reward model of 8B, as the
memory plan has them, on rows of the greatest length. What is measured stands beside the estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from grlo.algorithms.ppo import PPO
from grlo.batch import AnnotatedBatch, collate
from grlo.engines.hf import HFEngineSettings
from grlo.interfaces import BuildContext
from grlo.memory.estimates import Phase, phase_bytes
from grlo.memory.offload import Offload
from grlo.memory.plan import MemoryPlan, plan_memory
from grlo.sequence_scores import score_sequences
from grlo.settings import PromptSettings, Recipe
from grlo.stages.memory import free_bytes
from grlo.training.learner import Learner
from grlo.types import Completion, Message, Prompt, Rollout, SamplingParams, Score
from grlo.work_sizes import SCORED_TOKENS
from one_gpu.learning import recipe as learner_recipe
from one_gpu.record import Record
from one_gpu.setup import Setup

PHASES: dict[str, tuple[Phase, ...]] = {
    "generate": ("generate",),
    "score": ("score",),
    "annotate": ("annotate",),
    "update": ("critic's update", "critic's step", "policy's update", "policy's step"),
}
NUM_ROWS = 16
"""Four a mini-batch, so that each has several micro-batches of the size planned."""


def run(setup: Setup, record: Record) -> None:
    """The plan, then a step of full rows under it."""
    with record.attempt("published recipe"):
        plan, recipe = planned(setup)
        estimates = phase_bytes(plan.items)
        record.add(
            "published recipe, plan",
            micro_batch_tokens=plan.micro_batch_tokens,
            offload=list(plan.offload),
            estimated_gib=plan.peak_bytes / 2**30,
            device_gib=plan.device_bytes / 2**30,
            fits=plan.fits,
        )
        for name, work in works(setup, recipe).items():
            seconds, peak = record.seconds(work)
            record.add(
                f"published recipe, {name}",
                rows=NUM_ROWS,
                seconds=seconds,
                peak_gib=peak,
                estimated_gib=max(estimates[phase] for phase in PHASES[name]) / 2**30,
            )


def planned(setup: Setup) -> tuple[MemoryPlan, Recipe]:
    """The plan for the memory that is free now, and the recipe with it."""
    base = learner_recipe(setup)
    recipe = replace(
        base,
        algorithm=PPO(),
        prompts=PromptSettings(sources=("none",), max_prompt_tokens=setup.longest_prompt),
        engine=HFEngineSettings(),
        sampling=replace(base.sampling, prompts_per_step=1024, samples_per_prompt=1),
        training=replace(
            base.training,
            num_minibatches=4,
            micro_batch_tokens=0,
            device=torch.device(setup.device).type,
        ),
    )
    plan = plan_memory(
        recipe,
        policy=setup.shape("policy"),
        critic=setup.shape("critic"),
        rewards=[(setup.shape("reward"), "bfloat16")],
        device_bytes=free_bytes(setup.device),
    )
    return plan, plan.applied(recipe)


def works(setup: Setup, recipe: Recipe) -> dict[str, Callable[[], object]]:
    """The phases of a step, in order; each leaves what the next needs."""
    learner = Learner(recipe, device=setup.device)
    context = BuildContext(device=setup.device, seed=0)
    engine = HFEngineSettings(dtype=recipe.policy.compute_dtype).build(
        learner.policy, context=context
    )
    offload = Offload(recipe.training.offload, device=setup.device)
    reward = setup.reward(torch.bfloat16).requires_grad_(False)
    with offload.model("reward_model", reward):
        pass  # Until something is to be scored.
    rollouts = full_rows(setup, recipe)
    rows = [(*r.prompt_tokens, *r.completion.tokens) for r in rollouts]
    annotated: list[AnnotatedBatch] = []

    def generate() -> None:
        few = SamplingParams(max_tokens=8 if setup.tiny else 64)
        engine.generate([r.prompt_tokens for r in rollouts], few, seeds=range(NUM_ROWS))

    def score() -> None:
        budget = SCORED_TOKENS[torch.device(setup.device).type]
        with offload.model("reward_model", reward):
            score_sequences(reward, rows, tokens_per_batch=budget)

    def annotate() -> None:
        scores = torch.randn(NUM_ROWS, generator=torch.Generator().manual_seed(0)).tolist()
        batch = collate(rollouts, [Score(score) for score in scores], pad_id=0)
        annotated.append(learner.annotate(batch, step=1, score_std=1.0))

    def update() -> None:
        learner.update(learner.algorithm.assign_credit(annotated.pop()), step=1)

    return {"generate": generate, "score": score, "annotate": annotate, "update": update}


def full_rows(setup: Setup, recipe: Recipe) -> list[Rollout]:
    """The longest prompts with the longest answers."""
    length = recipe.sampling.max_tokens
    return [
        Rollout(
            prompt=Prompt(str(row), (Message("user", ""),)),
            group=row,
            prompt_tokens=setup.tokens(setup.longest_prompt, seed=row),
            completion=Completion(
                setup.tokens(length, seed=1000 + row), (-1.0,) * length, "length"
            ),
            text="",
        )
        for row in range(NUM_ROWS)
    ]
