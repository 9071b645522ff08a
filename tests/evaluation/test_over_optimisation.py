"""Where scores fall while the reward rises, on curves with a plain answer; ranks by scipy."""

from __future__ import annotations

import math
import random

import pytest
from scipy.stats import spearmanr

from grlo.evaluation.over_optimisation import onset, rank_correlation

STEPS = [10, 20, 30, 40, 50, 60]
RISING = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_rank_correlation_with_ties_is_that_of_scipy() -> None:
    rng = random.Random(0)
    x = [float(rng.randrange(8)) for _ in range(40)]
    y = [value * 0.5 + rng.randrange(4) for value in x]
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y)[0])
    assert rank_correlation(x, [-value for value in x]) == pytest.approx(-1)


def test_a_rank_correlation_sees_order_only() -> None:
    x = [0.1, 0.5, 0.2, 3.0]
    assert rank_correlation(x, [math.exp(9 * value) for value in x]) == pytest.approx(1)


def test_without_spread_there_is_no_rank_correlation() -> None:
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert rank_correlation([1.0], [1.0]) is None
    assert rank_correlation([], []) is None


def test_values_that_are_no_pairs_or_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 values"):
        rank_correlation([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="NaN"):
        rank_correlation([1.0, math.nan], [1.0, 2.0])


def test_the_onset_is_the_best_score_before_a_fall_under_a_rising_reward() -> None:
    found = onset(STEPS, RISING, [0.2, 0.5, 0.6, 0.58, 0.4, 0.3], margin=0.1)
    assert found is not None
    assert (found.best_step, found.best_score, found.reward_at_best) == (30, 0.6, 2.0)
    assert (found.since, found.num_parted) == (50, 2)
    assert (found.last_step, found.last_score, found.last_reward) == (60, 0.3, 5.0)


def test_a_fall_within_the_margin_is_no_onset() -> None:
    score = [0.2, 0.5, 0.6, 0.58, 0.55, 0.52]
    assert onset(STEPS, RISING, score, margin=0.1) is None
    assert onset(STEPS, RISING, score, margin=0.05) is not None


def test_a_score_that_recovers_at_the_end_is_no_onset() -> None:
    assert onset(STEPS, RISING, [0.2, 0.6, 0.3, 0.3, 0.3, 0.6], margin=0.1) is None
    assert onset(STEPS, RISING, [0.2, 0.6, 0.3, 0.3, 0.3, 0.7], margin=0.1) is None


def test_only_evaluations_after_the_last_recovery_count_as_parted() -> None:
    found = onset(STEPS, RISING, [0.6, 0.3, 0.3, 0.58, 0.3, 0.3], margin=0.1)
    assert found is not None
    assert (found.best_step, found.since, found.num_parted) == (10, 50, 2)


def test_a_score_that_falls_with_the_reward_is_a_collapse_and_no_onset() -> None:
    score = [0.2, 0.6, 0.5, 0.4, 0.2, 0.1]
    assert onset(STEPS, [0.0, 2.0, 1.5, 1.0, 0.5, 0.0], score, margin=0.1) is None
    assert onset(STEPS, [0.0, 2.0, 3.0, 3.0, 3.0, 2.0], score, margin=0.1) is None


def test_a_rising_score_or_too_few_evaluations_have_no_onset() -> None:
    assert onset(STEPS, RISING, RISING, margin=0.1) is None
    assert onset([10], [1.0], [0.5], margin=0.1) is None
    assert onset([], [], [], margin=0.1) is None


def test_what_is_no_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="do not rise"):
        onset([10, 10], [0.0, 1.0], [0.0, 1.0], margin=0.1)
    with pytest.raises(ValueError, match="finite"):
        onset([10, 20], [0.0, math.nan], [0.0, 1.0], margin=0.1)
    with pytest.raises(ValueError, match="finite"):
        onset([10, 20], [0.0, 1.0], [0.0, 1.0], margin=-0.1)
    with pytest.raises(ValueError, match="zip"):
        onset([10, 20], [0.0, 1.0, 2.0], [0.0, 1.0], margin=0.1)
