"""Numbers and tables as people read them."""

from __future__ import annotations

import math

import pytest

from grlo.reporting.tables import duration, make_table, percent


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(41.6, "42 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_percentages_have_one_decimal_and_a_margin_where_there_is_one() -> None:
    assert percent(0.2644) == "26.4"
    assert percent(0.2644, interval=(0.231, 0.3)) == "26.4 [23.1, 30.0]"
    assert percent(1.0, interval=(-math.inf, math.inf)) == "100.0 [-inf, inf]"
    assert percent(None) == "-"


def test_brackets_in_a_table_are_text_and_not_markup() -> None:
    from rich.console import Console

    console = Console(width=60, record=True)
    console.print(make_table(["[bold]name", "x"], [["[red]a[/red]", "1"]]))
    shown = console.export_text()
    assert "[bold]name" in shown
    assert "[red]a[/red]" in shown
