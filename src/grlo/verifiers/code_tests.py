"""Tests of a code problem, from the fields of its row.

| form | fields | tests |
|---|---|---|
| HumanEval | `prompt`, `entry_point`, `test` | `check(entry_point)` |
| EvalPlus | `entry_point`, `canonical_solution`, `base_input`, `plus_input` | its results |
| MBPP | `test_list`, `test_imports` or `test_setup_code` | assertions |
| LeetCode of rLLM | `tests.functional` | statements |
| programs | `inputs`, `outputs`, perhaps `fn_name` | output, or result of a function |
| LiveCodeBench | a list of `input`, `output`, `testtype` | likewise |
| assertions | `assert_case`, a list | assertions |

The last three also stand, as JSON, in `tests` or in the reference answer of training rows, and so
does a list of assertions or `functional`.
"""

from __future__ import annotations

import ast
import builtins
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grlo.types import Prompt
from grlo.verifiers.code_extraction import parse_quietly
from grlo.verifiers.code_values import encode

Rule = Literal["equal", "set", "match", "root", "json", "wrapped"]

# EvalPlus compares the results of these MBPP problems as sets (its list MBPP_OUTPUT_SET_EQ_TASKS),
# and takes any match for the match object of these (MBPP_OUTPUT_NOT_NONE_TASKS).
_AS_SETS = (
    "similar_elements",
    "find_char_long",
    "common_in_nested_lists",
    "extract_singly",
    "larg_nnum",
    "intersection_array",
    "find_dissimilar",
    "Diff",
)
_AS_MATCHES = ("check_str", "text_match_three", "text_starta_endb")

# What LeetCode provides.
_LEETCODE_PRELUDE = """\
from typing import *
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits
inf = float("inf")
"""


@dataclass(frozen=True)
class CodeTests:
    """What an answer to a problem has to do."""

    form: Literal["statements", "comparisons", "programs"]
    tests: tuple[object, ...]
    """Statements as text, or tables; see `code_harness`."""
    names: tuple[str, ...] = ()
    """What the answer has to define; the first is the function that comparisons call."""
    prelude: str = ""
    """Code before the answer's, such as the imports of the problem's text."""
    setup: str = ""
    """Code before the tests, which the answer does not see."""
    reference: str = ""
    """Name of the reference solution in `setup`, where results are compared with its results."""
    rule: Rule = "equal"
    """How results are compared; see `code_harness`."""
    tolerance: float = 0.0


def parse_tests(prompt: Prompt) -> CodeTests:
    """The tests of a prompt, from its `meta` or its reference answer.

    Raises:
        ValueError: There are none, or they are malformed; the message is the reason.
    """
    meta = prompt.meta
    if meta.get("entry_point") and ("base_input" in meta or "plus_input" in meta):
        return _evalplus(meta)
    if meta.get("entry_point") and meta.get("test"):
        return _humaneval(meta)
    if meta.get("test_list"):
        return _assertions(_texts(meta, "test_list"), setup=_mbpp_setup(meta))
    tests: Any = meta.get("tests", meta if "inputs" in meta else prompt.reference)
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError:
            tests = [tests]
    if isinstance(tests, Mapping) and "functional" in tests:
        return _statements(
            [_text(tests, "functional")], setup='inf = float("inf")\n', prelude=_LEETCODE_PRELUDE
        )
    if isinstance(tests, Mapping) and tests.get("assert_case"):
        return _assertions(_texts(tests, "assert_case"), setup="")
    if isinstance(tests, Mapping) and "inputs" in tests:
        return _cases(tests["inputs"], tests.get("outputs"), name=tests.get("fn_name"))
    if isinstance(tests, Sequence) and tests and all(isinstance(t, str) for t in tests):
        return _assertions([str(test) for test in tests], setup="")
    if isinstance(tests, Sequence) and tests and all(isinstance(t, Mapping) for t in tests):
        return _typed_cases([dict(test) for test in tests], name=meta.get("fn_name"))
    raise ValueError(
        "the problem has no tests; expected test, base_input, test_list, tests, or inputs and "
        "outputs, as fields or as JSON in the reference answer"
    )


# Forms --------------------------------------------------------------------------------------------


def _humaneval(meta: Mapping[str, Any]) -> CodeTests:
    name, prompt = _text(meta, "entry_point"), _text(meta, "prompt")
    return CodeTests(
        form="statements",
        tests=(f"check({name})",),
        names=(name,),
        prelude=f"{prompt}\n    pass\n",
        # Tests may use helpers that the problem's text defines.
        setup=f"{prompt}\n    pass\n{_text(meta, 'test')}",
    )


def _evalplus(meta: Mapping[str, Any]) -> CodeTests:
    name, prompt = _text(meta, "entry_point"), _text(meta, "prompt")
    inputs = [*(meta.get("base_input") or ()), *(meta.get("plus_input") or ())]
    if not inputs or not all(isinstance(args, Sequence) for args in inputs):
        raise ValueError("base_input and plus_input hold no lists of arguments")
    assertion = meta.get("assertion")
    templates = _argument_templates(str(assertion), name) if assertion else []
    tests = [
        {"args": [encode(arg, _unknown) for arg in _retyped(args, templates)]} for args in inputs
    ]
    rule: Rule = "set" if name in _AS_SETS else "match" if name in _AS_MATCHES else "equal"
    if name == "find_zero":
        rule = "root"
    solution = _text(meta, "canonical_solution")
    return CodeTests(
        form="comparisons",
        tests=tuple(tests),
        names=(name,),
        prelude="" if assertion else f"{prompt}\n    pass\n",
        setup=f"{prompt}{solution}\n_reference = {name}\n",
        reference="_reference",
        rule=rule,
        tolerance=float(meta.get("atol") or 0),
    )


def _mbpp_setup(meta: Mapping[str, Any]) -> str:
    imports = meta.get("test_imports") or ()
    return "\n".join([*map(str, imports), str(meta.get("test_setup_code") or "")])


def _assertions(tests: Sequence[str], *, setup: str) -> CodeTests:
    return _statements(tests, setup=setup)


def _statements(tests: Sequence[str], *, setup: str = "", prelude: str = "") -> CodeTests:
    """Statements that use what the answer defines.

    A name that they use and nobody defines is the answer's, unless it is a builtin or a module of
    the standard library: those are the tests' own, whatever the answer makes of them.
    """
    free = _free_names([setup, *tests])
    modules = [name for name in free if name in sys.stdlib_module_names]
    names = [name for name in free if name not in modules] or _called_builtins(tests)
    if not names:
        raise ValueError("the tests use nothing that an answer could define")
    imports = "".join(f"import {name}\n" for name in modules)
    return CodeTests(
        form="statements",
        tests=tuple(tests),
        names=tuple(names),
        prelude=prelude,
        setup=imports + setup,
    )


def _cases(inputs: object, outputs: object, *, name: object) -> CodeTests:
    """Inputs with their outputs: of a function by its name, or of a program."""
    if not isinstance(inputs, Sequence) or not isinstance(outputs, Sequence) or not inputs:
        raise ValueError("inputs and outputs are no lists, or empty")
    if len(inputs) != len(outputs):
        raise ValueError(f"there are {len(inputs)} inputs but {len(outputs)} outputs")
    if name:
        calls = [_call(*pair) for pair in zip(inputs, outputs, strict=True)]
        return _function_cases(calls, name=str(name))
    tests = [
        {"stdin": _stream(given), "stdout": _stream(expected)}
        for given, expected in zip(inputs, outputs, strict=True)
    ]
    return CodeTests(form="programs", tests=tuple(tests))


def _typed_cases(cases: Sequence[Mapping[str, Any]], *, name: object) -> CodeTests:
    """Cases of LiveCodeBench: arguments stand on the lines of an input, as JSON."""
    for case in cases:
        if "input" not in case or "output" not in case:
            raise ValueError(f"a test has the fields {sorted(case)}; expected input and output")
    if cases[0].get("testtype") == "functional" and name:
        return _cases(*_columns(cases), name=name)
    return _cases(*_columns(cases), name=None)


def _columns(cases: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    return [case["input"] for case in cases], [case["output"] for case in cases]


def _call(given: object, expected: object) -> tuple[object, object]:
    """Arguments and result of a call; where the arguments are text, both are JSON, by lines."""
    if isinstance(given, str):
        args = [json.loads(line) for line in given.split("\n") if line.strip()]
        return args, json.loads(expected) if isinstance(expected, str) else expected
    return given, expected


def _function_cases(pairs: Sequence[tuple[object, object]], *, name: str) -> CodeTests:
    """Calls with their results, which are JSON: without tuples.

    APPS (Hendrycks et al. 2021, arXiv 2105.09938) wraps each result in a list and takes it with or
    without.
    """
    tests = []
    is_wrapped = all(isinstance(result, list) and len(result) == 1 for _, result in pairs)
    for args, expected in pairs:
        if not isinstance(args, Sequence) or isinstance(args, str):
            raise ValueError(f"the arguments {args!r} of {name} are no list")
        tests.append(
            {
                "args": [encode(arg, _unknown) for arg in args],
                "expected": encode(expected, _unknown),
            }
        )
    return CodeTests(
        form="comparisons",
        tests=tuple(tests),
        names=(name,),
        prelude=_LEETCODE_PRELUDE,
        rule="wrapped" if is_wrapped else "json",
    )


# Parts --------------------------------------------------------------------------------------------


def _free_names(sources: Sequence[str]) -> list[str]:
    """Names that code reads and neither binds nor finds among the builtins, in order."""
    read: dict[str, None] = {}
    bound: set[str] = set()
    for source in sources:
        try:
            tree = parse_quietly(source)
        except SyntaxError as error:
            raise ValueError(f"a test is no Python: {error}") from error
        for node in ast.walk(tree):
            match node:
                case ast.Name(id=name, ctx=ast.Load()):
                    read[name] = None
                case ast.Name(id=name) | ast.arg(arg=name):
                    bound.add(name)
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    bound.add(name)
                case ast.ExceptHandler(name=str(name)):
                    bound.add(name)
                case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                    bound |= {(a.asname or a.name).partition(".")[0] for a in aliases}
                case _:
                    pass
    return [name for name in read if name not in bound and not hasattr(builtins, name)]


def _called_builtins(tests: Sequence[str]) -> list[str]:
    """Builtins that every test calls first of all: some problems ask for another `sum`."""
    first = []
    for test in tests:
        calls = [node for node in ast.walk(parse_quietly(test)) if isinstance(node, ast.Call)]
        names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
        first.append(names[0] if names else "")
    return [first[0]] if len(set(first)) == 1 and first[0] else []


def _argument_templates(assertion: str, name: str) -> list[list[object]]:
    """The arguments of every call of a function in assertions that are literals, by position.

    JSON has neither tuples nor sets nor complex numbers; the assertions show which arguments are.
    """
    templates: list[list[object]] = []
    for node in ast.walk(parse_quietly(assertion)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            for position, argument in enumerate(node.args):
                try:
                    value = ast.literal_eval(argument)
                except ValueError:
                    continue
                while len(templates) <= position:
                    templates.append([])
                templates[position].append(value)
    return templates


def _retyped(args: Sequence[Any], templates: Sequence[Sequence[object]]) -> list[object]:
    typed = []
    for position, arg in enumerate(args):
        shown = templates[position] if position < len(templates) else []
        if isinstance(arg, str) and shown and not any(isinstance(t, str) for t in shown):
            typed.append(_number(arg))
        else:
            typed.append(_like(shown, arg))
    return typed


def _number(text: str) -> object:
    """A number that JSON holds as text because it is complex; other text as it is."""
    for kind in (float, complex):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _like(templates: Sequence[object], value: Any) -> object:
    """A value of JSON with the types that the templates have where they agree."""
    kinds = {type(template) for template in templates}
    if isinstance(value, list):
        inner = [item for t in templates if isinstance(t, (list, tuple, set)) for item in t]
        items = [_like(inner, item) for item in value]
        containers = kinds & {list, tuple, set}
        if containers == {tuple}:
            return tuple(items)
        return set(items) if containers == {set} else items
    if isinstance(value, dict):
        inner = [item for t in templates if isinstance(t, dict) for item in t.values()]
        return {key: _like(inner, item) for key, item in value.items()}
    return value


def _stream(lines: object) -> str:
    """Text of an input or output, which some data sets hold as a list of lines."""
    if isinstance(lines, list):
        return "\n".join(str(line) for line in lines)
    return str(lines)


def _text(fields: Mapping[str, Any], key: str) -> str:
    text = fields.get(key)
    if not isinstance(text, str):
        raise ValueError(f"{key} is {text!r}; expected text")
    return text


def _texts(fields: Mapping[str, Any], key: str) -> list[str]:
    texts = fields[key]
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is no list of assertions")
    return list(texts)


def _unknown(value: object) -> object:
    raise ValueError(f"{value!r} is no value that tests can hold")
