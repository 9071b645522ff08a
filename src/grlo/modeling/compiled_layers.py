"""Decoder layers whose work element by element torch.compile fuses (Triton on a GPU)."""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from grlo.modeling.packed import Packing

AnyModel = TypeVar("AnyModel", bound=nn.Module)

_LAYERS = {
    "LlamaDecoderLayer",
    "MistralDecoderLayer",
    "Qwen2DecoderLayer",
    "Qwen3DecoderLayer",
}


_MOST_VERSIONS = 64
"""Of one layer's code, by models, types and modes; beyond that torch goes on without compiling."""


def compile_layers(model: AnyModel) -> AnyModel:
    """Compiles the decoder layers of a model for packed passes; other passes run as before.

    Norms, rotary positions, gated activations and residuals become few kernels around products and
    attention. Lengths are symbols: another number of tokens compiles nothing anew. Another model,
    training and reading without gradients do, once for all layers. Weights and names stay what
    they are. Layers of other kinds run as before; where there are no others, a warning says so.
    """
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, _MOST_VERSIONS)
    layers = [module for module in model.modules() if type(module).__name__ in _LAYERS]
    if not layers:
        warnings.warn(
            f"{type(model).__name__} has none of the layers that can be compiled "
            f"({', '.join(sorted(_LAYERS))}): it runs as without `compile`.",
            stacklevel=2,
        )
    for layer in layers:
        layer.__class__ = _compiled(type(layer))
    return model


@functools.cache
def _compiled(kind: type[nn.Module]) -> type[nn.Module]:
    # Not what transformers wraps around the forward passes of all kinds alike.
    forward = torch.compile(inspect.unwrap(kind.forward), dynamic=True)

    def packed_forward(
        self: nn.Module, hidden_states: Tensor, *, packing: Packing | None = None, **options: Any
    ) -> Tensor:
        if packing is None:
            return kind.forward(self, hidden_states, **options)
        return forward(self, hidden_states, packing=packing, **options)

    return type(f"Compiled{kind.__name__}", (kind,), {"forward": packed_forward})
