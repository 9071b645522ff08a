"""Causal attention of packed rows, divided into parts that a kernel takes at once.

A token sees its own stretch of a row up to itself and, where rows of a group begin alike, the
prefix before it. On a CPU stretches of similar length lie in grids; a GPU's kernel takes stretches
of any length end to end.

Dimensions: N packed tokens, R x C cells of a part; on a GPU R = 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

LEAST_FILLED = 0.75
"""Length of the shortest stretch of a grid over that of its longest, at least."""
LONG = 256
"""Cells of a grid beyond which a call of its own costs less than copies into a larger grid."""


@dataclass(frozen=True)
class Bounds:
    """Where stretches that lie end to end begin."""

    starts_S: Tensor
    """First cell of each of S - 1 stretches, and the number of cells; int32."""
    longest: int


@dataclass(frozen=True)
class Cells:
    """Packed tokens as a kernel takes them, [R, C]: rows that see nothing of each other."""

    index_RC: Tensor | None = None
    """Packed index of every cell; cells beyond a stretch's end point at its last token."""
    repeats_K: Tensor | None = None
    """Flat cells whose token stands in another cell too, or in one of another part, and is computed
    there."""
    span: slice | None = None
    """Where the cells lie, if they are one row that lies there token by token."""
    bounds: Bounds | None = None
    """Stretches within the one row, on a GPU."""

    def spread(self, states_NX: Tensor) -> Tensor:
        """[N, ...] as [R, C, ...]; a view where there is a span."""
        if self.span is not None:
            return states_NX[None, self.span]
        assert self.index_RC is not None
        cells = states_NX.index_select(0, self.index_RC.flatten())
        return cells.unflatten(0, self.index_RC.shape)

    def store(self, states_RCX: Tensor, to_NX: Tensor) -> None:
        """Writes back what `spread` gave and was changed in place; no cell may be a repeat."""
        if self.index_RC is not None:
            to_NX.index_copy_(0, self.index_RC.flatten(), states_RCX.flatten(0, 1))

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
        assert self.index_RC is not None
        to_NX.index_add_(0, self.index_RC.flatten(), states_RCX.flatten(0, 1))

    def _once(self, states_RCX: Tensor) -> Tensor:
        if self.repeats_K is None:
            return states_RCX
        cells = states_RCX.flatten(0, 1).index_fill(0, self.repeats_K, 0.0)
        return cells.unflatten(0, states_RCX.shape[:2])


@dataclass(frozen=True)
class Part:
    """Attention of the tokens of one row of cells to those of the same row of others."""

    queries: Cells
    keys: Cells
    is_causal: bool
    """Whether tokens see those before them among themselves, or all of others."""


@dataclass(frozen=True)
class Division:
    """Attention of packed rows in parts: a token is in one of `own` and in at most one behind."""

    own: tuple[Part, ...]
    behind: tuple[Part, ...]
    """Tokens and the prefix of their group."""


@dataclass(frozen=True)
class _Stretch:
    """Tokens [start, stop) of a row, of which those before `new` were met in a row before it."""

    row: int
    start: int
    new: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class _Prefix:
    """Packed tokens [start, stop) that those of [stop, end) see besides their own stretch."""

    start: int
    stop: int
    end: int


def divide(
    lengths: Sequence[int], shared: Sequence[int], index_BT: Tensor, *, device: str | torch.device
) -> Division:
    """Divides the attention of rows that were packed by `grlo.modeling.packed.pack`.

    Args:
        lengths: Tokens of each row.
        shared: How many leading tokens a row has in common with the row before it.
        index_BT: Packed index of each row's tokens, on the CPU.
        device: Where the attention will be computed.
    """
    if torch.device(device).type == "cpu":
        return in_grids(lengths, shared, index_BT)
    return end_to_end(lengths, shared, index_BT, device=device)


def in_grids(lengths: Sequence[int], shared: Sequence[int], index_BT: Tensor) -> Division:
    """The division for a kernel that takes rows of equal length, one call a grid and a prefix."""
    prefixes, stretches = _stretches(lengths, shared)
    grids = _grids(sorted(stretches, key=len), index_BT)
    return Division(
        tuple(Part(cells, cells, is_causal=True) for cells in grids),
        tuple(
            Part(
                Cells(span=slice(p.stop, p.end)),
                Cells(span=slice(p.start, p.stop)),
                is_causal=False,
            )
            for p in prefixes
        ),
    )


def end_to_end(
    lengths: Sequence[int], shared: Sequence[int], index_BT: Tensor, *, device: str | torch.device
) -> Division:
    """The division for a kernel that takes stretches of any length, one call for all of them and
    one for all prefixes."""
    prefixes, stretches = _stretches(lengths, shared)
    index_M, repeats_M = _cells_of(stretches, index_BT)
    own = _row(index_M, [len(s) for s in stretches], device, repeats_M=repeats_M)
    if not prefixes:
        return Division((Part(own, own, is_causal=True),), ())
    queries = _row(*_ranges([(p.stop, p.end) for p in prefixes]), device)
    keys = _row(*_ranges([(p.start, p.stop) for p in prefixes]), device)
    return Division((Part(own, own, is_causal=True),), (Part(queries, keys, is_causal=False),))


def _stretches(
    lengths: Sequence[int], shared: Sequence[int]
) -> tuple[list[_Prefix], list[_Stretch]]:
    """In packed order; none of them is empty."""
    prefixes: list[_Prefix] = []
    stretches: list[_Stretch] = []
    start = 0
    for rows in _groups(shared):
        end = start + sum(lengths[row] - shared[row] for row in rows)
        common = min((shared[row] for row in rows[1:]), default=0)
        if common:
            prefixes.append(_Prefix(start, start + common, end))
            stretches.append(_Stretch(rows[0], 0, 0, common))
        for row in rows:
            stretches.append(_Stretch(row, common, max(shared[row], common), lengths[row]))
        start = end
    # A row that goes no further than the prefix has none of its own.
    return [p for p in prefixes if p.end > p.stop], [s for s in stretches if len(s)]


def _groups(shared: Sequence[int]) -> Iterator[range]:
    starts = [row for row, common in enumerate(shared) if not common]
    for start, stop in zip(starts, [*starts[1:], len(shared)], strict=True):
        yield range(start, stop)


def _grids(stretches: list[_Stretch], index_BT: Tensor) -> Iterator[Cells]:
    """Cuts stretches, the longest last, into grids."""
    while stretches:
        longest = len(stretches[-1])
        taken = [stretches.pop()]
        while longest < LONG and stretches and len(stretches[-1]) >= LEAST_FILLED * longest:
            taken.append(stretches.pop())
        yield _grid(taken, index_BT)


def _grid(stretches: Sequence[_Stretch], index_BT: Tensor) -> Cells:
    rows_R1, starts_R1, new_R1, stops_R1 = torch.tensor(
        [(s.row, s.start, s.new, s.stop) for s in stretches]
    ).T[..., None]
    positions_RC = starts_R1 + torch.arange(len(stretches[0]))
    index_RC = index_BT[rows_R1, positions_RC.minimum(stops_R1 - 1)]
    is_repeat_RC = (positions_RC < new_R1) | (positions_RC >= stops_R1)
    if is_repeat_RC.any():
        return Cells(index_RC, is_repeat_RC.flatten().nonzero().flatten())
    if len(stretches) == 1:
        return Cells(span=slice(int(index_RC[0, 0]), int(index_RC[0, -1]) + 1))
    return Cells(index_RC)


def _cells_of(stretches: Sequence[_Stretch], index_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Packed index of the M tokens of stretches, and which of them were met before."""
    sizes_S = torch.tensor([len(s) for s in stretches])
    rows_M, starts_M, new_M = torch.tensor(
        [(s.row, s.start, s.new) for s in stretches]
    ).T.repeat_interleave(sizes_S, dim=1)
    first_M = (sizes_S.cumsum(0) - sizes_S).repeat_interleave(sizes_S)
    positions_M = torch.arange(len(rows_M)) - first_M + starts_M
    return index_BT[rows_M, positions_M], positions_M < new_M


def _ranges(bounds: Sequence[tuple[int, int]]) -> tuple[Tensor, list[int]]:
    """The numbers of several ranges, and how many each has."""
    index_M = torch.cat([torch.arange(start, stop) for start, stop in bounds])
    return index_M, [stop - start for start, stop in bounds]


def _row(
    index_M: Tensor,
    sizes: Sequence[int],
    device: str | torch.device,
    *,
    repeats_M: Tensor | None = None,
) -> Cells:
    """One row of cells on the device, in stretches of the sizes given."""
    starts_S = torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=device)
    bounds = Bounds(starts_S, max(sizes))
    first, last = int(index_M[0]), int(index_M[-1])
    if last - first + 1 == len(index_M) and bool((index_M.diff() == 1).all()):
        return Cells(span=slice(first, last + 1), bounds=bounds)
    repeats_K = None
    if repeats_M is not None and bool(repeats_M.any()):
        repeats_K = repeats_M.nonzero().flatten().to(device)
    return Cells(index_M[None].to(device), repeats_K, bounds=bounds)
