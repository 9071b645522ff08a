"""Optimizers by name, and what of their states a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from grlo.errors import MissingExtraError
from grlo.settings import OptimizerSettings

# Tables that follow from the kind of number; every state of bitsandbytes refers to them.
_TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer of the parameters that are trained.

    Raises:
        MissingExtraError: `adamw_8bit` without bitsandbytes.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
    if settings.name == "adamw":
        return torch.optim.AdamW(trained, **options, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore
    except ModuleNotFoundError as error:
        raise MissingExtraError("bitsandbytes", extra="lowbit") from error
    return AdamW8bit(trained, **options)


def moment_bytes(parameter: Tensor, settings: OptimizerSettings) -> int:
    """Memory of both moments of a parameter.

    In 8 bits every block of 256 has a float32 scale besides, and what has fewer than 4,096 elements
    keeps float32 moments, as bitsandbytes has it.
    """
    count = parameter.numel()
    if settings.name == "adamw":
        return 2 * count * parameter.element_size()
    return 2 * 4 * count if count < 4096 else 2 * (count + 4 * -(-count // 256))


def moment_names(optimizer: torch.optim.Optimizer) -> tuple[str, str]:
    """What the optimizer calls the two moments, of a parameter's shape, in its state."""
    if isinstance(optimizer, torch.optim.AdamW):
        return "exp_avg", "exp_avg_sq"
    return "state1", "state2"


def stored_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A parameter's state as tensors of a checkpoint."""
    return {
        key: torch.as_tensor(value).contiguous()
        for key, value in state.items()
        if key not in _TABLES
    }


def loaded_state(
    optimizer: torch.optim.Optimizer, parameter: Tensor, stored: Mapping[str, Tensor]
) -> dict[str, Any]:
    """What `stored_state` gave, as the optimizer expects it."""
    state: dict[str, Any] = {key: value.to(parameter.device) for key, value in stored.items()}
    if isinstance(optimizer, torch.optim.AdamW):
        return state
    tables: dict[str, Tensor] = optimizer.name2qmap  # pyright: ignore[reportAttributeAccessIssue]
    if not tables:
        optimizer.fill_qmap()  # pyright: ignore[reportAttributeAccessIssue]
    state["step"] = int(stored["step"])
    if "absmax1" in state:  # Small parameters keep moments in float32.
        state |= {key: tables[name].to(parameter.device) for key, name in _TABLES.items()}
    return state
