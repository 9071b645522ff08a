"""What all figures share: title, legend, plot, axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from grlo.reporting.inline_svg import FONT_SIZE, INK, inline_svg
from grlo.reporting.lettering import width_of, wrapped
from grlo.reporting.scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 520.0
"""Of every figure, in units; they are pixels where the figure is shown in its size."""
PLOT_HEIGHT = 220.0
LINE = 18.0
"""From one line of text to the next."""
EDGE = 4.0
GRID, FAINT = "#dddddd", "#555555"
_BOLD = 1.1
"""How much wider bold letters are."""
_SQUARE = 11.0


class Panel:
    """A figure with a title, a legend below it that takes the lines it needs, and one plot.

    Places are in units from the top left, as in SVG. `axes` are matplotlib's, without frame or
    ticks, and fill the plot.

    Args:
        title: Above everything, in up to three lines.
        legend: Name -> color; an empty name has no entry.
        y_label: Above the plot, where it is read without turning the head.
        left: Of the plot.
        right: Of the plot.
        height: Of the plot; the figure is as high as it has to be.
        below: Room under the plot.
    """

    def __init__(
        self,
        title: str,
        *,
        legend: Mapping[str, str] | None = None,
        y_label: str = "",
        left: float = EDGE,
        right: float = WIDTH - EDGE,
        height: float = PLOT_HEIGHT,
        below: float = EDGE,
    ) -> None:
        from matplotlib.figure import Figure

        wide = WIDTH - 2 * EDGE
        titles = wrapped(title, width=wide / _BOLD, size=FONT_SIZE, lines=3)
        entries = _flow(legend or {}, wide)
        labels = wrapped(y_label, width=wide, size=FONT_SIZE, lines=2)
        legend_top = EDGE + LINE * len(titles) + 3
        label_top = legend_top + (LINE * (entries[-1].row + 1) + 3 if entries else 0)
        self.left, self.right = left, right
        self.top = label_top + LINE * len(labels) + 12
        self.bottom = self.top + height
        self._title = title
        self._height = self.bottom + below
        self._figure = Figure(figsize=(WIDTH / 72, self._height / 72), dpi=72, frameon=False)
        self.axes = self._figure.add_axes(
            (left / WIDTH, below / self._height, (right - left) / WIDTH, height / self._height)
        )
        _bare(self.axes)
        for number, line in enumerate(titles):
            self.write(EDGE, EDGE + LINE * number + 13, line, bold=True)
        for entry in entries:
            x, y = EDGE + entry.x, legend_top + LINE * entry.row
            self._square(x, y + 3, entry.color)
            self.write(x + _SQUARE + 5, y + 13, entry.text)
        for number, line in enumerate(labels):
            self.write(EDGE, label_top + LINE * number + 13, line, color=FAINT)

    def write(
        self,
        x: float,
        y: float,
        text: str,
        *,
        align: Literal["left", "center", "right"] = "left",
        bold: bool = False,
        color: str = INK,
        slope: float = 0.0,
    ) -> None:
        """A line of text that `wrapped` has made harmless.

        Args:
            x: Of its left end, middle or right end, as `align` says.
            y: Of its baseline there.
            text: The line.
            align: What is at (x, y).
            bold: Whether the letters are.
            color: Of the letters.
            slope: By how many degrees the line rises.
        """
        from matplotlib.transforms import IdentityTransform

        self._figure.text(
            x,
            self._height - y,
            text,
            ha=align,
            va="baseline",
            color=color,
            weight="bold" if bold else "normal",
            rotation=slope,
            rotation_mode="anchor",
            transform=IdentityTransform(),
        )

    def connect(self, start: tuple[float, float], end: tuple[float, float], *, color: str) -> None:
        """A thin line between two places."""
        from matplotlib.lines import Line2D
        from matplotlib.transforms import IdentityTransform

        xs, ys = zip(start, end, strict=True)
        ups = [self._height - y for y in ys]
        line = Line2D(xs, ups, color=color, linewidth=1, transform=IdentityTransform())
        self._figure.add_artist(line)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the axes lies, in units from the top left."""
        right, up = self.axes.transData.transform((x, y))
        return float(right), self._height - float(up)

    def second_axes(self, y: Scale) -> Axes:
        """Further axes in the same place, with a y of their own whose numbers are at the right."""
        axes = self.axes.twinx()
        _bare(axes)
        axes.set_ylim(y.low, y.high)
        for tick, text in zip(y.ticks, y.texts, strict=True):
            up = self.top + (y.high - tick) / (y.high - y.low) * (self.bottom - self.top)
            self.write(self.right + 6, up + 5, text, color=FAINT)
        return axes

    def svg(self) -> str:
        """The figure as an element."""
        return inline_svg(self._figure, title=self._title)

    def _square(self, x: float, y: float, color: str) -> None:
        from matplotlib.patches import Rectangle
        from matplotlib.transforms import IdentityTransform

        corner = (x, self._height - y - _SQUARE)
        to_units = IdentityTransform()
        self._figure.add_artist(
            Rectangle(corner, _SQUARE, _SQUARE, facecolor=color, linewidth=0, transform=to_units)
        )


def framed(
    title: str,
    *,
    y: Scale,
    x: Scale | None = None,
    x_label: str = "",
    y_label: str = "",
    right: Scale | None = None,
    legend: Mapping[str, str] | None = None,
    height: float = PLOT_HEIGHT,
    below: float = 0.0,
    beside: float = 0.0,
) -> Panel:
    """A panel with axes: numbers at the left and below, thin lines across.

    Args:
        title: Above everything.
        y: The axis at the left.
        x: The axis below, if it bears numbers.
        x_label: Below those.
        y_label: Above the plot.
        right: The axis at the right, which takes `Panel.second_axes`, if there is one.
        legend: Name -> color.
        height: Of the plot.
        below: Room under the plot for what has no numbers.
        beside: Room at the right of the plot.
    """
    overhang = x.text_width / 2 if x else 0.0
    left = EDGE + max(y.text_width + 6, overhang)
    end = WIDTH - EDGE - max(right.text_width + 8 if right else 6, overhang, beside)
    middle = (left + end) / 2
    room = 2 * (min(middle, WIDTH - middle) - EDGE)
    labels = wrapped(x_label, width=room, size=FONT_SIZE, lines=2)
    panel = Panel(
        title,
        legend=legend,
        y_label=y_label,
        left=left,
        right=end,
        height=height,
        below=EDGE + below + (LINE if x else 0) + LINE * len(labels) + 3,
    )
    panel.axes.set_ylim(y.low, y.high)
    for tick, text in zip(y.ticks, y.texts, strict=True):
        panel.axes.axhline(tick, color=FAINT if tick == 0 else GRID, linewidth=1, zorder=0)
        panel.write(panel.left - 6, panel.place(0, tick)[1] + 5, text, align="right", color=FAINT)
    if x:
        panel.axes.set_xlim(x.low, x.high)
        panel.axes.set_xscale("log" if x.is_log else "linear")
        for tick, text in zip(x.ticks, x.texts, strict=True):
            across = panel.place(tick, y.low)[0]
            panel.write(across, panel.bottom + LINE, text, align="center", color=FAINT)
    for number, line in enumerate(labels):
        y_of_line = panel.bottom + below + (LINE if x else 0) + LINE * (number + 1) + 1
        panel.write(middle, y_of_line, line, align="center", color=FAINT)
    return panel


@dataclass(frozen=True)
class _Entry:
    text: str
    color: str
    x: float
    row: int


def _flow(legend: Mapping[str, str], width: float) -> list[_Entry]:
    """Entries one after the other, in the next row where one would end beyond `width`."""
    entries: list[_Entry] = []
    x, row = 0.0, 0
    for name, color in legend.items():
        for text in wrapped(name, width=width - _SQUARE - 5, size=FONT_SIZE, lines=1):
            wide = _SQUARE + 5 + width_of(text, size=FONT_SIZE)
            if x and x + wide > width:
                x, row = 0.0, row + 1
            entries.append(_Entry(text, color, x, row))
            x += wide + 14
    return entries


def _bare(axes: Axes) -> None:
    axes.set_axis_off()
    axes.set_autoscale_on(False)
