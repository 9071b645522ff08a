"""Correlation of two lists of numbers, by value and by rank, without torch and numpy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import groupby


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Pearson's coefficient; None where either has no spread."""
    if len(xs) < 2 or min(xs) == max(xs) or min(ys) == max(ys):
        return None
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    covariance = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    squares_x = math.fsum((x - mean_x) ** 2 for x in xs)
    squares_y = math.fsum((y - mean_y) ** 2 for y in ys)
    if not squares_x * squares_y > 0:  # A spread below the numbers' precision.
        return None
    return max(-1.0, min(1.0, covariance / math.sqrt(squares_x) / math.sqrt(squares_y)))


def ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value from 1; equal values share their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    for _, group in groupby(order, key=values.__getitem__):
        members = list(group)
        for index in members:
            found[index] = start + (len(members) + 1) / 2
        start += len(members)
    return found
