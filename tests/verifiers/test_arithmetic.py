"""Values of written arithmetic against Python's own."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from grlo.verifiers.arithmetic import leading_value
from grlo.verifiers.math_text import normalised

# Text, value by Python, what follows.
TABLE = [
    ("12", 12, ""),
    ("-3./2", -1.5, ""),
    ("1,234.5", 1234.5, ""),
    ("1{,}234", 1234, ""),
    ("1.5e-3 m", 1.5e-3, " m"),
    ("10E5", 1e6, ""),
    ("10^5", 1e5, ""),
    ("6.63 \\times 10^{-34}", 6.63e-34, ""),
    ("4.738 10^{14} Hz", 4.738e14, " Hz"),
    (r"4\pi \times 10^{-7}", 4e-7 * math.pi, ""),
    (r"\frac{\ln 2}{2}", math.log(2) / 2, ""),
    (r"2\sqrt{3}", 2 * 3**0.5, ""),
    (r"\sqrt[3]{27}", 3, ""),
    (r"5/\pi", 5 / math.pi, ""),
    (r"5 e^{2}", 5 * math.exp(2), ""),
    (r"2\frac58", 2.625, ""),
    (r"2 \cdot \frac58", 1.25, ""),
    (r"-2^2", -4, ""),
    (r"2^{3^2}", 512, ""),
    (r"1 - 2 - 3", -4, ""),
    (r"8/2/2", 2, ""),
    (r"(1+2)(3+4)", 21, ""),
    ("4!", 24, ""),
    (r"\log_2 8", 3, ""),
    (r"\log 1000", 3, ""),
    (r"\sin 30^\circ", 0.5, ""),
    (r"\arctan 1", math.pi / 4, ""),
    (r"3 \text{ m}/\text{s}", 3, r" \text{ m}/\text{s}"),
    ("3 - m", 3, " - m"),
    ("3, 4", 3, ", 4"),
    ("50\\%", 50, "\\%"),
]


@pytest.mark.parametrize(("text", "value", "rest"), TABLE)
def test_arithmetic_has_the_value_that_python_computes(text: str, value: float, rest: str) -> None:
    found = leading_value(normalised(text))
    assert found is not None
    assert math.isclose(found[0], value, rel_tol=1e-12)
    assert found[1] == rest


def test_rational_arithmetic_is_exact() -> None:
    assert leading_value(r"\frac{1}{3} + 10^{-40}") == (Fraction(1, 3) + Fraction(1, 10**40), "")


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "text",
    [
        "", "x", "[3]", r"\frac{1}{0}", r"\sqrt{-1}", r"\ln(0)", "(3", "9^{9^{9^9}}",
        "((((9!)!)!)!)!", "(" * 900 + "1" + ")" * 900, "-" * 900 + "1", r"\sqrt" * 400 + "2",
        r"\frac{1}{" * 300 + "2" + "}" * 300, "2^" * 900 + "2", "(2^{400})^{400}^{400}^{400}",
    ],
)  # fmt: skip
def test_what_is_no_number_or_has_no_end_has_no_value(text: str) -> None:
    assert leading_value(text) is None
