"""What matplotlib draws, as an element that can stand in a page beside others of its kind."""

from __future__ import annotations

import functools
import io
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from xml.etree import ElementTree

from grlo.reporting.lettering import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

FONT_SIZE = 14.0
"""Of all text, in the units of the figure: with 520 units across, 9 pixels on a narrow phone."""
INK = "#222222"

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "grlo",
    "text.parse_math": False,  # "$" is a character.
    "font.family": "sans-serif",
    "font.sans-serif": "DejaVu Sans",  # Comes with matplotlib, so that none is searched for.
    "font.size": FONT_SIZE,
    "text.color": INK,
}
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_LOCK = threading.RLock()


def drawn(draw: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Runs a function with matplotlib's defaults and without a word from it.

    Whatever a user has set up for plots of their own neither changes a figure nor is changed.
    """

    @functools.wraps(draw)
    def wrapper(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        with _LOCK, _quiet():
            import matplotlib

            # A backend is for windows; those here have none.
            settings: dict[Any, Any] = dict(matplotlib.rcParamsDefault)
            del settings["backend"]
            with matplotlib.rc_context(settings | _SETTINGS):
                return draw(*args, **options)

    return wrapper


@contextmanager
def _quiet() -> Iterator[None]:
    """No lines about caches that are made on first use, nor about letters that a font lacks."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # The font only measures: the browser that shows the text has others.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
            yield
    finally:
        logger.setLevel(level)


def inline_svg(figure: Figure, *, title: str) -> str:
    """A figure as one `<svg>` element, as wide as what it stands in.

    It has no ids (several figures share a page), no style sheet (matplotlib's would hold for the
    whole page), nothing that refers to anything, and coordinates with one decimal.

    Args:
        figure: Of 72 dots per inch, with nothing outside its axes that would have to be clipped,
            and with circles as its only markers.
        title: What somebody hears who does not see it.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(file, metadata=nothing)
    source = ElementTree.fromstring(file.getvalue())
    radii = {
        element.attrib["id"]: _radius(element.attrib["d"])
        for element in source.iter()
        if _tag(element) == "path" and "id" in element.attrib
    }
    attributes = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": source.attrib["viewBox"],
        "role": "img",
        "aria-label": plain(title),
        "font-family": "sans-serif",
        "font-size": f"{FONT_SIZE:g}",
        "stroke-linejoin": "round",
    }
    root = ElementTree.Element("svg", attributes)
    root.extend(part for child in source for part in _cleaned(child, radii))
    # ">" is escaped in texts and attributes, so that this is no part of one.
    return ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")


def _cleaned(
    element: ElementTree.Element, radii: dict[str, float]
) -> Iterator[ElementTree.Element]:
    """The element as it shall be: none, one, or its children in its stead."""
    match _tag(element):
        case "g":
            uses = [child for child in element if _tag(child) == "use"]
            if uses:
                yield _dots(uses, radii)
            for child in element:
                if child not in uses:
                    yield from _cleaned(child, radii)
        case "path":
            numbers = " ".join(_rounded(element.attrib["d"]).split())
            # Lines are what coordinates stand for unless something else is said.
            path = {"d": numbers.replace(" L ", " ")}
            yield ElementTree.Element("path", path | _style(element))
        case "text":
            yield _text(element)


def _dots(uses: list[ElementTree.Element], radii: dict[str, float]) -> ElementTree.Element:
    """Circles for the places where matplotlib puts copies of one marker."""
    group = ElementTree.Element("g", _style(uses[0]))
    for use in uses:
        marker = next(value for name, value in use.attrib.items() if name.endswith("href"))
        x, y = _rounded(use.attrib["x"]), _rounded(use.attrib["y"])
        circle = {"cx": x, "cy": y, "r": f"{radii[marker.removeprefix('#')]:g}"}
        ElementTree.SubElement(group, "circle", circle)
    return group


def _text(element: ElementTree.Element) -> ElementTree.Element:
    style = _style(element)
    # The whole figure's, or those of the machine that draws.
    kept = {k: v for k, v in style.items() if k not in ("font-family", "font-size")}
    if kept.get("text-anchor") == "start":
        del kept["text-anchor"]
    place = {name: _rounded(element.attrib[name]) for name in ("x", "y")}
    turn = _rounded(element.attrib["transform"])
    if not turn.startswith(("rotate(0 ", "rotate(-0 ")):
        kept["transform"] = turn
    text = ElementTree.Element("text", place | kept)
    text.text = element.text
    return text


def _style(element: ElementTree.Element) -> dict[str, str]:
    """Style as attributes."""
    pairs = (part.split(":", 1) for part in element.attrib.get("style", "").split(";") if part)
    return {name.strip(): value.strip() for name, value in pairs}


def _radius(path: str) -> float:
    """Of a circle around (0, 0) whose path begins right above or below it: "M 0 r"."""
    return abs(float(path.split()[2]))


def _rounded(numbers: str) -> str:
    return _NUMBER.sub(lambda match: f"{round(float(match[0]), 1) + 0.0:g}", numbers)


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
