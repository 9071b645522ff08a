r"""Units behind a number: which they are, and how many of one make another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_PREFIXES = {
    "f": -15, "p": -12, "n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3, "c": -2, "d": -1, "k": 3,
    "M": 6, "G": 9, "T": 12,
}  # fmt: skip
_PREFIX_NAMES = {
    "femto": -15, "pico": -12, "nano": -9, "micro": -6, "milli": -3, "centi": -2, "deci": -1,
    "kilo": 3, "mega": 6, "giga": 9, "tera": 12,
}  # fmt: skip

# Symbol: (dimension, factor to the unit of that dimension). Prefixes may stand before them.
_PREFIXED: dict[str, tuple[str, str]] = {
    "m": ("length", "1"), "meter": ("length", "1"), "metre": ("length", "1"),
    "g": ("mass", "1/1000"), "gram": ("mass", "1/1000"), "s": ("time", "1"),
    "second": ("time", "1"), "J": ("energy", "1"), "joule": ("energy", "1"),
    "eV": ("energy", "1.602176634e-19"), "cal": ("energy", "4.184"), "N": ("force", "1"),
    "newton": ("force", "1"), "Pa": ("pressure", "1"), "pascal": ("pressure", "1"),
    "bar": ("pressure", "100000"), "W": ("power", "1"), "watt": ("power", "1"),
    "Hz": ("frequency", "1"), "hertz": ("frequency", "1"), "V": ("voltage", "1"),
    "volt": ("voltage", "1"), "A": ("current", "1"), "ampere": ("current", "1"),
    "C": ("charge", "1"), "coulomb": ("charge", "1"), "T": ("field", "1"), "tesla": ("field", "1"),
    "K": ("temperature", "1"), "kelvin": ("temperature", "1"), "mol": ("amount", "1"),
    "mole": ("amount", "1"), "L": ("volume", "1/1000"), "l": ("volume", "1/1000"),
    "liter": ("volume", "1/1000"), "litre": ("volume", "1/1000"), "F": ("capacitance", "1"),
    "ohm": ("resistance", "1"), "\u03a9": ("resistance", "1"), "Omega": ("resistance", "1"),
}  # fmt: skip
_OTHERS: dict[str, tuple[str, str]] = {
    "in": ("length", "0.0254"), "inch": ("length", "0.0254"), "inche": ("length", "0.0254"),
    "ft": ("length", "0.3048"), "foot": ("length", "0.3048"), "feet": ("length", "0.3048"),
    "yd": ("length", "0.9144"), "yard": ("length", "0.9144"), "mi": ("length", "1609.344"),
    "mile": ("length", "1609.344"), "lb": ("mass", "0.45359237"), "pound": ("mass", "0.45359237"),
    "oz": ("mass", "0.028349523125"), "ounce": ("mass", "0.028349523125"),
    "min": ("time", "60"), "minute": ("time", "60"), "h": ("time", "3600"), "hr": ("time", "3600"),
    "hour": ("time", "3600"), "day": ("time", "86400"), "sec": ("time", "1"),
    "week": ("time", "604800"), "month": ("month", "1"), "yr": ("month", "12"),
    "year": ("month", "12"), "atm": ("pressure", "101325"), "Torr": ("pressure", "133.322368"),
    "torr": ("pressure", "133.322368"), "mmHg": ("pressure", "133.322368"),
    "dollar": ("money", "1"), "usd": ("money", "1"), "cent": ("money", "1/100"),
    "Å": ("length", "1e-10"), "angstrom": ("length", "1e-10"),
    "gallon": ("gallon", "1"), "quart": ("gallon", "1/4"), "pint": ("gallon", "1/8"),
    "cup": ("gallon", "1/16"), "AU": ("length", "149597870700"), "%": ("number", "1/100"),
    "percent": ("number", "1/100"), "rad": ("number", "1"), "radian": ("number", "1"),
}  # fmt: skip
_DEGREE = ("deg", "degree")
# Dimensions as powers of other ones, so that J and N m, or Pa and N/m^2, are of one kind.
_DIMENSIONS: dict[str, dict[str, int]] = {
    "number": {},
    "volume": {"length": 3},
    "frequency": {"time": -1},
    "charge": {"current": 1, "time": 1},
    "force": {"mass": 1, "length": 1, "time": -2},
    "energy": {"mass": 1, "length": 2, "time": -2},
    "power": {"mass": 1, "length": 2, "time": -3},
    "pressure": {"mass": 1, "length": -1, "time": -2},
    "voltage": {"mass": 1, "length": 2, "time": -3, "current": -1},
    "resistance": {"mass": 1, "length": 2, "time": -3, "current": -2},
    "capacitance": {"mass": -1, "length": -2, "time": 4, "current": 2},
    "field": {"mass": 1, "time": -2, "current": -1},
}


@dataclass(frozen=True)
class Unit:
    """A product of powers of units."""

    dimension: str
    """Powers of what it measures, such as `length^1 time^-1`; empty for percent and degrees.
    Units of one dimension are convertible."""
    factor: Fraction | None
    """How many of the dimension's own unit it is; None for degrees, pi/180."""

    @property
    def is_number(self) -> bool:
        """Whether it is a factor rather than a unit: percent and degrees."""
        return not self.dimension


@dataclass(frozen=True)
class Quantity:
    """A number as text, and its unit where it has a known one."""

    text: str
    unit: Unit | None


_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_TAIL_WORDS = re.compile(
    r"(?:\\text\s*\{[^{}]*\}|\\deg(?![A-Za-z])|\\%|%|\\mu(?![A-Za-z])|\\Omega(?![A-Za-z])"
    r"|\\cdot(?![A-Za-z])|(?<![A-Za-z\\])[A-Za-zµμΩ]{2,}(?![A-Za-z({])"
    r"|\^\s*\{?\s*-?\d\s*\}?|[\s/])+$"
)
# "5 (or 6)" is no unit.
_HEDGE = re.compile(r"(?<!\^)\d|\b(?:or|and|not|nor)\b")
_BARE_WORD = re.compile(r"(?P<space>\s?)(?<![A-Za-z\\])(?P<word>[A-Za-z]{2,})")
_FACTOR = re.compile(
    r"(/)|\\cdot|(per)\b|(?:(\\mu)\s*)?(\\deg|\\%|%|\\Omega|[A-Za-zµμΩÅ]+)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?"
)


def split_unit(text: str) -> Quantity | None:
    """The number and the unit behind it; words that are no known unit are left out.

    Args:
        text: A normalised answer. A single letter counts as a unit only inside `\\text`.

    Returns:
        None when nothing but a number or expression is there.
    """
    tail = _TAIL_WORDS.search(text)
    if tail is None or tail.start() == 0 or not tail.group().strip():
        return None
    if not re.search(r"[A-Za-z%µμΩ]", tail.group()):
        return None
    number = text[: tail.start()].strip()
    written = tail.group()
    if written.lstrip().startswith("^") and not re.match(r"\s*\^\s*\{?\s*-?\d", written):
        return None
    if written.lstrip().startswith("^"):
        # The power belongs to the number.
        power = re.match(r"\s*\^\s*\{?\s*-?\d\s*\}?", written)
        assert power is not None
        number += power.group()
        written = written[power.end() :]
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", number) and "\\deg" in written:
        return None  # The degrees belong to the argument.
    if any(_HEDGE.search(words) for words in _TEXT.findall(written)):
        return None
    for word in _BARE_WORD.finditer(_TEXT.sub("", written)):
        is_long = len(word.group("word")) >= 4 and word.group("space")
        if not is_long and _named(word.group("word")) is None:
            return None  # A product such as 2ab.
    return Quantity(number, parse_unit(written))


def parse_unit(text: str) -> Unit | None:
    """The unit that a text names, as `kJ mol^{-1}` or `\\text{cm}^2`; None if it is unknown."""
    text = _TEXT.sub(r" \1 ", text).replace("square ", "sq ").replace("cubic ", "cu ")
    if scale := re.search(r"\\deg\s*([A-Z])\b", text):
        # Scales of temperature do not start at 0, so they are no multiples of each other.
        is_all = not text.replace(scale.group(), "").strip(" .")
        return Unit(f"degrees {scale.group(1)}", Fraction(1)) if is_all else None
    text = re.sub(r"\bsq\.?\s+(\w+)", r"\1^2", text)
    text = re.sub(r"\bcu\.?\s+(\w+)", r"\1^3", text)
    powers: dict[str, int] = {}
    factor: Fraction | None = Fraction(1)
    sign = 1
    position = 0
    found_any = False
    while position < len(text):
        match = _FACTOR.match(text, position)
        if match is None:
            if not text[position].isspace() and text[position] not in ".,()":
                return None
            position += 1
            continue
        position = match.end()
        if match.group(1) or match.group(2):
            sign = -1
            continue
        if match.group(4) is None:
            continue
        named = _named(("µ" if match.group(3) else "") + match.group(4).lstrip("\\"))
        if named is None:
            return None
        dimension, unit_factor = named
        power = sign * int(match.group(5) or 1)
        for base, base_power in _DIMENSIONS.get(dimension, {dimension: 1}).items():
            powers[base] = powers.get(base, 0) + power * base_power
        found_any = True
        factor = None if unit_factor is None or factor is None else factor * unit_factor**power
    if not found_any:
        return None
    dimension = " ".join(f"{name}^{power}" for name, power in sorted(powers.items()) if power)
    return Unit(dimension, factor)


def _named(word: str) -> tuple[str, Fraction | None] | None:
    for name in (word, word[:-1] if len(word) > 2 and word.endswith("s") else word, word.lower()):
        if name in _DEGREE:
            return "number", None
        if name in _OTHERS:
            dimension, factor = _OTHERS[name]
            return dimension, Fraction(factor)
        if name in _PREFIXED:
            dimension, factor = _PREFIXED[name]
            return dimension, Fraction(factor)
        for prefixes in (_PREFIX_NAMES, _PREFIXES):
            for prefix, exponent in prefixes.items():
                base = name[len(prefix) :]
                if name.startswith(prefix) and base in _PREFIXED:
                    dimension, factor = _PREFIXED[base]
                    return dimension, Fraction(factor) * Fraction(10) ** exponent
    singular = word.lower().rstrip("s")
    if singular != word and singular in _OTHERS:
        dimension, factor = _OTHERS[singular]
        return dimension, Fraction(factor)
    if singular in _DEGREE:
        return "number", None
    return None
