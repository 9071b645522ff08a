"""Causal attention of packed rows without padding, prefixes that rows share attended once.

What a token sees of its row's prefix and what it sees of the tokens behind it are computed apart
and joined by their log-sum-exp (Hydragen, Juravsky et al. 2024, arXiv 2402.05099, section 3.1):
with o_i the output over a part of the keys and l_i = log sum exp of its scores, the whole is
sum_i exp(l_i - l) o_i, l = log sum_i exp l_i. A part's backward pass is that of attention over the
part alone, given the whole's output and l. All queries of a group meet the prefix in one product,
without padding; stretches of rows attend to themselves side by side.

Dimensions: N packed tokens, H heads (of queries; keys and values may have fewer), D their size.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from grlo.modeling.attention_parts import Division, Part, divide
from grlo.modeling.flash_kernels import (
    CPUKernel,
    CUDAKernel,
    FlashKernel,
    States,
    is_close,
    passes,
    random_numbers,
)

_KERNELS: dict[str, tuple[FlashKernel, set[torch.dtype]]] = {
    "cpu": (CPUKernel(), {torch.float32}),
    "cuda": (CUDAKernel(), {torch.bfloat16, torch.float16}),
}


def kernel_for(query: Tensor) -> FlashKernel | None:
    """What attends to tensors like `query` in parts; None if nothing here does."""
    kernel, dtypes = _KERNELS.get(query.device.type, (None, ()))
    if query.dtype not in dtypes or kernel is None:
        return None
    return kernel if _will_do(kernel, query.device, query.dtype, query.shape[-1]) else None


@functools.cache
def _will_do(kernel: FlashKernel, device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether the kernel, which is not of torch's public interface, gives the log-sum-exp, takes
    fewer heads of keys than of queries, and goes back from a normalizer that it is given."""
    return passes(
        lambda: _agrees(kernel, device, dtype, head_size),
        f"computes {dtype} with heads of {head_size} in parts on {device}: rows are padded for "
        "their attention",
    )


def _agrees(kernel: FlashKernel, device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Tries two rows of 5 and 4 tokens, of which they share 2."""
    index_BT = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 5, 6, 6]])
    lengths = (5, 4)
    division = divide(lengths, (0, 2), index_BT, device=device)
    scale = head_size**-0.5
    drawn = random_numbers(6, 7, head_size).to(device, dtype)
    upstream, plain = drawn[:2], (drawn[2:4], drawn[4:5], drawn[5:])

    def states() -> list[Tensor]:
        return [x.transpose(0, 1).clone().requires_grad_() for x in plain]

    ours, theirs = states(), states()
    query, key, value = ours
    output = shared_prefix_attention(query, key, value, division, kernel=kernel, scale=scale)
    output.backward(upstream.transpose(0, 1))
    expected = torch.zeros(output.shape, device=device)
    for row, length in enumerate(lengths):
        row_T = index_BT[row, :length].to(device)
        q, k, v = (x[row_T].float().transpose(0, 1) for x in theirs)
        attended = scaled_dot_product_attention(
            q, k.expand_as(q), v.expand_as(q), is_causal=True, scale=scale
        )
        expected = expected.index_copy(0, row_T, attended.transpose(0, 1))
    expected.backward(upstream.transpose(0, 1).float())
    pairs = [(output, expected), *((x.grad, y.grad) for x, y in zip(ours, theirs, strict=True))]
    return all(
        x is not None and y is not None and is_close(x.detach(), y.detach()) for x, y in pairs
    )


def shared_prefix_attention(
    query_NHD: Tensor,
    key_NHD: Tensor,
    value_NHD: Tensor,
    division: Division,
    *,
    kernel: FlashKernel,
    scale: float,
) -> Tensor:
    """softmax(scale q k^T) v of every token over its row up to itself.

    Args:
        query_NHD: [N, H, D], of a type that the kernel takes.
        key_NHD: Of as many heads or a divisor of that.
        value_NHD: Like the keys.
        division: Of the N tokens, for the device they are on.
        kernel: From `kernel_for`.
        scale: Factor of the scores.

    Returns:
        [N, H, D].
    """
    return _SharedPrefixAttention.apply(  # pyright: ignore[reportReturnType]
        query_NHD, key_NHD, value_NHD, division, kernel, scale
    )


class _SharedPrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        division: Division,
        kernel: FlashKernel,
        scale: float,
    ) -> Tensor:
        output = torch.zeros_like(query, memory_format=torch.contiguous_format)
        normalizer_NH = torch.zeros(query.shape[:2], device=query.device)
        for part in division.own:
            attended, normalizer = kernel.forward(_states(query, key, value, part), part, scale)
            part.queries.add_once(attended, output)
            part.queries.add_once(normalizer, normalizer_NH)
        for part in division.behind:
            attended, normalizer = kernel.forward(_states(query, key, value, part), part, scale)
            whole_output, whole = part.queries.spread(output), part.queries.spread(normalizer_NH)
            own = whole.clone()
            torch.logaddexp(own, normalizer, out=whole)
            whole_output.mul_((own - whole).exp_()[..., None])
            whole_output.addcmul_(attended, (normalizer - whole).exp_()[..., None])
            part.queries.store(whole_output, output)
            part.queries.store(whole, normalizer_NH)
        ctx.save_for_backward(query, key, value, output, normalizer_NH)
        ctx.division, ctx.kernel, ctx.scale = division, kernel, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Any
    ) -> tuple[Tensor | None, ...]:
        query, key, value, output, normalizer_NH = ctx.saved_tensors
        upstream = gradients[0]
        for_query, for_key, for_value = map(torch.zeros_like, (query, key, value))
        for part in (*ctx.division.own, *ctx.division.behind):
            queries, keys = part.queries, part.keys
            parts = ctx.kernel.backward(
                queries.spread_once(upstream),
                _states(query, key, value, part),
                (queries.spread(output), queries.spread(normalizer_NH)),
                part,
                ctx.scale,
            )
            queries.add(parts[0], for_query)
            keys.add(parts[1], for_key)
            keys.add(parts[2], for_value)
        return for_query, for_key, for_value, None, None, None


def _states(query: Tensor, key: Tensor, value: Tensor, part: Part) -> States:
    return part.queries.spread(query), part.keys.spread(key), part.keys.spread(value)
