"""The program of an answer: where it begins, where it ends, and never in unbounded time."""

from __future__ import annotations

import time

import pytest

from grlo.verifiers.code_extraction import extract_code

F = "def f():\n    return 1\n"


@pytest.mark.parametrize(
    ("text", "names", "code"),
    [
        ("Hello there", [], None),
        ("", [], None),
        ("print(1)", [], "print(1)"),
        ("First:\n```\nls\n```\nthen\n```py\nprint(1)\n```", [], "print(1)\n"),
        (f"{F}Now you know.", ["f"], F),
        (f"N = 2\n{F}", ["f"], f"N = 2\n{F}"),
        (f"x = 1 is wrong.\n{F}", ["f"], F),
        ("def f():\n    return (1\n", ["f"], None),
        ("f() is defined above", ["f"], None),
        ("```python\nf(1)\n```", ["f"], "f(1)\n"),
        ("<think>def f(): pass", ["f"], None),
        (f"<think>```python\ndef f(): pass\n```</think>\n{F}", ["f"], F),
    ],
)
def test_the_program_of_an_answer_is_found(text, names, code) -> None:
    assert extract_code(text, names=names) == code


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{F}```",
        f"Sure: ```python\n{F}```",
        f"~~~~ py\n{F}~~~~",
        f"```{{.python}}\n{F}```",
        f"```python\n{F}",
        f"```python\n{F[:-1]}```",
        "1. So:\n\n   ```python\n   def f():\n       return 1\n   ```\n",
        f"```python\ng = 2\n```\n\n```python\n{F}```",
        f"```python\ndef g(): pass\n```python\n{F}```",
        f"```\nstray\n\n```python\n{F}```\n",
        f"Done.\n```\nAgain:\n```python\n{F}```\n",
    ],
)
def test_a_fenced_block_is_the_program_wherever_its_fences_stand(text) -> None:
    assert extract_code(text, names=["f"]) == F


@pytest.mark.parametrize(
    "rest",
    [
        "\nThis function's result is 1.\n",
        "\nNow: an explanation, that isn't code (at all.\n",
        "\nHuman: What is 2 + 2?\n",
        "<|im_end|>\nuser\n",
        "\n```\nOutput: 1",
    ],
)
def test_text_after_the_program_is_left_out(rest) -> None:
    for text in (f"```python\n{F}{rest}", f"{F}{rest}"):
        code = extract_code(text, names=["f"])
        assert code is not None
        assert code.strip() == F.strip()


def test_a_fence_in_a_string_of_the_program_does_not_end_it() -> None:
    code = 'def f():\n    """\n    ```\n    f()\n    ```\n    """\n    return 1\n'
    assert extract_code(f"```python\n{code}```\nIt works.", names=["f"]) == code
    two = f"```python\n{code}```\nand\n```python\nprint(f())\n```\n"
    assert extract_code(two, names=["f"]) == code


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 200_000,
        "x = (1,\n" * 20_000,
        "def f():\n    return [\n" * 8_000,
        "x = 1\n" * 30_000 + "no code\n",
        "x = [1,\n" * 25_000,
        "```python\ndef f(:\n" * 8_000,
        "```\n" * 50_000,
        "~~~ a" * 40_000 + "`",
        "```" + "a" * 190_000 + "`",
        "```" + "\t" * 190_000 + "`",
        ("```py\ndef f():\n    return [\n" + "    1,\n" * 500) * 50,
        "f" + " " * 190_000,
        "1 + " * 50_000 + "1",
        "(" * 100_000,
        "-" * 190_000 + "1",
        "a" + "()" * 90_000,
    ],
    ids=range(16),
)
def test_no_text_takes_long(text) -> None:
    begin = time.process_time()
    extract_code(text, names=["f"])
    extract_code(f"{F}\n{text}", names=["f"])
    extract_code(text, names=[])
    assert time.process_time() - begin < 8.0


def test_a_program_that_was_cut_is_run_as_far_as_it_goes() -> None:
    cut = "```python\nprint(1)\nprint("
    assert extract_code(cut, names=[]) == "print(1)\n"
    # Here somebody meant it so.
    assert extract_code(f"{cut}\n```", names=[]) == "print(1)\nprint(\n"
