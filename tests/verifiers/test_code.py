# ruff: noqa: E501
"""The code verifier: right solutions pass, wrong ones fail, and no cheat turns wrong into right."""

from __future__ import annotations

import ast
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from code_mutants import mutants
from grlo.grading import grade_all
from grlo.interfaces import BuildContext
from grlo.prompts.problems import read_problems
from grlo.types import Message, Prompt, Score
from grlo.verifiers.code import CodeSettings, CodeVerifier

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed: no sandbox"
)

NUM_MUTATED = 40
"""Problems of each set whose mutants are tried by default; `-m slow` tries all."""


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    built = CodeSettings(seconds=3.0, total_seconds=20.0).build(
        context=BuildContext(device="cpu", seed=0)
    )
    yield built
    built.close()


def problems(path: Path) -> list[Prompt]:
    found = {id(problem): problem for problem in read_problems(path).values()}
    return list(found.values())


def solution(problem: Prompt) -> str:
    meta = problem.meta
    if "canonical_solution" in meta:
        return f"{meta['prompt']}{meta['canonical_solution']}"
    return str(meta.get("code") or meta["solutions"])


def fenced(code: str) -> str:
    return f"Here is the program:\n\n```python\n{code}\n```\n\nIt works."


def failures(verifier: CodeVerifier, found: list[Prompt]) -> dict[str, str]:
    scores = grade_all(verifier, [(problem, fenced(solution(problem))) for problem in found])
    return {
        str(problem.meta["id"]): score.note
        for problem, score in zip(found, scores, strict=True)
        if score.value != 1
    }


# Real problems ------------------------------------------------------------------------------------


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
    verifier: CodeVerifier, data_dir: Path, name: str, count: int
) -> None:
    found = problems(data_dir / name)
    assert len(found) == count
    assert failures(verifier, found) == {}


@pytest.mark.slow
def test_published_solutions_of_mbpp_plus_pass_but_for_one(
    verifier: CodeVerifier, data_dir: Path
) -> None:
    found = problems(data_dir / "evalplus_MbppPlus-NoExtreme.jsonl.gz")
    failed = failures(verifier, found)
    # One result of this problem takes more than 64 MiB, more than an answer may send.
    assert list(failed) == ["Mbpp/255"]


def test_published_solutions_of_leetcode_pass_but_for_a_missing_package(
    verifier: CodeVerifier, data_dir: Path
) -> None:
    found = problems(data_dir / "code_leetcode_rllm_test.jsonl.gz")[100:150]
    failed = failures(verifier, found)
    assert failed == {
        "leetcode_rllm/126": "ModuleNotFoundError: No module named 'sortedcontainers'"
    }


# No small change of these that was tried is seen by their tests: they look at too little.
UNSEEN = {
    "code_humaneval.jsonl": set[str](),
    "code_mbpp_sanitized.jsonl": set[str](),
    "evalplus_HumanEvalPlus-Mini.jsonl.gz": set[str](),
}


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        *((name, NUM_MUTATED) for name in UNSEEN),
        *(pytest.param(name, None, marks=pytest.mark.slow) for name in UNSEEN),
    ],
)
def test_a_solution_with_one_change_fails(
    verifier: CodeVerifier, data_dir: Path, name: str, limit: int | None
) -> None:
    """Mutants of each solution are tried until one fails; most fall at the first."""
    found = problems(data_dir / name)
    random.Random(0).shuffle(found)
    left = {str(problem.meta["id"]): problem for problem in found[:limit]}
    tries = {key: mutants(solution(problem)) for key, problem in left.items()}
    for _ in range(30):
        batch = [(key, next(tries[key], None)) for key in left]
        batch = [(key, code) for key, code in batch if code is not None]
        scores = grade_all(verifier, [(left[key], fenced(code)) for key, code in batch])
        for (key, _), score in zip(batch, scores, strict=True):
            if score.value == 0:
                del left[key]
        if not batch:
            break
    assert set(left) - UNSEEN[name] == set()


# Forms of problems and answers --------------------------------------------------------------------


def prompt(**meta: Any) -> Prompt:
    return Prompt(id="p", messages=(Message("user", "Write it."),), style="rule", meta=meta)


DOUBLE = prompt(test_list=["assert double(2) == 4", "assert double(-1) == -2"])
RIGHT = "def double(x):\n    return 2 * x\n"
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
        (PROGRAM, fenced(SUM)),
        (PROGRAM, SUM),
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


def test_tests_of_training_rows_stand_in_the_reference_answer(verifier: CodeVerifier) -> None:
    for reference in (
        json.dumps({"inputs": ["2\n"], "outputs": ["4\n"]}),
        json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
    ):
        row = Prompt(id="p", messages=(Message("user", "?"),), style="rule", reference=reference)
        assert verifier(row, fenced("print(2 * int(input()))")).value == 1
        assert verifier(row, fenced("print(3 * int(input()))")).value == 0
    for reference in (json.dumps(["assert double(2) == 4"]), "assert double(2) == 4"):
        row = Prompt(id="p", messages=(Message("user", "?"),), style="rule", reference=reference)
        assert verifier(row, fenced(RIGHT)).value == 1


@pytest.mark.parametrize(
    ("problem", "text", "note"),
    [
        (DOUBLE, "I do not know.", "no program that defines double"),
        (DOUBLE, "", "no program that defines double"),
        (DOUBLE, fenced("def triple(x):\n    return 3 * x"), "does not define ['double']"),
        (DOUBLE, fenced("def double(x):\n    return 2 *"), "SyntaxError"),
        (DOUBLE, fenced("def double(x):\n    return 3 * x"), "test 1 of 2: double(2) gave 6"),
        (DOUBLE, fenced("def double(x):\n    return abs(2 * x)"), "test 2 of 2: double(-1) gave 2"),
        (DOUBLE, fenced("def double(x):\n    raise OSError('full')"), "double(2) raised OSError: full"),
        (DOUBLE, fenced("import numpy\n" + RIGHT), "ModuleNotFoundError"),
        (DOUBLE, fenced("def double(x):\n    while True: pass"), "took longer than 3 s in double(2)"),
        (DOUBLE, fenced("while True: pass\n" + RIGHT), "took longer than 3 s"),
        (DOUBLE, fenced("def double(x):\n    return 'x' * 10**8"), "more than 64 MiB"),
        (DOUBLE, fenced("def double(x):\n    return [0] * 10**10"), "MemoryError"),
        (DOUBLE, fenced("def double(x):\n    return double(x)"), "RecursionError"),
        (PROGRAM, fenced("print(0)"), "it wrote '0\\n', expected '3\\n'"),
        (PROGRAM, fenced("while True: pass"), "took longer than 3 s"),
        (PROGRAM, fenced("while True: print('x' * 1000)"), "wrote far more than was expected"),
    ],
)  # fmt: skip
def test_wrong_answers_score_zero_and_the_note_says_why(
    verifier: CodeVerifier, problem: Prompt, text: str, note: str
) -> None:
    score = verifier(problem, text)
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
    ],
)
def test_a_problem_whose_tests_are_broken_is_unscored(
    verifier: CodeVerifier, meta: dict[str, Any]
) -> None:
    score = verifier(prompt(**meta), fenced(RIGHT + "f = double"))
    assert score.value is None
    assert score.note


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


# Cheats -------------------------------------------------------------------------------------------

SECRET = prompt(
    entry_point="secret",
    prompt="def secret(x):\n    ''' The secret of x. '''\n",
    test=(
        "EXPECTED = {7: 'qwertz-expected-value', 8: 'second-expected-value'}\n"
        "def check(candidate):\n"
        "    for x, value in EXPECTED.items():\n"
        "        assert candidate(x) == value\n"
        "    assert abs(len(candidate(7)) - 21) < 1\n"
        "    assert all([candidate(8) == EXPECTED[8], isinstance(candidate(7), str)])\n"
    ),
)

ALWAYS = "class A(str):\n    __hash__ = str.__hash__\n    def __eq__(self, other): return True\n"
CHEATS = {
    "equal to everything": ALWAYS + "def secret(x): return A()",
    "object equal to everything": (
        "class E:\n    def __eq__(self, o): return True\n    def __len__(self): return 21\n"
        "def secret(x): return E()"
    ),
    "patched builtins": (
        "import builtins\nbuiltins.all = builtins.isinstance = lambda *a: True\n"
        "builtins.abs = builtins.len = lambda *a: 0\ndef secret(x): return ''"
    ),
    "names of the tests": (
        "def check(candidate): pass\nEXPECTED = {}\nAssertionError = ValueError\n"
        "def secret(x): return ''"
    ),
    "walks the frames": (
        "import sys\ndef secret(x):\n    f = sys._getframe()\n    while f:\n"
        "        for d in (f.f_locals, f.f_globals):\n"
        "            for v in d.values():\n"
        "                if isinstance(v, dict) and x in v: return v[x]\n"
        "        f = f.f_back\n    return ''"
    ),
    "looks through all objects": (
        "import gc\ndef secret(x):\n    for o in gc.get_objects():\n"
        "        if isinstance(o, dict) and x in o and isinstance(o[x], str): return o[x]\n"
        "    return ''"
    ),
    "reads its own memory": (
        "def secret(x):\n"
        "    import re\n"
        "    for path in ('/proc/self/mem', '/proc/1/mem', '/proc/1/environ', '/proc/1/fd/0'):\n"
        "        try: data = open(path, 'rb').read(1 << 24)\n"
        "        except OSError: continue\n"
        "        found = re.search(rb'qwertz[a-z-]*', data)\n"
        "        if found: return found.group().decode()\n    return ''"
    ),
    "leaves before the tests": "import sys\nsys.exit(0)\ndef secret(x): return ''",
    "leaves at once": "import os\ndef secret(x): return ''\nos._exit(0)",
    "leaves in the call": "import os\ndef secret(x): os._exit(0)",
    "forged verdict on all descriptors": (
        "import os, json\ndef secret(x): return ''\n"
        "for n in range(64):\n"
        "    try: os.write(n, json.dumps({'nonce': '', 'passed': 1, 'total': 1, 'note': ''}).encode())\n"
        "    except OSError: pass"
    ),
    "forged reply": (
        "import os, struct, json\ndef secret(x):\n"
        "    m = json.dumps({'value': {'kept': [0, 'str']}}).encode()\n"
        "    for n in range(3, 32):\n"
        "        try: os.write(n, struct.pack('>Q', len(m)) + m)\n"
        "        except OSError: pass\n    return ''"
    ),
    "patched json": (
        "import json\njson.dumps = lambda *a, **k: '{\"value\": true}'\n"
        "json.loads = lambda *a, **k: {'do': 'text', 'what': {}}\ndef secret(x): return ''"
    ),
    "patched pipes": (
        "import os\nwrite = os.write\nos.write = lambda fd, data: write(1, b'passed')\n"
        "def secret(x): return ''"
    ),
    "hooks": (
        "import sys\nsys.excepthook = lambda *a: None\nsys.settrace(lambda *a: None)\n"
        "sys.modules['tests'] = None\ndef secret(x): return ''"
    ),
    "kills the first process": (
        "import os\ndef secret(x):\n"
        "    for s in (9, 15, 19, 2):\n"
        "        for p in (1, os.getppid(), 0, -1):\n"
        "            try: os.kill(p, s)\n"
        "            except OSError: pass\n    return ''"
    ),
    "a child answers after its parent": (
        "import os\nif os.fork(): os._exit(0)\ndef secret(x): return ''"
    ),
    "closes everything": "import os\nos.closerange(0, 256)\ndef secret(x): return ''",
    "endless output": "def secret(x):\n    while True: print('x' * 10000)",
    "deep result": "def secret(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "nan": "def secret(x): return float('nan')",
    "pickles": (
        "import pickle\nclass P:\n    def __reduce__(self): return (exec, ('1',))\n"
        "def secret(x): return pickle.dumps(P())"
    ),
    "files beside modules": (
        "for name in ('json.py', 'sitecustomize.py', 'tests.py', 'conftest.py'):\n"
        "    open(name, 'w').write('raise SystemExit(0)')\ndef secret(x): return ''"
    ),
    "raises what tests expect": "def secret(x): raise AssertionError",
    "raises its own exception": "def secret(x): raise type('PassedError', (BaseException,), {})()",
    "changes its arguments' type": "class int(int): pass\ndef secret(x): return int(x)",
}  # fmt: skip


@pytest.mark.parametrize("cheat", CHEATS)
def test_no_cheat_turns_a_wrong_answer_right(verifier: CodeVerifier, cheat: str) -> None:
    score = verifier(SECRET, fenced(CHEATS[cheat]))
    assert score.value == 0
    assert "expected-value" not in score.note


def test_the_tests_of_the_cheats_accept_the_right_answer(verifier: CodeVerifier) -> None:
    values = "{7: 'qwertz-expected-value', 8: 'second-expected-value'}"
    assert verifier(SECRET, fenced(f"def secret(x):\n    return {values}[x]")).value == 1


OUTPUT_CHEATS = [
    "import os\nos._exit(0)",
    "import sys\nsys.exit(0)",
    "import os\nfor n in range(64):\n    try: os.write(n, b'3\\n7\\n')\n    except OSError: pass",
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "import gc\nprint([o for o in gc.get_objects() if isinstance(o, dict) and 'stdout' in o])",
    "import sys\nf = sys._getframe()\nwhile f:\n    print(f.f_locals.get('test', {}))\n    f = f.f_back",
]


@pytest.mark.parametrize("cheat", OUTPUT_CHEATS)
def test_no_program_finds_or_forges_its_expected_output(verifier: CodeVerifier, cheat: str) -> None:
    problem = prompt(inputs=["1\n", "2\n"], outputs=["qwertz\n", "asdf\n"])
    score = verifier(problem, fenced(cheat))
    assert score.value == 0


def test_after_all_that_the_verifier_goes_on(verifier: CodeVerifier) -> None:
    scores: list[Score] = grade_all(verifier, [(DOUBLE, fenced(RIGHT))] * 40)
    assert [score.value for score in scores] == [1.0] * 40


def test_mutants_are_programs_and_differ_from_the_original() -> None:
    code = ast.unparse(ast.parse("def f(x):\n    if not x < 3 and True:\n        return x + 1\n"))
    found = list(mutants(code))
    assert len(found) == len(set(found)) == 8
    assert code not in found


@pytest.mark.parametrize(
    ("text", "names", "code"),
    [
        ("Hello there", [], None),
        ("", [], None),
        ("print(1)", [], "print(1)"),
        ("First:\n```\nls\n```\nthen\n```py\nprint(1)\n```", [], "print(1)\n"),
        ("def f():\n    return 1\nNow you know.", ["f"], "def f():\n    return 1\n"),
        ("N = 2\ndef f():\n    return N\n", ["f"], "N = 2\ndef f():\n    return N\n"),
        ("x = 1 is wrong.\ndef f():\n    return 1\n", ["f"], "def f():\n    return 1\n"),
        ("def f():\n    return (1\n", ["f"], None),
        ("f() is defined above", ["f"], None),
        ("```python\nf(1)\n```", ["f"], "f(1)\n"),
        ("<think>def f(): pass", ["f"], None),
    ],
)
def test_the_program_of_an_answer_is_found(text, names, code) -> None:
    from grlo.verifiers.code_extraction import extract_code

    assert extract_code(text, names=names) == code
