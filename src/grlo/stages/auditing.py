"""The findings of a file of training data against benchmarks, and what they come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grlo.errors import DataError
from grlo.parallel import map_batches
from grlo.progress import progress_bar
from grlo.prompts.audit import (
    COSINES,
    LEVELS,
    AuditedText,
    Auditor,
    Finding,
    audited_text,
    without_common_phrases,
)
from grlo.prompts.examples import parse_example, read_any
from grlo.prompts.overlap import Document
from grlo.prompts.planting import Recall, planted_recall
from grlo.prompts.rows import file_sha256
from grlo.ray_cluster import RayCluster
from grlo.stages.audited import Against

_BATCH = 256
PARALLEL_FROM = 2000
"""Rows of a file from which on a second process pays."""
_NEAREST = 5
"""Problems of each benchmark that are listed as the nearest."""
_HUBS = 10
_CARRIERS = 500
_CHARACTERS = 20_000
_SHOWN_ROWS = 2000
"""Rows with hits whose text is kept for reading."""


@dataclass(frozen=True)
class AuditedRow:
    """A row of the file with what it has in common with the benchmarks."""

    index: int
    text: str
    """Its beginning, for reading; empty behind the first `_SHOWN_ROWS` rows with hits."""
    finding: Finding


@dataclass
class Audit:
    """All that an audit found."""

    file: str
    sha256: str
    num_rows: int
    malformed: list[str]
    against: Against
    method: str
    """`lexical`, or `embedding with MODEL`."""
    rows: list[AuditedRow] = field(default_factory=list)
    """With hits only."""
    nearest: dict[str, list[tuple[float, int, str, str]]] = field(default_factory=dict)
    """By benchmark the highest cosines, with row, item and the row's text."""
    phrases: Mapping[str, int] = field(default_factory=dict)
    background: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    recalls: Mapping[str, Recall] = field(default_factory=dict)

    def verdict_of(self, row: AuditedRow) -> str:
        """`drop` if one of its hits says so."""
        return "drop" if any(hit.verdict == "drop" for hit in row.finding.hits) else "review"

    def num_with(self, verdict: str) -> int:
        """Rows of a verdict."""
        return sum(self.verdict_of(row) == verdict for row in self.rows)


@dataclass(frozen=True)
class AuditBatch:
    """Findings of some texts, each with a number or whatever else stands first."""

    auditor: Auditor

    def __call__(self, items: Sequence[tuple[Any, AuditedText]]) -> list[Finding]:
        return self.auditor.findings([text for _, text in items])


def run_audit(
    file: str,
    auditor: Auditor,
    against: Against,
    *,
    seed: int,
    cluster: RayCluster | None = None,
) -> Audit:
    """The findings of a file, and of problems planted into its texts.

    Args:
        file: Training data.
        auditor: Knows the benchmarks.
        against: Which these are.
        seed: Of the planted problems.
        cluster: Rows are audited by workers of a Ray cluster.

    Raises:
        DataError: The file cannot be read or has no well-formed row.
    """
    result = Audit(file, "", 0, [], against, auditor.level_of_cosines)
    found: list[AuditedRow] = []
    carriers: list[str] = []
    best: dict[str, list[tuple[float, int, str, str]]] = {}

    def texts() -> Iterator[tuple[int, AuditedText]]:
        for row in read_any(file):
            result.num_rows += 1
            try:
                yield row.index, audited_text(parse_example(row))
            except (ValueError, RecursionError) as error:
                result.malformed.append(f"{row.place}: {error}"[:400])

    total = num_rows(file)
    parallel = total >= PARALLEL_FROM and auditor.encoder is None
    with progress_bar(f"audit of {Path(file).name}", unit="rows") as progress:
        for (index, text), finding in map_batches(
            AuditBatch(auditor),
            texts(),
            batch=_BATCH,
            processes=0 if parallel else 1,
            cluster=cluster if auditor.encoder is None else None,
        ):
            shown = "\n\n".join([text.asked, *text.answers])[:_CHARACTERS]
            if finding.hits:
                text_kept = shown if len(found) < _SHOWN_ROWS else ""
                found.append(AuditedRow(index, text_kept, finding))
            elif len(carriers) < _CARRIERS:
                carriers.append(text.asked)
            _note_nearest(best, auditor.documents, index, shown, finding)
            progress(done=index + 1, total=max(total, index + 1), tokens=0)
    if result.num_rows == len(result.malformed):
        reason = result.malformed[0] if result.malformed else "it has no rows"
        raise DataError(f"{file}: there is nothing to audit: {reason}")
    cleaned, result.phrases = without_common_phrases([row.finding for row in found])
    result.rows = [
        AuditedRow(row.index, row.text, finding)
        for row, finding in zip(found, cleaned, strict=True)
        if finding.hits
    ]
    result.nearest = best
    result.background = auditor.background()
    result.recalls = planted_recall(auditor, carriers=carriers, seed=seed)
    result.sha256 = file_sha256(Path(file)) if Path(file).is_file() else ""
    return result


def summarize(result: Audit) -> dict[str, Any]:
    """The result as JSON, without texts of problems."""
    documents = result.against.documents
    rows_of, items_of = Counter[tuple[str, str]](), dict[tuple[str, str], set[str]]()
    by_verdict: dict[tuple[str, str], set[str]] = {}
    rows_by_item = Counter[tuple[str, str]]()
    rows_by_verdict: dict[tuple[str, str], set[int]] = {}
    for row in result.rows:
        keys = {(documents[hit.document].benchmark, hit.level) for hit in row.finding.hits}
        rows_of.update(keys)
        for hit in row.finding.hits:
            document = documents[hit.document]
            items_of.setdefault((document.benchmark, hit.level), set()).add(document.item)
            by_verdict.setdefault((document.benchmark, hit.verdict), set()).add(document.item)
            rows_by_verdict.setdefault((document.benchmark, hit.verdict), set()).add(row.index)
        rows_by_item.update(
            {
                (documents[h.document].benchmark, documents[h.document].item)
                for h in row.finding.hits
            }
        )
    levels = [name for name in LEVELS if name not in COSINES or result.method.startswith(name)]
    benchmarks = []
    for benchmark in result.against.benchmarks:
        dropped = by_verdict.get((benchmark.name, "drop"), set())
        reviewed = by_verdict.get((benchmark.name, "review"), set()) - dropped
        background = result.background.get(benchmark.name, (0.0, 0.0))
        benchmarks.append(
            {
                **asdict(benchmark),
                "levels": {
                    level: {
                        "problems": len(items_of.get((benchmark.name, level), ())),
                        "share": len(items_of.get((benchmark.name, level), ()))
                        / benchmark.num_problems,
                        "rows": rows_of[benchmark.name, level],
                    }
                    for level in levels
                },
                "background_8gram": {"all": background[0], "without_boilerplate": background[1]},
                "problems_drop": len(dropped),
                "problems_review": len(reviewed),
                "rows_drop": len(rows_by_verdict.get((benchmark.name, "drop"), ())),
                "rows_review": len(
                    rows_by_verdict.get((benchmark.name, "review"), set())
                    - rows_by_verdict.get((benchmark.name, "drop"), set())
                ),
                "verdict": _in_words(len(dropped), len(reviewed), benchmark.num_problems),
                "nearest": [
                    {"cosine": round(cosine, 4), "row": row, "item": item}
                    for cosine, row, item, _ in result.nearest.get(benchmark.name, [])
                ],
            }
        )
    return {
        "file": result.file,
        "sha256": result.sha256,
        "rows": result.num_rows,
        "malformed_rows": len(result.malformed),
        "malformed": result.malformed[:100],
        "method": result.method,
        "rows_drop": result.num_with("drop"),
        "rows_review": result.num_with("review"),
        "benchmarks": benchmarks,
        "not_audited": list(result.against.missing),
        "hubs": [
            {"benchmark": benchmark, "item": item, "rows": rows}
            for (benchmark, item), rows in rows_by_item.most_common(_HUBS)
            if rows > 1
        ],
        "common_phrases": dict(result.phrases),
        "planted": {name: asdict(recall) for name, recall in result.recalls.items()},
    }


def _in_words(dropped: int, reviewed: int, total: int) -> str:
    if dropped:
        return f"{dropped} of {total} problems are in the data" + (
            f", {reviewed} more to be read" if reviewed else ""
        )
    return f"{reviewed} of {total} problems to be read" if reviewed else "no overlap found"


def num_rows(file: str) -> int:
    """Rows of a text file. Of a packed one: `PARALLEL_FROM` if it is large, else 0."""
    if not Path(file).is_file():
        return 0
    if not file.endswith(".jsonl"):
        return PARALLEL_FROM if Path(file).stat().st_size > 1 << 20 else 0
    with Path(file).open("rb") as lines:
        return sum(1 for _ in lines)


def _note_nearest(
    best: dict[str, list[tuple[float, int, str, str]]],
    documents: Sequence[Document],
    row: int,
    text: str,
    finding: Finding,
) -> None:
    """Keeps the highest cosines of each benchmark."""
    for document, cosine in finding.nearest:
        known = best.setdefault(documents[document].benchmark, [])
        if len(known) < _NEAREST or cosine > known[-1][0]:
            known.append((cosine, row, documents[document].item, text[:2000]))
            known.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
            del known[_NEAREST:]
