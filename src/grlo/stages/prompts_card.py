"""The data card of a built prompt set, as a page and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grlo.prompts.describing import Description
from grlo.reporting.figures import row_chart
from grlo.reporting.html import folded, grid, heading, html_table, notice, page, paragraph, quoted
from grlo.reporting.tables import markdown_table, percent
from grlo.reporting.text import visible
from grlo.stages.prompts_page import description_sections


def card_html(manifest: Mapping[str, Any], found: Description) -> str:
    """The card as a page: where the rows come from, what was dropped, what is left."""
    steps = [own for own in manifest["steps"] if own["dropped"]]
    dropped = {own["step"].replace("_", " "): [own["dropped"]] for own in steps}
    sections = [
        paragraph(
            f"{manifest['result']['rows']:,} rows, SHA-256 {manifest['result']['sha256']}. Made by "
            f"{manifest['made_by']} {manifest['version']} with seed {manifest['recipe']['seed']}."
        ),
        notice(list(remarks(manifest))),
        heading("Sources"),
        html_table(SOURCES, source_rows(manifest)),
        heading("What was dropped"),
        html_table(["step", "dropped", "left"], step_rows(manifest)),
        grid([row_chart(dropped, title="Rows dropped by step")]),
        paragraph("Every dropped row is in dropped.jsonl with its reason. For example:"),
        *(
            folded(
                f"{own['step'].replace('_', ' ')}: {own['dropped']:,}",
                [
                    quoted(
                        f"{example['source']} row {example['row']}: {visible(example['reason'])}",
                        visible(example["text"]),
                    )
                    for example in own["examples"]
                ],
            )
            for own in steps
        ),
    ]
    if manifest["selection"]:
        sections += [
            heading("Balance"),
            html_table(BALANCE, balance_rows(manifest)),
        ]
    if manifest["overlap"]:
        sections += [
            heading("Overlap with benchmarks"),
            paragraph(overlap_in_words(manifest)),
            html_table(["benchmark", "problems"], benchmark_rows(manifest)),
        ]
    sections += description_sections(found)
    return page("Data card", sections, wide=True)


def card_markdown(manifest: Mapping[str, Any], found: Description) -> str:
    """The same without figures."""
    lines = [
        "# Data card",
        "",
        f"{manifest['result']['rows']:,} rows, SHA-256 `{manifest['result']['sha256']}`. Made by "
        f"`{manifest['made_by']}` {manifest['version']} with seed {manifest['recipe']['seed']}.",
        "",
        *(f"- {remark}" for remark in remarks(manifest)),
        "",
        "## Sources",
        "",
        *markdown_table(SOURCES, source_rows(manifest)),
        "## What was dropped",
        "",
        *markdown_table(["step", "dropped", "left"], step_rows(manifest)),
    ]
    if manifest["selection"]:
        lines += ["## Balance", "", *markdown_table(BALANCE, balance_rows(manifest))]
    if manifest["overlap"]:
        lines += ["## Overlap with benchmarks", "", overlap_in_words(manifest), ""]
    total = found.num_rows
    for title, counts in (
        ("Categories", found.categories),
        ("Tasks", found.tasks),
        ("Prompts that ask for", found.flags),
        ("Words", found.lengths),
        ("Languages", found.languages),
    ):
        rows = [
            [name.replace("_", " "), f"{count:,}", percent(count / total)]
            for name, count in counts.items()
        ]
        lines += [f"## {title}", "", *markdown_table(["", "rows", "%"], rows)]
    lines += [
        "## Topics",
        "",
        *markdown_table(
            ["topic", "rows"], [[topic.name, f"{topic.rows:,}"] for topic in found.topics[:20]]
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


SOURCES = ["source", "rows", "kept", "weight", "SHA-256"]
"""Columns of `source_rows`."""
BALANCE = ["category", "wanted", "available", "taken"]
"""Columns of `balance_rows`."""


def remarks(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the card has to know, in sentences."""
    yield f"{manifest['cleaned']:,} rows had characters removed or blanks tidied by cleaning."
    yield (
        "Safety filters are patterns, a net with wide meshes: this is no moderated data set."
        if manifest["recipe"]["filters"]["safety"]
        else "No safety filter was used."
    )
    if "words" in manifest["topics"]["method"]:
        yield (
            "Topics and semantic duplicates are by shared words; with `embed` they are by meaning."
        )
    if not manifest["overlap"]:
        yield "No overlap with benchmarks was looked for (section `overlap` of the recipe)."
    for category, own in manifest["selection"].items():
        if own["available"] < own["wanted"]:
            yield (
                f"{category.replace('_', ' ')}: {own['available']:,} rows where {own['wanted']:,} "
                "were wanted; the other categories fill up."
            )


def source_rows(manifest: Mapping[str, Any]) -> list[list[str]]:
    """Where the rows come from."""
    return [
        [
            own["name"],
            f"{own['rows']:,}",
            f"{own['kept']:,}",
            f"{own['weight']:g}",
            (own["sha256"] or own["rows_sha256"])[:16],
        ]
        for own in manifest["sources"]
    ]


def step_rows(manifest: Mapping[str, Any]) -> list[list[str]]:
    """What each step dropped, and what was left."""
    total = sum(own["rows"] for own in manifest["sources"])
    return [
        ["read", "", f"{total:,}"],
        *(
            [own["step"].replace("_", " "), f"{own['dropped']:,}", f"{own['left']:,}"]
            for own in manifest["steps"]
        ),
    ]


def balance_rows(manifest: Mapping[str, Any]) -> list[list[str]]:
    """Rows of each category that were wanted, available and taken."""
    return [
        [name.replace("_", " "), *(f"{own[key]:,}" for key in ("wanted", "available", "taken"))]
        for name, own in manifest["selection"].items()
    ]


def benchmark_rows(manifest: Mapping[str, Any]) -> list[list[str]]:
    """Benchmarks that the set was audited against, and how many problems they have."""
    return [[own["name"], f"{own['num_problems']:,}"] for own in manifest["overlap"]["benchmarks"]]


def overlap_in_words(manifest: Mapping[str, Any]) -> str:
    """What the audit found; `manifest` must have one."""
    own = manifest["overlap"]
    missing = f" Not audited: {'; '.join(own['not_audited'])}." if own["not_audited"] else ""
    return (
        f"{own['dropped']:,} rows held a problem of one of {len(own['benchmarks'])} benchmarks and "
        f"were dropped; {own['to_review']:,} have weaker hits, which `grlo prompts audit` lists. "
        f"Nearest neighbours are {own['method']}.{missing}"
    )
