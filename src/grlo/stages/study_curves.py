"""Curves of a study: scores against cost and reward, and rewards, over the seeds of each arm."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grlo.reporting.blocks import Block, Figures, Folded, Section, Text
from grlo.reporting.figures import COLORS, labelled_scatter, line_chart
from grlo.stages.study_words import colors, device_time, labels, shown_domains, word
from grlo.studies.findings import AVERAGE, ArmFindings, CurvePoint, StudyFindings

_MAX_POINTS = 120
"""Of a line; longer ones are means of neighbouring steps."""
_MAX_LINES = 8
"""Of a chart."""

Points = list[tuple[float, float]]
Band = list[tuple[float, float, float]]


@dataclass(frozen=True)
class Line:
    """The mean over seeds, and the lowest and the highest seed around it."""

    points: Points
    band: Band


def curves_section(findings: StudyFindings) -> Section:
    """Scores against device-hours and reward, and rewards against steps."""
    blocks: list[Block] = []
    if costs := _cost_charts(findings):
        blocks += [
            Text(
                "Scores during training, percent: means over seeds, between whose evaluations is "
                "interpolated; bands go from the lowest to the highest seed. These are the "
                "evaluations of the recipe, not those of the tables."
            ),
            Figures(tuple(costs)),
        ]
    if against := _reward_charts(findings):
        text = Text("Each line goes through the evaluations of an arm in the order of training.")
        blocks.append(Folded("Scores against the training reward", (text, Figures(tuple(against)))))
    if rewards := _rewards(findings):
        blocks.append(Folded("Training rewards", (Figures(tuple(rewards)),)))
    return Section("curves", "Curves", tuple(blocks))


def gain_by_cost(findings: StudyFindings) -> str:
    """Average gain over device-hours, a dot with its interval for each trained arm."""
    named, color_of = labels(findings.arms), colors(findings.arms, base=findings.base)
    arms = [
        (arm, arm.cost.device_hours, gain)
        for arm in findings.arms
        if arm.cost is not None and (gain := arm.domain_gains.get(AVERAGE)) is not None
    ]
    factor, unit = device_time(hours for _, hours, _ in arms)
    return labelled_scatter(
        {
            named[arm.name]: (factor * hours, 100 * gain.value, 100 * gain.low, 100 * gain.high)
            for arm, hours, gain in arms
        },
        title="Gain of the average over base",
        x_label=f"{unit} of training",
        y_label="points",
        colors=[color_of[arm.name] for arm, _, _ in arms],
    )


def over_cost(curves: Sequence[CurvePoint], domain: str) -> Line:
    """A score against device-hours, over all seeds where each of them has been evaluated.

    Seeds are evaluated at the same steps but not at the same cost, so each is interpolated at the
    costs of all; outside of what they share there is no line, as other seeds would join or leave.
    """
    seeds = _by_seed(p for p in curves if domain in p.domains)
    if not seeds:
        return Line([], [])
    paths = [
        ([p.device_hours for p in own], [100 * p.domains[domain] for p in own]) for own in seeds
    ]
    first, last = max(xs[0] for xs, _ in paths), min(xs[-1] for xs, _ in paths)
    grid = sorted({x for xs, _ in paths for x in xs if first <= x <= last})
    values = [np.interp(grid, xs, ys) for xs, ys in paths]
    return _line(grid, np.array(values))


def over_steps(rewards: Mapping[int, Sequence[tuple[float, float]]]) -> Line:
    """The reward of the steps that every seed has reached."""
    tables = [dict(own) for own in rewards.values() if own]
    if not tables:
        return Line([], [])
    steps = sorted(set.intersection(*(set(own) for own in tables)))
    size = -(-len(steps) // _MAX_POINTS) or 1
    parts = [steps[start : start + size] for start in range(0, len(steps), size)]
    values = [[statistics.fmean(own[s] for s in part) for part in parts] for own in tables]
    return _line([statistics.fmean(part) for part in parts], np.array(values))


def _by_seed(points: Iterable[CurvePoint]) -> list[list[CurvePoint]]:
    found: dict[int, list[CurvePoint]] = {}
    for point in points:
        found.setdefault(point.seed, []).append(point)
    return [sorted(own, key=lambda point: point.step) for own in found.values()]


def _line(xs: Sequence[float], values: np.ndarray) -> Line:
    """From values [seeds, points]; one seed has no band."""
    points = [(float(x), float(y)) for x, y in zip(xs, values.mean(axis=0), strict=True)]
    if len(values) < 2:
        return Line(points, [])
    lows, highs = values.min(axis=0), values.max(axis=0)
    band = zip(xs, lows, highs, strict=True)
    return Line(points, [(float(x), float(low), float(high)) for x, low, high in band])


# Charts -------------------------------------------------------------------------------------------


def _cost_charts(findings: StudyFindings) -> list[str]:
    named, color_of = labels(findings.arms), colors(findings.arms, base=findings.base)
    factor, unit = device_time(point.device_hours for arm in findings.arms for point in arm.curves)
    charts = []
    domains = [AVERAGE, *(d for d in shown_domains(findings) if d != AVERAGE)]
    for domain in domains:
        lines = {arm.name: _scaled(over_cost(arm.curves, domain), factor) for arm in findings.arms}
        drawn = [name for name, line in lines.items() if line.points]
        for start in range(0, len(drawn), _MAX_LINES):
            few = drawn[start : start + _MAX_LINES]
            charts.append(
                line_chart(
                    {named[name]: lines[name].points for name in few},
                    bands={named[name]: lines[name].band for name in few if lines[name].band},
                    title=word(domain),
                    x_label=f"{unit} of training",
                    y_label="percent",
                    colors=[color_of[name] for name in few],
                )
            )
    return charts


def _scaled(line: Line, factor: float) -> Line:
    """With x in another unit."""
    points = [(factor * x, y) for x, y in line.points]
    return Line(points, [(factor * x, low, high) for x, low, high in line.band])


def _reward_charts(findings: StudyFindings) -> list[str]:
    """One for each arm: rewards of unlike recipes have unlike scales."""
    named, domains = labels(findings.arms), shown_domains(findings)
    charts = []
    for arm in findings.arms:
        lines = {word(domain): _path(arm, domain) for domain in domains}
        drawn = {name: points for name, points in lines.items() if len(points) > 1}
        if drawn:
            palette = [COLORS[n % len(COLORS)] for n, name in enumerate(lines) if name in drawn]
            charts.append(
                line_chart(
                    drawn,
                    title=named[arm.name],
                    x_label="mean training reward",
                    y_label="percent",
                    colors=palette,
                )
            )
    return charts


def _path(arm: ArmFindings, domain: str) -> Points:
    """Mean reward and mean score of the evaluations that every seed has."""
    known = [p for p in arm.curves if p.reward is not None and domain in p.domains]
    tables = [{point.step: point for point in own} for own in _by_seed(known)]
    shared = sorted(set.intersection(*(set(own) for own in tables))) if tables else []
    return [
        (
            statistics.fmean(own[step].reward or 0.0 for own in tables),
            statistics.fmean(100 * own[step].domains[domain] for own in tables),
        )
        for step in shared
    ]


def _rewards(findings: StudyFindings) -> list[str]:
    named, color_of = labels(findings.arms), colors(findings.arms, base=findings.base)
    charts = []
    for arm in findings.arms:
        line = over_steps(arm.rewards)
        if line.points:
            charts.append(
                line_chart(
                    {"": line.points},
                    bands={"": line.band} if line.band else {},
                    title=named[arm.name],
                    x_label="step",
                    y_label="reward",
                    colors=[color_of[arm.name]],
                )
            )
    return charts
