"""Round numbers along an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from grlo.reporting.inline_svg import FONT_SIZE
from grlo.reporting.lettering import width_of

_STEPS = (1, 2, 5, 10)
_LARGEST = 1e150
"""What lies beyond, or below its inverse on an axis of ratios, is out of reach of arithmetic."""


@dataclass(frozen=True)
class Scale:
    """One axis.

    Attributes:
        low: Its lower end.
        high: Its upper end, above `low`.
        ticks: Places that bear a number, between the ends.
        is_log: Whether equal ratios are equally far apart.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    @property
    def texts(self) -> list[str]:
        """The numbers at the ticks, with the digits that tell them apart."""
        tried = ([f"{t + 0.0:,.{digits}g}" for t in self.ticks] for digits in range(6, 17))
        texts = next((own for own in tried if len(set(own)) == len(own)), [])
        return [text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-") for text in texts]

    @property
    def text_width(self) -> float:
        """Of the widest number."""
        return max((width_of(text, size=FONT_SIZE) for text in self.texts), default=0.0)


def is_drawn(*values: float) -> bool:
    """Whether a figure can show these numbers: finite, and not of absurd size."""
    return all(math.isfinite(value) and abs(value) < _LARGEST for value in values)


def is_ratio(value: float) -> bool:
    """Whether an axis of ratios can show the number: drawn, and above zero."""
    return 1 / _LARGEST < value < _LARGEST


def spanning(values: Iterable[float]) -> Scale:
    """From a round number below all values to one above, with three to eight ticks."""
    values = list(values) or [0.0]
    ticks = _round_numbers(*_apart(min(values), max(values)), intervals=7)
    return Scale(ticks[0], ticks[-1], ticks)


def within(
    values: Iterable[float],
    *,
    width: float,
    is_log: bool = False,
    margin: float = 0.0,
) -> Scale:
    """From the least value to the greatest, with as many ticks as their numbers have room for.

    Whole numbers only where the values are whole numbers.

    Args:
        values: Numbers that are drawn; with `is_log`, ratios.
        width: Of the axis.
        is_log: Whether equal ratios are equally far apart.
        margin: Share of the axis that is left free at either end.
    """
    values = list(values) or [1.0 if is_log else 0.0]
    are_whole = all(float(value).is_integer() for value in values)
    low, high = _apart(min(values), max(values), is_log=is_log)
    if is_log:
        factor = (high / low) ** margin
        low, high = low / factor, high * factor
    else:
        low, high = low - margin * (high - low), high + margin * (high - low)
    scale = Scale(low, high, (), is_log)
    for number in range(7, 1, -1):
        found = _ratios(low, high, number) if is_log else ()
        if len(found) < 2:
            found = _round_numbers(low, high, intervals=number, whole=are_whole)
        ticks = tuple(tick for tick in found if low <= tick <= high)
        scale = Scale(low, high, ticks, is_log)
        if len(ticks) * (scale.text_width + FONT_SIZE) <= width:
            break
    return scale


def _apart(low: float, high: float, *, is_log: bool = False) -> tuple[float, float]:
    """The ends of an axis that has a length, whatever the values are."""
    if is_log:
        return (low, high) if high > low * (1 + 1e-9) else (low / 2, high * 2)
    if high - low > 1e-12 * max(abs(low), abs(high)):
        return low, high
    half = max(0.5, 0.01 * abs(low))
    return low - half, high + half


def _round_numbers(
    low: float, high: float, *, intervals: int, whole: bool = False
) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten, the first and last at or beyond the ends."""
    from matplotlib.ticker import MaxNLocator

    locator = MaxNLocator(nbins=intervals, steps=_STEPS, integer=whole, min_n_ticks=1)
    return tuple(float(tick) for tick in locator.tick_values(low, high))


def _ratios(low: float, high: float, number: int) -> Sequence[float]:
    """At most `number` of 1, 2 and 5 times the powers of ten, or of every so many powers."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors, stride in (((1, 2, 5), 1), *(((1,), stride) for stride in range(1, 400))):
        ticks = [
            factor * 10.0**power for power in range(first, last + 1, stride) for factor in factors
        ]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= number:
            return inside
    return ()
