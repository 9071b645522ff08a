"""Shapes in axes whose limits are set: none of them moves the limits or leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]
Band = Sequence[tuple[float, float, float]]


def draw_line(axes: Axes, points: Points, color: str) -> None:
    """A line, and a dot where a line would have no length."""
    if len(points) == 1:
        draw_dots(axes, points, color, radius=3)
    elif points:
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, color=color, linewidth=2, solid_capstyle="butt")


def draw_dots(
    axes: Axes, points: Points, color: str, *, radius: float, opacity: float = 1.0
) -> None:
    """A filled circle at every point."""
    if points:
        xs, ys = zip(*points, strict=True)
        axes.plot(
            xs,
            ys,
            linestyle="none",
            marker="o",
            markersize=2 * radius,
            markeredgewidth=0,
            color=color,
            alpha=opacity,
            zorder=3,
        )


def draw_area(axes: Axes, band: Band, color: str, *, opacity: float) -> None:
    """What lies between low and high."""
    if band:
        upper = [(x, high) for x, _, high in band]
        lower = [(x, low) for x, low, _ in reversed(band)]
        xs, ys = zip(*upper, *lower, strict=True)
        axes.fill(xs, ys, facecolor=color, alpha=opacity, linewidth=0)


def draw_rectangle(axes: Axes, x: float, y: float, width: float, height: float, color: str) -> None:
    """A filled rectangle from (x, y); a negative height makes it hang down."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, height, facecolor=color, linewidth=0))
