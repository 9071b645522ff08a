"""Means over several training seeds that answered the same problems of several benchmarks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from grlo.errors import DataError
from grlo.evaluation.comparison import differences
from grlo.evaluation.results import BenchmarkResult, problem_means
from grlo.evaluation.stats import Z_95, Estimate

# Steps of a bisection of [0, pi / 2]: its last interval is below the precision of a float.
_NUM_BISECTIONS = 60


def crossed_mean(
    values: Sequence[np.ndarray], *, weights: Sequence[float] | None = None
) -> Estimate:
    """Weighted mean over benchmarks of the means over seeds and problems.

    The interval speaks of another training seed and of other problems at once. With few seeds it is
    wide on purpose: two training runs say little of a third, however many problems they answer.

    The variance is clustered by seed and by problem (Cameron, Gelbach and Miller 2011),
    V = V_seed + V_problem - V_cell, each with its factor G / (G - 1) for G clusters. With weights
    w_k, S seeds and n_k problems of benchmark k these are

        V_seed    = var_s(sum_k w_k mean_j x_k[s, j]) / S
        V_problem = sum_k w_k^2 var_j(mean_s x_k[s, j]) / n_k
        V_cell    = sum_k w_k^2 var_sj(x_k[s, j]) / (S n_k)

    with variances that divide by their number less one. Seeds reach over benchmarks, problems and
    cells do not. V_cell is what both others count, and besides about 1 / S of V_problem and 1 / n
    of V_seed, by which V is low on average; where V is below the larger of the two, that one is
    taken. The half width is t sqrt(V) with the 97.5 % quantile t of Student's distribution with
    min(S, n_1, n_2, ...) - 1 degrees of freedom, which more than makes up for it.

    One seed says nothing of others: then V = V_problem, as by
    `grlo.evaluation.stats.clustered_mean`, and the interval is normal and speaks of other problems
    only. It is normal for right or wrong answers too, since values may be differences. A benchmark
    of one problem has an infinite error. Values without any spread have an error of zero.

    Args:
        values: Of each benchmark, [seeds, problems]: scores, or differences of two models' scores.
            Row s belongs to seed s in all of them; the problems of each are its own.
        weights: Of each benchmark, positive, with the sum 1; None weighs all equally.

    Raises:
        ValueError: There are no values, they are not finite or not of one number of seeds, or the
            weights are no such weights.
    """
    arrays = [np.asarray(array, dtype=np.float64) for array in values]
    _check(arrays)
    shares = [1 / len(arrays)] * len(arrays) if weights is None else list(weights)
    if len(shares) != len(arrays) or min(shares) <= 0 or not math.isclose(math.fsum(shares), 1):
        raise ValueError(f"expected {len(arrays)} positive weights with the sum 1, found {shares}")
    num_seeds = len(arrays[0])
    by_seed = np.sum([w * own.mean(axis=1) for w, own in zip(shares, arrays, strict=True)], axis=0)
    mean = float(by_seed.mean())
    weighted = [(share**2, own) for share, own in zip(shares, arrays, strict=True)]
    problem = math.fsum(square * _variance_of_mean(own.mean(axis=0)) for square, own in weighted)
    if num_seeds == 1:
        return _interval(mean, problem, quantile=Z_95)
    seed = _variance_of_mean(by_seed)
    cell = math.fsum(square * _variance_of_mean(own.ravel()) for square, own in weighted)
    fewest = min(num_seeds, *(own.shape[1] for own in arrays))
    return _interval(
        mean,
        max(seed + problem - cell, seed, problem),
        quantile=student_quantile(fewest - 1) if fewest > 1 else math.inf,
    )


def _check(arrays: Sequence[np.ndarray]) -> None:
    shapes = [array.shape for array in arrays]
    if not shapes or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise ValueError(f"expected arrays of [seeds, problems], found the shapes {shapes}")
    if len({num_seeds for num_seeds, _ in shapes}) > 1:
        raise ValueError(f"expected one number of seeds in all arrays, found the shapes {shapes}")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("expected finite values; leave out what has no score")


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.inf


def _interval(mean: float, variance: float, *, quantile: float) -> Estimate:
    error = math.sqrt(variance)
    half = quantile * error if error else 0.0
    return Estimate(mean, error, mean - half, mean + half)


def student_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t distribution.

    P(|T| <= sqrt(degrees) tan(a)) is a finite sum of powers of cos(a) for a whole number of degrees
    of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4), of which a is found by bisection.

    Args:
        degrees: Degrees of freedom.

    Raises:
        ValueError: `degrees` is below 1.
    """
    if degrees < 1:
        raise ValueError(f"no t distribution with {degrees} degrees of freedom")
    low, high = 0.0, math.pi / 2
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        if _central_probability(middle, degrees) < 0.95:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(high)


def _central_probability(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) tan(angle))."""
    cosine = math.cos(angle)
    is_odd = degrees % 2
    term = cosine if is_odd else 1.0
    total = 0.0
    for power in range(3 if is_odd else 2, degrees + 1, 2):
        total += term
        term *= cosine**2 * (power - 1) / power
    if is_odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def domain_weights(domains: Sequence[str]) -> list[float]:
    """Weights for `crossed_mean` by which benchmarks count equally in their domain and domains
    equally in the average.

    Args:
        domains: Of each benchmark.
    """
    sizes = Counter(domains)
    return [1 / (len(sizes) * sizes[domain]) for domain in domains]


# Matrices of scores -------------------------------------------------------------------------------


def score_matrix(
    results: Sequence[BenchmarkResult], *, allow: Collection[str] = ()
) -> tuple[np.ndarray, int]:
    """Mean score of every problem of a benchmark by every seed.

    Args:
        results: Of one benchmark, one for each training seed.
        allow: Fields of the identity that may differ (`grlo.evaluation.comparison.MAY_DIFFER`).

    Returns:
        The scores, [seeds, problems], in the order of the results and of the problems; and how many
        problems are left out because some seed has no score of them.

    Raises:
        DataError: There are no results, they are not of one protocol, or no problem has a score by
            all.
    """
    if not results:
        raise DataError("no results to put side by side. Expected one for each training seed.")
    first = results[0]
    lines = dict.fromkeys(
        line
        for result in results[1:]
        for line in differences(first.identity, result.identity, allow=allow)
    )
    if lines:
        raise DataError(
            f"{first.name}: results of unlike protocols are not put side by side:\n"
            + "\n".join(f"  {line}" for line in lines)
            + "\nEvaluate all in the same way."
        )
    means = [problem_means(result) for result in results]
    shared = sorted(set.intersection(*map(set, means)))
    if not shared:
        raise DataError(
            f"{first.name}: no problem has a score in all of {len(results)} results. Expected "
            "results of the same problems; see why answers are unscored in their notes."
        )
    scores = np.array([[own[problem] for problem in shared] for own in means], dtype=np.float64)
    return scores, first.num_problems - len(shared)


def gain_matrix(
    before: Sequence[BenchmarkResult],
    after: Sequence[BenchmarkResult],
    *,
    allow: Collection[str] = (),
) -> tuple[np.ndarray, int]:
    """What every seed gains on every problem of a benchmark: `after - before`.

    Args:
        before: Of the model that is compared with, one for each seed of `after` in the same order,
            or one for all. What one for all has by chance on a problem is then shared by all seeds
            and belongs to the problem.
        after: Of the other model, one for each training seed.
        allow: See `score_matrix`.

    Returns:
        The gains, [seeds, problems]; and how many problems are left out because some result on
        either side has no score of them. Both sides are of the same problems.

    Raises:
        DataError: As `score_matrix`, over both sides; or they are not of one number of seeds.
    """
    if len(before) not in (1, len(after)):
        raise DataError(
            f"{len(before)} results before and {len(after)} after. Expected one before for each "
            "training seed, or one for all."
        )
    scores, num_left_out = score_matrix([*before, *after], allow=allow)
    return scores[len(before) :] - scores[: len(before)], num_left_out
