"""What a report consists of before it is HTML or Markdown, so that both say the same.

Texts are plain and may be hostile: the renderers escape them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Interval:
    """A number with its interval, drawn on a scale with a line at zero."""

    value: float
    low: float
    """May be infinite, like `high`: only the number is drawn then."""
    high: float
    scale: tuple[float, float]
    """Ends of what is drawn; holds zero."""


@dataclass(frozen=True)
class Stack:
    """Parts of a sum side by side: those above zero to the right of it, the others to the left."""

    parts: tuple[float, ...]
    colors: tuple[str, ...]
    """One per part, as `#rrggbb`."""
    scale: tuple[float, float]
    """Ends of what is drawn; holds zero."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    beneath: str = ""
    """What belongs to the text, such as an interval."""
    tags: tuple[str, ...] = ()
    """Words that are set apart; those of `grlo.studies.settings.Role` have colours of their own."""
    tone: Literal["", "up", "down"] = ""
    """Whether the text is a change for the better or the worse that is more than chance."""
    strip: Interval | Stack | None = None
    """Only pages draw it."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Lines:
    """Sentences, one below the other."""

    lines: tuple[str, ...]
    kind: Literal["plain", "notice", "answer"] = "plain"


@dataclass(frozen=True)
class Table:
    """A table whose first column says what a row is about."""

    columns: tuple[str, ...]
    """All empty: the table has no head."""
    rows: tuple[tuple[Cell, ...], ...]
    """Each with a cell for every column; one with a single cell is the heading of those below."""
    title: str = ""
    note: str = ""
    """Below it."""
    legend: Mapping[str, str] = field(default_factory=dict)
    """What the parts of a `Stack` are -> colour."""
    axis: tuple[float, float] | None = None
    """Scale of the strips in the second column, shown above them."""


@dataclass(frozen=True)
class Figures:
    """Charts of ours as SVG; only pages have them."""

    charts: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Card:
    """Facts that must not be read without what weakens them."""

    title: str
    warnings: tuple[str, ...]
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """Blocks side by side where there is room."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Quote:
    """A text as it was found, line by line."""

    text: str


@dataclass(frozen=True)
class Folded:
    """Blocks that a click on the label shows."""

    label: str
    blocks: tuple[Block, ...]


Block: TypeAlias = Text | Lines | Table | Figures | Card | Columns | Quote | Folded


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; a section without any is left out."""

    key: str
    """Letters and hyphens, to point at it."""
    title: str
    blocks: tuple[Block, ...]
    short: str = ""
    """Of the title, where there is little room."""
