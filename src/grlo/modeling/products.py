"""Products of float32 matrices on CPUs where oneDNN is faster than the BLAS that torch calls.

PyTorch hands float32 linear layers to MKL, which keeps to AVX2 on processors of other makers than
its own; oneDNN, which PyTorch brings along for bfloat16 and convolutions, uses AVX-512 there. The
sums are the same in float32, in another order. `docs/results.md` has the rates.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

AnyModule = TypeVar("AnyModule", bound=nn.Module)

_SMALL = 1_500_000
"""Multiplications below which oneDNN takes longer to begin (17 microseconds) than it gains."""

_FEW, _MULTIPLE = 1024, 16
"""Fewer rows than this are filled up to a multiple: oneDNN compiles products of every new size,
which takes longer than some rows more, and their number changes with every step of decoding."""


@functools.cache
def uses_onednn() -> bool:
    """Whether float32 products go through oneDNN here. A fact of the machine, not a measurement:
    a run that is resumed must round as it did before."""
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not _is_intel()
    )


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return "intel" in platform.processor().lower()


def product(left_MK: Tensor, right_KN: Tensor) -> Tensor:
    """`left_MK @ right_KN`, by the library that linear layers use."""
    if uses_onednn() and left_MK.device.type == "cpu" and left_MK.dtype == torch.float32:
        return _onednn(left_MK, right_KN.t())
    return left_MK @ right_KN


def outer(left_NI: Tensor, right_NJ: Tensor) -> Tensor:
    """`left_NI.t() @ right_NJ`, the gradient of a weight matrix, by the same library."""
    if uses_onednn() and left_NI.device.type == "cpu" and left_NI.dtype == torch.float32:
        return _outer(left_NI, right_NJ)
    return left_NI.t() @ right_NJ


def use_fast_products(model: AnyModule) -> AnyModule:
    """Lets the plain linear layers of a model multiply by oneDNN where that is faster.

    Weights, names and types stay what they are; layers on other devices or of other types compute
    as before.
    """
    if uses_onednn():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = FastLinear
    return model


class FastLinear(nn.Linear):
    """A linear layer whose float32 products on a CPU are oneDNN's."""

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b."""
        is_plain = input.dtype == self.weight.dtype == torch.float32
        is_elsewhere = input.device.type != "cpu" or torch.compiler.is_compiling()
        if not is_plain or is_elsewhere or torch.is_autocast_enabled("cpu"):
            return linear(input, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return _of_like_sizes(input, self.weight, self.bias)
        return _Linear.apply(input, self.weight, self.bias)  # pyright: ignore[reportReturnType]


class _Linear(torch.autograd.Function):
    """x W^T + b with its gradients, every product by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient_NO = gradients[0].reshape(-1, weight.shape[0])
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        for_x = for_weight = for_bias = None
        if needs_x:
            for_x = _onednn(gradient_NO, weight.t()).view(x.shape)
        if needs_weight:
            for_weight = _outer(gradient_NO, x.reshape(-1, x.shape[-1]))
        if ctx.has_bias and needs_bias:
            for_bias = gradient_NO.sum(0)
        return for_x, for_weight, for_bias


def _outer(left_NI: Tensor, right_NJ: Tensor) -> Tensor:
    # One of the two is copied, because oneDNN reads its first factor row by row.
    if left_NI.shape[1] > right_NJ.shape[1]:
        return _onednn(right_NJ.t(), left_NI.t()).t().contiguous()
    return _onednn(left_NI.t(), right_NJ.t())


def _of_like_sizes(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, computed for few different numbers of rows."""
    rows = x.numel() // x.shape[-1]
    missing = -rows % _MULTIPLE
    if not missing or rows > _FEW or x.numel() * weight.shape[0] < _SMALL:
        return _onednn(x, weight, bias)
    filled = pad(x.reshape(rows, -1), (0, 0, 0, missing))
    return _onednn(filled, weight, bias)[:rows].view(*x.shape[:-1], -1)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.numel() * weight.shape[0] < _SMALL:
        return linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
