"""Statistics against other routes: scipy's intervals, a simulation, and sums written out."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from grlo.evaluation.stats import (
    Z_95,
    Estimate,
    average,
    clustered_mean,
    paired_difference,
    pass_at_k,
    wilson_interval,
)


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


@pytest.mark.parametrize(
    ("right", "num"), [(0, 20), (1, 20), (13, 20), (0, 150), (150, 150), (3, 442.5)]
)
def test_an_end_of_a_wilson_interval_is_a_share_whose_test_just_fails(
    right: float, num: float
) -> None:
    found = right / num

    def distance(share: float) -> float:
        """Between what was found and a true share, in standard errors of that share."""
        return abs(found - share) / math.sqrt(share * (1 - share) / num)

    low, high = wilson_interval(found, num)
    assert low == 0 if right == 0 else distance(low) == pytest.approx(Z_95)
    assert high == 1 if right == num else distance(high) == pytest.approx(Z_95)


def test_right_and_wrong_answers_have_the_interval_of_as_many_independent_ones() -> None:
    # Four equal answers to each of ten problems are ten answers.
    scores = [float(problem < 3) for problem in range(10) for _ in range(4)]
    found = clustered_mean(scores, [index // 4 for index in range(40)])
    assert (found.low, found.high) == pytest.approx(wilson_interval(0.3, 9))
    # Two right and two wrong for each are no fewer than forty.
    found = clustered_mean([1.0, 1.0, 0.0, 0.0] * 10, [index // 4 for index in range(40)])
    assert (found.low, found.high) == pytest.approx(wilson_interval(0.5, 40))


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_answers_that_are_all_right_or_all_wrong_are_no_certainty(score: float) -> None:
    found = clustered_mean([score] * 600, [index // 4 for index in range(600)])
    assert (found.low, found.high) == wilson_interval(score, 150)
    assert found.high - found.low == pytest.approx(Z_95**2 / (150 + Z_95**2))


def test_scores_between_right_and_wrong_have_a_normal_interval() -> None:
    found = clustered_mean([0.0, 1.0, 0.5], range(3))
    assert found.high - found.value == pytest.approx(Z_95 * found.standard_error)
    assert found.low < 0


def test_rare_successes_are_covered_by_wilson_intervals_and_not_by_normal_ones() -> None:
    rng = np.random.default_rng(6)
    covered = normal = 0
    for _ in range(600):
        share_G = rng.beta(0.2, 19.8, size=100)  # mean 1 %
        scores = (rng.random((100, 2)) < share_G[:, None]).astype(float).ravel().tolist()
        found = clustered_mean(scores, [index // 2 for index in range(200)])
        covered += found.low <= 0.01 <= found.high
        normal += abs(found.value - 0.01) <= Z_95 * found.standard_error
    assert covered / 600 > 0.93
    assert normal / 600 < 0.88, "the simulation tells them apart"


@pytest.mark.parametrize(("num", "right"), [(1, 1), (4, 0), (4, 1), (5, 3), (7, 2), (6, 6)])
def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_with_a_right_one(
    num: int, right: int
) -> None:
    samples = [index < right for index in range(num)]
    for k in range(1, num + 1):
        choices = [any(choice) for choice in itertools.combinations(samples, k)]
        assert pass_at_k(num, right, k=k) == pytest.approx(sum(choices) / len(choices))


def test_pass_at_more_than_was_sampled_is_refused() -> None:
    for num, right, k in [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)]:
        with pytest.raises(ValueError, match="no pass@"):
            pass_at_k(num, right, k=k)


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


def test_the_average_of_normal_intervals_is_normal_and_that_of_one_is_its_own() -> None:
    rng = np.random.default_rng(7)
    parts = [clustered_mean(rng.random(20).tolist(), range(20)) for _ in range(4)]
    found = average(parts)
    assert found.high - found.value == pytest.approx(Z_95 * found.standard_error)
    assert found.value - found.low == pytest.approx(Z_95 * found.standard_error)
    alone = clustered_mean([0.0] * 30, range(30))
    own = average([alone])
    assert (own.low, own.high) == pytest.approx((alone.low, alone.high))
    assert own.high > 0.1


def test_the_average_of_rare_successes_is_covered_and_stays_possible() -> None:
    shares = [0.005, 0.01, 0.02, 0.0]
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(500):
        draws = [(rng.random(150) < share).astype(float).tolist() for share in shares]
        found = average([clustered_mean(draw, range(150)) for draw in draws])
        assert found.low >= 0
        covered += found.low <= np.mean(shares) <= found.high
    assert covered / 500 > 0.93


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
