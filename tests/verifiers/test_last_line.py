"""Answers that are nothing but LaTeX, without a box, dollars or words."""

from __future__ import annotations

import pytest

from grlo.verifiers.extraction import final_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"-\frac{1}{2}", r"-\frac{1}{2}"),
        ("So we simplify.\n\\frac{1}{\\sqrt2}.\n", r"\frac{1}{\sqrt2}"),
        (r"x = \frac{\pi}{3}", r"\frac{\pi}{3}"),
        (r"we get \frac{1}{2}", "2"),
        (r"\frac{1}{2", "2"),
        ("\\frac{1}{2}\nwhich is 0.5", "0.5"),
        (r"\frac{1}{2} $7$", "7"),
        ("24 + 48 = 72", "72"),
    ],
)
def test_a_last_line_of_latex_alone_is_the_answer(text: str, answer: str) -> None:
    assert final_answer(text) == answer
