r"""Values of written arithmetic: `\frac{\ln 2}{2}`, `4\pi`, `1.5\times10^{3}`, `3\sqrt2`.

For numbers with a tolerance, where sympy is too slow to load and exactness is not asked for. What
is rational is exact, the rest is a float. No time limit is needed: sizes and depth are bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction

Number = Fraction | float

_MAX_DEPTH = 30
_MAX_POWER = 400
_MAX_FACTORIAL = 170
_MAX_BITS = 20_000

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?(?:[eE][-+]?\d{1,3}(?!\d))?"
    r"|\.\d+(?:[eE][-+]?\d{1,3}(?!\d))?)"
    r"|(?P<command>\\[A-Za-z]+)|(?P<sign>[-+*/^!(){}\[\]_]|e(?=\s*\^)))"
)
_DIGIT = re.compile(r"\s*\d(?!\.)")
# 4.7 10^{14} needs no sign between.
_POWER_OF_TEN = re.compile(r"\s*10\s*\^")
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    r"\ln": math.log, r"\log": math.log10, r"\exp": math.exp, r"\sin": math.sin,
    r"\cos": math.cos, r"\tan": math.tan, r"\arcsin": math.asin, r"\arccos": math.acos,
    r"\arctan": math.atan, r"\sinh": math.sinh, r"\cosh": math.cosh, r"\tanh": math.tanh,
}  # fmt: skip
# What may follow without a sign between.
_FACTORS = frozenset(("(", r"\sqrt", r"\pi", r"\frac", "e", *_FUNCTIONS))
_TIMES = ("*", r"\cdot", r"\times")


class _UnreadableError(Exception):
    """The text is no arithmetic."""


def leading_value(text: str) -> tuple[Fraction, str] | None:
    """The value of the arithmetic that a text begins with, and what follows it.

    Args:
        text: Normalised as by `grlo.verifiers.math_text.normalised`.

    Returns:
        None where the text begins with none, or its value is not real or too large.
    """
    reader = _Reader(text)
    try:
        value = reader.sum()
        return Fraction(value), text[reader.position :]
    except (_UnreadableError, ArithmeticError, ValueError):
        return None


class _Reader:
    """Recursive descent; the position only moves past what has been understood."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._depth = 0
        self.position = 0

    def sum(self) -> Number:
        value = self._product()
        while (sign := self._peek()) in ("+", "-"):
            start = self.position
            self._take(sign)
            try:
                term = self._product()
            except _UnreadableError:
                self.position = start
                break
            value = _checked(value + term if sign == "+" else value - term)
        return value

    def _product(self) -> Number:
        start = self.position
        value = self._signed()
        is_whole = self._text[start : self.position].strip().isdecimal()
        while True:
            start = self.position
            sign = self._peek()
            try:
                if sign in _TIMES or sign == "/":
                    self._take(sign)
                    factor = self._signed()
                    value = _checked(value / factor if sign == "/" else value * factor)
                elif sign == r"\frac" and is_whole:
                    # A mixed number such as 2\frac58.
                    value = _checked(value + self._power())
                elif sign in _FACTORS or _POWER_OF_TEN.match(self._text, self.position):
                    value = _checked(value * self._power())
                else:
                    return value
            except _UnreadableError:
                # What follows may be a unit: 5 / \text{s}.
                self.position = start
                return value
            is_whole = False

    def _signed(self) -> Number:
        sign = self._peek()
        if sign in ("+", "-"):
            self._take(sign)
            value = self._power()
            return -value if sign == "-" else value
        return self._power()

    def _power(self) -> Number:
        value = self._atom()
        while (sign := self._peek()) in ("^", "!"):
            self._take(sign)
            if sign == "!":
                if value != int(value) or not 0 <= value <= _MAX_FACTORIAL:
                    raise _UnreadableError
                value = Fraction(math.factorial(int(value)))
            else:
                value = _raised(value, self._argument())
        return value

    def _argument(self) -> Number:
        """What an exponent or a function is applied to: a group, or one digit or atom."""
        digit = _DIGIT.match(self._text, self.position)
        if digit:
            self.position = digit.end()
            return Fraction(digit.group().strip())
        return self._atom()

    def _atom(self) -> Number:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnreadableError
        try:
            return self._read_atom()
        finally:
            self._depth -= 1

    def _read_atom(self) -> Number:
        token = self._peek()
        if token in ("(", "{"):
            self._take(token)
            value = self.sum()
            self._take(")" if token == "(" else "}")
            return value
        if token == r"\frac":
            self._take(token)
            above = self._argument()
            return _checked(above / self._argument())
        if token == r"\sqrt":
            self._take(token)
            degree: Number = Fraction(2)
            if self._peek() == "[":
                self._take("[")
                degree = self.sum()
                self._take("]")
            return _raised(self._argument(), 1 / degree)
        if token == r"\pi":
            self._take(token)
            return math.pi
        if token == "e":
            self._take(token)
            return math.e
        if token in _FUNCTIONS:
            return self._function(token)
        match = _TOKEN.match(self._text, self.position)
        if match is None or match.group("number") is None:
            raise _UnreadableError
        self.position = match.end()
        return Fraction(match.group("number").replace(",", ""))

    def _function(self, name: str) -> Number:
        self._take(name)
        base: Number | None = None
        if name == r"\log" and self._peek() == "_":
            self._take("_")
            base = self._argument()
        argument = self._power()
        if base is not None:
            return math.log(argument) / math.log(base)
        if self._peek() == r"\deg":
            self._take(r"\deg")
            argument = math.radians(argument)
        return _FUNCTIONS[name](float(argument))

    def _peek(self) -> str:
        match = _TOKEN.match(self._text, self.position)
        return (match.group("command") or match.group("sign") or "") if match else ""

    def _take(self, token: str) -> None:
        match = _TOKEN.match(self._text, self.position)
        if match is None or token not in (match.group("command"), match.group("sign")):
            raise _UnreadableError
        self.position = match.end()


def _raised(base: Number, exponent: Number) -> Number:
    is_whole = isinstance(exponent, Fraction) and exponent.denominator == 1
    if is_whole and isinstance(base, Fraction) and abs(exponent) <= _MAX_POWER:
        return _checked(base ** int(exponent))
    value = float(base) ** float(exponent)
    if isinstance(value, complex):
        raise _UnreadableError
    return value


def _checked(value: Number) -> Number:
    """Keeps exact numbers from growing without end."""
    if isinstance(value, Fraction):
        size = value.numerator.bit_length() + value.denominator.bit_length()
        return value if size <= _MAX_BITS else float(value)
    return value
