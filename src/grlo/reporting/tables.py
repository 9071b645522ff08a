"""Tables for the terminal; numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def make_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None
) -> Table:
    """A table whose first column is text and whose others are numbers, aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        # Text, because strings may hold brackets that would be read as markup.
        table.add_row(*(Text(cell) for cell in row))
    return table


def percent(share: float | None, *, interval: tuple[float, float] | None = None) -> str:
    """A share in percent with one decimal, such as `26.4` or `26.4 [23.1, 30.0]`; `-` for none.

    Args:
        share: Between 0 and 1.
        interval: Its lower and upper end, in the same unit; infinite ends read as `inf`.
    """
    if share is None:
        return "-"
    text = f"{100 * share:.1f}"
    if interval is None:
        return text
    low, high = interval
    return f"{text} [{100 * low:.1f}, {100 * high:.1f}]"


def duration(seconds: float) -> str:
    """Seconds as people say them, such as `42 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose first column is text, with an empty line behind them."""

    def line(cells: Sequence[str]) -> str:
        safe = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
        return "| " + " | ".join(safe) + " |"

    rule = "|" + "|".join(["---", *["---:"] * (len(columns) - 1)]) + "|"
    return [line(columns), rule, *(line(row) for row in rows), ""]
