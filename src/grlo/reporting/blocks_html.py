"""Blocks as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

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
from grlo.reporting.html import columns, folded, grid, heading, notice, paragraph
from grlo.reporting.strips import axis_html, strip_svg

_PROSE = 24
"""Characters from which on a cell is read as text, not as a number."""
_PROSE_CLASS = ' class="prose"'
_TAGS = ("base", "treatment", "control", "baseline", "reference", "trained")


def section_html(section: Section) -> str:
    """A section with its heading, at which links of the page may point."""
    body = blocks_html(section.blocks)
    return f'<section id="{escape(section.key)}">{heading(section.title)}{body}</section>'


def contents_html(sections: Iterable[tuple[str, str]]) -> str:
    """Links to sections of the page.

    Args:
        sections: Key and title of each.
    """
    links = "".join(f'<a href="#{escape(key)}">{escape(title)}</a>' for key, title in sections)
    return f'<nav aria-label="Contents">{links}</nav>'


def blocks_html(blocks: Sequence[Block]) -> str:
    """Blocks one below the other."""
    return "\n".join(map(_block, blocks))


def _block(block: Block) -> str:
    match block:
        case Text():
            return paragraph(block.text)
        case Lines():
            return _lines(block)
        case Table():
            return _table(block)
        case Figures():
            return grid(block.charts) + _note(block.note)
        case Card():
            return _card(block)
        case Columns():
            return columns([_block(own) for own in block.blocks])
        case Quote():
            return f"<pre>{escape(block.text)}</pre>"
        case Folded():
            return folded(block.label, [blocks_html(block.blocks)])


def _lines(block: Lines) -> str:
    if block.kind == "notice":
        return notice(block.lines)
    items = "".join(f"<li>{escape(line)}</li>" for line in block.lines)
    kind = ' class="answer"' if block.kind == "answer" else ""
    return f"<ul{kind}>{items}</ul>"


def _card(block: Card) -> str:
    # The warnings come first, so that no number is reached without them.
    warnings = notice(block.warnings) if block.warnings else ""
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in block.facts)
    return f'<div class="card">{heading(block.title, level=3)}{warnings}<ul>{facts}</ul></div>'


def _table(table: Table) -> str:
    # Texts are read from the left, numbers compared at the right: each column is one of the two.
    prose = {
        index
        for row in table.rows
        for index, cell in enumerate(row)
        if index and len(cell.text) > _PROSE
    }
    head = "".join(_column(table, index, index in prose) for index in range(len(table.columns)))
    if not any(table.columns):
        head = ""
    body = "".join(_row(row, prose, width=len(table.columns)) for row in table.rows)
    legend = "".join(
        f'<span><i style="background:{escape(color)}"></i>{escape(name)}</span>'
        for name, color in table.legend.items()
    )
    label = escape(table.title or table.columns[0] or "table")
    is_drawn = any(cell.strip is not None for row in table.rows for cell in row)
    return (
        '<div class="table">'
        + (f'<p class="caption">{escape(table.title)}</p>' if table.title else "")
        + (f'<p class="legend">{legend}</p>' if legend else "")
        + f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        + ('<table class="full">' if is_drawn else "<table>")
        + (f"<thead><tr>{head}</tr></thead>" if head else "")
        + f"<tbody>{body}</tbody></table></div>{_note(table.note)}</div>"
    )


def _column(table: Table, index: int, is_prose: bool) -> str:
    name = escape(table.columns[index])
    if table.axis and index == 1:
        return f'<th scope="col" class="axis">{name}{axis_html(table.axis)}</th>'
    return f'<th scope="col"{_PROSE_CLASS if is_prose else ""}>{name}</th>'


def _row(row: tuple[Cell, ...], prose: set[int], *, width: int) -> str:
    if len(row) == 1 < width:
        return f'<tr class="group"><th scope="rowgroup" colspan="{width}">{_said(row[0])}</th></tr>'
    cells = (_cell(cell, index in prose) for index, cell in enumerate(row) if index)
    return f'<tr><th scope="row">{_said(row[0])}</th>{"".join(cells)}</tr>'


def _cell(cell: Cell, is_prose: bool) -> str:
    if cell.strip is not None:
        said = f'<span class="said">{_said(cell)}</span>'
        return f'<td class="drawn"><div>{said}{strip_svg(cell.strip)}</div></td>'
    return f"<td{_PROSE_CLASS if is_prose else ''}>{_said(cell)}</td>"


def _said(cell: Cell) -> str:
    tone = f' class="{cell.tone}"' if cell.tone else ""
    beneath = f' <small class="beneath">{escape(cell.beneath)}</small>' if cell.beneath else ""
    return f"<span{tone}>{escape(cell.text)}</span>{beneath}" + "".join(map(_tag, cell.tags))


def _tag(text: str) -> str:
    kind = f" {text}" if text in _TAGS else ""
    return f' <span class="tag{kind}">{escape(text)}</span>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""
