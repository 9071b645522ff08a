"""What a difference of scores is made of: answers that end, that can be read, that are right."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from grlo.errors import DataError
from grlo.evaluation.stats import Estimate, clustered_mean
from grlo.interfaces import GradedSample

_NOTHING_SCORED = (
    "no answer has a score, so that there is nothing to split. Expected scored answers; the notes "
    "of the scores say why there are none."
)


@dataclass(frozen=True)
class Decomposition:
    """A difference of mean scores as a sum of three parts, in the unit of the scores."""

    stopping: float
    """By the share of answers that end by themselves."""
    format: float
    """By the share that can be read, among answers that end and among those that do not."""
    correctness: float
    """By the score of answers that end, or not, and can be read, or not, alike."""

    @property
    def total(self) -> float:
        """The difference of the mean scores."""
        return math.fsum((self.stopping, self.format, self.correctness))


@dataclass(frozen=True)
class _Factors:
    """What a mean score is made of; a kind of answer that nobody gave is not there."""

    ended: float
    """P(ended)."""
    readable: Mapping[bool, float]
    """Ended -> P(readable | ended)."""
    score: Mapping[tuple[bool, bool], float]
    """Ended, readable -> E[score | ended, readable]."""


def decompose(before: Sequence[GradedSample], after: Sequence[GradedSample]) -> Decomposition:
    """Splits `mean(after) - mean(before)` into stopping, format and correctness.

    A mean score is sum_e P(e) sum_r P(r | e) E[score | e, r] over answers that end or not (e) and
    can be read or not (r). Its three factors are taken from `before` to `after` one after the
    other; the parts are Shapley values (Shapley 1953), the means over all six orders of what each
    adds, and sum to the difference. The other way round, all signs change and nothing else.

    Where one side has no answers of a kind, its share or score there is unknown and that of the
    other side takes its place, so that it adds nothing to its own factor: if no answer of `before`
    ends, all that comes with ended answers is stopping.

    An answer ends if its finish reason is `stop`. It can be read unless the part `parsed` of its
    score, or else `attempt`, is 0. This is bookkeeping of where scores changed, not of causes: an
    answer that is cut may be one that would have been wrong.

    Args:
        before: Answers of the model that is compared with; unscored ones are left out.
        after: Of the other model, to the same problems.

    Raises:
        DataError: One side has no scored answer.
    """
    first, second = _factors(before), _factors(after)
    sides = (_filled(first, second), _filled(second, first))
    parts: list[list[float]] = [[], [], []]
    for order in itertools.permutations(range(3)):
        chosen = [0, 0, 0]
        for factor in order:
            start = _mean_score(*(sides[side] for side in chosen))
            chosen[factor] = 1
            parts[factor].append(_mean_score(*(sides[side] for side in chosen)) - start)
    return Decomposition(*(math.fsum(part) / len(part) for part in parts))


def score_of_ended(samples: Sequence[GradedSample]) -> Estimate | None:
    """Mean score of the answers that end by themselves, clustered by problem; None without any.

    Two models end at different problems, and maybe at the easier ones: the difference of two such
    means is no gain.

    Args:
        samples: Of one model; unscored ones are left out.
    """
    ended = [(value, sample.problem) for sample, value in _scored(samples) if _has_ended(sample)]
    return clustered_mean(*zip(*ended, strict=True)) if ended else None


def _scored(samples: Iterable[GradedSample]) -> list[tuple[GradedSample, float]]:
    return [(sample, sample.score.value) for sample in samples if sample.score.value is not None]


def _has_ended(sample: GradedSample) -> bool:
    return sample.finish_reason == "stop"


def _is_readable(sample: GradedSample) -> bool:
    parts = sample.score.parts
    return parts.get("parsed", parts.get("attempt", 1.0)) != 0


def _factors(samples: Sequence[GradedSample]) -> _Factors:
    cells: dict[tuple[bool, bool], list[float]] = defaultdict(list)
    for sample, value in _scored(samples):
        cells[_has_ended(sample), _is_readable(sample)].append(value)
    if not cells:
        raise DataError(_NOTHING_SCORED)
    rows: dict[bool, int] = defaultdict(int)
    for (ended, _), values in cells.items():
        rows[ended] += len(values)
    return _Factors(
        ended=rows[True] / (rows[True] + rows[False]),
        readable={
            ended: len(cells.get((ended, True), ())) / num for ended, num in rows.items() if num
        },
        # Summed without rounding on the way: the order of samples changes no bit.
        score={kind: math.fsum(values) / len(values) for kind, values in cells.items()},
    )


def _filled(own: _Factors, other: _Factors) -> _Factors:
    """With the other's factors where there are none of its own."""
    return _Factors(own.ended, {**other.readable, **own.readable}, {**other.score, **own.score})


def _mean_score(stopping: _Factors, form: _Factors, correctness: _Factors) -> float:
    """Mean score with each factor from one side."""
    terms = []
    for (ended, readable), score in correctness.score.items():
        of_ended = stopping.ended if ended else 1 - stopping.ended
        of_readable = form.readable[ended] if readable else 1 - form.readable[ended]
        terms.append(of_ended * of_readable * score)
    return math.fsum(terms)
