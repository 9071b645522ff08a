"""What a gain consists of: how answers end, whether they are in form, whether they are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grlo.evaluation.decomposition import Decomposition
from grlo.reporting.blocks import Block, Cell, Folded, Section, Stack, Table, Text
from grlo.reporting.figures import COLORS
from grlo.reporting.strips import scale
from grlo.reporting.tables import percent
from grlo.stages.study_words import (
    NOTHING,
    arm_cell,
    labels,
    score,
    score_cell,
    shown_domains,
    word,
)
from grlo.studies.findings import AVERAGE, ArmFindings, StudyFindings

_PARTS = {"stopping": COLORS[6], "format": COLORS[2], "correctness": COLORS[1]}


def parts_section(findings: StudyFindings) -> Section:
    """What gains consist of, and what tells form from ability."""
    blocks = [
        *_decompositions(findings),
        *_forms(findings),
        *_ended(findings),
        *_lenient(findings),
        *_attempts(findings),
    ]
    return Section("parts", "What the gain consists of", tuple(blocks), short="Parts")


def _domains(findings: StudyFindings) -> list[str]:
    """Without the average."""
    return [name for name in shown_domains(findings) if name != AVERAGE]


# Parts of the gain --------------------------------------------------------------------------------


def _decompositions(findings: StudyFindings) -> list[Block]:
    arms = [arm for arm in findings.arms if arm.decomposition]
    if not arms:
        return []
    text = (
        "The gain over the base in three parts that add up to it. Stopping: more answers end by "
        "themselves. Format: in more of them the grader finds an answer or an attempt. "
        "Correctness: those that end and are read alike are right more often. They are Shapley "
        "values: each part is its mean over all orders in which the three could have changed."
    )
    tables = [_parts_table(arms, domain, findings) for domain in shown_domains(findings)]
    tables = [table for table in tables if table.rows]
    rest = [Folded("By domain", tuple(tables[1:]))] if len(tables) > 1 else []
    return [Text(text), *tables[:1], *rest]


def _parts_table(arms: Sequence[ArmFindings], domain: str, findings: StudyFindings) -> Table:
    named = labels(findings.arms)
    found = {arm.name: arm.decomposition[domain] for arm in arms if domain in arm.decomposition}
    ends = _scale(found)
    rows = tuple(
        _parts_row(arm, named[arm.name], found[arm.name], ends) for arm in arms if arm.name in found
    )
    return Table(
        ("arm", "total", *_PARTS),
        rows,
        title=f"Parts of the gain, {word(domain)}, points",
        legend=_PARTS,
        axis=ends,
    )


def _parts_row(
    arm: ArmFindings, label: str, own: Decomposition, ends: tuple[float, float]
) -> tuple[Cell, ...]:
    parts = tuple(100 * getattr(own, name) for name in _PARTS)
    stack = Stack(parts, tuple(_PARTS.values()), ends)
    total = Cell(f"{sum(parts):+.1f}", strip=stack)
    return (arm_cell(arm, label), total, *(Cell(f"{part:+.1f}") for part in parts))


def _scale(found: Mapping[str, Decomposition]) -> tuple[float, float]:
    """Room for the parts above zero of any arm, and for those below."""
    sums = []
    for own in found.values():
        parts = [100 * getattr(own, name) for name in _PARTS]
        sums += [sum(p for p in parts if p > 0), sum(p for p in parts if p < 0)]
    return scale(sums)


# How answers are ----------------------------------------------------------------------------------


def _forms(findings: StudyFindings) -> list[Block]:
    named = labels(findings.arms)
    tables = []
    for domain in shown_domains(findings):
        found = [(arm, arm.forms[domain]) for arm in findings.arms if domain in arm.forms]
        if not found:
            continue
        is_read = any(form.unread is not None for _, form in found)
        rows = tuple(
            (
                arm_cell(arm, named[arm.name]),
                Cell(percent(form.stopped)),
                Cell(percent(form.truncated)),
                *([Cell(percent(form.unread))] if is_read else []),
                Cell(f"{form.tokens:,.1f}"),
                Cell(f"{form.unscored:,}"),
            )
            for arm, form in found
        )
        unread = ("nothing to grade, %",) if is_read else ()
        columns = ("arm", "stop, %", "cut, %", *unread, "tokens", "unscored")
        tables.append(Table(columns, rows, title=f"How answers end, {word(domain)}"))
    rest = [Folded("How answers end, by domain", tuple(tables[1:]))] if len(tables) > 1 else []
    return [*tables[:1], *rest]


def _ended(findings: StudyFindings) -> list[Block]:
    """Scores without what stopping does to them."""
    named, domains = labels(findings.arms), _domains(findings)
    rows = tuple(
        (arm_cell(arm, named[arm.name]), *(score_cell(arm.ended.get(d)) for d in domains))
        for arm in findings.arms
        if arm.ended
    )
    title = "Score of the answers that end by themselves, percent with 95 % intervals"
    note = "Models differ in which answers end: these are not scores of the same problems."
    columns = ("arm", *map(word, domains))
    return [Table(columns, rows, title=title, note=note)] if rows else []


def _lenient(findings: StudyFindings) -> list[Block]:
    names = [f.name for f in findings.benchmarks if any(f.name in a.lenient for a in findings.arms)]
    named = labels(findings.arms)
    rows = tuple(
        (arm_cell(arm, named[arm.name]), *(_lenient_cell(arm, name) for name in names))
        for arm in findings.arms
        if arm.lenient
    )
    note = (
        "The last number or letter of an answer counts wherever it stands. Where that changes "
        "little, form is not what an arm gains by."
    )
    title = "Read leniently, percent; beneath, as graded"
    return [Table(("arm", *names), rows, title=title, note=note)] if rows else []


def _lenient_cell(arm: ArmFindings, benchmark: str) -> Cell:
    if benchmark not in arm.lenient:
        return NOTHING
    graded = arm.benchmarks.get(benchmark)
    return Cell(
        score(arm.lenient[benchmark]),
        beneath="" if graded is None else f"graded {score(graded.value)}",
    )


def _attempts(findings: StudyFindings) -> list[Block]:
    named = labels(findings.arms)
    domains = [d for d in _domains(findings) if any(d in arm.attempts for arm in findings.arms)]
    rows = tuple(
        (
            arm_cell(arm, named[arm.name]),
            *(Cell(percent(arm.attempts.get(domain))) for domain in domains),
        )
        for arm in findings.arms
        if arm.attempts
    )
    title = "Answers that try what was asked, right or wrong, percent"
    return [Table(("arm", *map(word, domains)), rows, title=title)] if rows else []
