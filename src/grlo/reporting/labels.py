"""Names beside dots, out of each other's way where a simple search finds such places."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

AWAY = 8.0
"""From the middle of a dot to a name beside it."""


@dataclass(frozen=True)
class Box:
    """A rectangle in units from the top left.

    Attributes:
        left: Smallest x.
        top: Smallest y.
        right: Largest x.
        bottom: Largest y.
    """

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: Box) -> float:
        """The area that lies in both."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of the rectangle that is nearest to (x, y)."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)

    def distance(self, x: float, y: float) -> float:
        """From (x, y) to the rectangle."""
        return math.dist((x, y), self.nearest(x, y))

    @property
    def area(self) -> float:
        """Width times height."""
        return (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True)
class Named:
    """A dot, and the size of its name.

    Attributes:
        x: Of its middle.
        y: Of its middle.
        top: Of what is drawn at it, an interval for example.
        bottom: Of that.
        width: Of the name.
        height: Of the name.
    """

    x: float
    y: float
    top: float
    bottom: float
    width: float
    height: float


def beside(dots: Sequence[Named], *, frame: Box) -> list[Box]:
    """A place for the name of each dot, one after the other, each where it covers least.

    Args:
        dots: What has a name.
        frame: Where names should stay.
    """
    marks = [Box(dot.x - 6, dot.y - 6, dot.x + 6, dot.y + 6) for dot in dots]
    marks += [Box(dot.x - 5, dot.top, dot.x + 5, dot.bottom) for dot in dots]
    places: list[Box] = []
    for number, dot in enumerate(dots):
        others = [*dots[:number], *dots[number + 1 :]]

        def badness(box: Box, dot: Named = dot, others: Sequence[Named] = others) -> float:
            own = box.distance(dot.x, dot.y)
            # A name that is not clearly nearer to its own dot reads as another's.
            mistaken = sum(box.distance(other.x, other.y) < own + 4 for other in others)
            unreadable = sum(map(box.shared, places)) + box.area - box.shared(frame)
            # In units of area; by how much one counts more than another was found by looking.
            return 4 * unreadable + sum(map(box.shared, marks)) + 200 * mistaken + 5 * own

        # Of equally good ones the first: near, and to the right if it can be.
        places.append(min(_candidates(dot), key=badness))
    return places


def _candidates(dot: Named) -> Iterator[Box]:
    for lines in (0.0, 0.55, -0.55, 1.1, -1.1, 1.65, -1.65, 2.2, -2.2, 2.75, -2.75):
        top = dot.y + (lines - 0.5) * dot.height
        for left in (dot.x + AWAY, dot.x - AWAY - dot.width):
            yield Box(left, top, left + dot.width, top + dot.height)
    for top in (min(dot.top, dot.y - AWAY) - dot.height, max(dot.bottom, dot.y + AWAY)):
        left = dot.x - dot.width / 2
        yield Box(left, top, left + dot.width, top + dot.height)
