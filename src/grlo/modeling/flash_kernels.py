"""torch's flash attention kernels, with the log-sum-exp that joins parts of an attention.

They are private to torch: they are tried on a few numbers before they are relied on.

Dimensions: R rows of C queries or keys, H heads (of queries; keys and values may have fewer), D
their size; on a GPU R = 1 and stretches lie end to end in the one row.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from grlo.modeling.attention_parts import Part

States = tuple[Tensor, Tensor, Tensor]
"""Queries [R, C, H, D], keys and values [R, C', H', D], H' a divisor of H; or their gradients."""
Attended = tuple[Tensor, Tensor]
"""The output [R, C, H, D] and the log-sum-exp of its scores, float32 [R, C, H]."""


class FlashKernel(Protocol):
    """Attention of one part and its way back."""

    def forward(self, states: States, part: Part, scale: float) -> Attended:
        """Attention of a part.

        Args:
            states: Of the part's queries and keys.
            part: Where they come from.
            scale: Factor of the scores.
        """
        ...

    def backward(
        self, upstream: Tensor, states: States, whole: Attended, part: Part, scale: float
    ) -> States:
        """Gradients of the states by the whole attention of which this is a part.

        Args:
            upstream: Gradient of the output, [R, C, H, D].
            states: As in `forward`.
            whole: What the whole attention gave for the part's queries.
            part: As in `forward`.
            scale: As in `forward`.
        """
        ...


class CPUKernel:
    """For float32; rows of equal length side by side."""

    def forward(self, states: States, part: Part, scale: float) -> Attended:
        """See `FlashKernel`."""
        output, normalizer = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(x.transpose(1, 2) for x in states), 0.0, part.is_causal, scale=scale
        )
        return output.transpose(1, 2), normalizer.transpose(1, 2)

    def backward(
        self, upstream: Tensor, states: States, whole: Attended, part: Part, scale: float
    ) -> States:
        """See `FlashKernel`."""
        for_query, for_key, for_value = (
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *(x.transpose(1, 2) for x in (upstream, *states, *whole)),
                *(0.0, part.is_causal),
                scale=scale,
            )
        )
        return for_query.transpose(1, 2), for_key.transpose(1, 2), for_value.transpose(1, 2)


class CUDAKernel:
    """For bfloat16 and float16; stretches of any length end to end in one row."""

    def forward(self, states: States, part: Part, scale: float) -> Attended:
        """See `FlashKernel`."""
        output, normalizer, *_ = torch.ops.aten._flash_attention_forward(
            *(x[0] for x in states),
            *_lengths(part),
            *(0.0, part.is_causal, False),
            scale=scale,
        )
        return output[None], normalizer.t()[None]

    def backward(
        self, upstream: Tensor, states: States, whole: Attended, part: Part, scale: float
    ) -> States:
        """See `FlashKernel`."""
        output, normalizer = whole
        # Of the dropout that there is none of.
        random_state = torch.zeros(2, dtype=torch.uint64, device=output.device)
        for_query, for_key, for_value = torch.ops.aten._flash_attention_backward(
            *(upstream[0].contiguous(), *(x[0] for x in states), output[0]),
            normalizer[0].t().contiguous(),
            *_lengths(part),
            *(0.0, part.is_causal, random_state, random_state[:0]),
            scale=scale,
        )
        return for_query[None], for_key[None], for_value[None]


def attend_to_stretches(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    numbers: Tensor,
    first: Tensor,
    count: Tensor,
    *,
    longest: int,
    scale: float,
) -> Tensor:
    """Attention of single queries, each to a stretch of one long row of keys; on a GPU.

    Args:
        query: bfloat16 or float16, [R, H, D].
        key: [M, H', D], H' a divisor of H.
        value: Like the keys.
        numbers: 0, 1, 2, ... R; int32.
        first: Where the stretch of each query begins, ascending, and one number more; int32,
            [R + 1].
        count: Keys of each stretch, at least one; int32, [R].
        longest: No stretch is longer.
        scale: Factor of the scores.

    Returns:
        [R, H, D].
    """
    output, *_ = torch.ops.aten._flash_attention_forward(
        *(query, key, value),
        *(numbers, first),
        *(1, longest, 0.0, False, False),
        scale=scale,
        seqused_k=count,
    )
    return output


def _lengths(part: Part) -> tuple[Tensor, Tensor, int, int]:
    queries, keys = part.queries.bounds, part.keys.bounds
    assert queries is not None, "not divided for a GPU"
    assert keys is not None, "not divided for a GPU"
    return queries.starts_S, keys.starts_S, queries.longest, keys.longest


@functools.cache
def reads_stretches(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether `attend_to_stretches` does what it says."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return passes(
        lambda: _attends_to_stretches(device, dtype, head_size),
        f"reads {dtype} keys of heads of {head_size} in stretches on {device}: columns are read "
        "that are then left out",
    )


def _attends_to_stretches(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Tries 3 queries of 4 heads, of which 2 share a key, with 3, 1 and 4 of 15 keys."""
    drawn = random_numbers(15, 8, head_size).to(device, dtype)
    query, key, value = drawn[:3, :4], drawn[:, 4:6], drawn[:, 6:]
    stretches = ((2, 3), (7, 1), (10, 4))
    scale = head_size**-0.5

    def numbers(*values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    found = attend_to_stretches(
        *(query, key, value),
        numbers(0, 1, 2, 3),
        numbers(2, 7, 10, 15),
        numbers(3, 1, 4),
        longest=5,
        scale=scale,
    )
    for row, (first, count) in enumerate(stretches):
        keys, values = (
            x[first : first + count].float().repeat_interleave(2, 1) for x in (key, value)
        )
        weights = torch.einsum("hd,khd->hk", query[row].float(), keys).mul(scale).softmax(-1)
        expected = torch.einsum("hk,khd->hd", weights, values)
        if not is_close(found[row], expected):
            return False
    return True


def random_numbers(*shape: int) -> Tensor:
    """Standard normal, always the same; no generator in use is touched."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def is_close(found: Tensor, expected: Tensor) -> bool:
    """Whether the difference is rounding, by the norms: 2 % in half precision."""
    limit = 1e-4 if found.dtype == torch.float32 else 2e-2
    difference = (found.float() - expected.float()).norm()
    return bool(difference <= limit * expected.float().norm())


def passes(trial: Callable[[], bool], lacks: str) -> bool:
    """Whether a trial of a kernel succeeds; if not, a warning says what torch lacks, and why."""
    # Modes of this thread (autocast, recomputation that counts operators) are not to see it.
    with ThreadPoolExecutor(1) as thread:
        try:
            problem = "" if thread.submit(trial).result() else "its numbers are others"
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            lines = str(error).splitlines()
            problem = f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"
    if problem:
        warnings.warn(
            f"torch {torch.__version__} has no flash attention that {lacks}, which costs time and "
            f"memory ({problem}).",
            stacklevel=3,
        )
    return not problem
