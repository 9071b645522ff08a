"""Charts and pages: where points land, and that no text becomes markup."""

from __future__ import annotations

import itertools
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from grlo.reporting.figures import bar_chart, line_chart, ticks
from grlo.reporting.html import heading, html_table, page, paragraph, quoted
from grlo.reporting.tables import duration, make_table, percent

EVIL = "</pre><script>alert('x')</script> & \"<b>"


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 100), (-3.2, 4.9), (0.041, 0.043), (5, 5), (1e6, 3e6)]
)
def test_ticks_are_few_evenly_spaced_and_hold_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert found[0] <= low
    assert found[-1] >= high
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1


def _pair(text: str) -> list[str]:
    return text.split(",")


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    lines = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}polyline")
    return [
        [
            (float(x), float(y))
            for x, y in (pair.split(",") for pair in line.attrib["points"].split())
        ]
        for line in lines
    ]


def test_a_line_rises_where_its_values_do_and_skips_what_is_not_finite() -> None:
    svg = line_chart(
        {"a": [(1, 0.0), (2, 5.0), (3, float("nan")), (4, 2.5)], "b": []}, title="t", x_label="step"
    )
    first, second = points_of(svg)
    assert second == []
    (x1, y1), (x2, y2), (x4, y4) = first
    assert x1 < x2 < x4
    assert x2 - x1 == pytest.approx((x4 - x1) / 3, abs=0.1)
    assert y2 < y4 < y1, "y grows downwards in SVG"
    assert y1 - y4 == pytest.approx((y1 - y2) / 2, abs=0.1)


def test_the_height_of_a_bar_is_its_value_and_negative_bars_hang_down() -> None:
    svg = bar_chart(["g", "h"], {"s": [(10, 5, 15), (-20, -25, -15)]}, title="t")
    bars = [
        element.attrib
        for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")
        if float(element.attrib["height"]) != 10  # squares of the legend
    ]
    up, down = ({key: float(bar[key]) for key in ("y", "height")} for bar in bars)
    assert down["height"] == pytest.approx(2 * up["height"], abs=0.2)
    assert up["y"] + up["height"] == pytest.approx(down["y"], abs=0.2)


def test_names_in_charts_are_escaped() -> None:
    for svg in (
        line_chart({EVIL: [(0, 0)]}, title=EVIL, x_label=EVIL),
        bar_chart([EVIL], {EVIL: [(1, 0, 2)]}, title=EVIL),
    ):
        root = ElementTree.fromstring(svg)
        assert not [element for element in root.iter() if "script" in element.tag]
        assert EVIL in [element.text for element in root.iter()]


def test_text_in_a_page_comes_back_as_text_and_adds_no_element() -> None:
    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[str] = []
            self.text = ""

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.tags.append(tag)

        def handle_data(self, data: str) -> None:
            self.text += data

    sections = [quoted(EVIL, EVIL), html_table([EVIL], [[EVIL]]), paragraph(EVIL), heading(EVIL)]
    reader = Reader()
    reader.feed(page(EVIL, sections))
    assert "script" not in reader.tags
    assert "b" not in reader.tags
    assert reader.text.count(EVIL) == 8


def test_a_page_asks_nobody_for_anything() -> None:
    text = page("t", [line_chart({"a": [(0, 1), (1, 2)]}, title="t", x_label="x")])
    outside = set(re.findall(r"https?://[^\"' ]+", text)) - {"http://www.w3.org/2000/svg"}
    assert outside == set()
    assert "<script" not in text
    assert " src=" not in text


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
