"""Costs of a study beside each other and beside what others have published."""

from __future__ import annotations

from collections.abc import Sequence

from grlo.reporting.blocks import Block, Card, Cell, Columns, Section, Table, Text
from grlo.stages.study_words import COST_WORDS, NOTHING, number, price
from grlo.studies.findings import CostRatio, PublishedFindings, StudyFindings


def beside_section(findings: StudyFindings) -> Section:
    """Ratios with their warnings, and published rows."""
    blocks: list[Block] = []
    if findings.ratios:
        text = (
            "Costs divided by each other. Where models, hardware or sampling differ, a ratio says "
            "nothing of the methods alone: what differs stands with it."
        )
        blocks.append(Text(text))
        if fair := [ratio for ratio in findings.ratios if not ratio.warnings]:
            blocks.append(_ratio_table(fair))
        if limping := [ratio for ratio in findings.ratios if ratio.warnings]:
            blocks.append(Columns(tuple(ratio_card(ratio) for ratio in limping)))
    blocks += _published(findings)
    return Section("beside", "Costs beside others", tuple(blocks), short="Beside others")


def ratio_card(ratio: CostRatio) -> Card:
    """A comparison of unlike things: its warnings come first, and every number says so itself."""
    facts = tuple(
        f"{times(value)} the {COST_WORDS.get(name, name)} (not like with like)"
        for name, value in ratio.ratios.items()
    )
    return Card(
        title=f"{ratio.to}, divided by {ratio.of}",
        warnings=ratio.warnings,
        facts=facts or ("No cost is known of both.",),
    )


def _ratio_table(ratios: Sequence[CostRatio]) -> Table:
    """Of like with like, for which no number needs a warning."""
    names = [name for name in COST_WORDS if any(name in ratio.ratios for ratio in ratios)]
    rows = tuple(
        (
            Cell(ratio.to, beneath=f"divided by {ratio.of}"),
            *(
                Cell(f"{_factor(ratio.ratios[name])} x") if name in ratio.ratios else NOTHING
                for name in names
            ),
        )
        for ratio in ratios
    )
    columns = ("costs of", *(COST_WORDS[name] for name in names))
    return Table(columns, rows, title="Matched in model, hardware and sampling")


def times(value: float) -> str:
    """A factor in words, such as `8.76 times`."""
    return f"{_factor(value)} times"


def _factor(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _published(findings: StudyFindings) -> list[Block]:
    if not findings.published:
        return []
    costs = [n for n in COST_WORDS if any(n in row.costs for row in findings.published)]
    scores = list(dict.fromkeys(name for row in findings.published for name in row.scores))
    words = {**COST_WORDS, "money": f"money, {findings.currency}"}
    columns = (
        "row",
        *(words[name] for name in costs),
        *scores,
        "model, hardware, sampling",
        "what differs where it is compared",
    )
    rows = tuple(_row(row, costs, scores, findings) for row in findings.published)
    note = (
        "As printed by their sources, under their protocols: these are no results of this study, "
        "and differences from its rows are not paired. - is not stated."
    )
    return [Table(columns, rows, title="Published rows", note=note)]


def _row(
    row: PublishedFindings, costs: Sequence[str], scores: Sequence[str], findings: StudyFindings
) -> tuple[Cell, ...]:
    how = "; ".join(filter(None, (row.model, row.hardware, row.sampling)))
    return (
        Cell(row.name, beneath=row.source, tags=("published",)),
        *(_cost(row, name) for name in costs),
        *(Cell(f"{row.scores[name]:g}") if name in row.scores else NOTHING for name in scores),
        Cell(how or "-", beneath=row.note),
        Cell("; ".join(_mismatches(row, findings)) or "-"),
    )


def _mismatches(row: PublishedFindings, findings: StudyFindings) -> list[str]:
    """The warnings of all ratios that the row is part of, each once."""
    own = [ratio for ratio in findings.ratios if row.name in (ratio.of, ratio.to)]
    return list(dict.fromkeys(warning for ratio in own for warning in ratio.warnings))


def _cost(row: PublishedFindings, name: str) -> Cell:
    value = row.costs.get(name)
    return Cell(price(value) if name == "money" else number(value))
