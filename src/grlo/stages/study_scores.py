"""The answer of a study, its arms, their scores and their gains, as sections of its report."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import PurePath
from statistics import stdev

from grlo.evaluation.stats import Estimate
from grlo.reporting.blocks import Block, Cell, Folded, Lines, Section, Table
from grlo.stages.study_words import (
    NOTHING,
    arm_cell,
    gain_cell,
    gain_scale,
    labels,
    score,
    score_cell,
    shown_domains,
    word,
)
from grlo.studies.findings import AVERAGE, ArmFindings, StudyFindings

_MANY_BENCHMARKS = 6
_ON_TRIAL = ("treatment", "control")
"""Roles whose transfer answers the question."""
_GAIN = "gain over base, points, with 95 % interval"


def answer_section(findings: StudyFindings) -> Section:
    """The answer first, with what it rests on, and what is missing."""
    blocks: list[Block] = []
    if findings.answer:
        blocks.append(Lines(findings.answer, kind="answer"))
    elif findings.arms:
        blocks.append(Lines(("There is no answer yet: no arm that could give it is finished.",)))
    if missing := _missing(findings):
        blocks.append(Lines(tuple(missing), kind="notice"))
    return Section("answer", "The answer", (*blocks, *_gain_charts(findings)))


def notes_section(findings: StudyFindings) -> Section:
    """What a reader has to know besides."""
    lines = [*findings.notes, *([findings.matching] if findings.matching else [])]
    blocks = (Lines(tuple(lines)),) if lines else ()
    return Section("notes", "What to know first", blocks, short="Notes")


def arms_section(findings: StudyFindings) -> Section:
    """Who is compared with whom."""
    named = labels(findings.arms)
    rows = tuple(
        (
            arm_cell(arm, named[arm.name]),
            Cell(arm.description or "-"),
            Cell(", ".join(map(word, arm.trains)) or "-"),
            Cell(_start(arm.model)),
            Cell(_seeds(arm)),
        )
        for arm in findings.arms
    )
    columns = ("arm", "what it is", "trained on", "starts from", "seeds")
    blocks = (Table(columns, rows),) if rows else ()
    return Section("arms", "The arms", blocks, short="Arms")


def results_section(findings: StudyFindings) -> Section:
    """Scores and gains by domain and by benchmark."""
    domains = shown_domains(findings)
    blocks: list[Block] = []
    if domains:
        blocks.append(_domain_table(findings, domains))
        blocks += [_gain_table(findings, domains)] if _gaining(findings) else []
        blocks += _by_seed(findings, domains)
    blocks += _benchmark_tables(findings)
    return Section("results", "Scores and gains", tuple(blocks), short="Scores")


def _missing(findings: StudyFindings) -> list[str]:
    unfinished = sum(len(arm.unfinished) for arm in findings.arms)
    lines = []
    if unfinished:
        of = sum(len(arm.unfinished) + len(arm.seeds) for arm in findings.arms)
        lines.append(f"Not finished: {unfinished} of {of} arms x seeds. What follows is the rest.")
    if findings.failures:
        lines.append(f"Failed: {len(findings.failures)} jobs; their last words are below.")
    return lines


def _start(model: str) -> str:
    """The end of a local path, which tells the model better than where this machine keeps it."""
    path = PurePath(model)
    return "/".join(["...", *path.parts[-2:]]) if path.is_absolute() else model or "-"


def _seeds(arm: ArmFindings) -> str:
    done = ", ".join(map(str, arm.seeds))
    left = ", ".join(map(str, arm.unfinished))
    return "; ".join(filter(None, (done, f"not finished: {left}" if left else ""))) or "-"


# Gains at a glance --------------------------------------------------------------------------------


def _gaining(findings: StudyFindings) -> list[ArmFindings]:
    return [arm for arm in findings.arms if arm.domain_gains]


def _gain_charts(findings: StudyFindings) -> list[Table]:
    """The gain of every arm, and that of treatments and controls where they were not trained."""
    named, arms = labels(findings.arms), _gaining(findings)
    averages = [(arm, arm.domain_gains[AVERAGE]) for arm in arms if AVERAGE in arm.domain_gains]
    transfer = {
        domain: [
            (arm, arm.domain_gains[domain])
            for arm in arms
            if arm.role in _ON_TRIAL
            and domain in arm.transfer_domains
            and domain in arm.domain_gains
        ]
        for domain in shown_domains(findings)
    }
    ends = gain_scale([gain for own in (averages, *transfer.values()) for _, gain in own])

    def row(arm: ArmFindings, gain: Estimate) -> tuple[Cell, ...]:
        return (arm_cell(arm, named[arm.name]), gain_cell(gain, ends=ends))

    charts = []
    if averages:
        title = "Average over domains" if len(shown_domains(findings)) > 1 else "All of it"
        rows = tuple(row(*own) for own in averages)
        charts.append(Table(("arm", _GAIN), rows, title=title, axis=ends))
    groups = [
        [(Cell(word(domain)),), *(row(*one) for one in own)]
        for domain, own in transfer.items()
        if own
    ]
    if groups:
        rows = tuple(itertools.chain(*groups))
        title = "Where they were not trained"
        charts.append(Table(("arm", _GAIN), rows, title=title, axis=ends))
    return charts


# Tables -------------------------------------------------------------------------------------------


def _trained(arm: ArmFindings, domain: str) -> tuple[str, ...]:
    return ("trained",) if domain in arm.trains else ()


def _domain_table(findings: StudyFindings, domains: Sequence[str]) -> Table:
    named = labels(findings.arms)
    rows = tuple(
        (
            arm_cell(arm, named[arm.name]),
            *(score_cell(arm.domains.get(d), tags=_trained(arm, d)) for d in domains),
        )
        for arm in findings.arms
    )
    note = '"trained" marks a domain that the arm was trained on; the others are transfer.'
    is_marked = any(cell.tags for row in rows for cell in row[1:])
    return Table(
        ("arm", *map(word, domains)),
        rows,
        title="Scores by domain, percent with 95 % intervals",
        note=note if is_marked else "",
    )


def _gain_table(findings: StudyFindings, domains: Sequence[str]) -> Table:
    named = labels(findings.arms)
    rows = tuple(
        (
            arm_cell(arm, named[arm.name]),
            *(gain_cell(arm.domain_gains.get(d), tags=_trained(arm, d)) for d in domains),
        )
        for arm in findings.arms
        if arm.name != findings.base
    )
    return Table(
        ("arm", *map(word, domains)),
        rows,
        title="Gains over the base by domain, points with 95 % intervals",
        note="Bold where the interval leaves out zero.",
    )


def _by_seed(findings: StudyFindings, domains: Sequence[str]) -> list[Block]:
    if max((len(arm.seeds) for arm in findings.arms), default=0) < 2:
        return []
    named = labels(findings.arms)
    seeds = list(dict.fromkeys(seed for arm in findings.arms for seed in arm.seeds))
    tables = []
    for domain in domains:
        rows = []
        for arm in findings.arms:
            own = dict(zip(arm.seeds, arm.by_seed.get(domain, ()), strict=False))
            cells = (Cell(score(own[seed])) if seed in own else NOTHING for seed in seeds)
            spread = f"{100 * stdev(own.values()):.1f}" if len(own) > 1 else "-"
            rows.append((arm_cell(arm, named[arm.name]), *cells, Cell(spread)))
        columns = ("arm", *(f"seed {seed}" for seed in seeds), "standard deviation")
        tables.append(Table(columns, tuple(rows), title=f"{word(domain)}, percent"))
    return [Folded("Each seed by itself", tuple(tables))]


def _benchmark_tables(findings: StudyFindings) -> list[Block]:
    """Benchmarks as rows: there may be many, and arms are few."""
    if not findings.benchmarks:
        return []
    named = labels(findings.arms)
    gaining = [arm for arm in findings.arms if arm.name != findings.base]
    scores, gains = [], []
    for facts in findings.benchmarks:
        name = facts.name if facts.unit == "share" else f"{facts.name}, {facts.unit}"
        first = Cell(name, beneath=word(facts.domain))
        unit = facts.unit
        scores.append(
            (first, *(score_cell(a.benchmarks.get(facts.name), unit=unit) for a in findings.arms))
        )
        gains.append(
            (first, *(gain_cell(a.benchmark_gains.get(facts.name), unit=unit) for a in gaining))
        )
    tables: list[Table] = [
        Table(
            ("benchmark", *(named[arm.name] for arm in findings.arms)),
            tuple(scores),
            title="Scores by benchmark with 95 % intervals, percent where no other unit is named",
        )
    ]
    if gaining:
        columns = ("benchmark", *(named[arm.name] for arm in gaining))
        title = "Gains over the base by benchmark with 95 % intervals"
        tables.append(Table(columns, tuple(gains), title=title))
    domains = {facts.domain for facts in findings.benchmarks}
    is_long = len(findings.benchmarks) > _MANY_BENCHMARKS or len(domains) == len(
        findings.benchmarks
    )
    label = f"By benchmark ({len(findings.benchmarks)})"
    return [Folded(label, tuple(tables))] if is_long else [*tables]
