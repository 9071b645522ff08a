"""Sections of pages about prompt sets: composition, lengths, duplicates, topics."""

from __future__ import annotations

from grlo.prompts.composition import CATEGORIES
from grlo.prompts.describing import UNSURE, Description
from grlo.prompts.recipe import CompositionSettings
from grlo.reporting.figures import map_chart, row_chart
from grlo.reporting.html import folded, grid, heading, html_table, paragraph
from grlo.reporting.tables import percent
from grlo.reporting.text import visible

_TOPICS = 40


def description_sections(found: Description) -> list[str]:
    """What a set consists of, as HTML; all texts are escaped."""
    total = found.num_rows
    published = CompositionSettings().shares()
    shares = {
        name.replace("_", " "): [100 * found.categories[name] / total, 100 * published[name]]
        for name in CATEGORIES
    }
    tasks = {name: [100 * count / total] for name, count in found.tasks.items() if count}
    flags = {f"asks for {name}": [100 * count / total] for name, count in found.flags.items()}
    flags["has several turns"] = [100 * (total - found.turns.get(1, 0)) / total]
    lengths = {name: [100 * count / total] for name, count in found.lengths.items()}
    languages = {name: [100 * n / total] for name, n in list(found.languages.items())[:10]}
    kinds = ", ".join(f"{count:,} {name}" for name, count in found.kinds.items())
    return [
        paragraph(f"{kinds}; what follows was computed from them, not copied from a table."),
        heading("Composition"),
        grid(
            [
                row_chart(
                    shares,
                    names=["this set", "arXiv:2605.15464"],
                    title="Categories, in percent, beside the published mix",
                ),
                row_chart(tasks, title="Tasks, in percent"),
                row_chart(flags, title="What prompts ask for, in percent"),
                row_chart(lengths, title="Words of the user's turns, in percent of rows"),
                row_chart(languages, title="Languages, in percent"),
                _turns(found),
            ]
        ),
        paragraph(
            "Tasks come from rules that anybody can read (grlo.prompts.composition). Mean "
            f"confidence {found.confidence['mean']:.2f}; {percent(found.confidence['unsure'])} % "
            f"of the rows are below {UNSURE:g}, where a reader might well say another task."
        ),
        html_table(
            ["task", "rows", "%", "mean confidence"],
            [
                [
                    task,
                    f"{count:,}",
                    percent(count / total),
                    f"{found.confidence_by_task.get(task, 0.0):.2f}",
                ]
                for task, count in found.tasks.items()
                if count
            ],
        ),
        heading("Duplicates"),
        paragraph(
            f"{found.exact_duplicates:,} rows have the words of an earlier one; "
            f"{found.near_duplicates:,} are near duplicates, in {len(found.near_groups):,} groups."
        ),
        *_groups(found),
        heading("Topics"),
        paragraph(
            f"Clusters by {found.topic_method}. On the map each dot is a row; near ones are alike, "
            "and distances between far ones mean nothing."
        ),
        map_chart(_points(found), title="Map of topics, coloured by task"),
        html_table(
            ["topic", "rows", "for example"],
            [
                [visible(topic.name), f"{topic.rows:,}", visible(topic.example[:90])]
                for topic in found.topics[:_TOPICS]
            ],
        ),
    ]


def _turns(found: Description) -> str:
    turns = {
        f"{number} turn{'s' if number > 1 else ''}": [100 * count / found.num_rows]
        for number, count in list(found.turns.items())[:10]
    }
    return row_chart(turns, title="Turns of the user, in percent")


def _points(found: Description) -> dict[str, list[tuple[float, float]]]:
    points: dict[str, list[tuple[float, float]]] = {}
    for x, y, task in found.points:
        points.setdefault(task, []).append((x, y))
    return dict(sorted(points.items(), key=lambda item: -len(item[1])))


def _groups(found: Description) -> list[str]:
    if not found.near_groups:
        return []
    rows = [
        [str(len(group)), ", ".join(map(str, group[:12])) + (" ..." if len(group) > 12 else "")]
        for group in found.near_groups[:20]
    ]
    return [folded("The largest groups", [html_table(["rows", "which (from 0 on)"], rows)])]
