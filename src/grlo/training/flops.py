"""Estimated floating-point operations of each phase of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grlo.estimates import CHECKPOINTING_FACTOR, TRAINING_FACTOR, ModelShape, forward_flops
from grlo.types import Rollout


@dataclass(frozen=True)
class FlopCounter:
    """Counts from lengths and shapes; phases that only move weights cost nothing.

    A reward model's texts are taken to be as long in its tokens as in the policy's.
    """

    policy: ModelShape
    critic: ModelShape | None
    rewards: tuple[tuple[ModelShape, frozenset[str]], ...]
    """Reward models, each with the styles of the prompts whose answers it scores."""
    has_reference: bool
    annotates_policy: bool
    """Whether the policy's log-probabilities are computed before the update."""
    num_epochs: int
    checkpoints_gradients: bool

    def __call__(self, phase: str, rollouts: Sequence[Rollout]) -> float:
        """Operations of `phase` for the rollouts of a step."""
        if phase == "generate":
            return self._generate(rollouts)
        if phase == "score":
            return sum(
                _full_pass(
                    shape, [rollout for rollout in rollouts if rollout.prompt.style in styles]
                )
                for shape, styles in self.rewards
            )
        passes = self._passes().get(phase, {})
        return sum(
            times * _full_pass(shape, rollouts)
            for name, times in passes.items()
            if (shape := getattr(self, name)) is not None
        )

    def _passes(self) -> Mapping[str, Mapping[str, float]]:
        """Forward passes over whole rollouts: phase -> model -> how many."""
        factor = CHECKPOINTING_FACTOR if self.checkpoints_gradients else TRAINING_FACTOR
        training = float(factor * self.num_epochs)
        return {
            "annotate": {"policy": self.annotates_policy + self.has_reference, "critic": 1},
            "update": {"policy": training, "critic": training},
        }

    def _generate(self, rollouts: Sequence[Rollout]) -> float:
        """Each prompt once, then every sampled token on top of its cache."""
        prompts = {rollout.group: len(rollout.prompt_tokens) for rollout in rollouts}
        prefill = sum(
            forward_flops(self.policy, num_tokens=length, num_outputs=1)
            for length in prompts.values()
        )
        return prefill + sum(
            forward_flops(
                self.policy,
                num_tokens=len(rollout.completion.tokens),
                num_cached=len(rollout.prompt_tokens),
            )
            for rollout in rollouts
        )


def _full_pass(shape: ModelShape, rollouts: Sequence[Rollout]) -> float:
    """A forward pass over prompts and answers, prompts of a group counted once."""
    seen: set[int] = set()
    flops = 0.0
    for rollout in rollouts:
        num_answer, num_prompt = len(rollout.completion.tokens), len(rollout.prompt_tokens)
        if rollout.group not in seen:
            seen.add(rollout.group)
            flops += forward_flops(shape, num_tokens=num_prompt, num_outputs=0)
        flops += forward_flops(
            shape, num_tokens=num_answer, num_cached=num_prompt, num_outputs=num_answer
        )
    return flops
