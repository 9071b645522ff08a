"""Finds the program in an answer."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence

from grlo.thoughts import without_thoughts

_FENCE = re.compile(
    r"^[ \t]*(?:```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*(?:```+|~~~+)|\Z)", re.M | re.S
)
_PYTHON = ("python", "py", "python3")
# Where code may begin in text without a fence.
_BEGINNING = re.compile(
    r"^(?:import |from \w|def |async def |class |@\w|[A-Za-z_]\w* *(?::[^=\n]+)?=[^=])", re.M
)
_MAX_CHARACTERS = 200_000
_MAX_ATTEMPTS, _MAX_BEGINNINGS = 50, 20


def extract_code(text: str, *, names: Sequence[str]) -> str | None:
    """The program of an answer.

    Of fenced blocks the first that defines one of the names, Python before other languages; then
    the text itself from where code begins to where Python can no longer read it; then the first
    fenced block. Thoughts are left out.

    Args:
        text: The answer.
        names: Functions or classes that tests need; empty for a program that reads and writes.

    Returns:
        None when there is nothing that could be a program.
    """
    text = without_thoughts(text)[:_MAX_CHARACTERS]
    blocks = [(language.lower(), body) for language, body in _FENCE.findall(text)]
    blocks = sorted(blocks, key=lambda block: block[0] not in _PYTHON)
    bodies = [body for _, body in blocks if body.strip()]
    for body in bodies:
        if names and defines(body, names):
            return body
    if names or not bodies:
        code = _longest_code(text, names)
        if code is not None:
            return code
    return bodies[0] if bodies else None


def defines(code: str, names: Sequence[str]) -> bool:
    """Whether code seems to define one of the names, perhaps in a class; it need not be valid."""
    either = "|".join(map(re.escape, names))
    definition = rf"^\s*(?:async +)?(?:def|class) +(?:{either})\b|^(?:{either}) *="
    return bool(names) and re.search(definition, code, re.M) is not None


def _longest_code(text: str, names: Sequence[str]) -> str | None:
    """The longest stretch of valid Python from the first line that begins one with the names."""
    if not text.strip() or (names and not defines(text, names)):
        return None
    if _first_error(text) is None:
        return text
    seen = num_tries = 0
    for beginning in _BEGINNING.finditer(text):
        if beginning.start() < seen:  # It would end at the same fault.
            continue
        code = _valid_prefix(text[beginning.start() :].splitlines(keepends=True))
        if code and (not names or defines(code, names)):
            return code
        seen, num_tries = beginning.start() + len(code), num_tries + 1
        if num_tries == _MAX_BEGINNINGS:
            return None
    return None


def _valid_prefix(lines: Sequence[str]) -> str:
    """The first lines up to where Python can no longer read them; empty if it reads none."""
    stop = len(lines)
    for _ in range(_MAX_ATTEMPTS):
        line = _first_error("".join(lines[:stop]))
        if line is None:
            break
        # The fault may lie in an earlier line, where something was opened that is never closed.
        stop = min(stop - 1, max(line - 1, 0))
    else:
        return ""
    return "".join(lines[:stop])


def _first_error(code: str) -> int | None:
    """Line of the first fault of syntax, from 1 on; None for valid code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(code)
        except SyntaxError as error:
            return error.lineno or 1
        except (ValueError, RecursionError, MemoryError):
            return 1
    return None
