"""What surrounds the findings of a study: data, where to look, failures, protocol, versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from grlo.reporting.blocks import Block, Cell, Columns, Folded, Lines, Quote, Section, Table, Text
from grlo.stages import prompts_card
from grlo.stages.study_words import NOTHING, labels, word
from grlo.studies.findings import StudyFindings

_MANY_LOOKS = 20
"""Lines above which those of each arm are folded."""


def data_section(findings: StudyFindings) -> Section:
    """Which prompts arms were trained on, how they were made, what of benchmarks is in them."""
    blocks = [block for record in findings.data for block in _record(record)]
    return Section("data", "Prompt sets", tuple(blocks), short="Prompts")


def looks_section(findings: StudyFindings) -> Section:
    """Signs that often come before trouble, for each arm."""
    trained = [arm for arm in findings.arms if arm.cost is not None or arm.rewards or arm.looks]
    if not trained:
        return Section("look", "Where to look", ())
    named = labels(findings.arms)
    blocks: list[Block] = [
        Text(
            "What stands out in the metrics of the runs. Each line says where to look; none says "
            "that something is wrong, and none at all proves nothing: read the answers below."
        )
    ]
    lines = [f"{named[arm.name]}, {line}" for arm in trained for line in arm.looks]
    if 0 < len(lines) <= _MANY_LOOKS:
        blocks.append(Lines(tuple(lines), kind="notice"))
    elif lines:
        blocks += [
            Folded(f"{named[arm.name]}: {len(arm.looks)} lines", (Lines(arm.looks),))
            for arm in trained
            if arm.looks
        ]
    quiet = ", ".join(named[arm.name] for arm in trained if not arm.looks)
    blocks += [Text(f"Nothing stands out in: {quiet}.")] if quiet else []
    return Section("look", "Where to look", tuple(blocks), short="Look")


def failures_section(findings: StudyFindings) -> Section:
    """Jobs that failed."""
    blocks = tuple(Quote(failure) for failure in findings.failures)
    return Section("failures", "Failures", blocks)


def protocol_section(findings: StudyFindings) -> Section:
    """How benchmarks were asked, and with which versions."""
    blocks: list[Block] = []
    if findings.benchmarks:
        rows = tuple(
            (
                Cell(facts.name, tags=("private",) if facts.is_private else ()),
                Cell(word(facts.domain)),
                Cell(facts.unit),
                Cell(f"{facts.num_problems:,} x {facts.num_samples:,}"),
                Cell(facts.source or "-"),
                Cell(facts.protocol or "-"),
            )
            for facts in findings.benchmarks
        )
        columns = ("benchmark", "domain", "unit", "problems x answers", "source", "protocol")
        blocks.append(Folded("Benchmarks", (Table(columns, rows),)))
    facts = {
        "command": findings.command,
        "commit": findings.commit,
        "seeds": ", ".join(map(str, findings.seeds)) if findings.arms else "",
        **findings.versions,
    }
    rows = tuple((Cell(name), Cell(value)) for name, value in facts.items() if value)
    if rows:
        blocks.append(Folded("Versions", (Table(("", ""), rows),)))
    return Section("protocol", "Protocol and versions", tuple(blocks), short="Protocol")


# Prompt sets --------------------------------------------------------------------------------------


def _record(record: Mapping[str, Any]) -> list[Block]:
    file = PurePath(str(record.get("file", ""))).name or "rows"
    facts = {
        "rows": f"{record['rows']:,}" if isinstance(record.get("rows"), int) else "",
        "made by": str(record.get("made_by", "")),
        "trains": ", ".join(map(str, record.get("arms", ()))),
        "SHA-256 of the file": str(record.get("sha256", "")),
        "SHA-256 of the manifest": str(record.get("manifest_sha256", "")),
        "still the file of the manifest": "yes" if record.get("matches") else "NO: it was changed",
    }
    rows = tuple((Cell(name), Cell(value)) for name, value in facts.items() if value)
    blocks: list[Block] = [Table(("", ""), rows, title=file)]
    manifest = record.get("manifest")
    if manifest is None:
        return [*blocks, Text("Its manifest is not there any more, or was changed.")]
    try:
        return [*blocks, *_manifest(manifest, file)]
    except (KeyError, TypeError, ValueError, AttributeError):
        # Manifests are files that anybody may have written.
        return [*blocks, Text("Its manifest has another form than those of `grlo prompts build`.")]


def _manifest(manifest: Mapping[str, Any], file: str) -> list[Block]:
    if "audit" in manifest:
        return [Text(_audit_in_words(manifest))]
    blocks: list[Block] = [Lines(tuple(prompts_card.remarks(manifest)))]
    if manifest["overlap"]:
        blocks.append(Text("Overlap: " + prompts_card.overlap_in_words(manifest)))
    card = [
        _table(prompts_card.SOURCES, prompts_card.source_rows(manifest), title="Sources"),
        _table(["step", "dropped", "left"], prompts_card.step_rows(manifest), title="Dropped"),
    ]
    if manifest["selection"]:
        card.append(
            _table(prompts_card.BALANCE, prompts_card.balance_rows(manifest), title="Balance")
        )
    if manifest["overlap"]:
        rows = prompts_card.benchmark_rows(manifest)
        card.append(_table(["benchmark", "problems"], rows, title="Benchmarks that were audited"))
    description = manifest.get("description") or {}
    total = manifest["result"]["rows"] or 1
    for name, key in (("Categories", "categories"), ("Tasks", "tasks"), ("Words", "lengths")):
        counts = description.get(key) or {}
        shares = [
            [word(kind), f"{count:,}", f"{100 * count / total:.1f}"]
            for kind, count in counts.items()
            if count
        ]
        card += [_table(["", "rows", "%"], shares, title=name)] if shares else []
    return [*blocks, Folded(f"Card of {file}", (Columns(tuple(card)),))]


def _audit_in_words(manifest: Mapping[str, Any]) -> str:
    audit = manifest["audit"]
    names = ", ".join(own["name"] for own in audit["benchmarks"])
    return (
        f"Overlap: {manifest['dropped']:,} rows were dropped because of benchmarks ({names}) or "
        f"their form. Nearest neighbours are {audit['method']}."
    )


def _table(columns: list[str], rows: list[list[str]], *, title: str) -> Table:
    cells = tuple(tuple(Cell(text) if text else NOTHING for text in row) for row in rows)
    return Table(tuple(columns), cells, title=title)
