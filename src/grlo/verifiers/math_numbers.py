r"""Exact values of written numbers: `1,234.5`, `\frac12`, `2\frac58`, `4.5\times10^{33}`, `-3./2`.

Numbers are compared as fractions, so 1e-10 is not 2e-10 and 3.1415926 is not pi.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_DIGITS = 4000
_MAX_EXPONENT = 4000

_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_POWER = r"\s*(?:\\times|\\cdot|\*|x)?\s*10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\s*\d+)\s*\}|([-+]?\d+))"
_SIGN = r"([-+]?)\s*"
_DECIMAL = re.compile(rf"{_SIGN}({_UNSIGNED})(?:\s*[eE]\s*([-+]?\d+)|{_POWER})?")
_POWER_ALONE = re.compile(rf"{_SIGN}10\s*(?:\^|\*\*)\s*(?:\{{\s*([-+]?\s*\d+)\s*\}}|([-+]?\d+))")
_OVER = rf"(?:\\frac\s*\{{\s*([-+]?\s*{_UNSIGNED})\s*\}}\s*\{{\s*([-+]?\s*{_UNSIGNED})\s*\}})"
_FRACTION = re.compile(rf"{_SIGN}(?:{_OVER}|({_UNSIGNED})\s*/\s*([-+]?{_UNSIGNED}))")
_MIXED = re.compile(rf"{_SIGN}({_INTEGER})\s*(?:{_OVER}|\s({_INTEGER})\s*/\s*({_INTEGER}))")
_REPEATING = re.compile(rf"{_SIGN}(\d*)\.(\d*)(?:\\overline|\\bar|\\dot)\s*\{{?\s*(\d+)\s*\}}?")


@dataclass(frozen=True)
class WrittenNumber:
    """A number and how it was written."""

    value: Fraction
    is_decimal: bool = False
    """With a decimal point or a power of ten, which may be a rounding."""
    num_digits: int = 0
    """Significant digits of a decimal."""


def parse_number(text: str) -> WrittenNumber | None:
    """The number that all of a text is; None if it is none or an enormous one.

    Args:
        text: Normalised as by `grlo.verifiers.math_text.normalised`, without units.
    """
    text = text.strip()
    if not text or len(text) > _MAX_DIGITS:
        return None
    if match := _DECIMAL.fullmatch(text):
        sign, digits, *exponents = match.groups()
        exponent = next((given for given in exponents if given is not None), None)
        return _decimal(sign, digits.replace(",", ""), exponent)
    if match := _POWER_ALONE.fullmatch(text):
        return _decimal(match.group(1), "1", match.group(2) or match.group(3))
    if match := _FRACTION.fullmatch(text):
        sign, *parts = match.groups()
        above, below = (_plain(part) for part in parts if part is not None)
        return _signed(sign, above / below) if below else None
    if match := _MIXED.fullmatch(text):
        sign, whole, *parts = match.groups()
        above, below = (_plain(part) for part in parts if part is not None)
        if above < 0 or below <= 0:
            return None
        part = above / below
        # 5\frac{3}{2} is no mixed number but a product.
        return _signed(sign, _plain(whole) + part if part < 1 else _plain(whole) * part)
    if match := _REPEATING.fullmatch(text):
        sign, whole, fixed, period = match.groups()
        start = Fraction(int((whole + fixed) or "0"), 10 ** len(fixed))
        tail = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
        return _signed(sign, start + tail)
    return None


def rounds_to(value: Fraction, number: WrittenNumber) -> bool:
    """Whether a value rounded to the significant digits of a decimal is that decimal."""
    if number.value == 0 or value == 0:
        return number.value == value
    magnitude = _magnitude(number.value)
    unit = Fraction(10) ** (magnitude - number.num_digits + 1)
    return abs(value - number.value) * 2 <= unit


def _decimal(sign: str, digits: str, exponent: str | None) -> WrittenNumber | None:
    power = int(exponent.replace(" ", "")) if exponent and len(exponent) < 12 else 0
    if (exponent and len(exponent) >= 12) or abs(power) > _MAX_EXPONENT:
        return None
    value = _plain(digits) * Fraction(10) ** power
    significant = digits.replace(".", "").lstrip("0")
    is_decimal = "." in digits or exponent is not None
    return WrittenNumber(-value if sign == "-" else value, is_decimal, len(significant))


def _plain(digits: str) -> Fraction:
    text = digits.replace(",", "").replace(" ", "")
    return Fraction(text if text[-1] != "." else text[:-1])


def _signed(sign: str, value: Fraction) -> WrittenNumber:
    return WrittenNumber(-value if sign == "-" else value)


def _magnitude(value: Fraction) -> int:
    """Exponent of the first significant digit."""
    value = abs(value)
    power = len(str(value.numerator)) - len(str(value.denominator))
    while Fraction(10) ** power > value:
        power -= 1
    while Fraction(10) ** (power + 1) <= value:
        power += 1
    return power
