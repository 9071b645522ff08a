"""What training brought out that the base model could do already, and what is new."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grlo.evaluation.stats import pass_at_k
from grlo.interfaces import GradedSample

_SOLVED = 0.5


@dataclass(frozen=True)
class Elicitation:
    """A trained model's single answers beside many of the base model."""

    base_pass_at: Mapping[int, float]
    """k -> pass@k of the base model for k = 1, 2, 4, ... and all of its answers."""
    trained_pass_at_1: float
    reached_at: int | None
    """Smallest of these k at which the base model passes as often; None if at none."""
    num_draws: int
    """Answers of the base model to every problem."""
    num_problems: int
    num_new: int
    """Problems that the trained model solves and the base model in none of its answers."""
    num_elicited: int
    """That the trained model solves and the base model in some, but fewer than half."""
    num_kept: int
    """That both solve."""
    num_lost: int
    """That the base model solves and the trained one never."""


def elicitation(base: Sequence[GradedSample], trained: Sequence[GradedSample]) -> Elicitation:
    """Compares by problem; solved is what at least half of the answers have right.

    "New" depends on the number of draws n: a problem that the base model has right with chance p is
    missed with (1 - p)^n, so that new problems at n = 64 may have a p of some percent.

    Args:
        base: Many answers to each problem, right (1) or wrong (0).
        trained: Answers to the same problems, of one run or of several pooled.

    Raises:
        ValueError: No problem has scores by both.
    """
    before, after = _by_problem(base), _by_problem(trained)
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise ValueError("no problem has scores by both")
    num_draws = min(len(before[problem]) for problem in shared)
    ks = sorted({*(2**power for power in range(num_draws.bit_length())), num_draws})
    curve = {
        k: statistics.fmean(
            pass_at_k(len(before[p]), sum(v == 1 for v in before[p]), k=k) for p in shared
        )
        for k in ks
    }
    rates = {p: (statistics.fmean(before[p]), statistics.fmean(after[p])) for p in shared}
    own = statistics.fmean(rate for _, rate in rates.values())
    solved = [b for b, a in rates.values() if a >= _SOLVED]
    return Elicitation(
        base_pass_at=curve,
        trained_pass_at_1=own,
        reached_at=next((k for k, share in curve.items() if share >= own), None),
        num_draws=num_draws,
        num_problems=len(shared),
        num_new=sum(b == 0 for b in solved),
        num_elicited=sum(0 < b < _SOLVED for b in solved),
        num_kept=sum(b >= _SOLVED for b in solved),
        num_lost=sum(b >= _SOLVED and a == 0 for b, a in rates.values()),
    )


def _by_problem(samples: Sequence[GradedSample]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = defaultdict(list)
    for sample in samples:
        if sample.score.value is not None:
            found[sample.problem].append(sample.score.value)
    return found
