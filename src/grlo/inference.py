"""What forward passes outside training have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode is restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def is_same_device(one: str, other: str) -> bool:
    """Whether two names mean one device; `cuda` is `cuda:0`."""
    first, second = torch.device(one), torch.device(other)
    return (first.type, first.index or 0) == (second.type, second.index or 0)
