"""Problems and answers that the tests of the code verifier share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from grlo.prompts.problems import read_problems
from grlo.types import Message, Prompt

needs_sandbox = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed: no sandbox"
)


def prompt(reference: str | None = None, **meta: Any) -> Prompt:
    messages = (Message("user", "Write it."),)
    return Prompt(id="p", messages=messages, style="rule", reference=reference, meta=meta)


def fenced(code: str) -> str:
    return f"Here is the program:\n\n```python\n{code}\n```\n\nIt works."


def problems(path: Path) -> list[Prompt]:
    """The problems of a file, each once."""
    found = {id(problem): problem for problem in read_problems(path).values()}
    return list(found.values())


def solution(problem: Prompt) -> str:
    """The published solution of a problem of a data set."""
    meta = problem.meta
    if "canonical_solution" in meta:
        return f"{meta['prompt']}{meta['canonical_solution']}"
    return str(meta.get("code") or meta["solutions"])


DOUBLE = prompt(test_list=["assert double(2) == 4", "assert double(-1) == -2"])
RIGHT = "def double(x):\n    return 2 * x\n"
