"""Charts by matplotlib as inline SVG: no file, no script, no reference. All text is untrusted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from grlo.reporting.inline_svg import FONT_SIZE, INK, drawn
from grlo.reporting.labels import AWAY, Box, Named, beside
from grlo.reporting.lettering import width_of, wrapped
from grlo.reporting.panel import EDGE, FAINT, GRID, LINE, WIDTH, Panel, framed
from grlo.reporting.scales import is_drawn, is_ratio, spanning, within
from grlo.reporting.shapes import (
    Band,
    Points,
    draw_area,
    draw_dots,
    draw_line,
    draw_rectangle,
)

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

_ACROSS = 440.0
"""About how wide the plot of a chart with numbers at its left is."""
_NAME = 170.0
"""How wide a name beside a dot may be."""
_SLOPE = 40.0
"""Degrees by which names fall that are too wide for their place."""


@drawn
def line_chart(
    series: Mapping[str, Points],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    colors: Sequence[str] = COLORS,
    bands: Mapping[str, Band] | None = None,
    marks: Mapping[str, Points] | None = None,
    right: Mapping[str, Points] | None = None,
    log_x: bool = False,
) -> str:
    """Lines through points, one per entry, with a legend.

    Args:
        series: Name -> points (x, y) in order of x; points that are not finite are left out.
        title: Above the chart; says what y is if `y_label` does not.
        x_label: Below it.
        y_label: What y is.
        colors: One per entry, those on the right last, then from the first again.
        bands: Name of an entry of `series` -> (x, low, high), filled behind its line.
        marks: Name of an entry of `series` -> points with a dot in its color.
        right: Further lines, with an axis of their own on the right.
        log_x: Whether equal ratios of x are equally far apart; what is not above zero is left out.
    """
    left, right = _finite(series, log_x), _finite(right or {}, log_x)
    marks, bands = _finite(marks or {}, log_x), _finite_bands(bands or {}, log_x)
    on_left = [point for points in (*left.values(), *marks.values()) for point in points]
    on_right = [point for points in right.values() for point in points]
    edges = [row for band in bands.values() for row in band]
    ys = [*(y for _, y in on_left), *(y for row in edges for y in row[1:])]
    xs = [*(x for x, _ in on_left), *(x for x, _ in on_right), *(row[0] for row in edges)]
    right_scale = spanning(y for _, y in on_right) if right else None
    color_of = _colored([*left, *right], colors)
    panel = framed(
        title,
        y=spanning(ys),
        x=within(xs, width=_ACROSS, is_log=log_x),
        right=right_scale,
        x_label=x_label,
        y_label=y_label,
        legend=color_of,
    )
    for name, band in bands.items():
        draw_area(panel.axes, band, color_of[name], opacity=0.18)
    for name, points in left.items():
        draw_line(panel.axes, points, color_of[name])
    for name, points in marks.items():
        draw_dots(panel.axes, points, color_of[name], radius=4)
    if right_scale:
        axes = panel.second_axes(right_scale)
        for name, points in right.items():
            draw_line(axes, points, color_of[name])
    return panel.svg()


@drawn
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
        colors: One per entry, then from the first again.
    """
    finite = {name: dict(points) for name, points in _finite(series).items()}
    xs = sorted({x for points in finite.values() for x in points}) or [0.0]
    sums = dict.fromkeys(xs, 0.0)
    layers: dict[str, list[tuple[float, float, float]]] = {}
    for name, points in finite.items():
        layers[name] = [(x, sums[x], sums[x] + points.get(x, 0.0)) for x in xs]
        sums = {x: high for x, _, high in layers[name]}
    color_of = _colored(finite, colors)
    panel = framed(
        title,
        y=spanning([0.0, *sums.values()]),
        x=within(xs, width=_ACROSS),
        x_label=x_label,
        legend=color_of,
    )
    for name, layer in layers.items():
        draw_area(panel.axes, layer, color_of[name], opacity=0.85)
    return panel.svg()


@drawn
def scatter_chart(points: Points, *, title: str, x_label: str, color: str = COLORS[1]) -> str:
    """A dot for every point that is finite.

    Args:
        points: (x, y).
        title: Above the chart; says what y is.
        x_label: Below it.
        color: Of the dots, which are translucent.
    """
    finite = _finite({"": points})[""]
    x_scale = within((x for x, _ in finite), width=_ACROSS, margin=0.015)
    panel = framed(title, y=spanning(y for _, y in finite), x=x_scale, x_label=x_label)
    draw_dots(panel.axes, finite, color, radius=3, opacity=0.4)
    return panel.svg()


@drawn
def labelled_scatter(
    points: Mapping[str, tuple[float, float, float, float]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    colors: Sequence[str] = COLORS[1:],
) -> str:
    """A dot with its interval for each entry, and its name beside it.

    Args:
        points: Name -> (x, y, low, high); an interval without ends is not drawn.
        title: Above the chart.
        x_label: Below it.
        y_label: What y and its interval are.
        log_x: Whether equal ratios of x are equally far apart; what is not above zero is left out.
        colors: One per entry, then from the first again, in the order of a `line_chart` of them.

    Returns:
        Nothing if no entry can be drawn.
    """
    color_of = _colored(points, colors)
    rows = {
        n: row
        for n, row in points.items()
        if is_drawn(*row[:2]) and (is_ratio(row[0]) or not log_x)
    }
    if not rows:
        return ""
    ends = [end for row in rows.values() for end in row[1:] if is_drawn(end)]
    names = ["".join(wrapped(name, width=_NAME, size=FONT_SIZE, lines=1)) for name in rows]
    widths = [width_of(name, size=FONT_SIZE) for name in names]
    across = [row[0] for row in rows.values()]
    panel = framed(
        title,
        y=spanning(ends),
        x=within(across, width=_ACROSS - max(widths), is_log=log_x, margin=0.05),
        x_label=x_label,
        y_label=y_label,
        height=280,
        beside=max(widths),
    )
    dots = []
    for (name, (x, y, low, high)), width in zip(rows.items(), widths, strict=True):
        middle, level = panel.place(x, y)
        top = bottom = level
        if is_drawn(low, high):
            panel.axes.plot([x, x], [low, high], color=color_of[name], linewidth=2)
            top, bottom = panel.place(x, high)[1], panel.place(x, low)[1]
        draw_dots(panel.axes, [(x, y)], color_of[name], radius=5)
        dots.append(Named(middle, level, top, bottom, width, FONT_SIZE + 2))
    frame = Box(panel.left, panel.top, WIDTH - EDGE, panel.bottom)
    for name, dot, box, color in zip(
        names, dots, beside(dots, frame=frame), (color_of[name] for name in rows), strict=True
    ):
        # From the end that faces the dot, however wide the letters turn out to be.
        x, align = _facing(box, dot)
        panel.write(x, box.bottom - 4, name, align=align)
        if box.distance(dot.x, dot.y) > AWAY + 1:
            panel.connect((dot.x, dot.y), box.nearest(dot.x, dot.y), color=color)
    return panel.svg()


@drawn
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
        series: Name -> (value, low, high) for each group; what is not finite is not drawn.
        title: Above the chart; says what the bars measure.
        colors: One per entry of `series`, then from the first again.
    """
    ends = [end for bars in series.values() for bar in bars for end in bar if is_drawn(end)]
    color_of = _colored(series, colors)
    room = _ACROSS / max(1, len(groups)) - 6
    words = [word for group in groups for word in group.split()]
    # Words that are wider than their group have to run downwards.
    is_steep = any(width_of(word, size=FONT_SIZE) > room for word in words)
    names = [
        wrapped(group, width=140 if is_steep else room, size=FONT_SIZE, lines=1 if is_steep else 3)
        for group in groups
    ]
    widest = max((width_of(line, size=FONT_SIZE) for own in names for line in own), default=0.0)
    slope = math.radians(_SLOPE)
    panel = framed(
        title,
        y=spanning([0.0, *ends]),
        legend=color_of,
        below=LINE * max(map(len, names), default=0) + is_steep * widest * math.sin(slope),
        beside=is_steep * (widest * math.cos(slope) - room / 2),
    )
    panel.axes.set_xlim(-0.5, max(1, len(groups)) - 0.5)
    width = 0.8 / max(1, len(series))
    for number, (name, bars) in enumerate(series.items()):
        for index, (value, low, high) in enumerate(bars):
            x = index + (number - (len(series) - 1) / 2) * width
            if is_drawn(value):
                draw_rectangle(
                    panel.axes, x - 0.45 * width, 0.0, 0.9 * width, value, color_of[name]
                )
            if is_drawn(low, high):
                panel.axes.plot([x, x], [low, high], color=INK, linewidth=1.5)
    for index, lines in enumerate(names):
        across = panel.place(index, 0)[0]
        for number, line in enumerate(lines):
            down = panel.bottom + LINE * (number + 1)
            if is_steep:
                panel.write(across - 5, down - 3, line, slope=-_SLOPE)
            else:
                panel.write(across, down, line, align="center")
    return panel.svg()


@drawn
def forest_chart(rows: Mapping[str, tuple[float, float, float]], *, title: str) -> str:
    """A dot with its interval for each row, and a line at zero.

    Args:
        rows: Name -> (value, low, high); an interval without ends is not drawn.
        title: Above the chart; says what the values are.

    Returns:
        Nothing if no row can be drawn.
    """
    finite = {name: row for name, row in rows.items() if is_drawn(row[0])}
    if not finite:
        return ""
    scale = spanning([0.0, *(x for row in finite.values() for x in row if is_drawn(x))])
    panel = _rowed(title, list(finite), height=28.0, right=scale.text_width / 2, below=LINE)
    panel.axes.set_xlim(scale.low, scale.high)
    for tick, text in zip(scale.ticks, scale.texts, strict=True):
        color = FAINT if tick == 0 else GRID
        panel.axes.axvline(tick, color=color, linewidth=1, zorder=0)
        across = panel.place(tick, 0)[0]
        panel.write(across, panel.bottom + LINE, text, align="center", color=FAINT)
    for index, (value, low, high) in enumerate(finite.values()):
        color = COLORS[1] if low > 0 or high < 0 else COLORS[0]
        if is_drawn(low, high):
            panel.axes.plot([low, high], [index, index], color=color, linewidth=2)
        draw_dots(panel.axes, [(value, index)], color, radius=4)
    return panel.svg()


@drawn
def map_chart(groups: Mapping[str, Points], *, title: str, colors: Sequence[str] = COLORS) -> str:
    """Dots in a plane without axes, where only nearness means something.

    Args:
        groups: Name -> points (x, y).
        title: Above the chart.
        colors: One per group, then from the first again.

    Returns:
        Nothing if no point can be drawn.
    """
    finite = _finite(groups)
    everything = [point for points in finite.values() for point in points]
    if not everything:
        return ""
    color_of = _colored(finite, colors)
    panel = Panel(title, legend=color_of, height=380)
    for values, set_ends in zip(
        zip(*everything, strict=True), (panel.axes.set_xlim, panel.axes.set_ylim), strict=True
    ):
        scale = within(values, width=WIDTH, margin=0.01)
        set_ends(scale.low, scale.high)
    for name, points in finite.items():
        draw_dots(panel.axes, points, color_of[name], radius=2.5, opacity=0.6)
    return panel.svg()


@drawn
def row_chart(
    rows: Mapping[str, Sequence[float]],
    *,
    title: str,
    names: Sequence[str] = ("",),
    colors: Sequence[str] = COLORS[1:],
) -> str:
    """Bars from zero to the right, one below the other, with their numbers behind them.

    Args:
        rows: Name of a row -> a value, not below zero, for each of `names`; what is not finite is
            not drawn.
        title: Above the chart; says what the bars measure.
        names: Of the bars of a row; a single one needs none.
        colors: One per name, then from the first again.

    Returns:
        Nothing without rows.
    """
    if not rows:
        return ""
    most = max((v for values in rows.values() for v in values if is_drawn(v)), default=0.0) or 1.0
    color_of = _colored(names, colors)
    panel = _rowed(
        title,
        list(rows),
        height=17.0 * len(names) + 8,
        right=width_of("1,000,000", size=FONT_SIZE),
        legend=color_of if len(names) > 1 else {},
    )
    panel.axes.set_xlim(0, most)
    share = 0.8 / len(names)
    for index, values in enumerate(rows.values()):
        for number, (value, color) in enumerate(zip(values, color_of.values(), strict=True)):
            if is_drawn(value):
                top = index - 0.4 + number * share
                if value > 0:
                    draw_rectangle(panel.axes, 0.0, top + 0.05 * share, value, 0.9 * share, color)
                text = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
                x, y = panel.place(value, top + share / 2)
                panel.write(x + 5, y + 5, text)
    return panel.svg()


def _facing(box: Box, dot: Named) -> tuple[float, Literal["left", "center", "right"]]:
    if box.left >= dot.x:
        return box.left, "left"
    if box.right <= dot.x:
        return box.right, "right"
    return (box.left + box.right) / 2, "center"


def _rowed(
    title: str,
    names: Sequence[str],
    *,
    height: float,
    right: float,
    below: float = 0.0,
    legend: Mapping[str, str] | None = None,
) -> Panel:
    """A panel with a name at the left of every row, which are 0, 1, ... downwards."""
    lines = [wrapped(name, width=0.4 * WIDTH, size=FONT_SIZE, lines=2) for name in names]
    widest = max((width_of(line, size=FONT_SIZE) for own in lines for line in own), default=0.0)
    if max(map(len, lines)) > 1:
        height = max(height, 2 * LINE + 4)
    panel = Panel(
        title,
        legend=legend,
        left=EDGE + widest + 8,
        right=WIDTH - EDGE - right,
        height=height * len(names),
        below=EDGE + below + 3,
    )
    panel.axes.set_ylim(len(names) - 0.5, -0.5)
    for index, own in enumerate(lines):
        for number, line in enumerate(own):
            y = panel.place(0, index)[1] + 5 + LINE * (number - (len(own) - 1) / 2)
            panel.write(panel.left - 8, y, line, align="right")
    return panel


def _colored(names: Iterable[str], colors: Sequence[str]) -> dict[str, str]:
    return dict(zip(names, itertools.cycle(colors), strict=False))


def _finite(
    series: Mapping[str, Points], log_x: bool = False
) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [(x, y) for x, y in points if is_drawn(x, y) and (is_ratio(x) or not log_x)]
        for name, points in series.items()
    }


def _finite_bands(
    bands: Mapping[str, Band], log_x: bool
) -> dict[str, list[tuple[float, float, float]]]:
    return {
        name: [row for row in band if is_drawn(*row) and (is_ratio(row[0]) or not log_x)]
        for name, band in bands.items()
    }
