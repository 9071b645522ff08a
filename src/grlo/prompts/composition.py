"""What a prompt asks for, by rules that anybody can read: no learned weights.

Cues (`grlo.prompts.cues`) speak for tasks with weights that add up; the task with the highest sum
wins. They are looked for at the beginning and the end of the last thing that the user says, where
requests stand, and not in what is pasted in between; code and demands on form are looked for in all
of it. How far the rules agree with a reader is measured on a labelled sample (docs/results.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from grlo.prompts.cues import (
    CODE_LINE,
    CONSTRAINTS,
    CUES,
    DESIGNS,
    FENCE,
    FORMULA,
    PUZZLE,
    STRUGGLE,
)
from grlo.types import Message

TASKS = ("explain", "plan", "write", "rewrite", "code", "math", "chat", "other")
"""The main thing that is asked: knowledge; what to do; a text of one's own; work on a given text;
programs; calculation or proof; company; none of these."""
CATEGORIES = (
    "general_dialogue",
    "creative_and_problem_solving",
    "instruction_following",
    "other",
)
"""The kinds in which arXiv:2605.15464 states its mix."""
_REQUEST = 300
"""Characters at the beginning and at the end of a turn in which its request is looked for."""
_HEAD, _TAIL = 3000, 1500
_MANY_CONSTRAINTS = 3
_SENTENCE = 5
"""Words from which on a text without cues is taken to ask for something."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Composition:
    """What a prompt asks for."""

    task: str
    """One of `TASKS`."""
    confidence: float
    """(first - second) / (first + 1), of the weights of the two likeliest tasks: 0 to 1."""
    category: str
    """One of `CATEGORIES`."""
    reasoning: bool
    """A good answer takes several steps that depend on each other."""
    mathematics: bool
    """Asks for calculation, derived quantities or proof."""
    code: bool
    """Asks for program code, or brings some to be worked on."""
    constraints: bool
    """Demands something of the answer's form that could be checked."""
    num_turns: int
    """Of the user."""
    num_words: int
    """Of the user's turns, of each its first 200,000 characters."""
    cues: tuple[str, ...]
    """The rules that spoke, as `task: name`; without any the task is a guess."""


def classify(messages: Sequence[Message]) -> Composition:
    """What a conversation's last turn asks for.

    Args:
        messages: At least one of the user's; others are looked at for its sake only.
    """
    asked = [message.content for message in messages if message.role == "user"]
    text = asked[-1].strip() if asked else ""
    shown = text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]}\n{text[-_TAIL:]}"
    shown = shown.encode("utf-8", "replace").decode()
    begin, end = shown[:_REQUEST], shown[max(_REQUEST, len(shown) - _REQUEST) :]
    request = f"{begin}\n{end}" if len(shown) > 2 * _REQUEST else shown
    sums: dict[str, float] = dict.fromkeys(TASKS, 0.0)
    spoke: list[str] = []
    for cue in CUES:
        found = cue.pattern.match(begin) if cue.at_start else cue.pattern.search(request)
        if found:
            sums[cue.task] += cue.weight
            spoke.append(f"{cue.task}: {cue.name}")
    brings_code = has_code(shown)
    if brings_code:
        sums["code"] += 2.0
        spoke.append("code: lines of code")
    ranked = sorted(TASKS, key=lambda task: (-sums[task], TASKS.index(task)))
    first, second = sums[ranked[0]], sums[ranked[1]]
    task = ranked[0] if first > 0 else "other"
    if first == 0 and len(_WORD.findall(shown)) >= _SENTENCE:
        task = "explain"  # Without any cue: the commonest task, at no confidence.
    demands = [name for name, pattern in CONSTRAINTS.items() if pattern.search(shown)]
    spoke += [f"constraint: {name}" for name in demands]
    mathematics = task == "math" or (sums["math"] >= 3 and task != "code")
    return Composition(
        task=task,
        confidence=(first - second) / (first + 1) if first > 0 else 0.0,
        category=_category(task, begin, len(demands)),
        reasoning=_reasons(task, shown, is_mathematics=mathematics),
        mathematics=mathematics,
        code=task == "code" or brings_code,
        constraints=bool(demands),
        num_turns=len(asked),
        num_words=sum(len(_WORD.findall(turn[:200_000])) for turn in asked),
        cues=tuple(spoke),
    )


def has_code(text: str) -> bool:
    """Whether a text has a fenced block or several lines that look like code."""
    lines = text.split("\n")[:200]
    return bool(FENCE.search(text)) or sum(bool(CODE_LINE.search(x[:300])) for x in lines) >= 3


def _category(task: str, begin: str, num_constraints: int) -> str:
    if task == "other":
        return "other"
    if task == "rewrite" or num_constraints >= _MANY_CONSTRAINTS:
        return "instruction_following"
    if task in ("write", "code", "math") or (task == "plan" and DESIGNS.search(begin)):
        return "creative_and_problem_solving"
    return "general_dialogue"


def _reasons(task: str, text: str, *, is_mathematics: bool) -> bool:
    if is_mathematics:
        return True
    if task == "code":
        return bool(STRUGGLE.search(text))
    return bool(PUZZLE.search(text)) or (task == "explain" and bool(FORMULA.search(text)))
