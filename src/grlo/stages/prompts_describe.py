"""`grlo prompts describe`: what a prompt set consists of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from grlo.errors import DataError
from grlo.progress import progress_bar
from grlo.prompts.composition import CATEGORIES
from grlo.prompts.describing import Description, describe
from grlo.prompts.embeddings import SentenceEncoder
from grlo.prompts.examples import Example, parse_example, read_any
from grlo.prompts.recipe import CompositionSettings
from grlo.prompts.rows import listed
from grlo.reporting.html import page
from grlo.reporting.tables import make_table
from grlo.rundir import write_atomic
from grlo.stages.prompts_page import description_sections


def describe_file(
    file: str, *, out: Path | None = None, embed: str | None = None, seed: int = 0
) -> Description:
    """Prints what a file consists of, and writes `description.json` and `description.html`.

    Args:
        file: Prompts, preference pairs or demonstrations, as a file or `hub:owner/name`.
        out: Folder; None writes nothing.
        embed: Folder or hub id of a sentence encoder for topics; None takes words.
        seed: Of topics and their map.

    Raises:
        DataError: The file cannot be read or has no well-formed row.
    """
    malformed: list[str] = []

    def examples() -> Iterator[Example]:
        for row in read_any(file):
            try:
                yield parse_example(row)
            except (ValueError, RecursionError) as error:
                malformed.append(f"{row.place}: {error}"[:300])

    cache = out / "embeddings" if out is not None else None
    encoder = SentenceEncoder(embed, cache=cache) if embed else None
    with progress_bar(f"reading {Path(file).name}", unit="rows") as progress:
        try:
            found = describe(
                examples(),
                seed=seed,
                encoder=encoder,
                advance=lambda done: progress(done=done, total=done, tokens=0),
            )
        except ValueError as error:
            reason = f":\n{listed(malformed)}" if malformed else ""
            raise DataError(f"{file}: {error}{reason}") from error
    print_description(found, title=Path(file).name)
    if malformed:
        print(f"{len(malformed)} rows are malformed and left out:\n{listed(malformed)}")
    if out is not None:
        table = {"file": file, "malformed": len(malformed), **found.as_json()}
        write_atomic(
            out / "description.json", json.dumps(table, indent=1, ensure_ascii=False) + "\n"
        )
        sections = description_sections(found)
        write_atomic(
            out / "description.html", page(f"Prompts of {Path(file).name}", sections, wide=True)
        )
        print(f"report: {out / 'description.html'}")
    return found


def print_description(found: Description, *, title: str) -> None:
    """The tables for the terminal."""
    from rich.console import Console

    console = Console()
    published = CompositionSettings().shares()

    def share(count: int) -> str:
        return f"{100 * count / found.num_rows:.1f}"

    console.print(
        make_table(
            ["category", "rows", "%", "published mix, %"],
            [
                [
                    name.replace("_", " "),
                    str(found.categories[name]),
                    share(found.categories[name]),
                    f"{100 * published[name]:.0f}",
                ]
                for name in CATEGORIES
            ],
            title=f"{title}: {found.num_rows:,} rows",
        )
    )
    tasks = [
        [task, str(count), share(count), f"{found.confidence_by_task.get(task, 0):.2f}"]
        for task, count in sorted(found.tasks.items(), key=lambda item: -item[1])
        if count
    ]
    console.print(make_table(["task", "rows", "%", "confidence"], tasks))
    flags = [[f"asks for {name}", str(n), share(n)] for name, n in found.flags.items()]
    several = found.num_rows - found.turns.get(1, 0)
    flags.append(["has several turns", str(several), share(several)])
    console.print(make_table(["a prompt", "rows", "%"], flags))
    numbers = ", ".join(f"{name} {number:,}" for name, number in found.words.items())
    languages = ", ".join(f"{name} {n:,}" for name, n in list(found.languages.items())[:8])
    console.print(f"words: {numbers}", highlight=False)
    console.print(f"languages: {languages}", highlight=False)
    console.print(
        f"duplicates: {found.exact_duplicates:,} exact, {found.near_duplicates:,} near, in "
        f"{len(found.near_groups):,} groups",
        highlight=False,
    )
    largest = ", ".join(f"{topic.name} ({topic.rows})" for topic in found.topics[:6])
    console.print(f"largest topics: {largest}", highlight=False)
