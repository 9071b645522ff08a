"""Scores during training: against cost and reward, and where over-optimisation begins."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from grlo.evaluation.over_optimisation import Onset, onset, rank_correlation
from grlo.studies.costing import charged_hours
from grlo.studies.findings import AVERAGE, CurvePoint
from grlo.studies.results import ArmRun
from grlo.types import LedgerEntry

_DOMAIN = "eval/domain/"
_MARGIN = 0.02
"""Of the average score: what it has to fall by to count as fallen."""


def curve(run: ArmRun) -> list[CurvePoint]:
    """The evaluations during the training of a run, oldest first."""
    hours, before = charged_hours(run.ledger), sum(_last_hours(stage) for stage in run.earlier)
    found: list[CurvePoint] = []
    rewards: list[float] = []
    for row in run.metrics:
        if "reward/mean" in row:
            rewards.append(row["reward/mean"])
        if "eval/average" not in row:
            continue
        domains = {n.removeprefix(_DOMAIN): row[n] for n in row if n.startswith(_DOMAIN)}
        found.append(
            CurvePoint(
                seed=run.seed,
                step=row["step"],
                device_hours=before + hours.get(row["step"], 0.0),
                reward=statistics.fmean(rewards) if rewards else None,
                domains={**domains, AVERAGE: row["eval/average"]},
            )
        )
        rewards = []
    return found


def rewards(run: ArmRun) -> tuple[tuple[float, float], ...]:
    """(step, mean training reward), as the metrics have it."""
    return tuple((row["step"], row["reward/mean"]) for row in run.metrics if "reward/mean" in row)


def correlation(curves: Mapping[int, Sequence[CurvePoint]]) -> float | None:
    """Mean over seeds of the rank correlation of reward and average score."""
    found = [
        value
        for points in curves.values()
        if (known := [p for p in points if p.reward is not None])
        and (
            value := rank_correlation(
                [p.reward for p in known if p.reward is not None],
                [p.domains[AVERAGE] for p in known],
            )
        )
        is not None
    ]
    return statistics.fmean(found) if found else None


def onset_of(points: Sequence[CurvePoint]) -> Onset | None:
    """Where the average score begins to fall while the reward goes on rising."""
    known = [point for point in points if point.reward is not None]
    return onset(
        [point.step for point in known],
        [point.reward for point in known if point.reward is not None],
        [point.domains[AVERAGE] for point in known],
        margin=_MARGIN,
    )


def _last_hours(stage: Sequence[LedgerEntry]) -> float:
    return max(charged_hours(stage).values(), default=0.0)
