"""Pages in one file: no request to anywhere, no script but ours, every text escaped."""

from __future__ import annotations

import base64
import hashlib
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
svg { width: 100%; max-width: 45rem; height: auto; margin: 1rem 0; break-inside: avoid }
body.wide { max-width: 80rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr));
  gap: 0 2rem }
.grid svg { margin: .5rem 0 }
.notice { background: #fff8e6; border-left: .3rem solid #e69f00; padding: .1rem 1rem }
.notice ul { padding-left: 1rem }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 0 1rem }
td.text { white-space: normal; min-width: 16rem; text-align: left }
@media (max-width: 30rem) { body { padding: 0 .5rem } }
details { margin: .5rem 0 } summary { cursor: pointer; font-weight: bold }
"""


def page(
    title: str, sections: Sequence[str], *, wide: bool = False, style: str = "", script: str = ""
) -> str:
    """A whole page of sections that are HTML already, which a browser lets ask for nothing.

    Args:
        title: Plain text.
        sections: In their order.
        wide: Has room for figures in columns.
        style: Further rules.
        script: Of ours, at the end of the page; no other one runs in it.
    """
    body = '<body class="wide">' if wide else "<body>"
    end = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n{body}\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(sections) + f"\n{end}</body>\n</html>\n"
    )


def _policy(script: str) -> str:
    """Content Security Policy, level 2: no fetch of any kind, and the one script by its hash."""
    allowed = ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]
    allowed += ["base-uri 'none'", "form-action 'none'"]
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed.append(f"script-src 'sha256-{digest}'")
    return "; ".join(allowed)


def heading(text: str, *, level: int = 2) -> str:
    """A section's heading, or one of level 3 within it."""
    return f"<h{level}>{escape(text)}</h{level}>"


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


_LONG = 60
"""Characters of a cell above which it is broken into lines."""


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    kind = ' class="text"' if len(text) > _LONG else ""
    return f"<td{kind}>{escape(text)}</td>"
