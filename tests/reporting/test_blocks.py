"""Blocks as pages show them, and the drawings in their tables."""

from __future__ import annotations

import math
import re

import pytest

from grlo.reporting.blocks import (
    Card,
    Cell,
    Columns,
    Figures,
    Folded,
    Interval,
    Lines,
    Quote,
    Section,
    Stack,
    Table,
    Text,
)
from grlo.reporting.blocks_html import blocks_html, section_html
from grlo.reporting.blocks_markdown import blocks_markdown
from grlo.reporting.html import page
from grlo.reporting.strips import axis_html, scale, strip_svg
from grlo.reporting.text import all_visible

EVIL = '"><script>alert(1)</script>'
EVERY = (
    Text(EVIL),
    Lines((EVIL,), kind="notice"),
    Lines((EVIL,), kind="answer"),
    Table(
        (EVIL, EVIL),
        ((Cell(EVIL, EVIL, (EVIL,)), Cell(EVIL)), (Cell(EVIL),)),
        EVIL,
        EVIL,
        {EVIL: "#000000"},
    ),
    Figures((), EVIL),
    Card(EVIL, (EVIL,), (EVIL,)),
    Columns((Text(EVIL),)),
    Quote(EVIL),
    Folded(EVIL, (Text(EVIL),)),
)


@pytest.mark.parametrize("block", EVERY, ids=lambda block: type(block).__name__)
def test_no_text_of_a_block_is_markup(block):
    html = blocks_html([block])
    assert "<script" not in html
    assert 'alert(1)</script>"' not in html
    assert "&lt;script&gt;alert(1)" in html
    markdown = "\n".join(blocks_markdown([block]))
    if not isinstance(block, (Quote, Figures)):
        assert "<script" not in markdown
        assert "alert(1)" in markdown


def test_a_key_cannot_leave_its_attribute():
    assert 'id="&quot;&gt;' in section_html(Section('">', "title", (Text("text"),)))


def places(svg: str, name: str) -> list[float]:
    return [float(x) for x in re.findall(rf'\b{name}="(-?[\d.]+)%"', svg)]


def test_an_interval_is_drawn_in_proportion_to_its_scale():
    svg = strip_svg(Interval(5.0, 0.0, 10.0, (-10.0, 10.0)))
    zero, low = places(svg, "x1")
    _, high = places(svg, "x2")
    (value,) = places(svg, "cx")
    assert zero == low == 50
    assert high == 96
    assert value == pytest.approx((low + high) / 2)


@pytest.mark.parametrize(
    ("low", "high", "side"),
    [(1.0, 3.0, "above"), (-3.0, -1.0, "below"), (-1.0, 3.0, ""), (0.0, 2.0, "")],
)
def test_only_intervals_without_zero_are_marked(low, high, side):
    svg = strip_svg(Interval((low + high) / 2, low, high, (-4.0, 4.0)))
    assert {word for word in ("above", "below") if word in svg} == ({side} if side else set())


def test_an_interval_without_ends_is_a_dot():
    svg = strip_svg(Interval(1.0, -math.inf, math.inf, (0.0, 2.0)))
    assert svg.count("<line") == 1
    assert svg.count("<circle") == 1
    assert "inf" not in svg


def test_parts_of_a_stack_meet_and_go_to_their_side_of_zero():
    svg = strip_svg(Stack((2.0, -1.0, 3.0), ("#111111", "#222222", "#333333"), (-5.0, 5.0)))
    first, second, third = zip(places(svg, "x"), places(svg, "width"), strict=True)
    assert first[0] == 50
    assert sum(first) == pytest.approx(third[0], abs=0.01)
    assert sum(second) == pytest.approx(50, abs=0.01)
    assert third[1] == pytest.approx(1.5 * first[1], abs=0.02)


def test_a_scale_holds_zero_and_what_is_finite():
    assert scale([3.0, 8.0, math.inf]) == (0.0, 8.0)
    assert scale([-2.0, math.nan]) == (-2.0, 0.0)
    low, high = scale([])
    assert low < high


@pytest.mark.parametrize(
    ("ends", "numbers"),
    [
        ((-1.0, 50.0), ["0", "+50"]),
        ((-40.0, 50.0), ["0", "-40", "+50"]),
        ((0.0, 0.25), ["0", "+0.25"]),
    ],
)
def test_numbers_of_an_axis_that_would_touch_are_left_out(ends, numbers):
    assert re.findall(r'%">([^<]+)</span>', axis_html(ends)) == numbers


def test_texts_are_read_from_the_left_and_numbers_from_the_right():
    words = "a sentence that says more than any number"
    rows = ((Cell("one"), Cell("1.0"), Cell(words)), (Cell("two"), Cell("2.0"), Cell("-")))
    html = blocks_html([Table(("", "number", "text"), rows)])
    assert html.count('class="prose"') == 3  # Head and both rows of the last column.
    assert f'<td class="prose"><span>{words}' in html


def test_a_table_without_names_of_columns_has_no_head():
    assert "<thead" not in blocks_html([Table(("", ""), ((Cell("a"), Cell("b")),))])


def test_a_row_of_one_cell_is_a_heading_over_the_whole_width():
    table = Table(("a", "b", "c"), ((Cell("group"),), (Cell("1"), Cell("2"), Cell("3"))))
    assert 'colspan="3"><span>group' in blocks_html([table])
    assert "| **group** |  |  |" in blocks_markdown([table])


def test_pages_may_ask_for_nothing_and_run_nothing_that_is_not_theirs():
    plain, scripted = page("title", []), page("title", [], script="void 0;")
    for html in (plain, scripted):
        assert "default-src 'none'" in html
        assert "base-uri 'none'" in html
    assert "script-src" not in plain
    # printf 'void 0;' | openssl dgst -sha256 -binary | base64
    assert "script-src 'sha256-T1YEXClWF9CUhD2vRqC2ZkctVhPSMrn+MCIkJI7U02I='" in scripted


def test_what_cannot_be_seen_is_spelled_out_however_deep_it_lies():
    cell = Cell("a\u202eb", tags=("\x1b",))
    found = all_visible({"k\u2066": [(cell, 1.5, None)]})
    assert found == {"k\\x2066": [(Cell("a\\x202eb", tags=("\\x1b",)), 1.5, None)]}
