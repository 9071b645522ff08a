"""What the arms of a study have cost, as sections of its report."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from grlo.reporting.blocks import Block, Cell, Figures, Section, Stack, Table, Text
from grlo.reporting.figures import COLORS
from grlo.reporting.strips import scale
from grlo.reporting.tables import duration, percent
from grlo.stages.study_curves import gain_by_cost
from grlo.stages.study_words import (
    COST_WORDS,
    NOTHING,
    arm_cell,
    device_time,
    labels,
    number,
    price,
    word,
)
from grlo.studies.findings import AVERAGE, ArmCost, ArmFindings, Match, StudyFindings

_NEAR = 0.02
"""Remaining difference of a match that is not worth a colour."""


def efficiency_section(findings: StudyFindings) -> Section:
    """What a device-hour of training gains."""
    arms = [arm for arm in _trained(findings) if AVERAGE in arm.domain_gains]
    if not arms:
        return Section("efficiency", "Gain per device-hour", ())
    named = labels(findings.arms)
    rows = tuple(_efficiency_row(arm, named[arm.name]) for arm in arms)
    note = "Device-hours of training; gains are of the average over domains."
    if len({arm.cost.devices for arm in arms if arm.cost is not None}) > 1:
        note += " ARMS RAN ON UNLIKE DEVICES: their hours are not the same thing."
    columns = ("arm", "gain, points", "device-hours", "points per device-hour")
    table = Table(columns, rows, note=f"{note} {_devices_in_words(findings)}")
    blocks = (Figures((gain_by_cost(findings),)), table)
    return Section("efficiency", "Gain per device-hour", blocks, short="Per hour")


def cost_section(findings: StudyFindings) -> Section:
    """What training took, what it went into, what is not charged, and how near the budget."""
    arms = _trained(findings)
    if not arms:
        return Section("cost", "Cost", ())
    factor, unit = _device_time(arms)
    blocks: list[Block] = [
        Text(
            "Mean over seeds, for one run of an arm; earlier stages are included. Charged is "
            "training: generating, scoring, annotating, updating, syncing."
        ),
        _totals(arms, findings),
        *_split(
            arms,
            findings,
            lambda cost: {name: factor * own for name, own in cost.phases.items()},
            title=f"{unit.capitalize()} of training by phase",
        ),
        *_split(
            arms, findings, lambda cost: cost.components, title="FLOPs of training by component"
        ),
        *_uncharged(arms, findings),
        *_matches(findings),
    ]
    return Section("cost", "Cost", tuple(blocks))


def _trained(findings: StudyFindings) -> list[ArmFindings]:
    return [arm for arm in findings.arms if arm.cost is not None]


def _device_time(arms: Sequence[ArmFindings]) -> tuple[float, str]:
    return device_time(arm.cost.device_hours for arm in arms if arm.cost is not None)


def _devices_in_words(findings: StudyFindings) -> str:
    """The devices of all arms, or those of each where they differ."""
    costs = [(arm, arm.cost) for arm in findings.arms if arm.cost is not None]
    named = labels(findings.arms)
    if len({cost.devices for _, cost in costs}) == 1:
        return f"Devices: {', '.join(costs[0][1].devices)}."
    each = "; ".join(f"{named[arm.name]}: {', '.join(cost.devices)}" for arm, cost in costs)
    return f"Devices: {each}."


def _efficiency_row(arm: ArmFindings, label: str) -> tuple[Cell, ...]:
    assert arm.cost is not None
    gain, hours = arm.domain_gains[AVERAGE], arm.cost.device_hours
    points = [100 * value for value in (gain.value, gain.low, gain.high)]
    rate = NOTHING
    if hours > 0:
        rates = [point / hours for point in points]
        largest = max(map(abs, rates))
        digits = 0 if largest >= 100 else 1 if largest >= 10 else 2
        value, low, high = (f"{one:+,.{digits}f}" for one in rates)
        rate = Cell(value, beneath=f"[{low}, {high}]")
    return (
        arm_cell(arm, label),
        Cell(f"{points[0]:+.1f}", beneath=f"[{points[1]:+.1f}, {points[2]:+.1f}]"),
        Cell(number(hours), beneath=duration(3600 * hours)),
        rate,
    )


def _totals(arms: Sequence[ArmFindings], findings: StudyFindings) -> Table:
    named = labels(findings.arms)
    columns = (
        "arm",
        "device-hours",
        "prompts",
        "distinct prompts",
        "generated tokens, millions",
        "trained tokens, millions",
        "FLOPs",
        "utilisation (MFU), %",
        f"money, {findings.currency}",
        "energy, Wh",
        "peak memory, GiB",
    )
    rows = tuple(
        (arm_cell(arm, named[arm.name]), *_total(arm.cost)) for arm in arms if arm.cost is not None
    )
    note = _devices_in_words(findings)
    if any(cell.text == "-" for row in rows for cell in row):
        note += " - is not measured, or no price is known for a device."
    return Table(columns, rows, title="Cost of training", note=note)


def _total(cost: ArmCost) -> tuple[Cell, ...]:
    energy = None if cost.energy_joules is None else cost.energy_joules / 3600
    words = (
        number(cost.prompts),
        number(cost.distinct_prompts),
        number(cost.generated_tokens / 1e6),
        number(cost.trained_tokens / 1e6),
        number(cost.flops),
        percent(cost.utilisation),
        price(cost.money),
        number(energy),
        f"{cost.peak_memory_bytes / 2**30:.2f}",
    )
    hours = Cell(number(cost.device_hours), beneath=duration(3600 * cost.device_hours))
    return (hours, *map(Cell, words))


def _split(
    arms: Sequence[ArmFindings],
    findings: StudyFindings,
    parts_of: Callable[[ArmCost], Mapping[str, float]],
    *,
    title: str,
) -> list[Table]:
    """A stack of parts for each arm, the largest part of all first."""
    found = {arm.name: dict(parts_of(arm.cost)) for arm in arms if arm.cost is not None}
    sums: dict[str, float] = {}
    for name, value in (item for parts in found.values() for item in parts.items()):
        sums[name] = sums.get(name, 0.0) + value
    names = sorted(sums, key=lambda name: -sums[name])
    if not names:
        return []
    # The eighth colour is hard to see on white: it comes last.
    palette = itertools.cycle((*COLORS[1:7], COLORS[0], COLORS[7]))
    legend = dict(zip(names, palette, strict=False))
    ends = scale(sum(parts.values()) for parts in found.values())
    named = labels(findings.arms)
    rows = tuple(
        (
            arm_cell(arm, named[arm.name]),
            Cell(
                number(sum(parts.values())),
                strip=Stack(
                    tuple(parts.get(name, 0.0) for name in names), tuple(legend.values()), ends
                ),
            ),
            *(Cell(number(parts[name]) if name in parts else "-") for name in names),
        )
        for arm in arms
        if (parts := found.get(arm.name))
    )
    shown = {word(name): color for name, color in legend.items()}
    return [Table(("arm", "total", *shown), rows, title=title, legend=shown)]


def _uncharged(arms: Sequence[ArmFindings], findings: StudyFindings) -> list[Block]:
    names = list(
        dict.fromkeys(n for arm in arms if arm.cost is not None for n in arm.cost.other_hours)
    )
    if not names:
        return []
    named = labels(findings.arms)
    factor, unit = _device_time(arms)
    rows = []
    for arm in arms:
        other = arm.cost.other_hours if arm.cost is not None else {}
        hours = {name: factor * own for name, own in other.items()}
        cells = (Cell(number(hours[name]) if name in hours else "-") for name in names)
        rows.append((arm_cell(arm, named[arm.name]), *cells, Cell(number(sum(hours.values())))))
    columns = ("arm", *map(word, names), "total")
    title = f"{unit.capitalize()} that are not charged"
    note = (
        "Loading, saving, measuring and waiting are not training. evaluate: on the way; "
        "benchmarks: at the end; failed and repeated: work that was lost or done again."
    )
    return [Table(columns, tuple(rows), title=title, note=note)]


def _matches(findings: StudyFindings) -> list[Block]:
    named = labels(findings.arms)
    rows = tuple(
        _match_row(arm_cell(arm, named[arm.name]), arm.match)
        for arm in findings.arms
        if arm.match is not None
    )
    columns = ("arm", "matched by", "budget", "spent", "largest remaining difference")
    title = "How near the budget"
    note = "The difference of the seed where it is largest, relative to the budget."
    return [Table(columns, rows, title=title, note=note)] if rows else []


def _match_row(first: Cell, match: Match) -> tuple[Cell, ...]:
    is_far = abs(match.largest_difference) > _NEAR
    return (
        first,
        Cell(COST_WORDS.get(match.by, word(match.by))),
        Cell(number(match.budget)),
        Cell(number(match.spent)),
        Cell(f"{100 * match.largest_difference:+.2f} %", tone="down" if is_far else ""),
    )
