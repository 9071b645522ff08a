"""Demonstrations, which supervised fine-tuning imitates, from files and hub data sets.

Forms of a row, told apart by its fields:

- `messages` that end with the assistant's answer.
- `prompt` (a string or messages) or `messages` that end with the user, and the answer as
  `response`, `completion` or `output`, each a string or a list with one message of the assistant.
- The same prompts and the answer in `extra_info.answer`, as verl's preparation of GSM8K has it.

A field named by the user comes before all of these. `ends`, where it is false, says that a limit
has cut the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from grlo.errors import DataError
from grlo.prompts.rows import kind_of, listed, plain, read_rows
from grlo.prompts.sources import _message, _messages
from grlo.types import Demonstration, Message

RESPONSE_FIELDS = ("response", "completion", "output", "extra_info.answer")
"""Where an answer is looked for; a row may have one of them."""


def read_demonstrations(
    source: str, *, response: str | None = None, suffix: str = ""
) -> list[Demonstration]:
    """The demonstrations of one source, in its order.

    Args:
        source: A .jsonl, .jsonl.gz or .parquet file, or `hub:owner/name[@revision][:split]`.
        response: Field with the answer, dotted where it lies in another; None looks for it.
        suffix: Appended, as it is, to the last message of every prompt.

    Raises:
        DataError: The source cannot be read, is empty, or has malformed rows (all are counted and
            the first ones listed with their line and reason).
        MissingExtraError: Parquet files and hub data sets need the extra `data`.
    """
    demonstrations: list[Demonstration] = []
    malformed: list[str] = []
    for number, read_row in read_rows(source):
        place = f"{source}:{number}"
        try:
            found = parse_demonstration(read_row(), source=place, response=response)
        except (ValueError, RecursionError) as error:
            malformed.append(f"{place}: {error}")
            continue
        demonstrations.append(_with_suffix(found, suffix))
    if malformed:
        raise DataError(
            f"{source}: {len(malformed)} rows are malformed:\n{listed(malformed)}\n"
            "Correct or remove these rows; rows are never skipped silently."
        )
    if not demonstrations:
        raise DataError(f"{source}: has no rows; expected at least one demonstration.")
    return demonstrations


def parse_demonstration(row: object, *, source: str, response: str | None = None) -> Demonstration:
    """One row as a demonstration.

    Args:
        row: A decoded row; arrays may be lists or numpy arrays.
        source: Where it stands, as `file:line`.
        response: Field with the answer; None looks for it.

    Raises:
        ValueError: The row is malformed; the message is the reason.
    """
    fields = plain(row)
    if not isinstance(fields, dict):
        raise ValueError(f"is {kind_of(fields)}; expected an object")
    names = [name for name in RESPONSE_FIELDS if _field(fields, name) is not None]
    if response is not None:
        names = [response]
    elif not names and fields.get("prompt") is None:
        return _conversation(fields, source=source)
    if len(names) != 1:
        found = f"has the answers {' and '.join(names)}" if names else "has no answer"
        raise ValueError(
            f"{found}; found the fields {sorted(fields)}; expected one of "
            f"{', '.join(RESPONSE_FIELDS)}, or name the field by data.response"
        )
    text = _answer(_field(fields, names[0]), names[0])
    ends = fields.get("ends", True)
    if not isinstance(ends, bool):
        raise ValueError(f"ends is {kind_of(ends)}; expected true or false")
    return Demonstration(messages=_messages(fields), response=text, source=source, ends=ends)


def _conversation(fields: Mapping[str, Any], *, source: str) -> Demonstration:
    """A row whose messages end with the answer."""
    turns = fields.get("messages")
    if not isinstance(turns, list) or len(turns) < 2:
        raise ValueError(
            f"messages is {kind_of(turns)}; expected a prompt and an answer, or messages that end "
            "with the assistant's"
        )
    last = _message(turns[-1], f"messages[{len(turns) - 1}]")
    if last.role != "assistant":
        raise ValueError(
            f"messages ends with the role {last.role!r} and there is no answer; expected "
            f"'assistant', or one of {', '.join(RESPONSE_FIELDS)}"
        )
    messages = _messages({"messages": turns[:-1]})
    return Demonstration(messages=messages, response=_answer(last.content, "it"), source=source)


def _answer(value: object, name: str) -> str:
    if isinstance(value, list) and len(value) == 1:
        message = _message(value[0], f"{name}[0]")
        if message.role != "assistant":
            raise ValueError(f"{name}[0] has the role {message.role!r}; expected 'assistant'")
        value = message.content
    if not isinstance(value, str):
        raise ValueError(f"{name} is {kind_of(value)}; expected a string")
    if not value.strip():
        raise ValueError(f"{name} is empty: there is nothing to imitate")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} has half of a surrogate pair, which is no text") from None
    return value


def _field(fields: Mapping[str, Any], name: str) -> Any:
    """The value under a dotted name; None where there is none."""
    value: Any = fields
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _with_suffix(demonstration: Demonstration, suffix: str) -> Demonstration:
    *earlier, last = demonstration.messages
    messages: tuple[Message, ...] = (*earlier, replace(last, content=last.content + suffix))
    return replace(demonstration, messages=messages)
