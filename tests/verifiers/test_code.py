# ruff: noqa: E501
"""The code verifier: right solutions pass in every form, wrong ones fail and are told why."""

from __future__ import annotations

import ast
import json
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from code_mutants import mutants
from code_problems import DOUBLE, RIGHT, fenced, needs_sandbox, problems, prompt, solution
from grlo import registry
from grlo.errors import SandboxError
from grlo.grading import grade_all
from grlo.interfaces import BuildContext
from grlo.sandbox import Limits, Sandbox, SandboxSettings, open_sandbox
from grlo.types import Prompt
from grlo.verifiers.code import CodeSettings, CodeVerifier

pytestmark = needs_sandbox

NUM_MUTATED = 60
"""Problems of each set whose mutants are tried by default; `-m slow` tries all."""


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    built = CodeSettings().build(context=BuildContext(device="cpu", seed=0))
    yield built
    built.close()


@pytest.fixture(scope="module")
def patient() -> Iterator[CodeVerifier]:
    """For published solutions, of which one takes 4 to 6 s, by machine."""
    built = CodeVerifier(CodeSettings(seconds=30.0, total_seconds=120.0))
    yield built
    built.close()


@pytest.fixture(scope="module")
def hasty() -> Iterator[CodeVerifier]:
    """For programs that reach their limits."""
    built = CodeVerifier(CodeSettings(seconds=0.5, total_seconds=8.0))
    yield built
    built.close()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with open_sandbox() as opened:
        yield opened


def failures(verifier: CodeVerifier, found: list[Prompt]) -> dict[str, str]:
    scores = grade_all(verifier, [(problem, fenced(solution(problem))) for problem in found])
    return {
        str(problem.meta["id"]): score.note
        for problem, score in zip(found, scores, strict=True)
        if score.value != 1
    }


# Real problems ------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("code_humaneval.jsonl", 164),
        ("code_mbpp_sanitized.jsonl", 427),
        ("evalplus_HumanEvalPlus-Mini.jsonl.gz", 164),
        pytest.param("code_mbpp_full.jsonl.gz", 974, marks=pytest.mark.slow),
        pytest.param("evalplus_HumanEvalPlus-NoExtreme.jsonl.gz", 164, marks=pytest.mark.slow),
    ],
)
def test_every_published_solution_passes(
    patient: CodeVerifier, data_dir: Path, name: str, count: int
) -> None:
    found = problems(data_dir / name)
    assert len(found) == count
    assert failures(patient, found) == {}


@pytest.mark.slow
def test_every_published_solution_of_mbpp_plus_passes(
    patient: CodeVerifier, data_dir: Path
) -> None:
    # Results of one of them have tens of megabytes, a few more than an answer may send.
    found = problems(data_dir / "evalplus_MbppPlus-NoExtreme.jsonl.gz")
    assert len(found) == 378
    assert failures(patient, found) == {}


def test_published_solutions_of_leetcode_pass_but_for_a_missing_package(
    patient: CodeVerifier, data_dir: Path
) -> None:
    found = problems(data_dir / "code_leetcode_rllm_test.jsonl.gz")[100:150]
    failed = failures(patient, found)
    assert failed == {
        "leetcode_rllm/126": "ModuleNotFoundError: No module named 'sortedcontainers'"
    }


def passes_by_itself(sandbox: Sandbox, problem: Prompt, code: str) -> bool:
    """Whether a program passes its tests in one process, without any harness."""
    meta: Any = problem.meta
    if "test" in meta:
        check = f"check({meta['entry_point']})"
        lines = [f"{meta['prompt']}\n    pass", code, meta["test"], check]
    else:
        lines = [*meta["test_imports"], code, *meta["test_list"]]
    tested = "\n".join(["import sys", *lines, "sys.__stdout__.write('passed!')", ""])
    execution = sandbox.run(tested, limits=Limits(wall_seconds=30.0, cpu_seconds=5.0))
    return execution.stdout.endswith(b"passed!")


# This mutant breaks a helper of the problem's text, which the tests use as the text has it.
MORE_THAN_BY_ITSELF = {"HumanEval/50"}
ASSERTED = ("code_humaneval.jsonl", "code_mbpp_sanitized.jsonl")


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        *((name, NUM_MUTATED) for name in ASSERTED),
        *(pytest.param(name, None, marks=pytest.mark.slow) for name in ASSERTED),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid escape")
def test_a_mutant_passes_just_if_it_passes_without_the_harness(
    verifier: CodeVerifier, sandbox: Sandbox, data_dir: Path, name: str, limit: int | None
) -> None:
    """Mutants of each solution are tried until one changes what the tests see: every one has it."""
    found = problems(data_dir / name)
    random.Random(0).shuffle(found)
    left = {str(problem.meta["id"]): problem for problem in found[:limit]}
    tries = {key: mutants(solution(problem)) for key, problem in left.items()}
    disagreements: set[str] = set()
    while left:
        batch = [(key, next(tries[key])) for key in left]
        with ThreadPoolExecutor(sandbox.num_workers) as pool:
            expected = list(
                pool.map(lambda pair: passes_by_itself(sandbox, left[pair[0]], pair[1]), batch)
            )
        scores = grade_all(verifier, [(left[key], fenced(code)) for key, code in batch])
        for (key, _), passes, score in zip(batch, expected, scores, strict=True):
            if score.value != passes:
                disagreements.add(key)
            if not passes:
                del left[key]
    assert disagreements <= MORE_THAN_BY_ITSELF


@pytest.mark.parametrize("limit", [NUM_MUTATED, pytest.param(None, marks=pytest.mark.slow)])
def test_a_mutant_of_every_solution_fails_the_tests_of_evalplus(
    verifier: CodeVerifier, data_dir: Path, limit: int | None
) -> None:
    found = problems(data_dir / "evalplus_HumanEvalPlus-Mini.jsonl.gz")
    random.Random(0).shuffle(found)
    left = {str(problem.meta["id"]): problem for problem in found[:limit]}
    tries = {key: mutants(solution(problem)) for key, problem in left.items()}
    while left:
        batch = [(key, next(tries[key])) for key in left]
        scores = grade_all(verifier, [(left[key], fenced(code)) for key, code in batch])
        for (key, _), score in zip(batch, scores, strict=True):
            assert score.value is not None
            if score.value == 0:
                del left[key]


# Forms of problems and answers --------------------------------------------------------------------


COMPLETION = prompt(
    entry_point="root",
    prompt="import math\n\n\ndef helper(x):\n    return x + 1\n\n\ndef root(x):\n    ''' Root. '''\n",
    test="def check(candidate):\n    assert candidate(8) == helper(2)\n",
)
PROGRAM = prompt(inputs=["1 2\n", "3 4\n"], outputs=["3\n", "7"])
SUM = "a, b = map(int, input().split())\nprint(a + b)"


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (DOUBLE, RIGHT),
        (DOUBLE, fenced(RIGHT)),
        (DOUBLE, f"Sure.\n\n{RIGHT}\nThis doubles it, as you can see."),
        (DOUBLE, f"<think>```python\ndef double(x): return 0\n```</think>{fenced(RIGHT)}"),
        (DOUBLE, f"```\nno code\n```\n{fenced(RIGHT)}"),
        (DOUBLE, f"```python\ndef triple(x):\n    return 3 * x\n```\n{fenced(RIGHT)}"),
        (DOUBLE, f"```python\n{RIGHT}"),
        (DOUBLE, f"~~~py\n{RIGHT}~~~"),
        (DOUBLE, "double = lambda x: x + x"),
        (DOUBLE, f"{RIGHT}\nif __name__ == '__main__':\n    print(double(int(input())))\n"),
        (COMPLETION, "def root(x):\n    return math.isqrt(x + 1)\n"),
        (COMPLETION, "def root(x):\n    return helper(x) // 3\n"),
        (COMPLETION, "from __future__ import annotations\nimport math\n\ndef root(x: Root):\n    return math.isqrt(x + 1)\n"),
        (PROGRAM, fenced(SUM)),
        (PROGRAM, SUM),
        (PROGRAM, f"{SUM}\nexit()\nprint('more')"),
        (PROGRAM, "import threading\ndef main():\n    print(sum(map(int, input().split())))\nthreading.Thread(target=main).start()"),
        (PROGRAM, "import atexit, os, sys\ntotal = sum(map(int, sys.stdin.buffer.read().split()))\natexit.register(lambda: os.write(1, b'%d' % total))"),
        (PROGRAM, "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nif __name__ == '__main__':\n    print(A(sum(map(int, open(0).read().split()))).x)"),
        (prompt(inputs=["".join(f"{i}\n" for i in range(30000))], outputs=["30000"]), "import sys\nprint(len(sys.stdin.readlines()))"),
        (prompt(tests={"inputs": [[1, [2]]], "outputs": [[1, [2]]], "fn_name": "join"}),
         "def join(a, b):\n    return a, tuple(b)"),
        (prompt(inputs=[["1", "2"]], outputs=[["3"]]), "print(int(input()) + int(input()))"),
        (prompt(tests={"inputs": [[1, [2]]], "outputs": [[1, 2]], "fn_name": "join"}),
         "class Solution:\n    def join(self, a: int, b: List[int]) -> List[int]:\n        return [a, *b]"),
        (prompt(tests={"inputs": [[1, [2]]], "outputs": [[1, 2]], "fn_name": "join"}),
         "def join(a, b):\n    return [a] + b"),
        (prompt(fn_name="add", tests=[{"input": "1\n[2, 3]", "output": "6", "testtype": "functional"}]),
         "def add(a, b):\n    return a + sum(b)"),
        (prompt(tests=[{"input": "5", "output": "10", "testtype": "stdin"}]), "print(2 * int(input()))"),
        (prompt(tests={"functional": "def check(f):\n    assert f(2) == 4\ncheck(Solution().double)"}),
         "class Solution:\n    def double(self, x):\n        return 2 * x"),
        (prompt(test_list=["a = [3, 1]\nsort_it(a)\nassert a == [1, 3]"]),
         "def sort_it(a):\n    a.sort()"),
        (prompt(test_list=["assert list(up_to(3)) == [0, 1, 2]"]),
         "def up_to(n):\n    yield from range(n)"),
        (prompt(test_list=["assert area(Box(2, 3)) == 6", "assert Box(1, 2).width == 1"]),
         "class Box:\n    def __init__(self, width, height):\n        self.width, self.height = width, height\n"
         "def area(box):\n    return box.width * box.height"),
        (prompt(test_list=["assert sum(2, 3) == 6"]), "def sum(a, b):\n    return a * b"),
        (prompt(test_list=["assert math.isclose(half(1), 0.5)"]), "def half(x):\n    return x / 2"),
        (prompt(test_list=["try:\n    fail()\n    assert False\nexcept ValueError:\n    pass"]),
         "def fail():\n    raise ValueError('no')"),
        (prompt(test_list=["assert f() == {(1, 2): {3}, 'x': None, 4: 1j, 5: b'a', 6: 10**400}"]),
         "def f():\n    return {(1, 2): {3}, 'x': None, 4: 1j, 5: b'a', 6: 10**400}"),
    ],
)  # fmt: skip
def test_right_answers_pass_in_every_form(
    verifier: CodeVerifier, problem: Prompt, text: str
) -> None:
    score = verifier(problem, text)
    assert (score.value, score.note) == (1.0, "")
    assert score.parts == {"parsed": 1.0, "tests": 1.0}
    assert score.extracted


@pytest.mark.parametrize(
    ("test", "code"),
    [
        ("assert N == 5", "N = 5"),
        ("g = gen()\nassert next(g) == 0\nassert next(g) == 1\nassert list(zip('ab', gen())) == [('a', 0), ('b', 1)]",
         "import itertools\ndef gen():\n    return itertools.count()"),
        ("g = gen()\nassert [*g] == [1]\ntry:\n    next(g)\n    assert False\nexcept StopIteration:\n    pass",
         "def gen():\n    yield 1"),
        ("assert apply(lambda x: x + 1, 2) == 3 and apply(str.upper, 'a') == 'A'",
         "def apply(f, x):\n    return f(x)"),
        ("calls = []\ndef f(x):\n    calls.append(x)\n    return len(calls)\ng = memoized(f)\nassert [g(3), g(3), g(4)] == [1, 1, 2]\nassert calls == [3, 4]",
         "import functools\ndef memoized(f):\n    return functools.cache(f)"),
        ("assert fix(lambda f, n: 1 if n == 0 else n * f(n - 1))(5) == 120",
         "def fix(g):\n    def f(n):\n        return g(f, n)\n    return f"),
        ("def bad(x):\n    raise LookupError('gone')\nassert safely(bad) == 'gone'",
         "def safely(f):\n    try:\n        f(1)\n    except KeyError:\n        return 'no'\n    except LookupError as error:\n        return str(error)"),
        ("try:\n    f(0)\n    assert False\nexcept MyError as error:\n    assert str(error) == 'zero'",
         "class MyError(ValueError):\n    pass\ndef f(x):\n    raise MyError('zero')"),
        ("try:\n    f(0)\n    assert False\nexcept ValueError:\n    pass",
         "class Own(ValueError):\n    pass\ndef f(x):\n    raise Own('zero')"),
        ("try:\n    f()\n    assert False\nexcept UnicodeDecodeError:\n    pass",
         "def f():\n    return b'\\xff'.decode()"),
        ("import datetime as d\nassert f(d.date(2020, 2, 28), d.timedelta(days=2)) == d.date(2020, 3, 1)",
         "def f(day, delta):\n    return day + delta"),
        ("assert f().x == 1 and f() == (1, 2)",
         "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f():\n    return P(1, 2)"),
        ("assert f('aab')['a'] == 2 and f('')['z'] == 0",
         "from collections import Counter\ndef f(s):\n    return Counter(s)"),
        ("assert isinstance(make(), Box) and not isinstance(3, Box) and Box != 3\nassert make() is not None and make() != None",
         "class Box:\n    pass\ndef make():\n    return Box()"),
        ("from collections import OrderedDict\nassert f() == OrderedDict([('a', 1), ('b', 2)])",
         "from collections import OrderedDict\ndef f():\n    return OrderedDict(a=1, b=2)"),
        ("a, d = [3, 1], {}\nf(a, into=d)\nassert (a, d) == ([1, 3], {0: 1})",
         "def f(a, into):\n    a.sort()\n    into[0] = a[0]"),
        ("print('a test may print')\nassert f() == 1",
         "print('loaded')\ndef f():\n    print('called')\n    return 1"),
        ("assert f() == 1",
         "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\ndef f():\n    return A(1).x"),
        ("from fractions import Fraction as F\nfrom decimal import Decimal as D\nassert f(F(1, 3), D('0.1')) == [F(2, 3), D('0.2')]",
         "def f(*numbers):\n    return [2 * x for x in numbers]"),
        ("assert type(f()) is int and f() == True\nassert isinstance(kind(), type) and kind() is list",
         "def f():\n    return 1\ndef kind():\n    return list"),
    ],
)  # fmt: skip
def test_what_tests_do_with_an_answer_works_across_processes(
    verifier: CodeVerifier, test: str, code: str
) -> None:
    score = verifier(prompt(test_list=[test]), fenced(code))
    assert (score.value, score.note) == (1.0, "")


@pytest.mark.parametrize(
    ("test", "code"),
    [
        ("from collections import OrderedDict\nassert f() == OrderedDict([('a', 1), ('b', 2)])",
         "from collections import OrderedDict\ndef f():\n    return OrderedDict(b=2, a=1)"),
        ("assert f(2) == (1, 2)", "def f(n):\n    return [1, 2]"),
        ("assert f(2) == {1}", "def f(n):\n    return {1: 1}"),
        ("assert f(2) is True", "def f(n):\n    return 1"),
        ("assert type(f(2)) is float", "def f(n):\n    return n"),
        ("try:\n    f(0)\n    assert False\nexcept KeyError:\n    pass", "def f(x):\n    raise LookupError"),
    ],
)  # fmt: skip
def test_types_and_order_that_differ_are_seen(verifier: CodeVerifier, test: str, code: str) -> None:
    assert verifier(prompt(test_list=[test]), fenced(code)).value == 0


def test_tests_of_training_rows_stand_in_the_reference_answer(verifier: CodeVerifier) -> None:
    for reference in (
        json.dumps({"inputs": ["2\n"], "outputs": ["4\n"]}),
        json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
    ):
        row = prompt(reference)
        assert verifier(row, fenced("print(2 * int(input()))")).value == 1
        assert verifier(row, fenced("print(3 * int(input()))")).value == 0
    for reference in (
        json.dumps(["assert double(2) == 4"]),
        "assert double(2) == 4",
        json.dumps({"functional": "assert double(2) == 4"}),
        json.dumps({"assert_case": ["assert double(2) == 4"]}),
        json.dumps({"fn_name": "double", "inputs": [[2], [3]], "outputs": [4, 6]}),
        json.dumps({"fn_name": "double", "inputs": [[2], [3]], "outputs": [[4], [6]]}),
        json.dumps({"fn_name": "double", "inputs": ["2", "[3]"], "outputs": ["4", "[3, 3]"]}),
    ):
        row = prompt(reference)
        assert verifier(row, fenced(RIGHT)).value == 1
        assert verifier(row, fenced("def double(x):\n    return 3 * x")).value == 0


def test_an_answer_that_is_too_large_is_wrong_and_not_too_slow(verifier: CodeVerifier) -> None:
    score = verifier(DOUBLE, fenced("def double(x):\n    return 'x' * 10**8"))
    assert score.value == 0
    assert "more than 64 MiB" in score.note


@pytest.mark.parametrize(
    ("problem", "text", "note"),
    [
        (DOUBLE, "I do not know.", "no program that defines double"),
        (DOUBLE, "", "no program that defines double"),
        (DOUBLE, fenced("def triple(x):\n    return 3 * x"), "does not define ['double']"),
        (COMPLETION, fenced("def helper(x):\n    return 3 * x"), "does not define ['root']"),
        (DOUBLE, fenced("def double(x):\n    return 2 *"), "SyntaxError"),
        (DOUBLE, fenced("def double(x):\n    return 3 * x"), "test 1 of 2: double(2) gave 6"),
        (DOUBLE, fenced("def double(x):\n    return abs(2 * x)"), "test 2 of 2: double(-1) gave 2"),
        (DOUBLE, fenced("def double(x):\n    raise OSError('full')"), "double(2) raised OSError: full"),
        (DOUBLE, fenced("import numpy\n" + RIGHT), "ModuleNotFoundError"),
        (DOUBLE, fenced("def double(x):\n    while True: pass"), "took longer than 0.5 s in double(2)"),
        (DOUBLE, fenced("while True: pass\n" + RIGHT), "took longer than 0.5 s"),
        (DOUBLE, fenced("def double(x):\n    return [0] * 10**10"), "MemoryError"),
        (DOUBLE, fenced("def double(x):\n    return double(x)"), "RecursionError"),
        (PROGRAM, fenced("print(0)"), "it wrote '0\\n', expected '3\\n'"),
        (PROGRAM, fenced("while True: pass"), "took longer than 0.5 s"),
        (PROGRAM, fenced("while True: print('x' * 1000)"), "wrote far more than was expected"),
        (PROGRAM, fenced(f"{SUM}\n1 / 0"), "it ended with ZeroDivisionError: division by zero"),
        (PROGRAM, fenced(f"{SUM}\nraise SystemExit(3)"), "it ended with 3"),
        (PROGRAM, fenced(f"{SUM}\nprint("), "it ended with SyntaxError"),
        (prompt(test_list=["assert add(1, b=2) == 3"]), fenced("def add(a, b):\n    return a"), "test 1 of 1: add(1, b=2) gave 1"),
        (prompt(tests={"inputs": [[1]], "outputs": [2], "fn_name": "f"}), fenced("def f(x):\n    return x"), "f(1) gave 1, expected 2"),
    ],
)  # fmt: skip
def test_wrong_answers_score_zero_and_the_note_says_why(
    hasty: CodeVerifier, problem: Prompt, text: str, note: str
) -> None:
    score = hasty(problem, text)
    assert score.value == 0
    assert note in score.note


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"test_list": ["assert 1 == 1"]},
        {"test_list": ["assert double(2) =="]},
        {"inputs": ["1"], "outputs": []},
        {"tests": [{"question": "?"}]},
        {"entry_point": "f", "prompt": "def f(:\n", "test": "def check(f): pass"},
        {
            "entry_point": "f",
            "prompt": "def f(x):\n",
            "canonical_solution": "    1 // 0",
            "base_input": [[1]],
        },
        {"test_list": ["assert f(object()) == 1"]},
        {"tests": {"fn_name": "f", "inputs": ["1 2"], "outputs": ["3"]}},
    ],
)
def test_a_problem_whose_tests_are_broken_is_unscored(
    verifier: CodeVerifier, meta: dict[str, Any]
) -> None:
    score = verifier(prompt(**meta), fenced(RIGHT + "f = double"))
    assert score.value is None
    assert score.note


def test_a_reference_that_uses_up_its_argument_leaves_it_whole_for_the_answer(
    verifier: CodeVerifier,
) -> None:
    code = "    taken = []\n    while xs:\n        taken.append(xs.pop(0))\n    return taken\n"
    problem = prompt(
        entry_point="f",
        prompt="def f(xs):\n",
        canonical_solution=code,
        base_input=[[[3, 1, 2]], [[]], [["a", None, 1.5]]],
    )
    assert verifier(problem, fenced(f"def f(xs):\n{code}")).value == 1
    assert verifier(problem, fenced("def f(xs):\n    return list(xs)")).value == 1
    assert verifier(problem, fenced("def f(xs):\n    return []")).value == 0


def test_verdicts_depend_on_limits_and_python_and_on_no_machine() -> None:
    one = registry.identity(CodeVerifier(CodeSettings(sandbox=SandboxSettings(num_workers=1))))
    other = registry.identity(CodeVerifier(CodeSettings(sandbox=SandboxSettings(num_workers=2))))
    assert one == other
    assert one["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert one != registry.identity(CodeVerifier(CodeSettings(seconds=1.0)))


def test_a_share_of_the_tests_may_count(verifier: CodeVerifier) -> None:
    partial = CodeVerifier(CodeSettings(partial=True))
    try:
        score = partial(DOUBLE, fenced("def double(x):\n    return abs(2 * x)"))
        assert (score.value, score.parts["tests"]) == (0.5, 0.5)
        assert partial(PROGRAM, fenced("print(3)")).value == 0.5
    finally:
        partial.close()


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("1 2\n3\n", "1 2 3", True),
        ("0.3333333", "0.33333333333", True),
        ("0.33", "0.3333333", False),
        ("10", "10.0", True),
        ("10.0", "10", False),
        ("1000000001", "1000000002", False),
        ("YES", "Yes", False),
        ("", "0", False),
        ("nan", "1.0", False),
        ("1e3", "1000.0", True),
    ],
)
def test_outputs_agree_word_by_word_and_decimals_nearly(found, expected, same) -> None:
    from grlo.verifiers.code_harness import same_output

    assert same_output(found, expected) is same


def test_a_call_that_hangs_ends_the_tests_where_their_share_counts() -> None:
    three = prompt(test_list=[f"assert double({x}) == {2 * x}" for x in (1, 2, 3)])
    partial = CodeVerifier(CodeSettings(partial=True, seconds=0.3))
    try:
        hangs = "def double(x):\n    while x == 2: pass\n    return 2 * x"
        assert partial(three, fenced(hangs)).parts["tests"] == pytest.approx(1 / 3)
        # What comes too late for its own call is right for the next one.
        late = "import time\ndef double(x):\n    if x == 1: time.sleep(1.2)\n    return 2 * x + 2"
        assert partial(three, fenced(late)).value == 0
        programs = prompt(inputs=["1", "2"], outputs=["1", "2"])
        hangs = "x = input()\nwhile x == '1': pass\nprint(x)"
        assert partial(programs, fenced(hangs)).value == 0.5
    finally:
        partial.close()


def test_recursion_of_the_reference_solution_does_not_call_the_answer(
    verifier: CodeVerifier,
) -> None:
    factorial = prompt(
        entry_point="f",
        prompt='def f(n):\n    """ n! """\n',
        canonical_solution="    return 1 if n == 0 else n * f(n - 1)\n",
        plus_input=[[3], [4]],
    )
    # If it did, 0 would be right: 3 times 0.
    assert verifier(factorial, fenced("def f(n):\n    return 0")).value == 0
    right = "import math\ndef f(n):\n    return math.factorial(n)"
    assert verifier(factorial, fenced(right)).value == 1


def test_time_in_which_a_program_does_not_run_hardly_counts(hasty: CodeVerifier) -> None:
    """As on a busy machine: it has 0.5 s of processor time, and 1.5 s on the clock."""
    waits = "import time\ndef double(x):\n    time.sleep({})\n    return 2 * x"
    one = prompt(test_list=["assert double(2) == 4"])
    assert hasty(one, fenced(waits.format(0.7))).value == 1
    assert hasty(one, fenced(waits.format(5))).value == 0


def test_a_sandbox_that_fails_leaves_the_answer_unscored() -> None:
    class Broken:
        def describe(self) -> dict[str, object]:
            return {}

        def run(self, source: str, *, stdin: bytes, limits: Limits) -> None:
            raise SandboxError("no sandbox could be made")

    broken = CodeVerifier()
    broken._sandbox = Broken()  # pyright: ignore[reportAttributeAccessIssue]
    score = broken(DOUBLE, fenced(RIGHT))
    assert (score.value, score.note) == (None, "no sandbox could be made")


def test_a_harness_without_memory_to_start_leaves_the_answer_unscored() -> None:
    narrow = CodeVerifier(CodeSettings(memory_bytes=64 << 20))
    large = prompt(test_list=["assert double(2) == 4", f"x = {'7' * (40 << 20)!r}"])
    try:
        assert narrow(DOUBLE, fenced(RIGHT)).value == 1
        assert narrow(large, fenced(RIGHT)).value is None
    finally:
        narrow.close()


def test_mutants_are_programs_and_differ_from_the_original() -> None:
    code = ast.unparse(ast.parse("def f(x):\n    if not x < 3 and True:\n        return x + 1\n"))
    found = list(mutants(code))
    assert len(found) == len(set(found)) == 8
    assert code not in found
