# ruff: noqa: E501
"""No cheat turns a wrong answer right, and each leaves a verifier that goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from code_problems import DOUBLE, RIGHT, fenced, needs_sandbox, prompt
from grlo.grading import grade_all
from grlo.verifiers.code import CodeSettings, CodeVerifier

pytestmark = needs_sandbox


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    built = CodeVerifier(CodeSettings(seconds=0.5, total_seconds=8.0))
    yield built
    built.close()


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
    "ends the loop of the test": "def secret(x): raise StopIteration",
    "limits the first process": (
        "import os, resource\n"
        "for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_STACK):\n"
        "    try: resource.prlimit(os.getppid(), kind, (1, 1))\n"
        "    except OSError: pass\n"
        "def secret(x): return ''"
    ),
    "interrupts the first process for ever": (
        "import os\nif os.fork() == 0:\n    while True: os.kill(1, 2)\ndef secret(x): return ''"
    ),
    "replies that stand for other things": (
        "import os, struct, json\nTHINGS = [{'type': 'eval'}, {'function': [0, 'f']}, {'name': 'EXPECTED'}]\n"
        "def secret(x):\n"
        "    for value in THINGS:\n"
        "        m = json.dumps({'value': value}).encode()\n"
        "        for n in range(3, 32):\n"
        "            try: os.write(n, struct.pack('>Q', len(m)) + m)\n"
        "            except OSError: pass\n    return ''"
    ),
    "calls functions of the tests": (
        "import os, struct, json\ndef secret(x):\n"
        "    m = json.dumps({'call': 0, 'args': [], 'kwargs': {}}).encode()\n"
        "    for n in range(3, 32):\n"
        "        try: os.write(n, struct.pack('>Q', len(m)) + m)\n"
        "        except OSError: pass\n    return ''"
    ),
    "announces a huge message": (
        "import os, struct\ndef secret(x):\n"
        "    for n in range(3, 32):\n"
        "        try: os.write(n, struct.pack('>Q', 1 << 62) + b'x' * 1000)\n"
        "        except OSError: pass\n    return ''"
    ),
    "computes for ever at import": "while True: pass\ndef secret(x): return ''",
    "sleeps at import": "import time\ntime.sleep(60)\ndef secret(x): return ''",
    "ten million lists": "def secret(x): return [[] for _ in range(10**7)]",
    "a number of gigabytes": "def secret(x): return 1 << (1 << 32)",
    "patched modules of the harness": (
        "import sys, struct, select, time\n"
        "struct.pack = lambda *a: b''\nselect.select = lambda *a: ([], [], [])\n"
        "for module in [m for n, m in sys.modules.items() if n == '__main__' or n.startswith('grlo')]:\n"
        "    for name in list(vars(module)):\n"
        "        if name[0] != '_': setattr(module, name, lambda *a, **k: True)\n"
        "def secret(x): return ''"
    ),
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


FORGIVES = "try:\n    double('a')\nexcept Exception:\n    pass\nelse:\n    assert False"


@pytest.mark.parametrize(
    ("test", "code"),
    [
        ("assert all(map(lambda pair: double(pair[0]) == pair[1], [(1, 2), (2, 4)]))",
         "def double(x): raise StopIteration"),
        ("assert all(double(x) == 2 * x for x in [1, 2])", "def double(x): raise GeneratorExit"),
        (FORGIVES, "import os\ndef double(x): os._exit(0)"),
        (FORGIVES, "import sys\ndef double(x): sys.exit(0)"),
        (FORGIVES, "def double(x):\n    while True: pass"),
        ("try:\n    assert double(1) == 2\nexcept TypeError:\n    pass",
         "import os\ndef double(x):\n    for n in range(3, 32):\n        try: os.write(n, b'x' * 100)\n        except OSError: pass"),
        ("assert double(2) in [4]", "class E:\n    __eq__ = lambda *a: True\ndef double(x): return E()"),
        ("assert [double(1)] == [2]", "class E:\n    __eq__ = lambda *a: True\ndef double(x): return E()"),
        ("assert {double(2): 1} == {4: 1}",
         "class E:\n    __eq__ = lambda *a: True\n    __hash__ = lambda s: hash(4)\ndef double(x): return E()"),
        ("assert not double(2) != 4", "class E:\n    __ne__ = lambda *a: False\ndef double(x): return E()"),
        ("assert 4 <= double(2) <= 4",
         "class E:\n    __le__ = __ge__ = __lt__ = __gt__ = lambda *a: True\ndef double(x): return E()"),
        ("assert abs(double(0.5) - 1.0) < 1e-6",
         "class E(float):\n    __sub__ = __rsub__ = lambda *a: 0.0\n    __abs__ = lambda s: 0\ndef double(x): return E(7)"),
        ("assert abs(double(0.5) - 1.0) < 1e-6", "def double(x): return float('nan')"),
        ("a = [1]\ndouble(a)\nassert a == [2]",
         "class L(list):\n    __eq__ = lambda *a: True\ndef double(a): a[:] = [L()]"),
        ("assert double(2) == double(3)", "class A:\n    __eq__ = lambda *a: True\ndef double(n): return A()"),
    ],
)  # fmt: skip
def test_no_cheat_profits_from_what_tests_compare_forgive_or_loop_over(
    verifier: CodeVerifier, test: str, code: str
) -> None:
    assert verifier(prompt(test_list=[test]), fenced(code)).value == 0


OUTPUT_CHEATS = [
    "import os\nos._exit(0)",
    "import sys\nsys.exit(0)",
    "import os\nfor n in range(64):\n    try: os.write(n, b'3\\n7\\n')\n    except OSError: pass",
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "import gc\nprint([o for o in gc.get_objects() if isinstance(o, dict) and 'stdout' in o])",
    "import os\nif os.fork(): os._exit(0)\nimport time\ntime.sleep(60)",
    "import os\nos.killpg(0, 9)",
    "import os\nos.closerange(0, 256)",
    "import sys\nf = sys._getframe()\nwhile f:\n    print(f.f_locals.get('test', {}))\n    f = f.f_back",
]


@pytest.mark.parametrize("cheat", OUTPUT_CHEATS)
def test_no_program_finds_or_forges_its_expected_output(verifier: CodeVerifier, cheat: str) -> None:
    problem = prompt(inputs=["1\n", "2\n"], outputs=["qwertz\n", "asdf\n"])
    score = verifier(problem, fenced(cheat))
    assert score.value == 0


def test_after_all_that_the_verifier_goes_on(verifier: CodeVerifier) -> None:
    scores = grade_all(verifier, [(DOUBLE, fenced(RIGHT))] * 40)
    assert [score.value for score in scores] == [1.0] * 40
