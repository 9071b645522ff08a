"""Finds the program in an answer."""

from __future__ import annotations

import ast
import re
import textwrap
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from grlo.thoughts import without_thoughts

# A fence ends its line but for a language; text may stand before it.
_OPENING = re.compile(r"(?:^|[^`~])(```+|~~~+)([^`~]*)$")
_PYTHON = ("python", "py", "python3")
# Where code may begin in text without a fence.
_BEGINNING = re.compile(
    r"^(?:import |from \w|def |async def |class |@\w|[A-Za-z_]\w* *(?::[^=\n]+)?=[^=])", re.M
)
_MAX_CHARACTERS = 200_000
_filtering = threading.Lock()
_MAX_BLOCKS, _MAX_ENDS = 50, 8
_MAX_OPENING = 200
_MAX_ATTEMPTS, _MAX_BEGINNINGS = 50, 20


@dataclass(frozen=True)
class _Block:
    language: str
    bodies: tuple[str, ...]
    """What lies between the opening fence and each fence that may close it."""
    is_closed: bool


def extract_code(text: str, *, names: Sequence[str]) -> str | None:
    """The program of an answer.

    Of fenced blocks the first that defines one of the names, Python before other languages; then
    the text itself from where code begins; then the first fenced block. Text after the program is
    left out where Python cannot read it as code. So are thoughts.

    Args:
        text: The answer.
        names: Functions or classes that tests need; empty for a program that reads and writes.

    Returns:
        None when there is nothing that could be a program.
    """
    text = without_thoughts(text)[:_MAX_CHARACTERS]
    blocks = sorted(_blocks(text), key=lambda block: block.language not in _PYTHON)
    for block in blocks:
        if defines(block.bodies[-1], names):
            code = _readable(block, names)
            if defines(code, names):
                return code
    if names or not blocks:
        code = _longest_code(text, names)
        if code is not None:
            return code
    return _readable(blocks[0], names) if blocks else None


def defines(code: str, names: Sequence[str]) -> bool:
    """Whether code seems to define one of the names, perhaps in a class; it need not be valid."""
    either = "|".join(map(re.escape, names))
    definition = rf"^[ \t]*(?:async +)?(?:def|class) +(?:{either})\b|^(?:{either}) *="
    return bool(names) and re.search(definition, code, re.M) is not None


def _blocks(text: str) -> list[_Block]:
    """Fenced blocks that are not empty, in order; the last may lack its end."""
    lines = text.removesuffix("\n").split("\n")
    blocks: list[_Block] = []
    number = 0
    while number < len(lines) and len(blocks) < _MAX_BLOCKS:
        opening = _opening(lines[number])
        number += 1
        if opening is not None:
            fence, language = opening
            bodies, end = _bodies(lines, number, fence=fence)
            if bodies:
                blocks.append(_Block(language, bodies, is_closed=end is not None))
            number = end or len(lines)
    return blocks


def _opening(line: str) -> tuple[str, str] | None:
    """Fence and language of a line that may open a block."""
    found = _OPENING.search(line[-_MAX_OPENING:].rstrip())
    if found is None:
        return None
    fence, rest = found.groups()
    return fence, rest.split()[0].lower() if rest.strip() else ""


def _bodies(lines: Sequence[str], start: int, *, fence: str) -> tuple[tuple[str, ...], int | None]:
    """What may stand in the block that begins at a line, and the line after it if it is closed.

    A fence may also be part of a string in the program, so that a later one closes the block. One
    with a language opens another block, whether or not this one was closed.
    """
    bodies: list[str] = []
    after = None
    for number in range(start, len(lines)):
        line = lines[number].rstrip()
        is_fence = line.lstrip().startswith(fence)
        if not is_fence and not line.endswith(fence):
            continue
        is_another = is_fence and (_opening(line) or ("", ""))[1] != ""
        if is_another and bodies:
            break
        last = [] if is_fence else [line.removesuffix(fence)]
        bodies.append(_body([*lines[start:number], *last]))
        after = after or (number if is_another else number + 1)
        if is_another or len(bodies) == _MAX_ENDS:
            break
    if not bodies:
        bodies = [_body(lines[start:])]
    return tuple(body for body in bodies if body.strip()), after


def _body(lines: Sequence[str]) -> str:
    body = "".join(f"{line}\n" for line in lines)
    # Only where it is needed: blank lines in strings of the program lose their spaces.
    return textwrap.dedent(body) if body.lstrip("\n")[:1] in (" ", "\t") else body


def _readable(block: _Block, names: Sequence[str]) -> str:
    """The first body of a block that is Python; else what can be read of it, or all of it."""
    for body in block.bodies:
        if _first_error(body) is None and (not names or defines(body, names)):
            return body
    body = block.bodies[0]
    if not names and block.is_closed:
        return body  # Nothing says whether the rest is needed.
    code = _valid_prefix(body.splitlines(keepends=True))
    return code if defines(code, names) or (code and not names) else body


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
    try:
        parse_quietly(code)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return 1
    return None


def parse_quietly(code: str) -> ast.Module:
    """What `ast.parse` gives, without its warnings of strange escapes and the like."""
    # The filters belong to the whole process: threads must not restore each other's.
    with _filtering, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code)
