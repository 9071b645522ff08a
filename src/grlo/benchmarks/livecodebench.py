"""LiveCodeBench: problems of programming contests by date, so that a model cannot have seen them.

The data set is a list of JSONL files on the hub (`livecodebench/code_generation_lite`, from
`test.jsonl` to `test6.jsonl`), each with the problems of some months: one of them, or several one
behind the other, is the local file. Hidden tests are packed as base64, zlib and a pickled string;
the pickle is read and never run.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Mapping
from typing import Any

from grlo.benchmarks.spec import BenchmarkSpec, DataSource
from grlo.prompts.rows import kind_of, prompt_id
from grlo.types import Message, Prompt
from grlo.verifiers.code import CodeSettings

FIRST_DATE = "2024-08-01"
"""Contests before are left out: models of today have read them."""

_MAX_BYTES = 1 << 29
_STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")
_HARMLESS = (*_STRINGS, "PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP")
_PROGRAM = (
    "Write a Python program that reads the input from standard input and writes the answer to "
    "standard output. Answer with the whole program in a fenced code block."
)
_FUNCTION = "Complete the following Python code. Answer with the whole code in a fenced code block."


def livecodebench_row(row: object, *, source: str) -> Prompt | None:
    """A problem with its public and hidden tests; None if the contest was too early.

    Raises:
        ValueError: The row is malformed.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"is {kind_of(row)}; expected an object")
    fields: dict[str, Any] = dict(row)
    for name in ("question_content", "contest_date", "public_test_cases"):
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            raise ValueError(f"{name} is {kind_of(fields.get(name))}; expected text")
    if fields["contest_date"][:10] < FIRST_DATE:
        return None
    tests = [
        *_tests(fields["public_test_cases"]),
        *_tests(fields.get("private_test_cases") or "[]"),
    ]
    if not tests:
        raise ValueError("has no tests")
    starter = str(fields.get("starter_code") or "").strip()
    task = f"{_FUNCTION}\n\n```python\n{starter}\n```" if starter else _PROGRAM
    messages = (Message("user", f"{fields['question_content'].strip()}\n\n{task}"),)
    try:
        metadata = json.loads(fields.get("metadata") or "{}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"metadata is no JSON: {error}") from None
    meta = {
        "id": fields.get("question_id"),
        "question_content": fields["question_content"],
        "contest_date": fields["contest_date"],
        "difficulty": fields.get("difficulty"),
        "tests": tests,
    }
    if isinstance(metadata, Mapping) and metadata.get("func_name"):
        meta["fn_name"] = metadata["func_name"]
    return Prompt(
        id=prompt_id(messages),
        messages=messages,
        domain="code",
        style="rule",
        source=source,
        meta=meta,
    )


def _tests(written: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(written)
    except ValueError:
        found = json.loads(unpacked(written))
    if not isinstance(found, list) or not all(isinstance(test, dict) for test in found):
        raise ValueError("tests are no list of objects")
    return found


def unpacked(written: str) -> str:
    """The text in base64 of zlib of a pickle that is a string and nothing else.

    Raises:
        ValueError: It is anything else; no pickle is ever run.
    """
    try:
        stream = zlib.decompressobj()
        pickled = stream.decompress(base64.b64decode(written, validate=True), _MAX_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"tests are neither JSON nor packed ({error})") from None
    if stream.unconsumed_tail:
        raise ValueError(f"tests are larger than {_MAX_BYTES >> 20} MiB")
    texts: list[str] = []
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name not in _HARMLESS:
            raise ValueError(f"tests are a pickle with {operation.name}, which is not read")
        if operation.name in _STRINGS:
            texts.append(str(argument))
    if len(texts) != 1:
        raise ValueError(f"tests are a pickle of {len(texts)} strings; expected one")
    return texts[0]


LIVECODEBENCH = BenchmarkSpec(
    name="livecodebench",
    domain="code",
    data=DataSource(file="livecodebench"),
    paper="Jain et al. 2024, arXiv:2403.07974",
    grader=CodeSettings(total_seconds=120.0),
    parse=livecodebench_row,
    protocol=f"one sample; problems of contests from {FIRST_DATE} on; all tests have to pass",
)
