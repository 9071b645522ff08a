"""Untrusted text as people may safely read it."""

from __future__ import annotations

import unicodedata

# Controls, invisible formatting, lone surrogates, line and paragraph separators.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Lines, and the joiners without which emoji, Persian and Indic scripts fall apart.
_HARMLESS = "\n\t\u200c\u200d"


def visible(text: str) -> str:
    """Untrusted text with what cannot be seen spelled out, so that none of it acts on a terminal.

    Escape sequences rewrite a terminal; direction overrides show another text than is there.
    """
    return "".join(
        char
        if char in _HARMLESS or unicodedata.category(char) not in _UNSEEN
        else f"\\x{ord(char):02x}"
        for char in text
    )
