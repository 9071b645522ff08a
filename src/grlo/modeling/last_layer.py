"""A decoder whose last layer is computed only for the tokens whose states are read.

A reward model reads one token of a conversation. Tokens need the states of all others below the
last layer; in it they need their keys and values, and only the token that is read needs queries,
attention and feed-forward network: of L layers this saves most of one.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from torch import Tensor, nn

from grlo.modeling.packed import Packing

AnyModel = TypeVar("AnyModel", bound=nn.Module)

_PRE_NORM = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
"""All of them h = x + attention(norm(x)), y = h + mlp(norm(h)), with no other residuals."""


def read_few_tokens(model: AnyModel) -> AnyModel:
    """Lets the last layer of a packed decoder leave out tokens that `Packing.read_B` does not name.

    Weights and names stay what they are; layers of other kinds compute all tokens.
    """
    layer = getattr(getattr(model, "base_model", None), "layers", [None])[-1]
    if type(layer).__name__ in _PRE_NORM:
        layer.__class__ = _with_few_tokens(type(layer))
    return model


def reads_few_tokens(model: nn.Module) -> bool:
    """Whether `read_few_tokens` has changed the model."""
    return isinstance(getattr(model.base_model, "layers", [None])[-1], LastLayer)  # pyright: ignore


class LastLayer(nn.Module):
    """A pre-norm decoder layer that may be asked for few tokens, mixed into the own class."""

    input_layernorm: nn.Module
    self_attn: nn.Module
    post_attention_layernorm: nn.Module
    mlp: nn.Module

    def forward(
        self, hidden_states: Tensor, *, packing: Packing | None = None, **options: Any
    ) -> Tensor:
        """[1, N, D] as [1, N, D], or as [1, B, D] where the packing says what is read."""
        if packing is None or packing.read_B is None:
            return super().forward(hidden_states, packing=packing, **options)
        normed = self.input_layernorm(hidden_states)
        attended, _ = self.self_attn(
            hidden_states=normed, packing=packing, for_read_tokens=True, **options
        )
        read = (hidden_states + attended)[:, packing.read_B]
        return read + self.mlp(self.post_attention_layernorm(read))


@functools.cache
def _with_few_tokens(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Last{kind.__name__}", (LastLayer, kind), {})
