"""Which rank does what of a list: the same answer on every rank."""

from __future__ import annotations

from collections.abc import Sequence


def stretch(count: int, *, part: int, num_parts: int) -> range:
    """The places that a part has of a list cut into stretches of nearly equal length."""
    return range(part * count // num_parts, (part + 1) * count // num_parts)


def balanced_share(
    groups: Sequence[int], lengths: Sequence[int], *, rank: int, size: int
) -> list[int]:
    """Places of the rows that a rank reads, in order.

    Groups stay whole. The longest come first, each to the rank with the fewest tokens so far, so
    that none has more than 4/3 of the least possible (Graham 1969).

    Args:
        groups: Group of each row.
        lengths: Tokens of each row.
        rank: Whose share.
        size: Number of ranks.
    """
    tokens: dict[int, int] = {}
    for group, length in zip(groups, lengths, strict=True):
        tokens[group] = tokens.get(group, 0) + length
    loads = [0] * size
    rank_of: dict[int, int] = {}
    for group in sorted(tokens, key=lambda group: (-tokens[group], group)):
        rank_of[group] = loads.index(min(loads))
        loads[rank_of[group]] += tokens[group]
    return [place for place, group in enumerate(groups) if rank_of[group] == rank]
