"""Scores and gains of an arm over its seeds, by benchmark and by domain."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from grlo.evaluation.crossed import crossed_mean, domain_weights, gain_matrix, score_matrix
from grlo.evaluation.decomposition import Decomposition, decompose, score_of_ended
from grlo.evaluation.elicitation import Elicitation, elicitation
from grlo.evaluation.results import BenchmarkResult
from grlo.evaluation.stats import Estimate
from grlo.interfaces import GradedSample
from grlo.studies.findings import AVERAGE, Form
from grlo.studies.results import ArmRun

Matrices = Mapping[str, np.ndarray]
"""Benchmark -> scores [seeds, problems]."""


def matrices(runs: Sequence[ArmRun]) -> dict[str, np.ndarray]:
    """Scores of every benchmark that has some."""
    return {name: score_matrix(own)[0] for name, own in _of_all(runs).items()}


def gains(runs: Sequence[ArmRun], base: Sequence[ArmRun]) -> dict[str, np.ndarray]:
    """Score minus that of the base model with the same seed on the same problem.

    Raises:
        DataError: The two were not measured by the same protocol.
    """
    before = {run.seed: run for run in base}
    paired = [run for run in runs if run.seed in before]
    own, others = _of_all(paired), _of_all([before[run.seed] for run in paired])
    # An arm may have a chat template of its own.
    return {
        name: gain_matrix(others[name], own[name], allow=("template",))[0]
        for name in own
        if name in others
    }


def by_benchmark(values: Matrices, *, least: float = -math.inf) -> dict[str, Estimate]:
    """Mean of every benchmark; no interval goes below `least`."""
    return {name: _cut(crossed_mean([own]), least) for name, own in values.items()}


def by_domain(
    values: Matrices, domain_of: Mapping[str, str], *, least: float = -1.0
) -> dict[str, Estimate]:
    """Mean of every domain, benchmarks equally, and `average`, domains equally.

    Args:
        values: Of benchmarks.
        domain_of: Benchmark -> domain, of those that count.
        least: Of what the values can be; no interval goes below it, nor above 1.
    """
    groups = grouped(values, domain_of)
    found = {d: _cut(crossed_mean(list(own.values())), least, 1.0) for d, own in groups.items()}
    if groups:
        arrays = [array for own in groups.values() for array in own.values()]
        weights = domain_weights([domain for domain, own in groups.items() for _ in own])
        found[AVERAGE] = _cut(crossed_mean(arrays, weights=weights), least, 1.0)
    return found


def by_seed(values: Matrices, domain_of: Mapping[str, str]) -> dict[str, tuple[float, ...]]:
    """Mean of every domain, and `average`, for each seed by itself."""
    found = {
        domain: np.mean([array.mean(axis=1) for array in own.values()], axis=0)
        for domain, own in grouped(values, domain_of).items()
    }
    if found:
        found[AVERAGE] = np.mean([*found.values()], axis=0)
    return {domain: tuple(map(float, own)) for domain, own in found.items()}


def grouped(values: Matrices, domain_of: Mapping[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """Domain -> benchmark -> scores, in order of appearance."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, own in values.items():
        if name in domain_of:
            groups.setdefault(domain_of[name], {})[name] = own
    return groups


def domains_of(runs: Iterable[ArmRun]) -> dict[str, str]:
    """Benchmark -> domain, of those that count in averages: sampled answers, scores as shares."""
    return {
        result.name: result.domain
        for run in runs
        for result in run.results
        if result.identity.variant == "sampled" and result.unit == "share"
    }


# How answers are, and what a gain consists of -----------------------------------------------------


def forms(runs: Sequence[ArmRun], domain_of: Mapping[str, str]) -> dict[str, Form]:
    """How the answers to each domain end, and the mean over domains."""
    found = {domain: _form(own) for domain, own in _results(runs, domain_of).items()}
    if found:
        unread = [form.unread for form in found.values() if form.unread is not None]
        found[AVERAGE] = Form(
            stopped=statistics.fmean(form.stopped for form in found.values()),
            truncated=statistics.fmean(form.truncated for form in found.values()),
            unread=statistics.fmean(unread) if unread else None,
            tokens=statistics.fmean(form.tokens for form in found.values()),
            unscored=sum(form.unscored for form in found.values()),
        )
    return found


def ended(runs: Sequence[ArmRun], domain_of: Mapping[str, str]) -> dict[str, Estimate]:
    """Score of the answers that end by themselves, by domain; left out where none does."""
    found = {}
    for domain, results in _results(runs, domain_of).items():
        if (score := score_of_ended(_pooled(results))) is not None:
            found[domain] = score
    return found


def lenient(runs: Sequence[ArmRun]) -> dict[str, float]:
    """Benchmark -> mean lenient score, where references can be read leniently."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for result in run.results:
            values = [s.score.details.get("lenient") for s in result.samples]
            numbers = [float(value) for value in values if isinstance(value, (int, float))]
            if numbers and len(numbers) == len(values) - result.num_unscored:
                found.setdefault(result.name, []).append(statistics.fmean(numbers))
    return {name: statistics.fmean(values) for name, values in found.items()}


def attempts(runs: Sequence[ArmRun], domain_of: Mapping[str, str]) -> dict[str, float]:
    """Domain -> share of answers that try what was asked."""
    return _means(runs, domain_of, lambda result: result.parts.get("attempt"))


def decompositions(
    runs: Sequence[ArmRun], base: Sequence[ArmRun], domain_of: Mapping[str, str]
) -> dict[str, Decomposition]:
    """Parts of the gain over base by domain, and of the average."""
    before, found = _results(base, domain_of), {}
    for domain, results in _results(runs, domain_of).items():
        parts = [
            decompose(
                _pooled([one for one in before.get(domain, ()) if one.name == name]),
                _pooled([one for one in results if one.name == name]),
            )
            for name in dict.fromkeys(result.name for result in results)
        ]
        found[domain] = _mean_parts(parts)
    if found:
        found[AVERAGE] = _mean_parts([*found.values()])
    return found


def elicitations(runs: Sequence[ArmRun], wide: Sequence[BenchmarkResult]) -> dict[str, Elicitation]:
    """Benchmark -> the arm's answers of all seeds against the base model's many."""
    many = {result.name: result for result in wide}
    found = {}
    for name in dict.fromkeys(result.name for run in runs for result in run.results):
        own = [result for run in runs for result in run.results if result.name == name]
        if name in many and many[name].pass_at:
            found[name] = elicitation(many[name].samples, _pooled(own))
    return found


def _cut(estimate: Estimate, least: float, most: float = math.inf) -> Estimate:
    """The estimate with its interval within the range of what it estimates."""
    return replace(estimate, low=max(least, estimate.low), high=min(most, estimate.high))


# Parts --------------------------------------------------------------------------------------------


def _of_all(runs: Sequence[ArmRun]) -> dict[str, list[BenchmarkResult]]:
    """Benchmark -> results in the order of the runs, of those that every run has scores of."""
    found: dict[str, list[BenchmarkResult]] = {}
    for run in runs:
        for result in run.results:
            if result.score is not None:
                found.setdefault(result.name, []).append(result)
    return {name: own for name, own in found.items() if len(own) == len(runs)}


def _results(
    runs: Sequence[ArmRun], domain_of: Mapping[str, str]
) -> dict[str, list[BenchmarkResult]]:
    found: dict[str, list[BenchmarkResult]] = {}
    for run in runs:
        for result in run.results:
            if result.name in domain_of:
                found.setdefault(result.domain, []).append(result)
    return found


def _form(results: Sequence[BenchmarkResult]) -> Form:
    unread = [r.extraction_failures for r in results if r.extraction_failures is not None]
    return Form(
        stopped=statistics.fmean(result.stop_share for result in results),
        truncated=statistics.fmean(result.truncated_share for result in results),
        unread=statistics.fmean(unread) if unread else None,
        tokens=statistics.fmean(result.mean_tokens for result in results),
        unscored=sum(result.num_unscored for result in results),
    )


def _means(
    runs: Sequence[ArmRun],
    domain_of: Mapping[str, str],
    number: Callable[[BenchmarkResult], float | None],
) -> dict[str, float]:
    found = {}
    for domain, results in _results(runs, domain_of).items():
        values = [value for result in results if (value := number(result)) is not None]
        if values:
            found[domain] = statistics.fmean(values)
    return found


def _pooled(results: Sequence[BenchmarkResult]) -> list[GradedSample]:
    return [sample for result in results for sample in result.samples]


def _mean_parts(parts: Sequence[Decomposition]) -> Decomposition:
    return Decomposition(
        stopping=statistics.fmean(part.stopping for part in parts),
        format=statistics.fmean(part.format for part in parts),
        correctness=statistics.fmean(part.correctness for part in parts),
    )
