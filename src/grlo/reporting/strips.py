"""Drawings of one line each, as inline SVG that takes the width of where it stands.

What they draw stands beside them in words and numbers, so they are hidden from screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from grlo.reporting.blocks import Interval, Stack

_MARGIN = 0.04
"""Of the width, left free at either end."""

_APART = 20.0
"""Percent of the width that two numbers on an axis need at least, on a phone."""


def scale(numbers: Iterable[float]) -> tuple[float, float]:
    """A range that holds zero and every number that is finite."""
    finite = [number for number in numbers if math.isfinite(number)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    return (low, high) if low < high else (0.0, 1.0)


def strip_svg(strip: Interval | Stack) -> str:
    """The drawing of a strip; places across are percentages, so that nothing is stretched."""
    x_of = _x_of(strip.scale)
    parts = _interval(strip, x_of) if isinstance(strip, Interval) else _stack(strip, x_of)
    zero = f"{x_of(0.0):.2f}%"
    line = f'<line class="zero" x1="{zero}" y1="0" x2="{zero}" y2="100%"/>'
    return f'<svg class="strip" aria-hidden="true">{"".join([line, *parts])}</svg>'


def axis_html(ends: tuple[float, float]) -> str:
    """Zero and both ends of a scale, where the strips below have them."""
    x_of = _x_of(ends)
    zero = x_of(0.0)
    marks = [(zero, "0")]
    # Numbers that would touch the zero are left out.
    marks += [
        (x_of(end), f"{end:+.0f}" if abs(end) >= 10 else f"{end:+.2g}")
        for end in ends
        if abs(x_of(end) - zero) > _APART
    ]
    spans = "".join(f'<span style="left:{x:.2f}%">{text}</span>' for x, text in marks)
    return f'<span class="ticks" aria-hidden="true">{spans}</span>'


def _x_of(ends: tuple[float, float]) -> Callable[[float], float]:
    low, high = ends
    return lambda value: 100 * (_MARGIN + (1 - 2 * _MARGIN) * (value - low) / (high - low))


def _interval(strip: Interval, x_of: Callable[[float], float]) -> list[str]:
    if not math.isfinite(strip.value):
        return []
    kind = "range above" if strip.low > 0 else "range below" if strip.high < 0 else "range"
    parts = []
    if math.isfinite(strip.low) and math.isfinite(strip.high):
        ends = f'x1="{x_of(strip.low):.2f}%" x2="{x_of(strip.high):.2f}%"'
        parts.append(f'<line class="{kind}" {ends} y1="50%" y2="50%"/>')
    return [*parts, f'<circle class="{kind}" cx="{x_of(strip.value):.2f}%" cy="50%" r="4"/>']


def _stack(strip: Stack, x_of: Callable[[float], float]) -> list[str]:
    above = below = 0.0
    parts = []
    for value, color in zip(strip.parts, strip.colors, strict=True):
        if not math.isfinite(value) or value == 0:
            continue
        if value > 0:
            start, above = above, above + value
        else:
            below += value
            start = below
        x, width = x_of(start), x_of(start + abs(value)) - x_of(start)
        place = f'x="{x:.2f}%" width="{width:.2f}%" y="10%" height="80%"'
        parts.append(f'<rect {place} fill="{color}"/>')
    return parts
