"""Attention layers of transformers' models whose rotary positions take three passes over memory.

RoFormer (Su et al. 2021, arXiv 2104.09864), section 3.4.2, with the pairs that transformers turns:
entry j of the first half of a head with entry j of the second,

    y1 = x1 cos - x2 sin,   y2 = x2 cos + x1 sin.

Written there as a negation, a concatenation, two products and a sum, and backward as many again.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from grlo.packed import Packing, packed_attention

AnyModule = TypeVar("AnyModule", bound=nn.Module)

_ATTENTIONS = {
    "LlamaAttention",
    "MistralAttention",
    "Qwen2Attention",
    "Qwen3Attention",
    "Qwen3MoeAttention",
}
"""All of them o(attend(turned(q(x)), turned(k(x)), v(x))), some with norms before the turn."""


def use_fast_rotary(model: AnyModule) -> AnyModule:
    """Lets attention layers of a packed model turn queries and keys as this module does.

    Weights, names and types stay what they are; without packing, on other devices and in other
    types layers compute as before.
    """
    for module in model.modules():
        if type(module).__name__ in _ATTENTIONS:
            module.__class__ = _with_fast_forward(type(module))
    return model


class FastAttention(nn.Module):
    """An attention layer, mixed into the own class."""

    head_dim: int
    scaling: float
    attention_dropout: float
    o_proj: nn.Module

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        packing: Packing | None = None,
        attention_mask: Tensor | None = None,
        for_read_tokens: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """[1, N, hidden size] as the same; cosines and sines are [1, N, D]."""
        cos_1ND, sin_1ND = position_embeddings
        is_float32 = hidden_states.dtype == cos_1ND.dtype == torch.float32
        on_cpu = hidden_states.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if packing is None or not is_float32 or not on_cpu:
            if packing is not None:
                options |= {"packing": packing, "for_read_tokens": for_read_tokens}
            return super().forward(
                hidden_states=hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                **options,
            )

        def heads(of: str) -> Tensor:
            states = self.get_submodule(f"{of}_proj")(hidden_states)
            states = states.unflatten(-1, (-1, self.head_dim))
            norm: nn.Module | None = getattr(self, f"{of}_norm", None)
            return states if norm is None else norm(states)

        query_1NHD, key_1NHD = (turned(heads(of), cos_1ND, sin_1ND) for of in "qk")
        output_1NHD, _ = packed_attention(
            self,
            query_1NHD.transpose(1, 2),
            key_1NHD.transpose(1, 2),
            heads("v").transpose(1, 2),
            None,
            packing=packing,
            for_read_tokens=for_read_tokens,
            scaling=self.scaling,
            dropout=self.attention_dropout if self.training else 0.0,
        )
        return self.o_proj(output_1NHD.flatten(-2)), None


@functools.cache
def _with_fast_forward(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Fast{kind.__name__}", (FastAttention, kind), {})


def turned(x_BNHD: Tensor, cos_BND: Tensor, sin_BND: Tensor) -> Tensor:
    """Queries or keys at their rotary positions.

    Args:
        x_BNHD: float32.
        cos_BND: Cosine of each entry's angle, equal in both halves.
        sin_BND: Its sine.
    """
    first, second = sin_BND.chunk(2, -1)
    signed_BND = torch.cat((-first, second), -1)
    return _Turn.apply(  # pyright: ignore[reportReturnType]
        x_BNHD, cos_BND[:, :, None], signed_BND[:, :, None]
    )


class _Turn(torch.autograd.Function):
    """The gradient turns back: by the same angles with the other sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, signed_sin)
        return x.roll(x.shape[-1] // 2, -1).mul_(signed_sin).addcmul_(x, cos)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Any
    ) -> tuple[Tensor, None, None]:
        cos, signed_sin = ctx.saved_tensors
        g = gradients[0]
        for_x = g.roll(g.shape[-1] // 2, -1).mul_(signed_sin).neg_()
        return for_x.addcmul_(g, cos), None, None
