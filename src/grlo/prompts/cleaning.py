"""Texts without what nobody sees."""

from __future__ import annotations

import re
import unicodedata

from grlo.prompts.text import without_excess_marks

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]+")
_BLANK_LINES = re.compile(r"\n{3,}")
# Tags (U+E0020 on) are left out: they end the emoji of some flags.
_INVISIBLE = (
    "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\ufeff\ufff9\ufffa\ufffb"
)


def clean(text: str) -> str:
    """The text in Unicode's NFC, without what nobody sees and without needless blank space.

    Removed are control characters except tabs and newlines, lone surrogates, invisible characters
    at both ends, blanks at the ends of lines, blank lines around the text and more than one in a
    row. Indentation stays. Combining marks beyond 30 in a row go too.
    """
    text = _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.isascii():
        text = unicodedata.normalize("NFC", without_excess_marks(text))
    # Not one regular expression: over blanks that no newline follows it takes quadratic time.
    lines = [line.rstrip() for line in text.split("\n")]
    start, end = 0, len(lines)
    while start < end and all(map(_is_unseen, lines[start])):
        start += 1
    while end > start and all(map(_is_unseen, lines[end - 1])):
        end -= 1
    return _BLANK_LINES.sub("\n\n", _without_invisible_ends("\n".join(lines[start:end])))


def _without_invisible_ends(text: str) -> str:
    """The text without blanks at its end and invisible characters at both; indentation stays."""
    end = len(text)
    while end and _is_unseen(text[end - 1]):
        end -= 1
    start = 0
    while start < end and _is_unseen(text[start]):
        start += 1
    indentation = "".join(char for char in text[:start] if char not in _INVISIBLE)
    return indentation + text[start:end]


def _is_unseen(char: str) -> bool:
    return char.isspace() or char in _INVISIBLE
