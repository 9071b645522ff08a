"""Pages: no text becomes markup, and nothing is asked of anybody."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from grlo.reporting.figures import line_chart
from grlo.reporting.html import heading, html_table, page, paragraph, quoted

EVIL = "</pre><script>alert('x')</script> & \"<b>"


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
