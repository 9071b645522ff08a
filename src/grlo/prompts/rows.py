"""Rows of JSONL and Parquet files and of hub data sets, and what readers of rows share."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grlo.errors import DataError, MissingExtraError
from grlo.types import Message

MAX_LISTED = 20
"""Rows that an error lists; the rest is counted."""

_HUB = re.compile(
    r"hub:(?P<name>[^\[\]@:]+)(?:\[(?P<config>[^\]]+)\])?(?:@(?P<revision>[^:]+))?(?::(?P<split>.+))?"
)

NumberedRow = tuple[int, Callable[[], object]]
"""Number of a row from 1 on, and its decoding, which may raise ValueError or RecursionError: it is
left to the caller, so that one bad row does not end the reading."""


def read_rows(source: str) -> Iterator[NumberedRow]:
    """The rows of a source, blank lines of a text file left out.

    Args:
        source: A .jsonl, .jsonl.gz or .parquet file, or `hub:owner/name`, behind it, where they
            are needed, `[configuration]`, `@revision` and `:split`.

    Raises:
        DataError: The source cannot be read.
        MissingExtraError: Parquet files and hub data sets need the extra `data`.
    """
    if source.startswith("hub:"):
        return _hub_rows(source)
    path = Path(source)
    if not path.is_file():
        raise DataError(
            f"{source}: there is no such file. Relative paths are relative to the recipe that "
            "states them, if one does; hub data sets are written hub:owner/name."
        )
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return jsonl_rows(path)
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    raise DataError(f"{source}: unknown kind of file; expected .jsonl, .jsonl.gz or .parquet.")


def jsonl_rows(path: Path) -> Iterator[NumberedRow]:
    """The rows of a .jsonl or .jsonl.gz file.

    Raises:
        DataError: The file cannot be read.
    """
    for number, line in read_lines(path):
        yield number, lambda line=line: json.loads(line.decode("utf-8-sig"))


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a .jsonl or .jsonl.gz file that are not blank, with their numbers from 1 on.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            # A binary file ends lines at b"\n" only; U+2028 and its kin stay inside their strings.
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _parquet_rows(path: Path) -> Iterator[NumberedRow]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", extra="data") from error
    try:
        rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: is not a readable Parquet file: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield number, lambda row=row: row


def _hub_rows(source: str) -> Iterator[NumberedRow]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError("datasets", extra="data") from error
    found = _HUB.fullmatch(source)
    if found is None:
        raise DataError(f"{source}: expected hub:owner/name, [configuration], @revision, :split.")
    try:
        rows = datasets.load_dataset(
            found["name"],
            found["config"],
            split=found["split"] or "train",
            revision=found["revision"],
        )
    except Exception as error:  # The hub client has no common base for its errors.
        raise DataError(
            f"{source}: cannot be loaded: {error}. Expected hub:owner/name[@revision][:split]; is "
            "the name right, and is the machine online?"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield number, lambda row=row: row


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prompt_id(messages: Sequence[Message]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the messages' canonical JSON."""
    turns = [{"content": message.content, "role": message.role} for message in messages]
    text = json.dumps(turns, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def listed(lines: Sequence[str]) -> str:
    """The first lines, indented, and how many there are besides."""
    more = len(lines) - MAX_LISTED
    shown = [*lines[:MAX_LISTED], *([f"... and {more} more"] if more > 0 else [])]
    return "\n".join(f"  {line}" for line in shown)


def plain(value: Any) -> Any:
    """The value with lists for arrays and text for what JSON does not have."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)


def kind_of(value: object) -> str:
    """What JSON calls the type of a value."""
    if value is None:
        return "missing"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    names = {dict: "an object", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")
