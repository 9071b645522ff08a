"""Text in figures: made harmless, measured without a font, broken into lines."""

from __future__ import annotations

import unicodedata

from grlo.reporting.text import visible

_NARROW = frozenset("fijlrtI.,:;'`|!()[]{}\"/\\- ")
_BROAD = frozenset("mwMW@%&—")
_LONGEST = 400
"""Characters of a text that are looked at: no figure has room for more."""


def plain(text: str) -> str:
    """Untrusted text as one line without anything that XML forbids or that acts on what is near."""
    shown = visible(" ".join(text.split()))
    # Neither characters for Unicode nor allowed in XML, yet no control characters either.
    return shown.replace("\ufffe", "\\xfffe").replace("\uffff", "\\xffff")


def width_of(text: str, *, size: float) -> float:
    """About how wide a line is, in the units of `size`.

    Whoever reads the figure has another font than whoever draws it, so that no font can be asked.
    The shares of the size are those of wide sans-serif fonts (DejaVu, Verdana): others take less.
    """
    return size * sum(map(_share, text))


def wrapped(text: str, *, width: float, size: float, lines: int) -> list[str]:
    """Text in lines of at most `width`; what does not fit into the last is cut with an ellipsis.

    Words are kept whole where they fit into a line.

    Args:
        text: Any text.
        width: Of a line, in the units of `size`.
        size: Of the font.
        lines: At most so many, one or more.
    """
    words = plain(text[:_LONGEST]).split(" ")
    found = [""]
    for word in words:
        joined = f"{found[-1]} {word}".strip()
        if width_of(joined, size=size) <= width:
            found[-1] = joined
        elif width_of(word, size=size) <= width:
            found.append(word)
        else:
            found += _broken(word, width, size)
    found = [line for line in found if line]
    if len(found) > lines or len(text) > _LONGEST:
        found = [*found[: lines - 1], _cut(found[lines - 1 : lines], width, size)]
    return found


def _cut(last: list[str], width: float, size: float) -> str:
    line = last[0] if last else ""
    while line and width_of(f"{line}…", size=size) > width:
        line = line[:-1]
    return f"{line.rstrip()}…"


def _broken(word: str, width: float, size: float) -> list[str]:
    pieces = [""]
    for char in word:
        if pieces[-1] and width_of(pieces[-1] + char, size=size) > width:
            pieces.append("")
        pieces[-1] += char
    return pieces


def _share(char: str) -> float:
    if unicodedata.east_asian_width(char) in "WF":
        return 1.0
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0.0
    if char in _NARROW:
        return 0.38
    if char in _BROAD:
        return 0.97
    return 0.7 if char.isupper() else 0.62
