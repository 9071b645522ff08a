"""Crossed means against sums over all pairs of cells, scipy's quantiles, and simulated studies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from grlo.errors import DataError
from grlo.evaluation.crossed import (
    crossed_mean,
    domain_weights,
    gain_matrix,
    score_matrix,
    student_quantile,
)
from grlo.evaluation.results import BenchmarkResult, Identity, summarize
from grlo.evaluation.stats import Z_95, Estimate, average, clustered_mean
from grlo.interfaces import Benchmark, GradedSample
from grlo.types import Message, Prompt, SamplingParams, Score

SAMPLING = SamplingParams(max_tokens=9)


def study(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int],
    seed: float,
    problem: float,
    cell: float,
) -> np.ndarray:
    """Values of mean 0 with the given standard deviations."""
    num_seeds, num_problems = shape
    return (
        rng.normal(0, seed, (num_seeds, 1))
        + rng.normal(0, problem, (1, num_problems))
        + rng.normal(0, cell, shape)
    )


def one_way(values: np.ndarray) -> Estimate:
    """The mean clustered by problem only."""
    num_seeds, num_problems = values.shape
    return clustered_mean(values.ravel().tolist(), [*range(num_problems)] * num_seeds)


def result(scores: Sequence[Sequence[float | None]], **identity: Any) -> BenchmarkResult:
    """A result with the given scores of each problem."""
    prompts = tuple(Prompt(str(i), (Message("user", f"{i}?"),)) for i in range(len(scores)))
    benchmark = Benchmark("sums", "math", prompts, None, SAMPLING, "here", "1")
    samples = [
        GradedSample(prompts[problem], problem, draw, 0, "a", "stop", 3, Score(value))
        for problem, own in enumerate(scores)
        for draw, value in enumerate(own)
    ]
    values: dict[str, Any] = {
        "benchmark": "sums",
        "variant": "sampled",
        "version": "1",
        "data_sha256": "d",
    }
    values |= {"problems_sha256": "p", "template": "t"}
    return summarize(benchmark, Identity(**(values | identity), sampling=SAMPLING, seed=0), samples)


# The standard error -------------------------------------------------------------------------------


def test_the_error_is_the_sum_over_all_pairs_of_cells_that_share_a_seed_or_a_problem() -> None:
    rng = np.random.default_rng(0)
    arrays = [study(rng, shape=(4, num), seed=0.3, problem=0.4, cell=0.2) + 0.3 for num in (5, 3)]
    weights = [0.7, 0.3]
    cells = [
        (seed, (k, j), weights[k] * (own[seed, j] - own.mean()) / own.size)
        for k, own in enumerate(arrays)
        for seed, j in itertools.product(range(4), range(own.shape[1]))
    ]

    def variance(is_pair: Callable[..., bool]) -> float:
        return sum(one[2] * two[2] for one in cells for two in cells if is_pair(one, two))

    def within(k: int, is_pair: Callable[..., bool]) -> float:
        return variance(lambda one, two: one[1][0] == two[1][0] == k and is_pair(one, two))

    seed = 4 / 3 * variance(lambda one, two: one[0] == two[0])
    problem = sum(
        num / (num - 1) * within(k, lambda one, two: one[1] == two[1])
        for k, num in enumerate((5, 3))
    )
    cell = sum(
        4 * num / (4 * num - 1) * within(k, lambda one, two: one[:2] == two[:2])
        for k, num in enumerate((5, 3))
    )
    found = crossed_mean(arrays, weights=weights)
    assert seed + problem - cell > max(seed, problem), "the sum is what is tested here"
    assert found.value == pytest.approx(0.7 * arrays[0].mean() + 0.3 * arrays[1].mean())
    assert found.standard_error == pytest.approx(math.sqrt(seed + problem - cell))
    # Three problems are fewer than four seeds: two degrees of freedom.
    half = student.ppf(0.975, 2) * found.standard_error
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


def test_what_differs_by_seed_only_has_the_error_of_the_seeds_means() -> None:
    means = np.array([0.1, 0.4, 0.2, 0.5])
    found = crossed_mean([np.repeat(means[:, None], 30, axis=1)])
    assert found.standard_error == pytest.approx(means.std(ddof=1) / 2)
    assert found.high - found.value == pytest.approx(3.182446 * found.standard_error)


def test_the_error_is_never_below_that_of_seeds_or_of_problems_alone() -> None:
    rng = np.random.default_rng(1)
    is_bound = []
    for _ in range(50):
        values = rng.normal(0, 1, (3, 8))
        by_seed = values.mean(axis=1).std(ddof=1) / math.sqrt(3)
        by_problem = values.mean(axis=0).std(ddof=1) / math.sqrt(8)
        found = crossed_mean([values]).standard_error
        assert found >= max(by_seed, by_problem) * (1 - 1e-12)
        is_bound.append(found == pytest.approx(max(by_seed, by_problem)))
    assert any(is_bound)
    assert not all(is_bound)


def test_a_seed_that_is_good_on_all_benchmarks_does_not_average_out_over_them() -> None:
    rng = np.random.default_rng(2)
    seeds = rng.normal(0, 0.1, (5, 1))
    arrays = [seeds + rng.normal(0, 0.01, (5, 50)) for _ in range(4)]
    alone, together = crossed_mean(arrays[:1]), crossed_mean(arrays)
    assert together.standard_error == pytest.approx(alone.standard_error, rel=0.1)
    independent = average([crossed_mean([own]) for own in arrays])
    assert independent.standard_error < 0.6 * together.standard_error


def test_with_one_seed_the_error_is_the_one_clustered_by_problem_and_the_interval_normal() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.random((1, 12)), rng.random((1, 7))
    found = crossed_mean([one])
    expected = clustered_mean(one[0].tolist(), range(12))
    assert found.standard_error == pytest.approx(expected.standard_error)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    both = crossed_mean([one, other])
    expected = average([expected, clustered_mean(other[0].tolist(), range(7))])
    assert both.value == pytest.approx(expected.value)
    assert both.standard_error == pytest.approx(expected.standard_error)
    right = np.array([[1.0, 0.0, 1.0, 1.0]])
    found = crossed_mean([right])
    expected = clustered_mean(right[0].tolist(), range(4))
    assert found.standard_error == pytest.approx(expected.standard_error)
    assert found.high == pytest.approx(0.75 + Z_95 * found.standard_error)


def test_one_problem_says_nothing_of_others() -> None:
    for values in (np.array([[0.3]]), np.array([[0.3], [0.5]])):
        found = crossed_mean([values])
        assert found.standard_error == math.inf
        assert (found.low, found.high) == (-math.inf, math.inf)


def test_values_without_spread_have_no_error() -> None:
    found = crossed_mean([np.full((3, 4), 0.25)])
    assert (found.value, found.standard_error, found.low, found.high) == (0.25, 0, 0.25, 0.25)


def test_domains_count_equally_and_benchmarks_equally_in_their_domain() -> None:
    weights = domain_weights(["math", "code", "math", "chat"])
    assert weights == pytest.approx([1 / 6, 1 / 3, 1 / 6, 1 / 3])
    rng = np.random.default_rng(4)
    arrays = [rng.random((3, num)) for num in (5, 9, 30, 4)]
    means = [own.mean() for own in arrays]
    found = crossed_mean(arrays, weights=weights)
    assert found.value == pytest.approx(((means[0] + means[2]) / 2 + means[1] + means[3]) / 3)


def test_equal_weights_are_the_plain_mean() -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.random((3, num)) for num in (5, 9)]
    plain, weighted = crossed_mean(arrays), crossed_mean(arrays, weights=[0.5, 0.5])
    assert plain == weighted
    assert plain.value == pytest.approx((arrays[0].mean() + arrays[1].mean()) / 2)


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        ([], None, "found the shapes"),
        ([np.zeros(4)], None, "found the shapes"),
        ([np.zeros((2, 0))], None, "found the shapes"),
        ([np.zeros((2, 4)), np.zeros((3, 4))], None, "one number of seeds"),
        ([np.array([[0.0, math.nan]])], None, "finite"),
        ([np.zeros((2, 4))] * 2, [0.5, 0.6], "sum 1"),
        ([np.zeros((2, 4))] * 2, [1.5, -0.5], "positive"),
        ([np.zeros((2, 4))] * 2, [1.0], "2 positive weights"),
    ],
)
def test_what_is_no_study_is_refused(
    values: list[np.ndarray], weights: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        crossed_mean(values, weights=weights)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 6, 7, 12, 29, 30, 101, 1318])
def test_a_quantile_of_students_distribution_is_that_of_scipy(degrees: int) -> None:
    assert student_quantile(degrees) == pytest.approx(student.ppf(0.975, degrees), rel=1e-9)


def test_there_is_no_students_distribution_without_degrees_of_freedom() -> None:
    with pytest.raises(ValueError, match="no t distribution"):
        student_quantile(0)


# Simulated studies --------------------------------------------------------------------------------


def test_intervals_cover_the_truth_where_those_over_problems_alone_do_not() -> None:
    rng = np.random.default_rng(6)
    covered = alone = 0
    for _ in range(400):
        values = study(rng, shape=(5, 40), seed=0.05, problem=0.1, cell=0.1)
        found, naive = crossed_mean([values]), one_way(values)
        covered += found.low <= 0 <= found.high
        alone += naive.low <= 0 <= naive.high
    assert 0.90 <= covered / 400 <= 0.99
    assert alone / 400 < 0.85, "the seeds matter in this simulation"


def test_intervals_of_an_average_cover_the_truth_where_seeds_reach_over_benchmarks() -> None:
    rng = np.random.default_rng(7)
    covered = independent = 0
    for _ in range(400):
        seeds = rng.normal(0, 0.05, (5, 1))
        arrays = [
            seeds + study(rng, shape=(5, num), seed=0.02, problem=0.15, cell=0.1)
            for num in (30, 60, 90)
        ]
        found = crossed_mean(arrays)
        covered += found.low <= 0 <= found.high
        apart = average([crossed_mean([own]) for own in arrays])
        independent += abs(apart.value) <= Z_95 * apart.standard_error
    assert 0.90 <= covered / 400 <= 0.99
    assert independent / 400 < 0.85, "benchmarks of one seed are not independent here"


def test_the_variance_is_low_by_no_more_than_its_docstring_says() -> None:
    rng = np.random.default_rng(8)
    truth = 0.04**2 / 4 + 0.2**2 / 50 + 0.1**2 / 200
    found = [
        crossed_mean([study(rng, shape=(4, 50), seed=0.04, problem=0.2, cell=0.1)]).standard_error
        ** 2
        for _ in range(2000)
    ]
    assert 1 - 1 / 4 - 0.02 < np.mean(found) / truth < 1.02


# Matrices of scores -------------------------------------------------------------------------------


def test_a_matrix_has_the_mean_score_of_every_problem_by_every_seed() -> None:
    first = result([[1.0, 0.0], [0.5], [None], [1.0, None]])
    second = result([[1.0], [0.25, 0.75], [1.0], [0.0]])
    scores, num_left_out = score_matrix([first, second])
    assert scores.tolist() == [[0.5, 0.5, 1.0], [1.0, 0.5, 0.0]]
    assert num_left_out == 1


def test_gains_are_of_the_problems_that_all_results_of_both_sides_have() -> None:
    before = [result([[0.0], [None], [1.0], [0.0]]), result([[0.5], [1.0], [0.0], [0.0]])]
    after = [result([[1.0], [1.0], [0.5], [0.0]]), result([[1.0], [1.0], [1.0], [None]])]
    gains, num_left_out = gain_matrix(before, after)
    assert gains.tolist() == [[1.0, -0.5], [0.5, 1.0]]
    assert num_left_out == 2
    gains, _ = gain_matrix(before[1:], after)
    assert gains.tolist() == [[0.5, 0.0, 0.5], [0.5, 0.0, 1.0]]
    with pytest.raises(DataError, match="3 results before and 2 after"):
        gain_matrix([before[0]] * 3, after)


def test_results_of_unlike_protocols_or_problems_are_not_put_side_by_side() -> None:
    own = result([[1.0], [0.0]])
    with pytest.raises(DataError, match="template: 't' and 'u'"):
        score_matrix([own, result([[1.0], [0.0]], template="u")])
    scores, _ = score_matrix([own, result([[1.0], [0.0]], template="u")], allow=["template"])
    assert scores.shape == (2, 2)
    with pytest.raises(DataError, match="problems_sha256"):
        score_matrix([own, result([[1.0], [0.0]], problems_sha256="q")])
    other = replace(own, identity=replace(own.identity, seed=5))
    assert score_matrix([own, other])[0].shape == (2, 2)


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(DataError, match="no problem has a score in all of 2"):
        score_matrix([result([[None], [1.0]]), result([[1.0], [None]])])
    with pytest.raises(DataError, match="no results"):
        score_matrix([])
