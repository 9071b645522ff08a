"""`grlo prompts audit`: which rows of training data hold which problems of benchmarks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from grlo.benchmarks.spec import DataPlaces
from grlo.errors import DataError, RecipeError
from grlo.parallel import map_batches
from grlo.progress import progress_bar
from grlo.prompts.audit import (
    COSINES,
    FLOOR,
    LEVELS,
    AuditedText,
    Auditor,
    Finding,
    Hit,
    audited_text,
    without_common_phrases,
)
from grlo.prompts.embeddings import DocumentEmbeddings
from grlo.prompts.examples import parse_example, read_any
from grlo.prompts.overlap import Document
from grlo.prompts.planting import Recall, planted_recall
from grlo.prompts.rows import file_sha256
from grlo.reporting.tables import make_table
from grlo.rundir import write_atomic
from grlo.stages.audited import Against, load_against

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


def audit(
    file: str,
    values: Sequence[str],
    places: DataPlaces,
    *,
    out: Path,
    remove: bool = False,
    embed: str | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Audit:
    """Audits a file and writes `audit.json`, `audit.html` and `hits.jsonl`.

    Args:
        file: Prompts, preference pairs or demonstrations, as a file or `hub:owner/name`.
        values: What to look for (`grlo.stages.audited.load_against`).
        places: Where local files of benchmarks are.
        out: Folder for the results.
        remove: Write the file without the rows that are to be dropped, and those apart, to `out`.
        embed: Folder or hub id of a sentence-transformers model; None compares words.
        seed: Draws the problems that are planted as a test of the audit itself.
        say: Told the results, line by line.

    Raises:
        DataError: A file cannot be read, or there is nothing to audit.
        RecipeError: A value is unknown.
    """
    from grlo.stages.prompts_audit_page import audit_page

    if remove and Path(file).resolve().parent == out.resolve():
        raise RecipeError(f"--out {out}: is the folder of {file}; --remove needs another.")
    against = load_against(values, places, say=say)
    out.mkdir(parents=True, exist_ok=True)
    encoder = None
    if embed is not None:
        texts = [document.text for document in against.documents]
        encoder = DocumentEmbeddings(embed, texts, cache=out / "embeddings")
    auditor = Auditor(against.documents, encoder=encoder)
    result = run_audit(file, auditor, against, seed=seed)
    if encoder is not None:
        result.method = f"embedding with {embed}"
    num_hits = _write_hits(result, out / "hits.jsonl")
    summary = summarize(result)
    write_atomic(out / "audit.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_atomic(out / "audit.html", audit_page(result, summary))
    _print_result(result, summary)
    say(f"{num_hits} hits: {out / 'hits.jsonl'}")
    if remove:
        for line in _write_clean(result, out, summary):
            say(line)
    say(f"report: {out / 'audit.html'}")
    return result


@dataclass(frozen=True)
class AuditBatch:
    """Findings of some texts, each with a number or whatever else stands first."""

    auditor: Auditor

    def __call__(self, items: Sequence[tuple[Any, AuditedText]]) -> list[Finding]:
        return self.auditor.findings([text for _, text in items])


def run_audit(file: str, auditor: Auditor, against: Against, *, seed: int) -> Audit:
    """The findings of a file, and of problems planted into its texts.

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
            AuditBatch(auditor), texts(), batch=_BATCH, processes=0 if parallel else 1
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


# What is written ----------------------------------------------------------------------------------


def _write_hits(result: Audit, path: Path) -> int:
    lines = []
    for row in result.rows:
        for hit in row.finding.hits:
            document = result.against.documents[hit.document]
            entry = {
                "row": row.index,
                "benchmark": document.benchmark,
                "item": document.item,
                "level": hit.level,
                "value": hit.value,
                "verdict": hit.verdict,
                "part": document.part,
            }
            if hit.shared and not document.is_private:
                entry["shared"] = hit.shared[:500]
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    write_atomic(path, "".join(lines))
    return len(lines)


def _write_clean(result: Audit, out: Path, summary: Mapping[str, Any]) -> Iterator[str]:
    """Writes the rows that stay, those that do not with their hits, and where both come from."""
    reasons = {
        row.index: _reason(row.finding.hits, result.against.documents)
        for row in result.rows
        if result.verdict_of(row) == "drop"
    }
    name = Path(result.file).name.removesuffix(".gz").removesuffix(".parquet")
    kept_file = out / (name if name.endswith(".jsonl") else f"{name.split(':')[-1]}.jsonl")
    num_kept = num_dropped = 0
    with ExitStack() as stack:
        kept, dropped = (
            stack.enter_context(_text_file(path)) for path in (kept_file, out / "dropped.jsonl")
        )
        for row in read_any(result.file):
            reason = reasons.get(row.index, "")
            if not reason:
                try:
                    parse_example(row)
                except (ValueError, RecursionError) as error:
                    reason = f"malformed: {error}"
            if reason:
                entry = {"row": row.index, "source": row.place, "reason": reason, "raw": row.raw}
                dropped.write(json.dumps(entry) + "\n")
                num_dropped += 1
            else:
                kept.write(row.raw + "\n")
                num_kept += 1
    manifest = {
        "made_by": "grlo prompts audit --remove",
        "sources": [{"file": result.file, "sha256": result.sha256, "rows": result.num_rows}],
        "audit": {
            "method": summary["method"],
            "benchmarks": [
                {key: own[key] for key in ("name", "sha256", "num_problems")}
                for own in summary["benchmarks"]
            ],
        },
        "dropped": num_dropped,
        "result": {"file": kept_file.name, "sha256": file_sha256(kept_file), "rows": num_kept},
    }
    write_atomic(out / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    yield f"{num_kept} rows stay: {kept_file}"
    yield f"{num_dropped} rows dropped, with their reasons: {out / 'dropped.jsonl'}"


def _text_file(path: Path) -> TextIO:
    # Rows that stay are UTF-8 as they were; no newline of theirs is translated.
    return path.open("w", encoding="utf-8", newline="\n")


def _reason(hits: Sequence[Hit], documents: Sequence[Document]) -> str:
    sure = [hit for hit in hits if hit.verdict == "drop"]
    first = min(sure, key=lambda hit: LEVELS.index(hit.level))
    document = documents[first.document]
    return f"overlap: {document.benchmark} {document.item}, {first.level} {first.value:g}"


# What is printed ----------------------------------------------------------------------------------


def _print_result(result: Audit, summary: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    rows = [
        [
            own["name"],
            f"{own['num_problems']:,}",
            str(own["problems_drop"] or "-"),
            str(own["problems_review"] or "-"),
            f"{own['nearest'][0]['cosine']:.2f}" if own["nearest"] else f"< {FLOOR}",
            next((name for name, level in own["levels"].items() if level["problems"]), "-"),
        ]
        for own in summary["benchmarks"]
    ]
    columns = ["benchmark", "problems", "drop", "review", "max cosine", "surest level"]
    console.print(make_table(columns, rows, title=f"Problems that have a hit in {result.file}"))
    recalls = [
        [name, *(f"{100 * n / own.num_planted:.0f}" for n in (own.found, own.dropped))]
        for name, own in result.recalls.items()
    ]
    columns = ["planted", "found, %", "to drop, %"]
    console.print(make_table(columns, recalls, title="What this audit would have found"))
    console.print(
        f"{result.num_rows:,} rows: {result.num_with('drop'):,} to drop, "
        f"{result.num_with('review'):,} to review, {len(result.malformed):,} malformed",
        highlight=False,
    )
    if result.method == "lexical":
        console.print(
            "Nearest neighbours are lexical, by shared words: paraphrases in other words are "
            "missed. --embed MODEL compares meanings.",
            highlight=False,
        )
