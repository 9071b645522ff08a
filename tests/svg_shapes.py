"""What a chart shows, read back from its SVG."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

Point = tuple[float, float]
_SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Shape:
    """A path: its corners in order, and the color of its stroke (a line) or filling (an area)."""

    color: str
    corners: tuple[Point, ...]

    @property
    def left(self) -> float:
        return min(x for x, _ in self.corners)

    @property
    def top(self) -> float:
        return min(y for _, y in self.corners)

    @property
    def width(self) -> float:
        return max(x for x, _ in self.corners) - self.left

    @property
    def height(self) -> float:
        return max(y for _, y in self.corners) - self.top


@dataclass(frozen=True)
class Drawing:
    """The parts of a figure, without the thin grey lines across and the squares of the legend."""

    width: float
    height: float
    lines: tuple[Shape, ...]
    areas: tuple[Shape, ...]
    dots: dict[str, list[Point]]
    squares: tuple[Shape, ...]
    texts: dict[str, Point]


def read(svg: str) -> Drawing:
    """Parses a figure; what is no XML is an error."""
    root = ElementTree.fromstring(svg)
    paths = [(path.attrib, _corners(path.attrib["d"])) for path in root.iter(f"{_SVG}path")]
    lines = tuple(Shape(a["stroke"], corners) for a, corners in paths if a["fill"] == "none")
    filled = [Shape(a["fill"], corners) for a, corners in paths if a["fill"] != "none"]
    squares = tuple(shape for shape in filled if (shape.width, shape.height) == (11, 11))
    dots: dict[str, list[Point]] = {}
    for group in root.iter(f"{_SVG}g"):
        circles = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in group]
        dots.setdefault(group.attrib["fill"], []).extend(circles)
    texts = {
        text.text or "": (float(text.attrib["x"]), float(text.attrib["y"]))
        for text in root.iter(f"{_SVG}text")
    }
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    return Drawing(
        width,
        height,
        tuple(line for line in lines if line.color not in ("#dddddd", "#555555")),
        tuple(shape for shape in filled if shape not in squares),
        dots,
        squares,
        texts,
    )


def _corners(path: str) -> tuple[Point, ...]:
    numbers = [float(word) for word in path.split() if word not in ("M", "L", "z")]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
