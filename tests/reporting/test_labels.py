"""Names beside dots: near their own, on nothing else, inside."""

from __future__ import annotations

import itertools
import random

from grlo.reporting.labels import Box, Named, beside

FRAME = Box(0, 0, 500, 300)


def dot(x: float, y: float, *, reach: float = 0.0, width: float = 60) -> Named:
    return Named(x, y, y - reach, y + reach, width, 16)


def test_a_name_stands_to_the_right_and_at_the_edge_to_the_left() -> None:
    inner, edge = dot(100, 100), dot(480, 200)
    right, left = beside([inner, edge], frame=FRAME)
    assert right.left > inner.x
    assert right.top < inner.y < right.bottom
    assert left.right < edge.x


def test_names_of_scattered_dots_share_no_place_with_names_dots_or_intervals() -> None:
    rng = random.Random(0)
    dots = [
        dot(60 + 130 * column + rng.uniform(-20, 20), 30 + 48 * row, reach=12)
        for column, row in itertools.product(range(3), range(6))
    ]
    boxes = beside(dots, frame=FRAME)
    for one, other in itertools.combinations(boxes, 2):
        assert one.shared(other) == 0
    for box, own in itertools.product(boxes, dots):
        assert box.shared(Box(own.x - 1, own.top, own.x + 1, own.bottom)) == 0


def test_a_name_goes_where_no_other_interval_is() -> None:
    crossed, tall = dot(100, 100, reach=10), dot(120, 100, reach=60)
    first, _ = beside([crossed, tall], frame=FRAME)
    assert first.right < crossed.x, "to its right is the other's interval"


def test_distance_and_shared_area_are_those_of_rectangles() -> None:
    box = Box(0, 0, 10, 20)
    assert box.distance(13, 24) == 5
    assert box.distance(5, 5) == 0
    assert box.shared(Box(5, 10, 100, 100)) == 50
    assert box.shared(Box(10, 0, 20, 20)) == 0
    assert box.area == 200
