"""Pages in one file: no script, no request to anywhere, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
h1, p, li { overflow-wrap: anywhere }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
td { font-variant-numeric: tabular-nums; white-space: nowrap; font-size: .9em }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f4f4f4; padding: .5rem .75rem;
  margin: .25rem 0 1rem }
svg { width: 100%; height: auto; margin: 1rem 0 }
body.wide { max-width: 80rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr));
  gap: 0 2rem }
.grid svg { margin: .5rem 0; font-size: 14px }
.notice { background: #fff8e6; border-left: .3rem solid #e69f00; padding: .1rem 1rem }
.notice ul { padding-left: 1rem }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 0 1rem }
details { margin: .5rem 0 } summary { cursor: pointer; font-weight: bold }
"""


def page(title: str, sections: Sequence[str], *, wide: bool = False) -> str:
    """A whole page of sections that are HTML already; `wide` has room for figures in columns."""
    body = '<body class="wide">' if wide else "<body>"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n{body}\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def notice(lines: Sequence[str]) -> str:
    """Lines of plain text in a box that stands out."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="notice"><ul>{items}</ul></div>'


def grid(figures: Sequence[str]) -> str:
    """Figures in as many columns as there is room for."""
    cells = "".join(f"<div>{figure}</div>" for figure in figures)
    return f'<div class="grid">{cells}</div>'


def quoted(label: str, text: str) -> str:
    """What somebody said, as it was said, under a label."""
    return f"<div><strong>{escape(label)}</strong><pre>{escape(text)}</pre></div>"


def columns(parts: Sequence[str]) -> str:
    """Parts side by side where there is room, else below one another."""
    return f'<div class="columns">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def folded(label: str, parts: Sequence[str]) -> str:
    """Parts that a click on the label shows."""
    return f"<details><summary>{escape(label)}</summary>{''.join(parts)}</details>"


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
