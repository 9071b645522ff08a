"""torch's flash attention kernels, with the log-sum-exp that joins parts of an attention.

They are private to torch: `grlo.shared_prefix_attention` tries them before it relies on them.

Dimensions: R rows of C queries or keys, H heads (of queries; keys and values may have fewer), D
their size; on a GPU R = 1 and stretches lie end to end in the one row.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from grlo.attention_parts import Part


class FlashKernel(Protocol):
    """Attention of one part and its way back."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, part: Part, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The output [R, C, H, D] and the log-sum-exp of its scores, float32 [R, C, H].

        Args:
            query: [R, C, H, D].
            key: [R, C', H', D], H' a divisor of H.
            value: Like the keys.
            part: Where the states come from.
            scale: Factor of the scores.
        """
        ...

    def backward(
        self,
        upstream: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        normalizer: Tensor,
        *,
        part: Part,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value by the whole attention of which this is a part.

        Args:
            upstream: Gradient of `output`, [R, C, H, D].
            query: As in `forward`; so are key and value.
            output: Of the whole.
            normalizer: Log-sum-exp of the whole's scores, [R, C, H].
            part: As in `forward`.
            scale: As in `forward`.
        """
        ...


class CPUKernel:
    """For float32; rows of equal length side by side."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, part: Part, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `FlashKernel`."""
        output, normalizer = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(x.transpose(1, 2) for x in (query, key, value)), 0.0, part.is_causal, scale=scale
        )
        return output.transpose(1, 2), normalizer.transpose(1, 2)

    def backward(
        self,
        upstream: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        normalizer: Tensor,
        *,
        part: Part,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `FlashKernel`."""
        states = (upstream, query, key, value, output, normalizer)
        for_query, for_key, for_value = (
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *(x.transpose(1, 2) for x in states), 0.0, part.is_causal, scale=scale
            )
        )
        return for_query.transpose(1, 2), for_key.transpose(1, 2), for_value.transpose(1, 2)


class CUDAKernel:
    """For bfloat16 and float16; stretches of any length end to end in one row."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, part: Part, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `FlashKernel`."""
        output, normalizer, *_ = torch.ops.aten._flash_attention_forward(
            *(query[0], key[0], value[0]),
            *_lengths(part),
            *(0.0, part.is_causal, False),
            scale=scale,
        )
        return output[None], normalizer.t()[None]

    def backward(
        self,
        upstream: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        normalizer: Tensor,
        *,
        part: Part,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `FlashKernel`."""
        # Of the dropout that there is none of.
        random_state = torch.zeros(2, dtype=torch.uint64, device=query.device)
        for_query, for_key, for_value = torch.ops.aten._flash_attention_backward(
            *(upstream[0].contiguous(), query[0], key[0], value[0], output[0]),
            normalizer[0].t().contiguous(),
            *_lengths(part),
            *(0.0, part.is_causal, random_state, random_state[:0]),
            scale=scale,
        )
        return for_query[None], for_key[None], for_value[None]


def _lengths(part: Part) -> tuple[Tensor, Tensor, int, int]:
    queries, keys = part.queries.bounds, part.keys.bounds
    assert queries is not None, "not divided for a GPU"
    assert keys is not None, "not divided for a GPU"
    return queries.starts_S, keys.starts_S, queries.longest, keys.longest
