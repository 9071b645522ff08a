"""Correlation and ranks against scipy."""

from __future__ import annotations

import random

import pytest
from scipy.stats import pearsonr, rankdata

from grlo.correlation import correlation, ranks


def test_a_correlation_is_that_of_scipy() -> None:
    rng = random.Random(0)
    xs = [rng.gauss(3, 2) for _ in range(50)]
    ys = [0.4 * x + rng.gauss(0, 1) for x in xs]
    assert correlation(xs, ys) == pytest.approx(pearsonr(xs, ys)[0])


def test_ranks_with_ties_are_those_of_scipy() -> None:
    rng = random.Random(1)
    values = [float(rng.randrange(6)) for _ in range(40)]
    assert ranks(values) == rankdata(values).tolist()


def test_numbers_without_spread_have_no_correlation() -> None:
    assert correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert correlation([1.0, 2.0], [0.0, 0.0]) is None
    assert correlation([1.0], [2.0]) is None
    assert correlation([], []) is None
