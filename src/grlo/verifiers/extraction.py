r"""Where the final answer stands in a text.

In this order: cut at a run-on (a further turn that the model wrote for itself), leave thoughts out,
then take the last balanced `\boxed{...}`, else what follows `####`, else what follows "the answer
is" or "answer:", else the last number or formula. All scans are linear in the length of the text.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from grlo.thoughts import without_thoughts

_MAX_STATEMENT = 4000
_MAX_LINE = 400
_MAX_STATEMENTS = 20
# Words only at the start of a line and followed by a colon: "user" inside an answer is no turn.
_RUN_ON = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id)\|>"
    r"|^[ \t]*(?:\*\*|#{1,4} )?(?:Question|User|Human)(?: \d{1,3})?:",
    re.MULTILINE,
)
_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\s{0,3}(-?\d[\d,]{0,40}(?:\.\d{1,40})?|[A-Za-z](?![A-Za-z]))")
_MARKED = re.compile(r"^[ \t]*####(?!#)[ \t]*(\S[^\n]*)$", re.MULTILINE)
_MARKED_NUMBER = re.compile(r"[$€£]?\s?-?[$€£]?[\d.,/]*\d%?(?:\s[A-Za-z]{1,12})?\.?")
_STATED = re.compile(
    r"\banswers?\b(?:\*\*|[\"'])?"
    r"(?: (?:to|of|for) (?:the|this|our) (?:question|problem|expression))?"
    r"(?:\s?(?::|=|\bis\b|\bare\b|\bequals\b|would be|should be|must be))(?:[ \t]{0,3}:)?(?:\*\*)?"
    # A heading.
    r"|^[ \t]{0,3}(?:#{1,6} )?(?:\*\*)?(?:Final )?Answer(?:\*\*)?[ \t]{0,9}$",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"(?<=[^\s.])[.!](?=\s|$|\*)|\n")
_REASON = re.compile(
    r"[,;]?\s(?:because|since|which|where|so that|therefore|given that|in the|for the)\b",
    re.IGNORECASE,
)
_FORMULA = re.compile(
    r"\$\$([^$]{1,2000})\$\$|(?<!\\)\$((?:[^$\\\n]|\\.){1,2000})\$"
    # Without another opening inside, so that a thousand of them do not cost a million steps.
    r"|\\\(((?:[^\\]|\\[^()]){1,2000})\\\)|\\\[((?:[^\\]|\\[^\[\]]){1,2000})\\\]"
)
_SEPARATOR = re.compile(r"\s{0,3}(?:[,;](?:\s{0,3}(?:and|or)\b)?|(?:and|or)\b)\s{0,3}")
_COMMAND, _WORD = re.compile(r"\\[A-Za-z]+"), re.compile(r"[A-Za-z]{2}")
_NUMBER = re.compile(
    r"(?<![\w.])[-\u2212+]?[$€£]?(?:\d{1,3}(?:(?:,|\{,\}|\\,|,\\!)\d{3})+|\d+)(?:\.\d+)?"
    r"(?:[eE][-+]?\d+|/\d+)?(?: ?\\?%)?"
    r"|(?<![\w.])[-\u2212+]?\.\d+"
)


def last_turn(text: str) -> str:
    """The answer proper: what precedes a run-on, without thoughts."""
    # A thought may quote the question; only what follows it can be another turn.
    _, closed, _ = text.partition("</think>")
    start = text.index("</think>") + len("</think>") if closed else 0
    for marker in _RUN_ON.finditer(text, start):
        if text[start : marker.start()].strip():
            text = text[: marker.start()]
            break
    return without_thoughts(text)


def final_answer(text: str) -> str | None:
    r"""The answer as it was written, without `\boxed`; None where there is none.

    Args:
        text: All that the model wrote.
    """
    turn = last_turn(text)
    return next(
        (
            answer
            for find in (boxed_answers, marked_answers, stated_answers, _last_expressions)
            for answer in find(turn)
        ),
        None,
    )


def boxed_answers(text: str) -> Iterator[str]:
    r"""Contents of `\boxed` and `\fbox`, the last one first, without empty and unbalanced ones.

    Braces match as in LaTeX: `\{` and `\}` are characters. Without braces, a number or a letter.
    """
    boxes: list[tuple[int, int]] = []
    closing: dict[int, int] = {}
    opened: list[int] = []
    for token in _BOX_OR_BRACE.finditer(text):
        match token.group():
            case "{":
                opened.append(token.start())
            case "}":
                if opened:
                    closing[opened.pop()] = token.start()
            case "\\boxed" | "\\fbox":
                boxes.append((token.start(), token.end()))
            case _:
                pass
    for _, end in reversed(boxes):
        start = end
        while start < len(text) and text[start] in " \t\n":
            start += 1
        if start < len(text) and text[start] == "{":
            content = text[start + 1 : closing[start]].strip() if start in closing else ""
        else:
            bare = _BARE_BOX.match(text, end)
            content = bare.group(1) if bare else ""
        if content:
            yield content


def statements(text: str) -> Iterator[tuple[int, str]]:
    """Where "the answer is", "final answer:" and the like end and what follows, the last first.

    Only the last statements are given, so that their number does not multiply the work.
    """
    for found in reversed(deque(_STATED.finditer(text), maxlen=_MAX_STATEMENTS)):
        end = found.end()
        yield end, text[end : end + _MAX_STATEMENT].lstrip(" \t\n:*\"'")


def stated_answers(text: str) -> Iterator[str]:
    """The answers in `statements`: a formula, or the words up to a reason or the sentence's end."""
    for _, statement in statements(text):
        formula = _FORMULA.match(statement)
        if formula:
            answer = _listed(statement, formula)
        else:
            end = _SENTENCE_END.search(statement)
            answer = statement[: end.start()] if end else statement
            reason = _REASON.search(answer)
            answer = answer[: reason.start()] if reason else answer
            inner = _FORMULA.search(answer)
            answer = _listed(answer, inner) if inner else answer
        answer = answer.strip(" \t\r*`\"'").rstrip(".,;")
        if any(character.isalnum() for character in answer):
            yield answer


def marked_answers(text: str) -> Iterator[str]:
    """What follows `####`, which also heads a section: a number, or the last line of the text."""
    for marked in reversed(list(_MARKED.finditer(text))):
        content = marked.group(1).strip()
        if _MARKED_NUMBER.fullmatch(content) or not text[marked.end() :].strip():
            yield content


def _last_expressions(text: str) -> Iterator[str]:
    """The last line if it is LaTeX without any mark, else the last number or formula."""
    line = text.rstrip()[-_MAX_LINE:].rpartition("\n")[2].strip().rstrip(".")
    result = line.rpartition("=")[2].strip()
    is_whole = not any(mark in line for mark in ("$", "\\boxed", "\\fbox"))
    is_whole = is_whole and line.count("{") == line.count("}")
    if is_whole and _COMMAND.search(result) and not _WORD.search(_COMMAND.sub(" ", line)):
        yield result
    formulas = [(match.end(), _inside(match)) for match in _FORMULA.finditer(text)]
    numbers = [(match.end(), match.group()) for match in _NUMBER.finditer(text)]
    last = max(formulas[-1:] + numbers[-1:], default=None)
    if last and last[1].strip():
        yield last[1].strip()


def _listed(text: str, formula: re.Match[str]) -> str:
    """A formula and those that follow it after nothing but commas, "and" and "or"."""
    listed = [_inside(formula)]
    while (following := _SEPARATOR.match(text, formula.end())) and (
        found := _FORMULA.match(text, following.end())
    ):
        listed.append(_inside(found))
        formula = found
    return ", ".join(listed)


def _inside(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None)
