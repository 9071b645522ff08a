"""Axes: few round numbers, that hold or lie within the data and can be told apart."""

from __future__ import annotations

import itertools
import math

import pytest

from grlo.reporting.scales import is_drawn, is_ratio, spanning, within


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0, 100), (-3.2, 4.9), (0.041, 0.043), (5, 5), (1e6, 3e6), (-1e149, 1e149), (0, 0)],
)
def test_ticks_are_few_evenly_spaced_and_hold_the_range(low: float, high: float) -> None:
    scale = spanning([low, high])
    assert 3 <= len(scale.ticks) <= 9
    assert scale.low == scale.ticks[0] <= low
    assert scale.high == scale.ticks[-1] >= high
    steps = [b - a for a, b in itertools.pairwise(scale.ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))


@pytest.mark.parametrize("end", [1, 2, 3, 7, 40, 600, 123_456])
def test_axes_of_steps_have_whole_numbers_and_end_with_the_data(end: int) -> None:
    scale = within([1, end], width=440)
    assert scale.low <= 1
    assert scale.high >= end
    assert end == 1 or (scale.low, scale.high) == (1, end)
    assert scale.ticks
    assert all(tick.is_integer() and scale.low <= tick <= scale.high for tick in scale.ticks)


@pytest.mark.parametrize(
    ("low", "high"), [(0.1, 100), (3.1, 4.4), (2, 2), (1e-140, 1e140), (0.5, 32)]
)
def test_axes_of_ratios_have_ticks_within_the_data(low: float, high: float) -> None:
    scale = within([low, high], width=440, is_log=True)
    assert scale.is_log
    assert 0 < scale.low <= low
    assert scale.high >= high
    assert 1 <= len(scale.ticks) <= 8
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)


def test_numbers_that_are_wide_are_fewer() -> None:
    narrow, wide = within([0, 70], width=300), within([0, 7e5], width=300)
    assert len(wide.ticks) < len(narrow.ticks)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 0.5, {"0", "0.1"}),
        (0, 60_000, {"10,000"}),
        (0, 5e6, {"1e6", "5e6"}),
        (0, 5e-6, {"0", "1e-6"}),
        (1000.0001, 1000.0002, {"1,000.0001", "1,000.00012"}),
    ],
)
def test_numbers_are_short_and_all_different(low: float, high: float, texts: set[str]) -> None:
    found = spanning([low, high]).texts
    assert texts <= set(found)
    assert len(set(found)) == len(found)


def test_what_is_not_finite_or_has_no_logarithm_is_on_no_axis() -> None:
    assert is_drawn(0.0, -1e149)
    assert not any(is_drawn(1.0, value) for value in (math.nan, math.inf, -math.inf, 1e151))
    assert is_ratio(0.001)
    assert not any(is_ratio(value) for value in (0.0, -1.0, 5e-324, math.inf, math.nan))
