"""Prompts from files and hub data sets; every malformed row is reported, none is skipped."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grlo.errors import DataError, MissingExtraError, ModelError
from grlo.interfaces import Renderer
from grlo.types import Message, Prompt

STYLES = ("model", "rule", "judge")
ROLES = ("system", "user", "assistant")
MAX_LISTED = 20
"""Malformed or over-long rows that an error lists; the rest is counted."""

_ROW_FIELDS = {"prompt", "messages", "ability", "reward_model", "reference", "extra_info"}


@dataclass(frozen=True)
class OverlongPrompt:
    """A prompt that was left out because of its length."""

    source: str
    """As `file:line`."""
    num_tokens: int


def read_prompts(source: str, *, default_style: str) -> list[Prompt]:
    """The prompts of one source, in its order; repeated rows are kept.

    Rows have one of three forms: `prompt` as a list of messages (verl's, with `reward_model.style`,
    `reward_model.ground_truth`, `extra_info` and `ability`), `messages`, or `prompt` as a string. A
    row with both uses `prompt`. Only `reward_model.style` says how an answer is rewarded; labels
    such as `data_source` never do.

    Args:
        source: A .jsonl, .jsonl.gz or .parquet file, or `hub:owner/name[@revision][:split]`.
        default_style: Style of rows without `reward_model`.

    Raises:
        DataError: The source cannot be read, is empty, or has malformed rows (all are counted and
            the first ones listed with their line and reason).
        MissingExtraError: Parquet files and hub data sets need the extra `data`.
    """
    prompts: list[Prompt] = []
    malformed: list[str] = []
    num_rows = 0
    for number, read_row in _rows(source):
        num_rows += 1
        try:
            row = read_row()
            prompts.append(parse_row(row, source=f"{source}:{number}", default_style=default_style))
        except (ValueError, RecursionError) as error:
            malformed.append(f"{source}:{number}: {error}")
    if malformed:
        raise DataError(
            f"{source}: {len(malformed)} of {num_rows} rows are malformed:\n"
            f"{listed(malformed)}\nCorrect or remove these rows; rows are never skipped silently."
        )
    if not prompts:
        raise DataError(f"{source}: has no rows; expected at least one prompt.")
    return prompts


def parse_row(row: object, *, source: str, default_style: str) -> Prompt:
    """One row as a prompt.

    Args:
        row: A decoded row; arrays may be lists or numpy arrays.
        source: Where it stands, as `file:line`.
        default_style: Style of rows without `reward_model`.

    Raises:
        ValueError: The row is malformed; the message is the reason.
    """
    fields = _plain(row)
    if not isinstance(fields, dict):
        raise ValueError(f"is {_kind(fields)}; expected an object")
    messages = _messages(fields)
    style, reference = _reward_of(fields, default_style)
    extra = fields.get("extra_info")
    if extra is not None and not isinstance(extra, dict):
        raise ValueError(f"extra_info is {_kind(extra)}; expected an object")
    ability = fields.get("ability")
    if ability is not None and not isinstance(ability, str):
        raise ValueError(f"ability is {_kind(ability)}; expected a string")
    rest = {key: value for key, value in fields.items() if key not in _ROW_FIELDS}
    return Prompt(
        id=prompt_id(messages),
        messages=messages,
        domain=ability or "general",
        style=style,
        reference=reference,
        source=source,
        meta={**rest, **(extra or {})},
    )


def prompt_id(messages: Sequence[Message]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the messages' canonical JSON."""
    turns = [{"content": message.content, "role": message.role} for message in messages]
    text = json.dumps(turns, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def count_duplicates(prompts: Sequence[Prompt]) -> int:
    """Number of prompts whose messages occurred before."""
    return len(prompts) - len({prompt.id for prompt in prompts})


def filter_overlong(
    prompts: Sequence[Prompt],
    renderer: Renderer,
    *,
    max_prompt_tokens: int,
    overlong: Literal["drop", "error"],
) -> tuple[list[Prompt], list[OverlongPrompt]]:
    """Leaves out prompts above the limit.

    Args:
        prompts: Prompts to look at.
        renderer: Makes the tokens that are counted, the header of the answer included.
        max_prompt_tokens: Most tokens a prompt may have.
        overlong: `drop` leaves them out and returns them, `error` raises.

    Returns:
        The prompts that fit, and where the others stood and how long they are.

    Raises:
        DataError: There are over-long prompts and `overlong` is `error`; no prompt fits; or the
            chat template refuses some of the conversations.
    """
    lengths = prompt_lengths(prompts, renderer)
    return split_overlong(prompts, lengths, max_prompt_tokens=max_prompt_tokens, overlong=overlong)


def prompt_lengths(prompts: Sequence[Prompt], renderer: Renderer) -> list[int]:
    """Tokens of each prompt, the header of the answer included.

    Raises:
        DataError: The chat template refuses some of the conversations.
    """
    lengths: list[int] = []
    refused: list[str] = []
    for prompt in prompts:
        try:
            lengths.append(len(renderer.encode(prompt.messages)))
        except ModelError as error:
            refused.append(f"{prompt.source}: {error}")
    if refused:
        raise DataError(f"{len(refused)} prompts cannot be rendered:\n{listed(refused)}")
    return lengths


def split_overlong(
    prompts: Sequence[Prompt],
    lengths: Sequence[int],
    *,
    max_prompt_tokens: int,
    overlong: Literal["drop", "error"],
) -> tuple[list[Prompt], list[OverlongPrompt]]:
    """`filter_overlong` for prompts whose lengths are known."""
    kept: list[Prompt] = []
    dropped: list[OverlongPrompt] = []
    for prompt, num_tokens in zip(prompts, lengths, strict=True):
        if num_tokens <= max_prompt_tokens:
            kept.append(prompt)
        else:
            dropped.append(OverlongPrompt(source=prompt.source, num_tokens=num_tokens))
    if dropped and (overlong == "error" or not kept):
        lines = [f"{item.source}: {item.num_tokens} tokens" for item in dropped]
        raise DataError(
            f"{len(dropped)} of {len(prompts)} prompts are longer than prompts.max_prompt_tokens = "
            f"{max_prompt_tokens}:\n{listed(lines)}\nRaise the limit, shorten them, or let them "
            "be left out with prompts.overlong = 'drop' (at least one must remain)."
        )
    return kept, dropped


def listed(lines: Sequence[str]) -> str:
    """The first lines, indented, and how many there are besides."""
    more = len(lines) - MAX_LISTED
    shown = [*lines[:MAX_LISTED], *([f"... and {more} more"] if more > 0 else [])]
    return "\n".join(f"  {line}" for line in shown)


# Rows of a source ---------------------------------------------------------------------------------

# A row is decoded by its reader's caller, so that one bad row does not end the reading.
_NumberedRow = tuple[int, Callable[[], object]]


def _rows(source: str) -> Iterator[_NumberedRow]:
    if source.startswith("hub:"):
        return _hub_rows(source)
    path = Path(source)
    if not path.is_file():
        raise DataError(
            f"{source}: there is no such file. Relative paths are relative to the recipe that "
            "states them; hub data sets are written hub:owner/name."
        )
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _jsonl_rows(path)
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    raise DataError(f"{source}: unknown kind of file; expected .jsonl, .jsonl.gz or .parquet.")


def _jsonl_rows(path: Path) -> Iterator[_NumberedRow]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            # A binary file ends lines at b"\n" only; U+2028 and its kin stay inside their strings.
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, lambda line=line: json.loads(line.decode("utf-8-sig"))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _parquet_rows(path: Path) -> Iterator[_NumberedRow]:
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


def _hub_rows(source: str) -> Iterator[_NumberedRow]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError("datasets", extra="data") from error
    address, _, split = source.removeprefix("hub:").partition(":")
    name, _, revision = address.partition("@")
    try:
        rows = datasets.load_dataset(name, split=split or "train", revision=revision or None)
    except Exception as error:  # The hub client has no common base for its errors.
        raise DataError(
            f"{source}: cannot be loaded: {error}. Expected hub:owner/name[@revision][:split]; is "
            "the name right, and is the machine online?"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield number, lambda row=row: row


# Fields of a row ----------------------------------------------------------------------------------


def _messages(fields: Mapping[str, Any]) -> tuple[Message, ...]:
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        turns, key = [{"role": "user", "content": prompt}], "prompt"
    else:
        turns, key = (fields.get("messages"), "messages") if prompt is None else (prompt, "prompt")
    if turns is None:
        raise ValueError(f"has neither prompt nor messages; found the fields {sorted(fields)}")
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"{key} is {_kind(turns)}; expected a string or a list of messages")
    messages = tuple(_message(turn, f"{key}[{index}]") for index, turn in enumerate(turns))
    for index, message in enumerate(messages):
        if message.role == "system" and index > 0:
            raise ValueError(f"{key}[{index}] is a system message; only the first may be")
    if messages[-1].role != "user":
        raise ValueError(f"{key} ends with the role {messages[-1].role!r}; expected 'user'")
    if not messages[-1].content.strip():
        raise ValueError(f"{key}[{len(messages) - 1}].content is empty")
    return messages


def _message(turn: object, key: str) -> Message:
    if not isinstance(turn, dict):
        raise ValueError(f"{key} is {_kind(turn)}; expected an object with role and content")
    role, content = turn.get("role"), turn.get("content")
    if role not in ROLES:
        raise ValueError(f"{key}.role is {role!r}; expected one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"{key}.content is {_kind(content)}; expected a string")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key}.content has half of a surrogate pair, which is no text") from None
    return Message(role=role, content=content)


def _reward_of(fields: Mapping[str, Any], default_style: str) -> tuple[str, str | None]:
    """Style and reference answer of a row."""
    reward = fields.get("reward_model")
    if reward is None:
        style, reference = default_style, fields.get("reference")
    elif isinstance(reward, dict):
        style, reference = reward.get("style"), reward.get("ground_truth")
    else:
        raise ValueError(f"reward_model is {_kind(reward)}; expected an object")
    if style not in STYLES:
        raise ValueError(f"reward_model.style is {style!r}; expected one of {', '.join(STYLES)}")
    if reference is None or reference == "":
        return style, None
    if isinstance(reference, str):
        return style, reference
    return style, json.dumps(reference, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """The value with lists for arrays and text for what JSON does not have."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)


def _kind(value: object) -> str:
    """What JSON calls the type of a value."""
    if value is None:
        return "missing"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    names = {dict: "an object", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")
