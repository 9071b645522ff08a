"""Thoughts of a model before its answer."""

from __future__ import annotations


def without_thoughts(text: str) -> str:
    """What follows the last `</think>`, without the blank lines between; all of a text that has no
    thought, nothing of one whose thought never ends."""
    _, closed, answer = text.rpartition("</think>")
    if closed:
        return answer.lstrip()
    return "" if "<think>" in text else text
