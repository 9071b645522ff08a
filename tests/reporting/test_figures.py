"""Charts and pages: where points land, and that no text becomes markup."""

from __future__ import annotations

import itertools
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from grlo.reporting.figures import (
    COLORS,
    bar_chart,
    forest_chart,
    line_chart,
    map_chart,
    row_chart,
    scatter_chart,
    stacked_chart,
    ticks,
)
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


def polygons_of(svg: str) -> list[list[tuple[float, float]]]:
    areas = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}polygon")
    return [
        [(float(x), float(y)) for x, y in map(_pair, area.attrib["points"].split())]
        for area in areas
    ]


def texts_of(svg: str) -> dict[str, tuple[float, float]]:
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return {text.text or "": (float(text.attrib["x"]), float(text.attrib["y"])) for text in found}


def test_a_band_runs_along_its_line_from_low_to_high() -> None:
    svg = line_chart(
        {"a": [(1, 2.0), (2, 4.0)]},
        bands={"a": [(1, 1.0, 3.0), (2, 3.0, 5.0)]},
        title="",
        x_label="",
    )
    (line,), (band,) = points_of(svg), polygons_of(svg)
    (x1, y1), (x2, y2) = line
    unit = (y1 - y2) / 2
    expected = [(x1, y1 - unit), (x2, y2 - unit), (x2, y2 + unit), (x1, y1 + unit)]
    for found, wanted in zip(band, expected, strict=True):
        assert found == pytest.approx(wanted, abs=0.11)


def test_lines_on_the_right_have_an_axis_of_their_own() -> None:
    svg = line_chart(
        {"a": [(1, 0.0), (2, 1.0)]}, right={"b": [(1, 0.0), (2, 1000.0)]}, title="", x_label=""
    )
    left, right = points_of(svg)
    assert left == right, "each spans its own axis"
    texts = texts_of(svg)
    assert texts["1000"][0] > left[-1][0] > texts["0.2"][0]
    assert texts["1000"][1] == pytest.approx(left[-1][1] + 4, abs=0.11)


def test_stacked_areas_lie_on_each_other_and_what_is_missing_is_nothing() -> None:
    svg = stacked_chart({"a": [(1, 1.0), (2, 2.0)], "b": [(2, 2.0)]}, title="", x_label="step")
    (a1, a2, a2_low, a1_low), (b1, b2, b2_low, b1_low) = polygons_of(svg)
    assert (b1_low, b2_low) == (a1, a2), "the second begins where the first ends"
    assert b1 == a1
    height = a2_low[1] - a2[1]
    assert b2_low[1] - b2[1] == pytest.approx(height, abs=0.11)
    assert a1_low[1] - a1[1] == pytest.approx(height / 2, abs=0.11)


def test_dots_stand_where_their_values_say_and_those_that_are_not_finite_are_left_out() -> None:
    svg = scatter_chart([(0, 0.0), (10, 5.0), (5, 2.5), (1, math.nan)], title="t", x_label="x")
    dots = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}circle")
    first, last, middle = [(float(d.attrib["cx"]), float(d.attrib["cy"])) for d in dots]
    assert middle[0] == pytest.approx((first[0] + last[0]) / 2, abs=0.11)
    assert middle[1] == pytest.approx((first[1] + last[1]) / 2, abs=0.11)
    assert last[0] > first[0]
    assert last[1] < first[1]


def test_a_long_legend_takes_a_second_line_above_the_plot() -> None:
    names = [f"a rather long name {number}" for number in range(6)]
    svg = line_chart({name: [(1, 1.0), (2, 2.0)] for name in names}, title="t", x_label="step")
    texts = texts_of(svg)
    assert len({texts[name][1] for name in names}) > 1
    assert max(texts[name][1] for name in names) < min(
        y for line in points_of(svg) for _, y in line
    )
    assert all(texts[name][0] + 6 * len(name) < 640 for name in names)


def test_steps_are_whole_numbers() -> None:
    texts = texts_of(line_chart({"": [(1, 0.0), (2, 7.0)]}, title="t", x_label="step"))
    assert {"1", "2"} <= set(texts)
    assert "1.5" not in texts


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


def test_a_forest_has_a_dot_and_an_interval_for_each_row_and_shows_which_are_clear_of_zero() -> (
    None
):
    rows = {"<up>": (5.0, 1.0, 9.0), "unclear": (1.0, -2.0, 4.0), "one": (2.0, -math.inf, math.inf)}
    chart = forest_chart(rows, title="Change")
    assert chart.count("<circle") == 3
    assert chart.count(COLORS[1]) == 2, "dot and line of the one that is clear of zero"
    assert "&lt;up&gt;" in chart
    assert "inf" not in chart
    x_of = {name: float(re.findall(r'cx="([\d.]+)"', chart)[i]) for i, name in enumerate(rows)}
    assert x_of["unclear"] < x_of["one"] < x_of["<up>"]
    assert forest_chart({}, title="Nothing") == ""


def rectangles_of(svg: str) -> list[dict[str, str]]:
    return [
        dict(r.attrib) for r in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")
    ]


def test_rows_are_as_long_as_their_values_and_say_them() -> None:
    svg = row_chart({"small": [25], "large": [5000]}, title="rows")
    small, large = (float(bar["width"]) for bar in rectangles_of(svg))
    assert small == pytest.approx(large * 25 / 5000, abs=0.1)
    assert ">5,000<" in svg
    assert ">25<" in svg


def test_two_bars_of_a_row_lie_below_one_another_and_have_a_legend() -> None:
    svg = row_chart({"a": [1, 2], "b": [0, 0]}, title="t", names=["one", "two"])
    legend, bars = rectangles_of(svg)[:2], rectangles_of(svg)[2:]
    assert [mark["fill"] for mark in legend] == [bar["fill"] for bar in bars[:2]]
    assert float(bars[0]["y"]) < float(bars[1]["y"])
    assert float(bars[2]["width"]) == 0
    assert row_chart({}, title="t") == ""


def test_a_map_keeps_neighbours_and_draws_only_what_is_finite() -> None:
    points = {"near": [(0, 0), (1, 1)], "far": [(100, 100), (math.nan, 0)]}
    dots = [
        (float(dot.attrib["cx"]), float(dot.attrib["cy"]))
        for dot in ElementTree.fromstring(map_chart(points, title="m")).iter(
            "{http://www.w3.org/2000/svg}circle"
        )
    ]
    assert len(dots) == 3
    assert math.dist(dots[0], dots[1]) < math.dist(dots[0], dots[2])
    assert map_chart({"none": []}, title="m") == ""


def test_names_of_rows_and_groups_never_become_markup() -> None:
    for svg in (row_chart({EVIL: [1]}, title=EVIL), map_chart({EVIL: [(0, 1)]}, title=EVIL)):
        assert "<script>" not in svg
        ElementTree.fromstring(svg)
