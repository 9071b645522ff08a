"""Texts as the word tokens by which they are compared.

Two texts that a reader takes for the same have the same tokens: case, accents, punctuation,
ligatures and invisible characters do not count, and letters of other scripts that look like Latin
ones count as these (Unicode Technical Standard 39, section 4, skeletons).
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from grlo.errors import MissingExtraError

# Scripts without spaces: each character is a token.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
# What only sets a formula, so that two spellings of one formula have the same tokens.
_SETTING = re.compile(
    r"\\(?:left|right|displaystyle|big[lr]?|Big[lr]?|quad|qquad|[,;!:])(?![A-Za-z])"
)
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")

_MAX_MARKS = 30
_MAYBE_MARKS = re.compile(rf"[^\x00-\u02ff]{{{_MAX_MARKS + 1},}}")


def words(text: str) -> list[str]:
    """The word tokens of a text, folded as above.

    Raises:
        MissingExtraError: A text beyond ASCII needs the extra `curate`.
    """
    if "\\" in text:
        text = _FRACTION.sub(r"\\frac", _SETTING.sub(" ", text))
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(_folded(text))


def _folded(text: str) -> str:
    """Lower case, without accents and invisible characters, in Latin letters where they look so."""
    apart = unicodedata.normalize("NFKD", without_excess_marks(text)).translate(_look_alikes())
    seen = "".join(char for char in apart if unicodedata.category(char) not in ("Mn", "Cf", "Cs"))
    return unicodedata.normalize("NFC", seen).casefold()


def without_excess_marks(text: str) -> str:
    """The text with at most 30 combining marks in a row, the bound of Unicode's stream-safe text
    (UAX 15): normal forms take quadratic time over them."""
    return _MAYBE_MARKS.sub(_first_marks, text)


def _first_marks(found: re.Match[str]) -> str:
    kept: list[str] = []
    run = 0
    for char in found[0]:
        run = run + 1 if unicodedata.combining(char) else 0
        if run <= _MAX_MARKS:
            kept.append(char)
    return "".join(kept)


@cache
def _look_alikes() -> dict[int, str]:
    """Code point -> the ASCII letter or digit that it looks like."""
    try:
        from confusable_homoglyphs import confusables
    except ModuleNotFoundError as error:
        raise MissingExtraError("confusable_homoglyphs", extra="curate") from error
    return {
        ord(char): other["c"]
        for char, others in confusables.confusables_data.items()
        for other in others
        if len(char) == 1 and not char.isascii() and other["c"].isascii() and other["c"].isalnum()
    }
