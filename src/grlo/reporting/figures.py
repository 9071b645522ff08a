"""Small charts as inline SVG: no library, no file, no script. All text is escaped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

# Distinguishable with any colour vision (Okabe and Ito 2008).
COLORS = (
    "#7f7f7f",
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#d55e00",
    "#56b4e9",
    "#f0e442",
)
_WIDTH, _HEIGHT = 640, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 38, 40


Points = Sequence[tuple[float, float]]
Band = Sequence[tuple[float, float, float]]


def line_chart(
    series: Mapping[str, Points],
    *,
    title: str,
    x_label: str,
    colors: Sequence[str] = COLORS,
    bands: Mapping[str, Band] | None = None,
    right: Mapping[str, Points] | None = None,
) -> str:
    """Lines through points, one per entry, with a legend.

    Args:
        series: Name -> points (x, y) in order of x; points that are not finite are left out.
        title: Above the chart; says what y is.
        x_label: Below it.
        colors: One per entry, those on the right last.
        bands: Name of an entry of `series` -> (x, low, high), filled behind its line.
        right: Further lines, with an axis of their own on the right.
    """
    left, right, bands = _finite(series), _finite(right or {}), bands or {}
    finite_bands = {
        name: [row for row in band if all(map(math.isfinite, row))] for name, band in bands.items()
    }
    xs = [x for points in (*left.values(), *right.values()) for x, _ in points] or [0.0]
    ys = [y for points in left.values() for _, y in points]
    ys += [y for band in finite_bands.values() for row in band for y in row[1:]]
    frame = _Frame([*left, *right], has_right=bool(right))
    x_of = _scale(min(xs), max(xs), _LEFT, frame.end)
    y_ticks = ticks(min(ys, default=0.0), max(ys, default=0.0))
    y_of = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, frame.top)
    body = [*_y_axis(y_ticks, y_of, frame), *_x_axis(xs, x_of, frame, x_label)]
    color_of = dict(zip([*left, *right], itertools.cycle(colors), strict=False))
    for name, band in finite_bands.items():
        upper = [f"{x_of(x):.1f},{y_of(high):.1f}" for x, _, high in band]
        lower = [f"{x_of(x):.1f},{y_of(low):.1f}" for x, low, _ in reversed(band)]
        body.append(_area([*upper, *lower], color_of[name], opacity=0.18))
    body += [_polyline(points, x_of, y_of, color_of[name]) for name, points in left.items()]
    if right:
        ys = [y for points in right.values() for _, y in points] or [0.0]
        y_ticks = ticks(min(ys), max(ys))
        y_of = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, frame.top)
        for y in y_ticks:
            body.append(_text(frame.end + 6, y_of(y) + 4, f"{y:g}", anchor="start"))
        body += [_polyline(points, x_of, y_of, color_of[name]) for name, points in right.items()]
    return frame.svg(title, body, color_of)


def stacked_chart(
    series: Mapping[str, Points],
    *,
    title: str,
    x_label: str,
    colors: Sequence[str] = COLORS,
) -> str:
    """Areas on top of each other, the first at the bottom; what an entry lacks counts as zero.

    Args:
        series: Name -> points (x, y) with y of at least 0.
        title: Above the chart; says what y is.
        x_label: Below it.
        colors: One per entry.
    """
    finite = {name: dict(points) for name, points in _finite(series).items()}
    xs = sorted({x for points in finite.values() for x in points}) or [0.0]
    sums = dict.fromkeys(xs, 0.0)
    layers: dict[str, list[tuple[float, float, float]]] = {}
    for name, points in finite.items():
        layers[name] = [(x, sums[x], sums[x] + points.get(x, 0.0)) for x in xs]
        sums = {x: high for x, _, high in layers[name]}
    frame = _Frame(list(finite))
    x_of = _scale(xs[0], xs[-1], _LEFT, frame.end)
    y_ticks = ticks(0.0, max(sums.values()))
    y_of = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, frame.top)
    color_of = dict(zip(finite, itertools.cycle(colors), strict=False))
    body = _y_axis(y_ticks, y_of, frame)
    for name, layer in layers.items():
        upper = [f"{x_of(x):.1f},{y_of(high):.1f}" for x, _, high in layer]
        lower = [f"{x_of(x):.1f},{y_of(low):.1f}" for x, low, _ in reversed(layer)]
        body.append(_area([*upper, *lower], color_of[name], opacity=0.85))
    return frame.svg(title, [*body, *_x_axis(xs, x_of, frame, x_label)], color_of)


def scatter_chart(points: Points, *, title: str, x_label: str, color: str = COLORS[1]) -> str:
    """A dot for every point that is finite.

    Args:
        points: (x, y).
        title: Above the chart; says what y is.
        x_label: Below it.
        color: Of the dots, which are translucent.
    """
    finite = _finite({"": points})[""]
    xs, ys = [x for x, _ in finite] or [0.0], [y for _, y in finite] or [0.0]
    frame = _Frame([])
    x_of = _scale(min(xs), max(xs), _LEFT + 6, frame.end - 6)
    y_ticks = ticks(min(ys), max(ys))
    y_of = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, frame.top)
    body = [*_y_axis(y_ticks, y_of, frame), *_x_axis(xs, x_of, frame, x_label)]
    for x, y in finite:
        dot = f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{color}"'
        body.append(f'{dot} fill-opacity="0.4"/>')
    return frame.svg(title, body, {})


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
    frame = _Frame(list(series))
    y_of = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, frame.top)
    body = _y_axis(y_ticks, y_of, frame)
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
    return frame.svg(title, body, dict(zip(series, colors, strict=False)))


def forest_chart(rows: Mapping[str, tuple[float, float, float]], *, title: str) -> str:
    """A dot with its interval for each row, and a line at zero.

    Args:
        rows: Name -> (value, low, high); an interval without ends is not drawn.
        title: Above the chart; says what the values are.
    """
    finite = {name: row for name, row in rows.items() if math.isfinite(row[0])}
    if not finite:
        return ""
    height, left = 26, 190
    bottom = 40 + height * len(finite)
    ends = [0.0, *(x for row in finite.values() for x in row if math.isfinite(x))]
    x_ticks = ticks(min(ends), max(ends))
    x_of = _scale(x_ticks[0], x_ticks[-1], left, _WIDTH - 20)
    body = [_text(8, 14, title, anchor="start", weight="bold")]
    for x in x_ticks:
        body.append(_line(x_of(x), 32, x_of(x), bottom, "#222" if x == 0 else "#ddd"))
        body.append(_text(x_of(x), bottom + 16, f"{x:g}"))
    for index, (name, (value, low, high)) in enumerate(finite.items()):
        y = 40 + height * (index + 0.5)
        clear = low > 0 or high < 0
        color = COLORS[1] if clear else COLORS[0]
        body.append(_text(left - 8, y + 4, name, anchor="end"))
        if math.isfinite(low) and math.isfinite(high):
            body.append(_line(x_of(low), y, x_of(high), y, color, width=2.0))
        body.append(f'<circle cx="{x_of(value):.1f}" cy="{y:.1f}" r="4" fill="{color}"/>')
    return _svg(title, body, height=bottom + 24)


def map_chart(groups: Mapping[str, Points], *, title: str, colors: Sequence[str] = COLORS) -> str:
    """Dots in a plane without axes, where only nearness means something.

    Args:
        groups: Name -> points (x, y).
        title: Above the chart.
        colors: One per group, then from the first again.
    """
    finite = _finite(groups)
    everything = [point for points in finite.values() for point in points]
    if not everything:
        return ""
    frame = _Frame(list(finite))
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    bottom = 460
    x_of = _scale(min(xs), max(xs), 12, _WIDTH - 12)
    y_of = _scale(min(ys), max(ys), bottom - 12, frame.top + 6)
    color_of = dict(zip(finite, itertools.cycle(colors), strict=False))
    body = [
        f'<circle cx="{x_of(x):.0f}" cy="{y_of(y):.0f}" r="2.5" fill="{color_of[name]}" '
        'fill-opacity="0.6"/>'
        for name, points in finite.items()
        for x, y in points
    ]
    return frame.svg(title, body, color_of, height=bottom)


def row_chart(
    rows: Mapping[str, Sequence[float]],
    *,
    title: str,
    names: Sequence[str] = ("",),
    colors: Sequence[str] = COLORS[1:],
) -> str:
    """Bars from zero to the right, one below the other, with their numbers behind them.

    Args:
        rows: Name of a row -> a value, not below zero, for each of `names`.
        title: Above the chart; says what the bars measure.
        names: Of the bars of a row; a single one needs none.
        colors: One per name.
    """
    if not rows:
        return ""
    bar, left, top = 16, 210, 44 if len(names) > 1 else 28
    height = bar * len(names) + 8
    most = max((value for values in rows.values() for value in values), default=0.0) or 1.0
    x_of = _scale(0.0, most, left, _WIDTH - 60)
    body = [_text(8, 14, title, anchor="start", weight="bold")]
    for number, name in enumerate(names if len(names) > 1 else ()):
        x = left + 120 * number
        body.append(f'<rect x="{x}" y="24" width="10" height="10" fill="{colors[number]}"/>')
        body.append(_text(x + 14, 33, name, anchor="start"))
    for index, (name, values) in enumerate(rows.items()):
        y = top + index * height
        body.append(_text(left - 8, y + height / 2, name, anchor="end"))
        for number, value in enumerate(values):
            width = x_of(value) - left
            body.append(
                f'<rect x="{left}" y="{y + number * bar:.1f}" width="{width:.1f}" '
                f'height="{bar - 2}" fill="{colors[number % len(colors)]}"/>'
            )
            shown = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
            middle = y + (number + 0.8) * bar - 1
            body.append(_text(left + width + 4, middle, shown, anchor="start"))
    return _svg(title, body, height=top + height * len(rows) + 4)


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


class _Frame:
    """Room for title, legend and axes: a legend that is too long for a line takes another.

    Args:
        names: Entries of the legend.
        has_right: Whether there is an axis on the right.
    """

    def __init__(self, names: Sequence[str], *, has_right: bool = False) -> None:
        self.end = _WIDTH - (_LEFT if has_right else _RIGHT)
        self._places: list[tuple[str, float, float]] = []
        x, y = float(_LEFT), 20.0
        for name in filter(None, names):  # A single line needs no name beside the title.
            width = 30 + 7 * len(name)
            if x > _LEFT and x + width > _WIDTH:
                x, y = float(_LEFT), y + 16
            self._places.append((name, x, y))
            x += width
        self.top = y + (_TOP - 20)

    def svg(
        self,
        title: str,
        body: Sequence[str],
        color_of: Mapping[str, str],
        *,
        height: float = _HEIGHT,
    ) -> str:
        parts = [_text(_LEFT, 14, title, anchor="start", weight="bold")]
        for name, x, y in self._places:
            color = color_of.get(name, COLORS[0])
            parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="10" height="10" fill="{color}"/>')
            parts.append(_text(x + 14, y + 9, name, anchor="start"))
        return _svg(title, [*parts, *body], height=height)


def _svg(title: str, body: Sequence[str], *, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12">'
        + "".join(body)
        + "</svg>"
    )


def _finite(series: Mapping[str, Points]) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in series.items()
    }


def _y_axis(y_ticks: Sequence[float], y_of: Callable[[float], float], frame: _Frame) -> list[str]:
    body = []
    for y in y_ticks:
        body.append(_line(_LEFT, y_of(y), frame.end, y_of(y), "#222" if y == 0 else "#ddd"))
        body.append(_text(_LEFT - 6, y_of(y) + 4, f"{y:g}", anchor="end"))
    return body


def _x_axis(
    xs: Sequence[float], x_of: Callable[[float], float], frame: _Frame, label: str
) -> list[str]:
    """Ticks within the data; whole numbers only where the data are whole numbers."""
    are_whole = all(float(x).is_integer() for x in xs)
    body = [
        _text(x_of(x), _HEIGHT - _BOTTOM + 16, f"{x:g}")
        for x in ticks(min(xs), max(xs))
        if min(xs) <= x <= max(xs) and (not are_whole or float(x).is_integer())
    ]
    return [*body, _text((_LEFT + frame.end) / 2, _HEIGHT - 6, label)]


def _polyline(
    points: Points, x_of: Callable[[float], float], y_of: Callable[[float], float], color: str
) -> str:
    """A line, and a dot where a line would have no length."""
    path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
    line = f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
    if len(points) != 1:
        return line
    x, y = points[0]
    return f'{line}<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{color}"/>'


def _area(corners: Sequence[str], color: str, *, opacity: float) -> str:
    return f'<polygon points="{" ".join(corners)}" fill="{color}" fill-opacity="{opacity:g}"/>'


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
