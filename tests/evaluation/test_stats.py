"""Statistics against other routes: scipy's intervals, a simulation, and sums written out."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from grlo.evaluation.stats import Estimate, average, clustered_mean, paired_difference


def test_with_one_sample_per_problem_the_error_is_that_of_the_mean() -> None:
    scores = [0.0, 1.0, 1.0, 0.25, 0.5]
    found = clustered_mean(scores, range(5))
    assert found.value == pytest.approx(statistics.mean(scores))
    assert found.standard_error == pytest.approx(statistics.stdev(scores) / math.sqrt(5))


def test_with_equal_clusters_the_error_is_that_of_the_problem_means() -> None:
    scores = np.random.default_rng(0).random((7, 4))
    problems = [problem for problem in "abcdefg" for _ in range(4)]
    means = scores.mean(axis=1)
    found = clustered_mean(scores.ravel().tolist(), problems)
    assert found.value == pytest.approx(means.mean())
    assert found.standard_error == pytest.approx(means.std(ddof=1) / math.sqrt(7))
    half = statistics.NormalDist().inv_cdf(0.975) * found.standard_error
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


def test_with_unequal_clusters_the_error_is_the_double_sum_of_the_paper() -> None:
    scores, problems = [1.0, 0.0, 1.0, 1.0, 0.0, 0.3], ["a", "b", "a", "a", "c", "b"]
    mean = sum(scores) / 6
    # Miller (2024), equation 4, written as one sum over all pairs of samples in one problem.
    pairs = sum(
        (scores[i] - mean) * (scores[j] - mean)
        for i, j in itertools.product(range(6), repeat=2)
        if problems[i] == problems[j]
    )
    expected = math.sqrt(3 / 2 * pairs / 36)
    assert clustered_mean(scores, problems).standard_error == pytest.approx(expected)


def test_the_order_of_samples_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    scores, problems = rng.random(30), rng.integers(6, size=30)
    order = rng.permutation(30)
    first = clustered_mean(scores.tolist(), problems.tolist())
    second = clustered_mean(scores[order].tolist(), problems[order].tolist())
    assert second.standard_error == pytest.approx(first.standard_error)


def test_95_percent_intervals_cover_the_truth_in_about_95_percent_of_simulated_benchmarks() -> None:
    rng = np.random.default_rng(2)
    covered = unclustered = 0
    for _ in range(400):
        difficulty_G = rng.beta(0.5, 0.5, size=60)
        scores = (rng.random((60, 4)) < difficulty_G[:, None]).astype(float).ravel().tolist()
        found = clustered_mean(scores, [index // 4 for index in range(240)])
        covered += found.low <= 0.5 <= found.high
        naive = clustered_mean(scores, range(240))
        unclustered += naive.low <= 0.5 <= naive.high
    assert 0.92 <= covered / 400 <= 0.98
    assert unclustered / 400 < 0.85, "the simulation tells clustered from unclustered errors"


def test_a_single_problem_says_nothing_about_others() -> None:
    assert clustered_mean([1.0, 0.0], ["a", "a"]).standard_error == math.inf
    assert paired_difference({"a": 0.0}, {"a": 1.0}, seed=0).standard_error == math.inf


def test_no_scores_are_an_error() -> None:
    with pytest.raises(ValueError, match="no scores"):
        clustered_mean([], [])
    with pytest.raises(ValueError, match="no estimates"):
        average([])
    with pytest.raises(ValueError, match="no problems"):
        paired_difference({}, {}, seed=0)


def test_the_average_counts_domains_equally_whatever_their_size() -> None:
    large = clustered_mean([1.0, 0.0] * 500, range(1000))
    small = clustered_mean([1.0, 1.0, 0.0, 1.0], range(4))
    found = average([large, small])
    assert found.value == pytest.approx((0.5 + 0.75) / 2)
    expected = math.sqrt(large.standard_error**2 + small.standard_error**2) / 2
    assert found.standard_error == pytest.approx(expected)


def test_the_errors_of_an_average_match_a_simulation() -> None:
    parts = [Estimate(0.2, 0.03, 0.0, 0.0), Estimate(0.6, 0.04, 0.0, 0.0)]
    rng = np.random.default_rng(3)
    draws = [rng.normal(part.value, part.standard_error, 40_000) for part in parts]
    simulated = np.mean(draws, axis=0).std()
    assert average(parts).standard_error == pytest.approx(simulated, rel=0.02)


def test_a_paired_bootstrap_agrees_with_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    rng = np.random.default_rng(4)
    before = {f"p{i}": float(rng.random()) for i in range(80)}
    after = {key: value + float(rng.normal(0.05, 0.1)) for key, value in before.items()}
    differences = [after[key] - before[key] for key in before]
    outside = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=20_000, rng=rng
    )
    found = paired_difference(before, after, seed=0)
    assert found.value == pytest.approx(statistics.mean(differences))
    assert found.standard_error == pytest.approx(outside.standard_error, rel=0.04)
    assert found.low == pytest.approx(outside.confidence_interval.low, abs=0.002)
    assert found.high == pytest.approx(outside.confidence_interval.high, abs=0.002)


def test_pairing_removes_what_makes_problems_hard() -> None:
    hardness = np.linspace(0, 1, 50)
    before = {f"p{i}": float(h) for i, h in enumerate(hardness)}
    after = {key: value + 0.1 for key, value in before.items()}
    found = paired_difference(before, after, seed=0)
    assert (found.low, found.value, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_equal_seeds_give_equal_intervals_however_the_bootstrap_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(5)
    before = {f"p{i}": float(rng.random()) for i in range(20)}
    after = {f"p{i}": float(rng.random()) for i in reversed(range(20))}
    first = paired_difference(before, after, seed=7)
    assert first != paired_difference(before, after, seed=8)
    monkeypatch.setattr("grlo.evaluation.stats._INDICES_PER_CHUNK", 20 * 13)
    assert paired_difference(before, after, seed=7) == first


def test_a_difference_between_different_problems_is_refused() -> None:
    with pytest.raises(ValueError, match="different problems"):
        paired_difference({"a": 1.0}, {"b": 1.0}, seed=0)
