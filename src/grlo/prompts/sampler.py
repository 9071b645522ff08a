"""Which prompts, or other rows, a step sees, as a function of the seed and the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from grlo.seeding import derive_rng

Item = TypeVar("Item")


class PromptSampler(Generic[Item]):
    """An endless stream of epochs, each a permutation of its own; a step takes the next stretch.

    Every prompt occurs exactly once per epoch, and nothing is left over at an epoch's end: a step
    may span two epochs, or several when there are fewer prompts than a step takes.

    Args:
        prompts: At least one.
        prompts_per_step: How many a step takes.
        seed: The run's seed.
    """

    def __init__(self, prompts: Sequence[Item], *, prompts_per_step: int, seed: int) -> None:
        if not prompts or prompts_per_step < 1:
            raise ValueError("a sampler needs at least one prompt and one prompt per step")
        self._prompts = tuple(prompts)
        self._prompts_per_step = prompts_per_step
        self._seed = seed

    def batch(self, step: int) -> list[Item]:
        """The prompts of a step, counted from 1; no state, so a resumed run sees the same."""
        if step < 1:
            raise ValueError(f"steps count from 1, got {step}")
        num_prompts = len(self._prompts)
        start = (step - 1) * self._prompts_per_step
        stop = start + self._prompts_per_step
        first_epoch, last_epoch = start // num_prompts, (stop - 1) // num_prompts
        stretch: list[Item] = []
        for epoch in range(first_epoch, last_epoch + 1):
            offset = epoch * num_prompts
            stretch += self._epoch(epoch)[max(start - offset, 0) : stop - offset]
        return stretch

    def _epoch(self, epoch: int) -> list[Item]:
        order = list(self._prompts)
        derive_rng(self._seed, "epoch", epoch).shuffle(order)
        return order
