"""Charts: where data land, and that no text becomes markup, reference or noise."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from grlo.reporting.figures import (
    COLORS,
    bar_chart,
    forest_chart,
    labelled_scatter,
    line_chart,
    map_chart,
    row_chart,
    scatter_chart,
    stacked_chart,
)
from svg_shapes import read

SCRIPT = "</pre><script>alert('x')</script> & \"<b>"
NASTY = f"{SCRIPT} $x^2$ \\frac \n\x00\x1b[31m \u202e \ud800 \uffff 漢字 😀 مرحبا"
NEAR = pytest.approx

# Every kind of chart, with one text wherever texts go.
KINDS: dict[str, Callable[[str], str]] = {
    "line": lambda text: line_chart(
        {text: [(1, 2.0), (2, 3.0)]},
        right={f"{text} right": [(1, 2.0)]},
        bands={text: [(1, 1.0, 3.0), (2, 2.0, 4.0)]},
        marks={text: [(2, 3.0)]},
        title=text,
        x_label=text,
        y_label=text,
    ),
    "stacked": lambda text: stacked_chart({text: [(1, 1.0), (2, 2.0)]}, title=text, x_label=text),
    "scatter": lambda text: scatter_chart([(1, 2.0), (3, 4.0)], title=text, x_label=text),
    "labelled": lambda text: labelled_scatter(
        {text: (1.0, 2.0, 1.0, 3.0)}, title=text, x_label=text, y_label=text
    ),
    "bars": lambda text: bar_chart([text], {text: [(1.0, 0.5, 2.0)]}, title=text),
    "steep bars": lambda text: bar_chart([text] * 30, {"": [(1.0, 0.5, 2.0)] * 30}, title=text),
    "forest": lambda text: forest_chart({text: (1.0, -1.0, 3.0)}, title=text),
    "map": lambda text: map_chart({text: [(0, 1), (1, 0)]}, title=text),
    "rows": lambda text: row_chart({text: [1.0, 2.0]}, names=[text, f"{text}2"], title=text),
}


# What holds for every chart ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_chart_is_one_element_as_wide_as_its_container_with_its_title_for_readers(
    kind: str,
) -> None:
    svg = KINDS[kind]("a title")
    root = ElementTree.fromstring(svg)
    assert svg.startswith("<svg ")
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == "a title"
    assert root.attrib["viewBox"].startswith("0 0 520 ")
    assert not {"width", "height"} & set(root.attrib)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chart_refers_to_nothing_and_styles_nothing_beside_it(kind: str) -> None:
    svg = KINDS[kind]("t")
    root = ElementTree.fromstring(svg)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "g", "path", "circle", "text"}
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not attributes & {"id", "href", "src", "clip-path", "style", "class"}
    assert not [name for name in attributes if "href" in name or name.startswith("on")]
    assert "url(" not in svg
    assert svg.count("http") == 1, "the name space"


@pytest.mark.parametrize("kind", KINDS)
def test_text_from_anywhere_stays_text(kind: str) -> None:
    svg = KINDS[kind](NASTY)
    root = ElementTree.fromstring(svg)
    assert not [element for element in root.iter() if "script" in element.tag]
    for char in ("<script", "\x00", "\x1b", "\u202e", "\ud800", "\uffff", "\n"):
        assert char not in svg
    assert "alert(" in svg
    assert "$x^2$" in root.attrib["aria-label"], "no mathematics"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "steep bars"])
def test_a_text_that_fits_is_shown_whole(kind: str) -> None:
    text = "$a_b$ & <c>"
    shown = [e.text for e in ElementTree.fromstring(KINDS[kind](text)).iter()]
    assert text in shown


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_hears_of_letters_that_a_font_lacks(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KINDS[kind](NASTY)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_equal_input_gives_equal_bytes(kind: str) -> None:
    assert KINDS[kind](NASTY) == KINDS[kind](NASTY)


@pytest.mark.parametrize("kind", KINDS)
def test_all_texts_begin_and_end_within_the_figure(kind: str) -> None:
    svg = KINDS[kind]("a text of some length, " * 9)
    drawing = read(svg)
    for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        if "transform" not in element.attrib:
            x, room = float(element.attrib["x"]), 0.45 * 14 * len(element.text or "")
            start = {"end": x - room, "middle": x - room / 2}.get(
                element.attrib.get("text-anchor", "start"), x
            )
            assert start >= 0
            assert start + room <= drawing.width
        assert 0 < float(element.attrib["y"]) < drawing.height


def test_a_chart_is_small_however_long_its_lines_are() -> None:
    points = [(float(n), math.sin(n)) for n in range(600)]
    assert len(line_chart({"a": points}, title="t", x_label="x")) < 12_000
    assert len(line_chart({"a": points[:40]}, title="t", x_label="x")) < 3_000


def test_the_first_chart_of_a_user_is_drawn_without_a_word_and_as_everybody_elses(
    tmp_path: Path,
) -> None:
    """Neither a missing cache nor settings for plots of one's own show."""
    code = (
        "import sys; from grlo.reporting.figures import line_chart;"
        "assert not any(name.startswith('matplotlib') for name in sys.modules), 'slow to import';"
        "print(line_chart({'漢': [(1, 1.5), (2, 2.5)]}, title='t', x_label='x'), end='');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    settings = "no.such.setting: 3\nfont.size: 40\naxes.grid: True\nlines.linewidth: 9\n"
    (tmp_path / "matplotlibrc").write_text(settings)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONHASHSEED": "5",
        "MPLCONFIGDIR": str(tmp_path),
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    assert result.stdout == line_chart({"漢": [(1, 1.5), (2, 2.5)]}, title="t", x_label="x")


def test_settings_of_a_user_are_as_they_were_after_a_chart() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    KINDS["line"]("t")
    assert dict(matplotlib.rcParams) == before


# Lines --------------------------------------------------------------------------------------------


def test_a_line_rises_where_its_values_do_and_skips_what_is_not_finite() -> None:
    values = [(1, 0.0), (2, 5.0), (3, math.nan), (3.5, math.inf), (4, 2.5)]
    (line,) = read(line_chart({"a": values, "b": []}, title="t", x_label="step")).lines
    (x1, y1), (x2, y2), (x4, y4) = line.corners
    assert x2 - x1 == NEAR((x4 - x1) / 3, abs=0.11)
    assert y2 < y4 < y1, "y grows downwards in SVG"
    assert y1 - y4 == NEAR((y1 - y2) / 2, abs=0.11)


def test_numbers_at_the_axes_stand_where_their_values_are() -> None:
    drawing = read(line_chart({"": [(0, 0.0), (10, 5.0)]}, title="t", x_label="step"))
    (x0, y0), (x10, y5) = drawing.lines[0].corners
    assert drawing.texts["10"][0] == NEAR(x10, abs=0.11)
    assert drawing.texts["4"][0] == NEAR(x0 + 0.4 * (x10 - x0), abs=0.11)
    rise = drawing.texts["1"][1] - drawing.texts["5"][1]
    assert rise == NEAR(0.8 * (y0 - y5), abs=0.11)


def test_a_band_runs_along_its_line_from_low_to_high() -> None:
    bands = {"a": [(1, 1.0, 3.0), (1.5, math.nan, 9.0), (2, 3.0, 5.0)]}
    drawing = read(line_chart({"a": [(1, 2.0), (2, 4.0)]}, bands=bands, title="", x_label=""))
    (line,), (band,) = drawing.lines, drawing.areas
    (x1, y1), (x2, y2) = line.corners
    unit = (y1 - y2) / 2
    expected = [(x1, y1 - unit), (x2, y2 - unit), (x2, y2 + unit), (x1, y1 + unit)]
    for found, wanted in zip(band.corners, expected, strict=True):
        assert found == NEAR(wanted, abs=0.21)
    assert band.color == line.color


def test_lines_on_the_right_have_an_axis_of_their_own() -> None:
    series = {"a": [(1, 0.0), (2, 1.0)]}
    svg = line_chart(series, right={"b": [(1, 0.0), (2, 1000.0)]}, title="", x_label="")
    drawing = read(svg)
    left, right = drawing.lines
    assert left.corners == right.corners, "each spans its own axis"
    assert left.color != right.color
    end, top = left.corners[-1]
    assert drawing.texts["1,000"][0] > end > drawing.texts["0.2"][0]
    assert drawing.texts["1,000"][1] == NEAR(top + 5, abs=0.11)


def test_on_an_axis_of_ratios_equal_ratios_are_equally_far_apart() -> None:
    points = [(-1.0, 9.0), (0.0, 9.0), (0.1, 0.0), (1.0, 1.0), (10.0, 2.0)]
    drawing = read(line_chart({"": points}, title="t", x_label="hours", log_x=True))
    (x1, _), (x2, _), (x3, _) = drawing.lines[0].corners
    assert x2 - x1 == NEAR(x3 - x2, abs=0.11)
    assert drawing.texts["10"][0] == NEAR(x3, abs=0.11)
    assert "9" not in drawing.texts, "what has no logarithm moves no axis"


def test_marks_are_dots_in_the_color_of_their_line_where_they_say() -> None:
    points = [(1, 1.0), (2, 2.0), (3, 5.0)]
    series = {"a": [(1, 0.0), (3, 1.0)], "b": points}
    svg = line_chart(series, marks={"b": points[1:]}, title="t", x_label="x")
    drawing = read(svg)
    _, line = drawing.lines
    assert drawing.dots == {line.color: [NEAR(corner, abs=0.11) for corner in line.corners[1:]]}


def test_a_single_value_is_a_dot() -> None:
    drawing = read(line_chart({"a": [(1, 3.0)]}, title="t", x_label="x"))
    assert [len(dots) for dots in drawing.dots.values()] == [1]
    assert drawing.lines == ()


@pytest.mark.parametrize("log_x", [False, True])
def test_a_chart_of_nothing_is_an_empty_frame(log_x: bool) -> None:
    for series in ({}, {"a": []}, {"a": [(math.nan, 1.0), (1.0, math.inf)]}):
        drawing = read(line_chart(series, title="nothing", x_label="x", log_x=log_x))
        assert drawing.lines == ()
        assert {"nothing", "0"} <= set(drawing.texts)


def test_steps_are_whole_numbers() -> None:
    texts = read(line_chart({"": [(1, 0.0), (2, 7.0)]}, title="t", x_label="step")).texts
    assert {"1", "2"} <= set(texts)
    assert "1.5" not in texts


def test_a_long_legend_takes_a_second_line_above_the_plot() -> None:
    names = [f"a rather long name {number}" for number in range(6)]
    drawing = read(
        line_chart({name: [(1, 1.0), (2, 2.0)] for name in names}, title="t", x_label="step")
    )
    assert len({drawing.texts[name][1] for name in names}) > 1
    assert max(drawing.texts[name][1] for name in names) < min(line.top for line in drawing.lines)
    assert all(drawing.texts[name][0] + 6 * len(name) < drawing.width for name in names)
    assert [square.color for square in drawing.squares] == [line.color for line in drawing.lines]


@pytest.mark.parametrize("size", [5e-324, 1e-300, 1e-9, 1e9, 1e100, 1e149, 1e308])
def test_numbers_of_any_size_are_drawn_or_left_out(size: float) -> None:
    points = [(1.0, -size), (2.0, size), (3.0, 0.3)]
    turned = [(abs(y), x) for x, y in points]
    for svg in (
        line_chart({"a": points}, title="t", x_label="x"),
        line_chart({"a": turned}, title="t", x_label="x", log_x=True),
        scatter_chart(turned, title="t", x_label="x"),
        bar_chart(["g"] * 3, {"a": [(y, y, y) for _, y in points]}, title="t"),
        forest_chart({"a": (size, -size, size), "b": (1.0, 0.0, 2.0)}, title="t"),
        map_chart({"a": points}, title="t"),
        row_chart({"a": [size], "b": [1.0]}, title="t"),
    ):
        drawing = read(svg)
        corners = [c for shape in (*drawing.lines, *drawing.areas) for c in shape.corners]
        dots = [dot for dots in drawing.dots.values() for dot in dots]
        assert corners or dots
        assert all(0 <= x <= drawing.width for x, _ in (*corners, *dots))
        assert all(0 <= y <= drawing.height for _, y in (*corners, *dots))


# Other kinds --------------------------------------------------------------------------------------


def test_stacked_areas_lie_on_each_other_and_what_is_missing_is_nothing() -> None:
    svg = stacked_chart({"a": [(1, 1.0), (2, 2.0)], "b": [(2, 2.0)]}, title="", x_label="step")
    a, b = read(svg).areas
    a1, a2, a2_low, a1_low = a.corners
    assert b.corners[0] == a1, "nothing there"
    _, b2, b2_low = b.corners
    assert b2_low == a2, "the second begins where the first ends"
    height = a2_low[1] - a2[1]
    assert b2_low[1] - b2[1] == NEAR(height, abs=0.11)
    assert a1_low[1] - a1[1] == NEAR(height / 2, abs=0.11)


def test_dots_stand_where_their_values_say_and_those_that_are_not_finite_are_left_out() -> None:
    svg = scatter_chart([(0, 0.0), (10, 5.0), (5, 2.5), (1, math.nan)], title="t", x_label="x")
    ((first, last, middle),) = read(svg).dots.values()
    assert middle == NEAR(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=0.11)
    assert last[0] > first[0]
    assert last[1] < first[1]


def test_a_named_dot_has_its_interval_and_its_name_beside_it() -> None:
    points = {
        "cheap": (1.0, 30.0, 15.0, 35.0),
        "<dear>": (100.0, 40.0, 30.0, 50.0),
        "unsure": (10.0, 20.0, -math.inf, math.inf),
        "free": (0.0, 20.0, 10.0, 30.0),
        "unknown": (1.0, math.nan, 1.0, 2.0),
    }
    drawing = read(labelled_scatter(points, title="t", x_label="h", y_label="%", log_x=True))
    (cheap,), (dear,), (unsure,) = (drawing.dots[color] for color in COLORS[1:4])
    assert unsure[0] == NEAR((cheap[0] + dear[0]) / 2, abs=0.11)
    assert unsure[1] - cheap[1] == NEAR(cheap[1] - dear[1], abs=0.11)
    assert [line.color for line in drawing.lines] == [COLORS[1], COLORS[2]]
    assert drawing.lines[1].height == NEAR(drawing.lines[0].height, abs=0.21)
    assert drawing.lines[0].top == NEAR((cheap[1] + dear[1]) / 2, abs=0.11)
    for name, (x, y) in (("cheap", cheap), ("<dear>", dear), ("unsure", unsure)):
        assert drawing.texts[name] == NEAR((x + 8, y + 4), abs=1.11)
    assert not {"free", "unknown"} & set(drawing.texts)
    assert labelled_scatter({}, title="t", x_label="", y_label="") == ""


def test_names_of_dots_that_are_close_do_not_lie_on_each_other() -> None:
    points = {f"arm number {n}": (1.0 + 0.01 * n, 40.0 + 0.1 * n, 39.0, 42.0) for n in range(4)}
    points["far"] = (9.0, 60.0, 59.0, 61.0)
    texts = read(labelled_scatter(points, title="t", x_label="h", y_label="%")).texts
    places = sorted((texts[name] for name in points if name != "far"), key=lambda place: place[1])
    for number, (x, y) in enumerate(places):
        for other_x, other_y in places[number + 1 :]:
            assert other_y - y >= 14 or abs(other_x - x) > 10, "another line or another side"


def test_the_height_of_a_bar_is_its_value_and_negative_bars_hang_down() -> None:
    svg = bar_chart(["g", "h"], {"s": [(10, 5, 15), (-20, -25, -15)]}, title="t")
    drawing = read(svg)
    up, down = drawing.areas
    assert down.height == NEAR(2 * up.height, abs=0.21)
    assert up.top + up.height == NEAR(down.top, abs=0.11)
    first, second = drawing.lines
    assert first.height == NEAR(up.height, abs=0.21), "5 to 15"
    assert first.left == NEAR(up.left + up.width / 2, abs=0.11)
    assert second.top > down.top
    assert drawing.texts["g"][0] == NEAR(first.left, abs=0.11)


def test_bars_that_are_not_finite_are_left_out_and_others_keep_their_places() -> None:
    full = bar_chart(["g", "h"], {"s": [(1, 0, 2), (2, 1, 3)], "t": [(1, 0, 2)] * 2}, title="t")
    nan = math.nan
    holes = bar_chart(
        ["g", "h"], {"s": [(nan, nan, nan), (2, 1, 3)], "t": [(1, -math.inf, 2)] * 2}, title="t"
    )
    assert read(holes).areas == read(full).areas[1:]
    assert len(read(holes).lines) == 1


def test_more_entries_than_colors_are_all_drawn() -> None:
    series = {f"s{n}": [(1.0 + n, 0.0, 9.0)] for n in range(len(COLORS) + 2)}
    drawing = read(bar_chart(["g"], series, title="t"))
    assert len(drawing.areas) == len(drawing.squares) == len(COLORS) + 2


def test_a_forest_has_a_dot_and_an_interval_for_each_row_and_shows_which_are_clear_of_zero() -> (
    None
):
    rows = {
        "<up>": (5.0, 1.0, 9.0),
        "unclear": (1.0, -2.0, 4.0),
        "one": (2.0, -math.inf, math.inf),
        "none": (math.nan, 1.0, 2.0),
    }
    drawing = read(forest_chart(rows, title="Change"))
    (up,) = drawing.dots[COLORS[1]]
    unclear, one = drawing.dots[COLORS[0]]
    assert [line.color for line in drawing.lines] == [COLORS[1], COLORS[0]]
    assert one[0] - unclear[0] == NEAR((up[0] - unclear[0]) / 4, abs=0.21)
    assert drawing.lines[0].left < up[0] < drawing.lines[0].left + drawing.lines[0].width
    assert up[1] < unclear[1] < one[1]
    assert drawing.texts["<up>"][1] == NEAR(up[1] + 5, abs=0.11)
    assert drawing.texts["0"][0] == NEAR(unclear[0] - (one[0] - unclear[0]), abs=0.21)
    assert "none" not in drawing.texts
    assert forest_chart({}, title="Nothing") == ""


def test_rows_are_as_long_as_their_values_and_say_them() -> None:
    drawing = read(row_chart({"small": [25], "large": [5000], "none": [math.nan]}, title="rows"))
    small, large = drawing.areas
    assert small.width == NEAR(large.width * 25 / 5000, abs=0.11)
    end = drawing.texts["5,000"]
    assert end[0] == NEAR(large.left + large.width + 5, abs=0.11)
    assert large.top < end[1] < large.top + large.height
    assert drawing.texts["large"][0] < large.left
    assert {"25", "none"} <= set(drawing.texts)


def test_two_bars_of_a_row_lie_below_one_another_and_have_a_legend() -> None:
    drawing = read(row_chart({"a": [1, 2], "b": [0, 0]}, title="t", names=["one", "two"]))
    assert [mark.color for mark in drawing.squares] == [bar.color for bar in drawing.areas]
    first, second = drawing.areas
    assert first.top + first.height < second.top
    assert "0" in drawing.texts, "nothing is said, too"
    assert row_chart({}, title="t") == ""


def test_a_map_keeps_neighbours_and_draws_only_what_is_finite() -> None:
    points = {"near": [(0, 0), (1, 1)], "far": [(100, 100), (math.nan, 0)]}
    (a, b), (c,) = read(map_chart(points, title="m")).dots.values()
    assert math.dist(a, b) < math.dist(a, c) / 50
    assert map_chart({"none": []}, title="m") == ""
