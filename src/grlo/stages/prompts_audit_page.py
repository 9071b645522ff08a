"""The page of an audit: verdicts, what could have been found, and hits side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grlo.prompts.audit import COMMON_ROWS, LEVELS
from grlo.reporting.figures import row_chart
from grlo.reporting.html import (
    columns,
    folded,
    grid,
    heading,
    html_table,
    notice,
    page,
    paragraph,
    quoted,
)
from grlo.reporting.tables import percent
from grlo.reporting.text import visible
from grlo.stages.auditing import Audit, AuditedRow

_SHOWN = 100
_CHARACTERS = 2500
_MEANING: Mapping[str, tuple[str, str, str]] = {
    "exact": ("same words as the problem", "drop", "shorter than 4 words: review"),
    "contained": ("holds the whole problem", "drop", "4 to 7 words: review"),
    "ngram13": (
        "a run of 13 words or more that is not boilerplate",
        "a quarter of the problem is shared: drop",
        "else review",
    ),
    "ngram8": ("a run of 8 words or more, as before", "-", "review"),
    "coverage": (
        "half of the problem, rare words weighing more, lies in shared runs of 5 words",
        "drop",
        "-",
    ),
    "near_duplicate": ("Jaccard similarity of 3-grams", "0.5: drop", "0.3: review"),
    "numbers": (
        "cosine of the numbers of both, rare ones weighing more, where words are near too",
        "0.9: drop",
        "0.7: review",
    ),
    "embedding": ("cosine of sentence embeddings", "0.7 (chat 0.8): drop", "0.6 (0.7): review"),
    "lexical": ("cosine of TF-IDF vectors in windows of the row", "0.7: drop", "0.5: review"),
}


def audit_page(result: Audit, summary: Mapping[str, Any]) -> str:
    """The page as HTML; texts of private benchmarks are not shown, all others are escaped."""
    sections = [
        paragraph(
            f"{result.num_rows:,} rows of {result.file} against "
            f"{sum(own['num_problems'] for own in summary['benchmarks']):,} problems of "
            f"{len(summary['benchmarks'])} benchmarks: {summary['rows_drop']:,} rows to drop, "
            f"{summary['rows_review']:,} to review."
        ),
        notice(list(_remarks(result))),
        heading("Verdicts"),
        _verdicts(summary),
        heading("What this audit could have found"),
        paragraph(
            "Problems drawn over all benchmarks were disguised and audited as if they were rows: "
            "what is not found here is not found in the data either."
        ),
        grid([_recall_chart(summary)]),
        _recalls(summary),
        heading("Levels and thresholds"),
        html_table(
            ["level", "a row", "sure", "unsure"],
            [[name.replace("_", " "), *_MEANING[name]] for name in _levels(summary)],
        ),
        heading("Background"),
        paragraph(
            "Share of each benchmark's own problems that share an 8-gram with another of them. "
            "What three or more problems of any benchmarks share is boilerplate, and a run of "
            "words counts as a hit only if it holds more."
        ),
        _background(summary),
        heading("Hits to read"),
        *_hits(result),
        heading("Nearest of each benchmark"),
        paragraph("The highest cosines, hits or not: how near the data comes."),
        *_nearest(result),
    ]
    if summary["hubs"]:
        rows = [[own["benchmark"], own["item"], str(own["rows"])] for own in summary["hubs"]]
        sections += [
            heading("Problems that many rows hit"),
            html_table(["benchmark", "item", "rows"], rows),
        ]
    if result.phrases:
        shown = [[visible(text), str(rows)] for text, rows in list(result.phrases.items())[:50]]
        sections += [
            heading("Phrases left out"),
            paragraph(
                f"Runs of words that at least {COMMON_ROWS} rows share with problems, and nothing "
                "else: phrases of the rows, not problems."
            ),
            folded(f"{len(result.phrases)} phrases", [html_table(["phrase", "rows"], shown)]),
        ]
    return page("Overlap audit", sections, wide=True)


def _levels(summary: Mapping[str, Any]) -> list[str]:
    return list(summary["benchmarks"][0]["levels"])


def _remarks(result: Audit) -> Iterator[str]:
    yield from result.against.missing
    if result.method == "lexical":
        yield (
            "Nearest neighbours are lexical: shared words, whatever their order. A paraphrase in "
            "other words is missed. With --embed MODEL meanings are compared."
        )
    else:
        yield f"Nearest neighbours: {result.method}."
    if result.malformed:
        yield (
            f"{len(result.malformed):,} rows are malformed and were not audited, such as "
            f"{visible(result.malformed[0])}"
        )
    yield "A verdict is a threshold, not a judgement: read the hits."


def _verdicts(summary: Mapping[str, Any]) -> str:
    levels = _levels(summary)
    rows = [
        [
            own["name"],
            f"{own['num_problems']:,}",
            *(
                f"{own['levels'][level]['problems']} ({percent(own['levels'][level]['share'])})"
                if own["levels"][level]["problems"]
                else "-"
                for level in levels
            ),
            str(own["rows_drop"] or "-"),
            str(own["rows_review"] or "-"),
        ]
        for own in summary["benchmarks"]
    ]
    names = [name.replace("_", " ") for name in levels]
    return html_table(["problems with a hit (%)", "all", *names, "rows to drop", "to review"], rows)


def _recall_chart(summary: Mapping[str, Any]) -> str:
    shares = {
        name: [100 * own["found"] / own["num_planted"], 100 * own["dropped"] / own["num_planted"]]
        for name, own in summary["planted"].items()
    }
    return row_chart(shares, names=["found", "to drop"], title="Planted problems found, in percent")


def _recalls(summary: Mapping[str, Any]) -> str:
    levels = _levels(summary)
    rows = [
        [
            name,
            str(own["num_planted"]),
            percent(own["found"] / own["num_planted"]),
            percent(own["dropped"] / own["num_planted"]),
            *(percent(own["by_level"].get(level, 0) / own["num_planted"]) for level in levels),
        ]
        for name, own in summary["planted"].items()
    ]
    names = [name.replace("_", " ") for name in levels]
    return html_table(["disguise", "planted", "found, %", "to drop, %", *names], rows)


def _background(summary: Mapping[str, Any]) -> str:
    rows = [
        [
            own["name"],
            percent(own["background_8gram"]["all"]),
            percent(own["background_8gram"]["without_boilerplate"]),
        ]
        for own in summary["benchmarks"]
    ]
    return html_table(["benchmark", "any 8-gram, %", "without boilerplate, %"], rows)


def _hits(result: Audit) -> Iterator[str]:
    if not result.rows:
        yield paragraph("None.")
        return
    ranked = sorted(result.rows, key=lambda row: _rank(result, row))
    if len(ranked) > _SHOWN:
        yield paragraph(f"The surest {_SHOWN} of {len(ranked):,} rows; all are in hits.jsonl.")
    for row in ranked[:_SHOWN]:
        yield _hit(result, row)


def _rank(result: Audit, row: AuditedRow) -> tuple[bool, int, float, int]:
    best = min(row.finding.hits, key=lambda hit: (LEVELS.index(hit.level), -hit.value))
    drops = result.verdict_of(row) == "drop"
    return (not drops, LEVELS.index(best.level), -best.value, row.index)


def _hit(result: Audit, row: AuditedRow) -> str:
    """One row beside the problem that it is surest to hold; others are named."""
    documents = result.against.documents
    by_document: dict[int, list[str]] = {}
    for hit in row.finding.hits:
        text = f"{hit.level.replace('_', ' ')} {hit.value:g}"
        by_document.setdefault(hit.document, []).append(text)
    first = row.finding.hits[0].document
    best = max(by_document, key=lambda index: (len(by_document[index]), index == first))
    document = documents[best]
    text = "(private: not shown)" if document.is_private else document.text
    label = f"{document.benchmark} {document.item}, {document.part}"
    parts = [
        columns([quoted(f"row {row.index}", _cut(row.text)), quoted(label, _cut(text))]),
        paragraph(f"{label}: {', '.join(by_document[best])}"),
    ]
    shared = [hit.shared for hit in row.finding.hits if hit.document == best and hit.shared]
    if shared and not document.is_private:
        parts.append(quoted("longest shared run", _cut(shared[0])))
    others = [f"{documents[i].benchmark} {documents[i].item}" for i in by_document if i != best]
    if others:
        parts.append(paragraph(f"also: {', '.join(others[:10])}" + (" ..." * (len(others) > 10))))
    title = f"{result.verdict_of(row)}: row {row.index} and {label}"
    return folded(title, parts)


def _nearest(result: Audit) -> Iterator[str]:
    texts = {
        (document.benchmark, document.item): document
        for document in reversed(result.against.documents)
        if document.part == "question"
    }
    for benchmark in result.against.benchmarks:
        parts = []
        for cosine, row, item, text in result.nearest.get(benchmark.name, []):
            document = texts.get((benchmark.name, item))
            hidden = document is None or document.is_private
            shown = "(private: not shown)" if hidden or document is None else _cut(document.text)
            parts.append(
                columns([quoted(f"{cosine:.2f}: row {row}", _cut(text)), quoted(item, shown)])
            )
        if parts:
            highest = result.nearest[benchmark.name][0][0]
            yield folded(f"{benchmark.name}: at most {highest:.2f}", parts)


def _cut(text: str) -> str:
    text = visible(text.strip())
    more = len(text) - _CHARACTERS
    return text if more <= 0 else f"{text[:_CHARACTERS]} ... {more:,} more characters"
