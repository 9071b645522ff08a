"""Causal attention of packed rows on a CPU, prefixes that rows share attended once.

What a token sees of its row's prefix and what it sees of the tokens behind it are computed apart
and joined by their log-sum-exp (Hydragen, Juravsky et al. 2024, arXiv 2402.05099, section 3.1):
with o_i the output over a part of the keys and l_i = log sum exp of its scores, the whole is
sum_i exp(l_i - l) o_i, l = log sum_i exp l_i. A part's backward pass is that of attention over the
part alone, given the whole's output and l. All queries of a group meet the prefix in one product,
without padding; rows of similar length attend to themselves in one call.

Dimensions: N packed tokens, H heads (of queries; keys and values may have fewer), D their size,
R x C a grid of stretches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST_FILLED = 0.75
"""Length of the shortest stretch of a grid over that of its longest, at least."""
LONG = 256
"""Cells of a grid beyond which a call of its own costs less than copies into a larger grid."""


@dataclass(frozen=True)
class Prefix:
    """Packed tokens [start, stop) that those of [stop, end) see besides their own stretch."""

    start: int
    stop: int
    end: int


@dataclass(frozen=True)
class Grid:
    """Stretches of similar length, tokens that see those of their own stretch before them."""

    index_RC: Tensor
    """Packed index of every cell; cells beyond a stretch's end point at its last token."""
    repeats_K: Tensor
    """Flat cells whose token stands in another cell too, or in a stretch of another grid, and is
    computed there."""
    span: slice | None
    """Where a single stretch lies, if it lies there token by token."""

    def spread(self, states_NX: Tensor) -> Tensor:
        """[N, ...] as [R, C, ...]."""
        if self.span is not None:
            return states_NX[None, self.span]
        cells = states_NX.index_select(0, self.index_RC.flatten())
        return cells.unflatten(0, self.index_RC.shape)

    def spread_once(self, states_NX: Tensor) -> Tensor:
        """[N, ...] as [R, C, ...], zero in repeats."""
        return self._once(self.spread(states_NX))

    def add_once(self, states_RCX: Tensor, to_NX: Tensor) -> None:
        """Adds cells that are no repeats to their tokens."""
        self.add(self._once(states_RCX), to_NX)

    def add(self, states_RCX: Tensor, to_NX: Tensor) -> None:
        """Adds every cell to its token."""
        if self.span is not None:
            to_NX[self.span] += states_RCX[0]
            return
        to_NX.index_add_(0, self.index_RC.flatten(), states_RCX.flatten(0, 1))

    def _once(self, states_RCX: Tensor) -> Tensor:
        if not len(self.repeats_K):
            return states_RCX
        cells = states_RCX.flatten(0, 1).index_fill(0, self.repeats_K, 0.0)
        return cells.unflatten(0, self.index_RC.shape)


@dataclass(frozen=True)
class Division:
    """Attention of packed rows in parts: a token is in a grid and behind at most one prefix."""

    prefixes: tuple[Prefix, ...]
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class _Stretch:
    """Tokens [start, stop) of a row, of which those before `new` were met in a row before it."""

    row: int
    start: int
    new: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def divide(lengths: Sequence[int], shared: Sequence[int], index_BT: Tensor) -> Division:
    """Divides the attention of rows that were packed by `grlo.packed.pack`.

    Args:
        lengths: Tokens of each row.
        shared: How many leading tokens a row has in common with the row before it.
        index_BT: Packed index of each row's tokens.
    """
    prefixes: list[Prefix] = []
    stretches: list[_Stretch] = []
    start = 0
    for rows in _groups(shared):
        end = start + sum(lengths[row] - shared[row] for row in rows)
        common = min((shared[row] for row in rows[1:]), default=0)
        if common:
            prefixes.append(Prefix(start, start + common, end))
            stretches.append(_Stretch(rows[0], 0, 0, common))
        for row in rows:
            stretches.append(_Stretch(row, common, max(shared[row], common), lengths[row]))
        start = end
    # A row that goes no further than the prefix has none of its own.
    stretches = sorted(filter(len, stretches), key=len)
    return Division(tuple(prefixes), tuple(_grids(stretches, index_BT)))


def _groups(shared: Sequence[int]) -> Iterator[range]:
    starts = [row for row, common in enumerate(shared) if not common]
    for start, stop in zip(starts, [*starts[1:], len(shared)], strict=True):
        yield range(start, stop)


def _grids(stretches: list[_Stretch], index_BT: Tensor) -> Iterator[Grid]:
    """Cuts stretches, the longest last, into grids."""
    while stretches:
        longest = len(stretches[-1])
        taken = [stretches.pop()]
        while longest < LONG and stretches and len(stretches[-1]) >= LEAST_FILLED * longest:
            taken.append(stretches.pop())
        yield _grid(taken, index_BT)


def _grid(stretches: Sequence[_Stretch], index_BT: Tensor) -> Grid:
    rows_R1, starts_R1, new_R1, stops_R1 = torch.tensor(
        [(s.row, s.start, s.new, s.stop) for s in stretches]
    ).T[..., None]
    positions_RC = starts_R1 + torch.arange(len(stretches[0]))
    index_RC = index_BT[rows_R1, positions_RC.minimum(stops_R1 - 1)]
    is_repeat_RC = (positions_RC < new_R1) | (positions_RC >= stops_R1)
    span = None
    if len(stretches) == 1 and not is_repeat_RC.any():
        span = slice(int(index_RC[0, 0]), int(index_RC[0, -1]) + 1)
    return Grid(index_RC, is_repeat_RC.flatten().nonzero().flatten(), span)


def is_for(query: Tensor) -> bool:
    """Whether tensors like `query` are attended to here: float32 on a CPU whose kernel will do."""
    is_float32 = query.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return query.device.type == "cpu" and is_float32 and _kernel_will_do()


@functools.cache
def _kernel_will_do() -> bool:
    """Whether torch's kernel for CPUs, which is not of its public interface, gives the log-sum-exp,
    takes fewer heads of keys than of queries, and goes back from a normalizer that it is given."""
    query_1CHD = torch.linspace(-1, 1, 12).view(1, 3, 2, 2)
    key_1C1D, value_1C1D = query_1CHD[:, :, :1].neg(), query_1CHD[:, :, :1].exp()
    upstream_1CHD = query_1CHD.cos()
    try:
        states = query_1CHD, key_1C1D, value_1C1D
        output_1CHD, lse_1CH = _attend(states, True, 1.0)
        states = *states, output_1CHD, lse_1CH + math.log(2)
        for_value_1C1D = _attend_backward(upstream_1CHD, states, True, 1.0)[2]
    except (AttributeError, RuntimeError, TypeError):
        return False
    scores_HCK = torch.einsum("chd,kd->hck", query_1CHD[0], key_1C1D[0, :, 0])
    scores_HCK += torch.full((3, 3), -torch.inf).triu(1)
    weights_HCK = scores_HCK.softmax(-1)
    pairs = (
        (output_1CHD[0], torch.einsum("hck,kd->chd", weights_HCK, value_1C1D[0, :, 0])),
        (lse_1CH[0], scores_HCK.logsumexp(-1).T),
        (for_value_1C1D[0, :, 0], torch.einsum("hck,chd->kd", weights_HCK / 2, upstream_1CHD[0])),
    )
    return all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in pairs)


def shared_prefix_attention(
    query_NHD: Tensor, key_NHD: Tensor, value_NHD: Tensor, division: Division, *, scale: float
) -> Tensor:
    """softmax(scale q k^T) v of every token over its row up to itself.

    Args:
        query_NHD: float32, [N, H, D], on the CPU.
        key_NHD: Of as many heads or a divisor of that.
        value_NHD: Like the keys.
        division: Of the N tokens.
        scale: Factor of the scores.

    Returns:
        float32 [N, H, D].
    """
    return _SharedPrefixAttention.apply(  # pyright: ignore[reportReturnType]
        query_NHD, key_NHD, value_NHD, division, scale
    )


class _SharedPrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, division: Division, scale: float
    ) -> Tensor:
        output = torch.zeros_like(query)
        normalizer_NH = query.new_zeros(query.shape[:2])
        for grid in division.grids:
            states = map(grid.spread, (query, key, value))
            part, lse = _attend(tuple(states), True, scale)
            grid.add_once(part, output)
            grid.add_once(lse, normalizer_NH)
        for prefix in division.prefixes:
            before, behind = slice(prefix.start, prefix.stop), slice(prefix.stop, prefix.end)
            states = query[None, behind], key[None, before], value[None, before]
            part, lse = _attend(states, False, scale)
            own = normalizer_NH[behind].clone()
            whole = torch.logaddexp(own, lse[0], out=normalizer_NH[behind])
            output[behind].mul_((own - whole).exp_()[..., None])
            output[behind].addcmul_(part[0], (lse[0] - whole).exp_()[..., None])
        ctx.save_for_backward(query, key, value, output, normalizer_NH)
        ctx.division, ctx.scale = division, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Any
    ) -> tuple[Tensor | None, ...]:
        query, key, value, output, normalizer_NH = ctx.saved_tensors
        upstream = gradients[0]
        for_query, for_key, for_value = map(torch.zeros_like, (query, key, value))
        for grid in ctx.division.grids:
            states = map(grid.spread, (query, key, value, output, normalizer_NH))
            parts = _attend_backward(grid.spread_once(upstream), tuple(states), True, ctx.scale)
            for part, whole in zip(parts, (for_query, for_key, for_value), strict=True):
                grid.add(part, whole)
        for prefix in ctx.division.prefixes:
            before, behind = slice(prefix.start, prefix.stop), slice(prefix.stop, prefix.end)
            states = (
                *(query[None, behind], key[None, before], value[None, before]),
                *(output[None, behind], normalizer_NH[None, behind]),
            )
            parts = _attend_backward(upstream[None, behind], states, False, ctx.scale)
            for_query[behind] += parts[0][0]
            for_key[before] += parts[1][0]
            for_value[before] += parts[2][0]
        return for_query, for_key, for_value, None, None


def _attend(states: tuple[Tensor, ...], is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """The output [R, C, H, D] and log-sum-exp [R, C, H] of query, key and value [R, C, H, D]."""
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *(x.transpose(1, 2) for x in states), 0.0, is_causal, scale=scale
    )
    return output.transpose(1, 2), lse.transpose(1, 2)


def _attend_backward(
    upstream: Tensor, states: tuple[Tensor, ...], is_causal: bool, scale: float
) -> tuple[Tensor, ...]:
    """Gradients of query, key and value, from these, the whole's output and its log-sum-exp."""
    gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *(x.transpose(1, 2) for x in (upstream, *states)), 0.0, is_causal, scale=scale
    )
    return tuple(x.transpose(1, 2) for x in gradients)
