"""How large micro-batches can be, and what has to wait in the CPU's memory, for a run to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from grlo.memory.estimates import MemoryItem, estimate_memory, peak_bytes
from grlo.model_shape import ModelShape
from grlo.settings import Dtype, Offload, Recipe, Sharding

USABLE_SHARE = 0.9
"""Of the memory that is free; the rest is for fragmentation, kernels and libraries."""
MOST_TOKENS = 16384
"""More tokens at a time are no faster: products this tall keep any device at work. It is also the
default of `training.micro_batch_tokens`."""
ENOUGH_TOKENS = 4096
"""Every micro-batch reads all weights of the device again, forward and backward, so that smaller
ones are taken to cost more than moving a component over the bus a few times a step."""
OFFLOAD_ORDER: tuple[Offload, ...] = ("reward_model", "reference", "optimizer", "critic")
"""By transfers per step and byte: frozen weights go one way, once a step; states go both ways at
each update; the critic goes both ways at each update and once more for its values."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a run is to do with the memory of its device."""

    micro_batch_tokens: int
    offload: tuple[Offload, ...]
    items: tuple[MemoryItem, ...]
    """Estimates under this plan."""
    device_bytes: int
    """Memory that is free before anything is loaded."""
    num_devices: int = 1
    """Each of which has so much."""
    sharding: Sharding = "auto"
    """What they have of the models; with one it does not matter."""

    @property
    def peak_bytes(self) -> int:
        """The estimate for the hungriest phase."""
        return peak_bytes(self.items)

    @property
    def fits(self) -> bool:
        """Whether the estimate lies within the usable share of the memory."""
        return self.peak_bytes <= USABLE_SHARE * self.device_bytes

    def applied(self, recipe: Recipe, *, at_most: int | None = None) -> Recipe:
        """The recipe with what has been chosen.

        Args:
            recipe: That was planned for.
            at_most: Tokens of a micro-batch that an earlier start of the run has come down to.
        """
        training = replace(
            recipe.training,
            micro_batch_tokens=min(self.micro_batch_tokens, at_most or self.micro_batch_tokens),
            offload=self.offload,
            sharding=self.sharding,
        )
        return replace(recipe, training=training)

    def facts(self) -> dict[str, object]:
        """For a run's record."""
        return {
            "micro_batch_tokens": self.micro_batch_tokens,
            "offload": list(self.offload),
            "estimated_peak_bytes": self.peak_bytes,
            "device_bytes": self.device_bytes,
        }


def plan_memory(
    recipe: Recipe,
    *,
    policy: ModelShape,
    critic: ModelShape | None = None,
    rewards: Sequence[tuple[ModelShape, Dtype | None]] = (),
    device_bytes: int,
    num_devices: int = 1,
) -> MemoryPlan:
    """What the recipe states, or with `training.micro_batch_tokens = 0` what fits.

    Chosen is the smallest extension of `training.offload`, in the order of `OFFLOAD_ORDER`, with
    which `ENOUGH_TOKENS` fit, and for it the largest power of two of tokens up to `MOST_TOKENS`.
    If they never fit, everything waits in the CPU's memory, and micro-batches are as large as that
    lets them be. Where by the estimate nothing fits, they are as large as they can be without
    raising the peak, which smaller ones would not lower: it may lie in an optimizer's step, and a
    row is never cut. On a CPU nothing has another place to wait.

    Of several devices each is planned for alike. With `training.sharding = "auto"` each has whole
    models where adapters are trained, on CPUs, and where whole ones fit with nothing more waiting
    in the CPU's memory; else models are in shards.

    Args:
        recipe: What is to be run, its `training.device` resolved.
        policy: Shape of the policy.
        critic: Shape of the critic, if the algorithm has one of its own.
        rewards: Shapes of the reward models, each with the type that the recipe states for it.
        device_bytes: Memory of the device that is free.
        num_devices: Devices of the run, each with so much memory.
    """

    def plan(
        num_tokens: int, offload: tuple[Offload, ...], sharding: Sharding | None = None
    ) -> MemoryPlan:
        used: Sharding = sharding or chosen
        training = replace(
            recipe.training, micro_batch_tokens=num_tokens, offload=offload, sharding=used
        )
        items = estimate_memory(
            replace(recipe, training=training),
            policy=policy,
            critic=critic,
            rewards=rewards,
            # The engine takes what is left; with a number of its own, that.
            num_sequences=getattr(recipe.engine, "max_rows", 0) or 1,
            num_devices=num_devices,
        )
        return MemoryPlan(num_tokens, offload, items, device_bytes, num_devices, used)

    chosen: Sharding = recipe.training.sharding
    if num_devices > 1 and chosen == "auto":
        tokens = recipe.training.micro_batch_tokens or ENOUGH_TOKENS
        is_whole = _has_whole_models(recipe)
        is_whole = is_whole or plan(tokens, recipe.training.offload, "ddp").fits
        chosen = "ddp" if is_whole else "fsdp"
    stated = recipe.training.offload
    if recipe.training.micro_batch_tokens:
        return plan(recipe.training.micro_batch_tokens, stated)
    more: tuple[Offload, ...] = ()
    if recipe.training.device != "cpu":
        present = _present(recipe, critic=critic, rewards=rewards)
        more = tuple(name for name in OFFLOAD_ORDER if name in present and name not in stated)
    ladders: list[tuple[Offload, ...]] = [
        (*stated, *more[:count]) for count in range(len(more) + 1)
    ]
    for offload in ladders:
        if plan(ENOUGH_TOKENS, offload).fits:
            return _largest([plan(n, offload) for n in _powers(ENOUGH_TOKENS)])
    return _largest([plan(n, ladders[-1]) for n in _powers(1)])


def _has_whole_models(recipe: Recipe) -> bool:
    """Whether each device has whole models, however large: nothing else goes with what is asked."""
    optimizers = {recipe.optimizer.name}
    if getattr(recipe.algorithm, "needs_critic", False):
        optimizers.add(recipe.critic.optimizer.name)
    has_adapters = recipe.policy.lora is not None or recipe.critic.lora is not None
    return recipe.training.device == "cpu" or has_adapters or "adamw_8bit" in optimizers


def _powers(least: int) -> list[int]:
    """Powers of two from the most down to the least."""
    tokens = [MOST_TOKENS]
    while tokens[-1] > least:
        tokens.append(tokens[-1] // 2)
    return tokens


def _largest(plans: Sequence[MemoryPlan]) -> MemoryPlan:
    """The first that fits; else the first that takes no more than the smallest does."""
    least = min(plan.peak_bytes for plan in plans)
    return next(plan for plan in plans if plan.fits or plan.peak_bytes == least)


def _present(
    recipe: Recipe, *, critic: ModelShape | None, rewards: Sequence[object]
) -> set[Offload]:
    present: set[Offload] = {"optimizer"}
    if critic is not None:
        present.add("critic")
    if rewards:
        present.add("reward_model")
    if getattr(recipe.algorithm, "needs_reference", False) and recipe.policy.lora is None:
        present.add("reference")
    return present
