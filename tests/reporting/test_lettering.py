"""Texts of figures: harmless, about as wide as they are, and in lines that fit."""

from __future__ import annotations

import pytest

from grlo.reporting.lettering import plain, width_of, wrapped


def test_text_is_one_line_that_xml_allows() -> None:
    assert plain(" a\n\tb\u2028c ") == "a b c"
    assert plain("\x00\x1b\ud800\ufffe\uffff\u202e") == "\\x00\\x1b\\xd800\\xfffe\\xffff\\x202e"
    assert plain("👩\u200d🚀 漢字 é") == "👩\u200d🚀 漢字 é"


@pytest.mark.parametrize(
    "text", ["mean ± spread of the step", "ACCURACY OF MODELS", "1,234,567.89", "illicit fjord"]
)
def test_a_width_is_at_least_that_of_a_wide_font_and_not_much_more(text: str) -> None:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), text, size=14, prop=FontProperties(family="DejaVu Sans"))
    real = path.get_extents().width
    assert 0.93 * real < width_of(text, size=14) < 1.3 * real


def test_letters_of_east_asia_are_square_and_accents_take_no_room() -> None:
    assert width_of("漢字", size=10) == 20
    assert width_of("e\u0301", size=10) == width_of("e", size=10)


def test_words_stay_whole_where_they_fit_into_a_line() -> None:
    assert wrapped("one two three four", width=70, size=10, lines=9) == ["one two", "three four"]
    pieces = wrapped("x" * 30, width=70, size=10, lines=9)
    assert "".join(pieces) == "x" * 30
    assert all(width_of(piece, size=10) <= 70 for piece in pieces)


def test_what_does_not_fit_ends_with_an_ellipsis() -> None:
    lines = wrapped("one two three four five six seven", width=70, size=10, lines=2)
    assert lines[0] == "one two"
    assert lines[1].endswith("…")
    assert width_of(lines[1], size=10) <= 70
    assert wrapped("", width=70, size=10, lines=2) == []
    long = wrapped("word " * 10**6, width=70, size=10, lines=1)
    assert len(long) == 1
    assert long[0].endswith("…")
