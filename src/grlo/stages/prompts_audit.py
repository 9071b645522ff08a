"""`grlo prompts audit`: which rows of training data hold which problems of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from grlo.benchmarks.spec import DataPlaces
from grlo.errors import RecipeError
from grlo.prompts.audit import FLOOR, LEVELS, Auditor, Hit
from grlo.prompts.embeddings import DocumentEmbeddings
from grlo.prompts.examples import parse_example, read_any
from grlo.prompts.overlap import Document
from grlo.prompts.rows import file_sha256
from grlo.ray_cluster import RayCluster
from grlo.reporting.tables import make_table
from grlo.rundir import write_atomic
from grlo.stages.audited import load_against
from grlo.stages.auditing import Audit, run_audit, summarize
from grlo.stages.prompts_audit_page import audit_page


def audit(
    file: str,
    values: Sequence[str],
    places: DataPlaces,
    *,
    out: Path,
    remove: bool = False,
    embed: str | None = None,
    seed: int = 0,
    cluster: RayCluster | None = None,
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
        cluster: Rows are audited by workers of a Ray cluster; not with `embed`, which has an
            encoder here.
        say: Told the results, line by line.

    Raises:
        DataError: A file cannot be read, or there is nothing to audit.
        RecipeError: A value is unknown.
    """
    if remove and Path(file).resolve().parent == out.resolve():
        raise RecipeError(f"--out {out}: is the folder of {file}; --remove needs another.")
    against = load_against(values, places, say=say)
    out.mkdir(parents=True, exist_ok=True)
    encoder = None
    if embed is not None:
        texts = [document.text for document in against.documents]
        encoder = DocumentEmbeddings(embed, texts, cache=out / "embeddings")
    auditor = Auditor(against.documents, encoder=encoder)
    result = run_audit(file, auditor, against, seed=seed, cluster=cluster)
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
