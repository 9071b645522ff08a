"""Small charts as inline SVG: no library, no file, no script. All text is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

# Distinguishable with any colour vision (Okabe and Ito 2008).
COLORS = ("#7f7f7f", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
_WIDTH, _HEIGHT = 640, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 38, 40


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x_label: str,
    colors: Sequence[str] = COLORS,
) -> str:
    """Lines through points, one per entry, with a legend.

    Args:
        series: Name -> points (x, y) in order of x; points that are not finite are left out.
        title: Above the chart; says what y is.
        x_label: Below it.
        colors: One per entry.
    """
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in series.items()
    }
    everything = [point for points in finite.values() for point in points]
    xs, ys = [x for x, _ in everything] or [0.0], [y for _, y in everything] or [0.0]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_of = _scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    y_of = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    body = _y_axis(y_ticks, y_of)
    for x in x_ticks:
        if min(xs) <= x <= max(xs):
            body.append(_text(x_of(x), _HEIGHT - _BOTTOM + 16, f"{x:g}"))
    body.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 6, x_label))
    for (_, points), color in zip(finite.items(), colors, strict=False):
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
    return _svg(title, body, names=list(series), colors=colors)


def bar_chart(
    groups: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    title: str,
    colors: Sequence[str] = COLORS,
) -> str:
    """Groups of bars from zero, with the interval of each as a line.

    Args:
        groups: Name of each group of bars.
        series: Name -> (value, low, high) for each group.
        title: Above the chart; says what the bars measure.
        colors: One per entry of `series`.
    """
    ends = [end for bars in series.values() for bar in bars for end in bar if math.isfinite(end)]
    y_ticks = ticks(min([0.0, *ends]), max([0.0, *ends]))
    y_of = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    body = _y_axis(y_ticks, y_of)
    group_width = (_WIDTH - _LEFT - _RIGHT) / max(1, len(groups))
    width = 0.8 * group_width / max(1, len(series))
    for index, group in enumerate(groups):
        start = _LEFT + index * group_width + 0.1 * group_width
        body.append(_text(start + 0.4 * group_width, _HEIGHT - _BOTTOM + 18, group))
        for number, (bars, color) in enumerate(zip(series.values(), colors, strict=False)):
            value, low, high = bars[index]
            x, top, bottom = start + number * width, y_of(max(value, 0)), y_of(min(value, 0))
            body.append(
                f'<rect x="{x:.1f}" y="{top:.1f}" width="{0.9 * width:.1f}" '
                f'height="{bottom - top:.1f}" fill="{color}"/>'
            )
            if math.isfinite(low) and math.isfinite(high):
                middle = x + 0.45 * width
                body.append(_line(middle, y_of(low), middle, y_of(high), "#222", width=1.5))
    return _svg(title, body, names=list(series), colors=colors)


def ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers whose range holds `low` and `high`."""
    if low == high:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """Maps [low, high] linearly onto [start, stop]."""
    factor = (stop - start) / ((high - low) or 1.0)
    return lambda value: start + (value - low) * factor


def _y_axis(y_ticks: Sequence[float], y_of: Callable[[float], float]) -> list[str]:
    body = []
    for y in y_ticks:
        body.append(_line(_LEFT, y_of(y), _WIDTH - _RIGHT, y_of(y), "#222" if y == 0 else "#ddd"))
        body.append(_text(_LEFT - 6, y_of(y) + 4, f"{y:g}", anchor="end"))
    return body


def _svg(title: str, body: Sequence[str], *, names: Sequence[str], colors: Sequence[str]) -> str:
    parts = [_text(_LEFT, 14, title, anchor="start", weight="bold")]
    x = float(_LEFT)
    for name, color in zip(names, colors, strict=False):
        parts.append(f'<rect x="{x:.1f}" y="20" width="10" height="10" fill="{color}"/>')
        parts.append(_text(x + 14, 29, name, anchor="start"))
        x += 30 + 7 * len(name)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12">'
        + "".join([*parts, *body])
        + "</svg>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "middle", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="#222">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, color: str, *, width: float = 1.0) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
        f'stroke-width="{width}"/>'
    )
