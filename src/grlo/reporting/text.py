"""Untrusted text as people may safely read it."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

Value = TypeVar("Value")

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


def all_visible(value: Value) -> Value:
    """A value with `visible` applied to every text in it, keys included.

    Args:
        value: Of dataclasses, mappings, tuples, lists, texts, and anything without text.
    """
    return _all_visible(value)


def _all_visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {_all_visible(key): _all_visible(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map(_all_visible, value))
    if is_dataclass(value) and not isinstance(value, type):
        own = {item.name: _all_visible(getattr(value, item.name)) for item in fields(value)}
        return replace(value, **own)
    return value
