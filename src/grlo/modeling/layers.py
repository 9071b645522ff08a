"""Layers of transformers' models, computed faster on a CPU: the same functions and weights."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from grlo.modeling.products import use_fast_products

AnyModule = TypeVar("AnyModule", bound=nn.Module)

_RMS_NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "Qwen3MoeRMSNorm"}
"""All of them w x / sqrt(mean(x^2) + eps), written as six passes over memory and twelve back."""


def use_fast_layers(model: AnyModule) -> AnyModule:
    """Lets linear layers and norms of a model compute as this module and `products` beside it do.

    Weights, names and types stay what they are; on other devices, in other types and where they are
    compiled layers compute as before.
    """
    for module in model.modules():
        if type(module).__name__ in _RMS_NORMS:
            module.__class__ = _with_fast_forward(type(module))
    return use_fast_products(model)


class FastRMSNorm(nn.Module):
    """Root mean square layer normalisation (Zhang and Sennrich 2019), mixed into the own class."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """w x / sqrt(mean(x^2) + eps)."""
        is_float32 = hidden_states.dtype == self.weight.dtype == torch.float32
        is_elsewhere = hidden_states.device.type != "cpu" or torch.compiler.is_compiling()
        if not is_float32 or is_elsewhere:
            return super().forward(hidden_states)
        if not torch.is_grad_enabled():
            return _rms_norm(hidden_states, self.weight, self.variance_epsilon)[0]
        return _RMSNorm.apply(  # pyright: ignore[reportReturnType]
            hidden_states, self.weight, self.variance_epsilon
        )


@functools.cache
def _with_fast_forward(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Fast{kind.__name__}", (FastRMSNorm, kind), {})


def _rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """y = w r x and r = 1 / sqrt(mean(x^2) + eps), over the last dimension."""
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    r = square.add_(eps).rsqrt_()
    return (x * r).mul_(weight_D), r


class _RMSNorm(torch.autograd.Function):
    """With r = 1 / sqrt(mean(x^2) + eps), y = w r x and g = dL/dy, over the last dimension D:
    dL/dx = r w g - r^3 x sum(w g x) / D and dL/dw = sum(r g x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        y, r = _rms_norm(x, weight_D, eps)
        ctx.save_for_backward(x, weight_D, r)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Any
    ) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight_D, r = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        size = x.shape[-1]
        weighted, r_M = (gradients[0] * x).reshape(-1, size), r.reshape(-1)
        for_weight = for_x = None
        if needs_weight:
            for_weight = weighted.t() @ r_M
        if needs_x:
            factor = (weighted @ weight_D).mul_(r_M.pow(3)).div_(-size).view(r.shape)
            for_x = (gradients[0] * weight_D).mul_(r).addcmul_(x, factor)
        return for_x, for_weight, None
