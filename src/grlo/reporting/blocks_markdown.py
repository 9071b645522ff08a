"""Blocks as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from grlo.reporting.blocks import (
    Block,
    Card,
    Cell,
    Columns,
    Figures,
    Folded,
    Lines,
    Quote,
    Section,
    Table,
    Text,
)
from grlo.reporting.tables import markdown_table

_ACTIVE = re.compile(
    r"[\\`*~$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # Within a word it is a character.
    r"|\](?=[(\[:])"  # Without it there is no link, no image and no reference.
)
_BEGINNING = re.compile(r"^(?:([-+=]+|\[|#+)|(\d+)([.)]))(?=\s|$|[x ]\])")
"""What makes a heading, a rule, a list or a box to tick of a line."""


def markdown_text(text: str) -> str:
    """Plain text that Markdown leaves as it is: in one line, no markup, no tag, no cell's end."""
    one_line = " ".join(text.split())
    named = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = _ACTIVE.sub(r"\\\g<0>", named).replace("|", "&#124;")
    return _BEGINNING.sub(_not_first, escaped)


def section_markdown(section: Section, *, level: int = 2) -> list[str]:
    """The lines of a section; figures are left out."""
    title = f"{'#' * level} {markdown_text(section.title)}"
    return [title, "", *blocks_markdown(section.blocks, level=level)]


def blocks_markdown(blocks: Sequence[Block], *, level: int = 2) -> list[str]:
    """The lines of blocks, an empty one behind each."""
    return [line for block in blocks for line in _block(block, level)]


def _block(block: Block, level: int) -> Iterator[str]:
    match block:
        case Text():
            yield from (markdown_text(block.text), "")
        case Lines():
            yield from (*(f"- {markdown_text(line)}" for line in block.lines), "")
        case Table():
            yield from _table(block)
        case Figures():
            return
        case Card():
            yield from _card(block)
        case Columns():
            yield from blocks_markdown(block.blocks, level=level)
        case Quote():
            longest = max(map(len, re.findall("`+", block.text)), default=0)
            fence = "`" * max(3, longest + 1)
            yield from (fence, *block.text.splitlines(), fence, "")
        case Folded():
            if any(not isinstance(own, Figures) for own in block.blocks):
                yield from (f"{'#' * (level + 1)} {markdown_text(block.label)}", "")
                yield from blocks_markdown(block.blocks, level=level + 1)


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield from (f"**{markdown_text(table.title)}**", "")
    rows = [_row(row, width=len(table.columns)) for row in table.rows]
    yield from markdown_table([markdown_text(column) for column in table.columns], rows)
    if table.note:
        yield from (markdown_text(table.note), "")


def _row(row: tuple[Cell, ...], *, width: int) -> list[str]:
    if len(row) == 1 < width:
        return [f"**{_cell(row[0])}**", *[""] * (width - 1)]
    return [_cell(cell) for cell in row]


def _cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    words = [f"**{text}**" if cell.tone else text, markdown_text(cell.beneath)]
    words += [f"({markdown_text(tag)})" for tag in cell.tags]
    return " ".join(filter(None, words))


def _card(block: Card) -> Iterator[str]:
    # One item of a list, so that numbers and what weakens them cannot come apart.
    yield f"- **{markdown_text(block.title)}**"
    yield from (f"  - {markdown_text(warning)}" for warning in block.warnings)
    yield from (f"  - {markdown_text(fact)}" for fact in block.facts)
    yield ""


def _not_first(found: re.Match[str]) -> str:
    sign, number, end = found.groups()
    return f"\\{sign}" if sign else f"{number}\\{end}"
