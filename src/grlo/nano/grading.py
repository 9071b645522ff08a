"""Verifiers of the miniature's four domains: rules that know nothing of any reward model.

Each maps a prompt and an answer to 0 or 1, with `attempt` (the answer tries to do what was asked)
in the parts, so that accuracy given an attempt can be told from how often there is one.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from grlo.interfaces import BuildContext, Verifier
from grlo.nano.tasks import BY_NAME, CLAUSES, VALUES
from grlo.types import Prompt, Score

_RUN_ON = re.compile(r"Question:|Exercise:|Solution:|\bQ:|\bA:")


def _score(is_right: bool, *, attempt: bool, note: str = "") -> Score:
    return Score(float(is_right), parts={"attempt": float(attempt)}, note="" if is_right else note)


def grade_chat(prompt: Prompt, text: str) -> Score:
    """Right when it asserts every fact that was asked for, nothing false, and then ends.

    The text is cut into clauses. A clause speaks of the entity that it begins with, or of the one
    that the clause before spoke of. A fact is asserted by its phrase ("lives in the pond"); a value
    word that is no fact of the clause's entity is false, in whatever phrase, and so is the name of
    an entity that was not asked about ("the owl is red").
    """
    names = [str(name) for name in _list(prompt, "entities")]
    indices = [int(str(index)) for index in _list(prompt, "values")]
    missing = {(name, index) for name in names for index in indices}
    false: set[str] = set()
    attempt = False
    subject = names[0]
    for clause in re.split(r"[.\n,]| and the | but the | but ", text.lower()):
        words = re.findall(r"[a-z]+", clause)
        # A food can be another's value ("honey"): only near the beginning is it the subject.
        subject = next((word for word in words[:6] if word in names), subject)
        entity = BY_NAME[subject]
        for index, value in enumerate(entity.values):
            if f" {CLAUSES[entity.group][index].format(v=value)} " in f" {' '.join(words)} ":
                missing.discard((subject, index))
                attempt = True
        false |= {
            word for word in words if word in VALUES and word not in (*entity.values, subject)
        }
        false |= {
            word for word in words if word in BY_NAME and word not in (*entity.values, *names)
        }
    limit = 1.25 * len((prompt.reference or "").split()) + 2
    lowered = text.lower()
    faults = {
        "not said: " + ", ".join(f"fact {i + 1} of {n}" for n, i in sorted(missing)): missing,
        "false: " + ", ".join(sorted(false)): false,
        "not a numbered list": prompt.meta["kind"] == "list"
        and not all(f"{number}." in text for number in (1, 2, 3)),
        "not a story": prompt.meta["kind"] == "story" and "once" not in lowered,
        "goes on after the answer": len(text.split()) > limit or _RUN_ON.search(text),
    }
    fault = next((note for note, is_fault in faults.items() if is_fault), "")
    return _score(not fault, attempt=attempt, note=fault)


def grade_instruction(prompt: Prompt, text: str) -> Score:
    """Right when the instruction is kept to the letter."""
    word = str(prompt.meta["word"])
    words = re.findall(r"[a-z]+", text.lower())
    kind = prompt.meta["kind"]
    if kind == "repeat":
        times = int(str(prompt.meta["times"]))
        return _score(words == [word] * times, attempt=words[:1] == [word], note=f"not {times}x")
    other = str(prompt.meta["other"])
    # An echo of "Say ... and end with ..." is no answer, though it ends right.
    is_short = len(words) <= 12 and words[:1] != ["say"] and not _RUN_ON.search(text)
    if kind == "brackets":
        return _score(text.strip() == f"[{word}]", attempt="[" in text, note=f"not [{word}]")
    position = -1 if kind == "end" else 0
    is_right = is_short and other in words and bool(words) and words[position] == word
    return _score(is_right, attempt=is_short and word in words, note=f"does not {kind} with {word}")


def grade_math(prompt: Prompt, text: str) -> Score:
    """Right when the last stated answer is the result and no further question follows."""
    stated = re.findall(r"answer is (-?\d+(?:\.\d+)?)\b", text)
    attempt = bool(stated) or re.match(r"\d+ [+-] \d+ = \d+", text) is not None
    if not stated:
        return _score(False, attempt=attempt, note="no answer stated")
    if _RUN_ON.search(text):
        return _score(False, attempt=attempt, note="goes on with other questions")
    # Compared as text: int() refuses the thousands of digits that a model may write.
    result = str(prompt.meta["result"])
    return _score(stated[-1] == result, attempt=attempt, note=f"{stated[-1][:20]}, not {result}")


def grade_code(prompt: Prompt, text: str) -> Score:
    """Right when the function's values are right on five inputs; nothing of it is executed.

    The body is one `return` of an arithmetic expression, which a small interpreter evaluates.
    """
    attempt = text.lstrip().startswith("def f(x):")
    try:
        expression = _parse_function(text)
        for x in (-7, 0, 1, 5, 23):
            if _evaluate(expression, x) != _apply(prompt, x):
                return _score(False, attempt=attempt, note=f"wrong for x = {x}")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return _score(False, attempt=attempt, note=f"not a function: {error}")
    return _score(True, attempt=True)


GRADERS: dict[str, Verifier] = {
    "chat": grade_chat,
    "instruction_following": grade_instruction,
    "math": grade_math,
    "code": grade_code,
}


@dataclass(frozen=True)
class NanoSettings:
    """The four graders as one verifier, chosen by the prompt's domain."""

    name: str = "nano"

    def build(self, *, context: BuildContext) -> NanoSettings:
        return self

    def __call__(self, prompt: Prompt, text: str) -> Score:
        """Raises KeyError for a prompt of no domain of the miniature."""
        return GRADERS[prompt.domain](prompt, text)


def _apply(prompt: Prompt, x: int) -> int:
    steps: dict[str, Callable[[int, int], int]] = {
        "adds": lambda x, n: x + n,
        "subtracts": lambda x, n: x - n,
        "multiplies": lambda x, n: x * n,
    }
    for name, n in _list(prompt, "operations"):  # pyright: ignore[reportGeneralTypeIssues]
        x = steps[name](x, n)
    return x


def _parse_function(text: str) -> ast.expr:
    if len(text) > 400:
        raise ValueError("longer than 400 characters")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "3and x": the answer's flaws are none of the user's.
        body = ast.parse(text.strip()).body
    match body:
        case [
            ast.FunctionDef(
                name="f",
                args=ast.arguments(args=[ast.arg(arg="x")]),
                body=[ast.Return(value=ast.expr() as expression)],
                decorator_list=[],
            )
        ]:
            return expression
    raise ValueError("expected exactly `def f(x): return ...`")


def _evaluate(node: ast.expr, x: int) -> int:
    """Value of an expression of x, integers below a million, +, - and *."""
    match node:
        case ast.Name(id="x"):
            return x
        case ast.Constant(value=int() as value) if type(value) is int and abs(value) < 10**6:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, x)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _evaluate(left, x), _evaluate(right, x)
            if max(abs(a), abs(b)) > 10**30:
                raise ValueError("a value beyond 10^30")
            if isinstance(op, ast.Add):
                return a + b
            if isinstance(op, ast.Sub):
                return a - b
            if isinstance(op, ast.Mult):
                return a * b
    raise ValueError(f"{type(node).__name__} is not arithmetic on x")


def _list(prompt: Prompt, key: str) -> list[object]:
    value = prompt.meta[key]
    if not isinstance(value, list):
        raise ValueError(f"{prompt.source}: {key} is {value!r}, expected a list")
    return value
