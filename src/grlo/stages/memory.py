"""The memory of the device that a run is to be made on, and the plan for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import torch
from transformers import AutoConfig

from grlo.errors import RecipeError
from grlo.memory.plan import MemoryPlan, plan_memory
from grlo.model_shape import ModelShape, shape_from_config
from grlo.rewards import single_rewards
from grlo.settings import Dtype, Recipe


def plan_for(recipe: Recipe, *, device: str, num_devices: int = 1) -> MemoryPlan:
    """The plan for a device of this machine, before anything is loaded; others are taken to have as
    much memory.

    Raises:
        RecipeError: Something is to wait in the CPU's memory, and the device is the CPU.
    """
    policy = _shape(recipe.policy.model, recipe.policy.revision)
    has_own_critic = (
        getattr(recipe.algorithm, "needs_critic", False) and not recipe.critic.share_trunk
    )
    critic = policy if has_own_critic else None
    if critic is not None and recipe.critic.model is not None:
        critic = _shape(recipe.critic.model, None)
    return plan_with(
        recipe,
        device=device,
        policy=policy,
        critic=critic,
        rewards=list(_rewards(recipe)),
        num_devices=num_devices,
    )


def plan_with(
    recipe: Recipe,
    *,
    device: str,
    policy: ModelShape,
    critic: ModelShape | None,
    rewards: list[tuple[ModelShape, Dtype | None]],
    num_devices: int = 1,
) -> MemoryPlan:
    """`plan_for` with shapes that are known; the reward models are those of the gold signal too."""
    kind = torch.device(device).type
    if recipe.training.offload and kind == "cpu":
        raise RecipeError(
            f"training.offload: {', '.join(recipe.training.offload)} cannot wait in the CPU's "
            "memory for the CPU. Remove it, or train on a GPU."
        )
    recipe = replace(recipe, training=replace(recipe.training, device=kind))
    return plan_memory(
        recipe,
        policy=policy,
        critic=critic,
        rewards=rewards,
        # Processes on CPUs have one memory together.
        device_bytes=free_bytes(device) // (num_devices if kind == "cpu" else 1),
        num_devices=num_devices,
    )


def free_bytes(device: str) -> int:
    """Memory for a run: what is free on a GPU, half of what there is for a CPU.

    Half, since a machine has other things to do; and of all instead of what is free, so that a run
    that is started again cuts its batches as before, and repeats every bit.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _rewards(recipe: Recipe) -> Iterator[tuple[ModelShape, Dtype | None]]:
    rewards = [recipe.reward, *([] if recipe.gold is None else [recipe.gold.reward])]
    for reward in rewards:
        for part in single_rewards(reward):
            model = getattr(part.settings, "model", None)
            # A judge's model has a name, and lies elsewhere.
            if isinstance(model, str) and hasattr(part.settings, "tokens_per_batch"):
                revision = getattr(part.settings, "revision", None)
                yield _shape(model, revision), getattr(part.settings, "dtype", None)


def _shape(model: str, revision: str | None) -> ModelShape:
    return shape_from_config(AutoConfig.from_pretrained(model, revision=revision).to_dict())
