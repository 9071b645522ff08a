"""Rows of training data of any kind as conversations: prompts, preference pairs, demonstrations.

Besides the forms of `grlo.prompts.sources`, `preferences` and `demonstrations`, rows may have what
public sets have: `conversation` (WildChat, LMSYS) or `conversations` with `from` and `value`
(ShareGPT) in place of `messages`, `instruction` with `input` (Alpaca) in place of `prompt`, and
`chosen` and `rejected` as whole conversations (UltraFeedback).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from grlo.prompts.demonstrations import RESPONSE_FIELDS, parse_demonstration
from grlo.prompts.preferences import is_tie, parse_pair
from grlo.prompts.rows import kind_of, plain, read_lines, read_rows
from grlo.prompts.sources import parse_row
from grlo.types import Message, Prompt

Kind = Literal["prompts", "preferences", "demonstrations"]

_ROLE_OF = {"human": "user", "gpt": "assistant", "system": "system"}


@dataclass(frozen=True)
class Example:
    """A row of training data."""

    kind: Kind
    messages: tuple[Message, ...]
    """The conversation that is answered; the last message is the user's."""
    answers: tuple[str, ...] = ()
    """Of a preference pair the chosen and the rejected one, of a demonstration the one answer."""
    prompt: Prompt | None = None
    """Of kind `prompts`: with how the answer is to be rewarded."""


@dataclass(frozen=True)
class Row:
    """A row of a file, whatever it holds."""

    index: int
    """From 0 on."""
    place: str
    """As `file:line`."""
    fields: object
    """The decoded row; None where it cannot be decoded."""
    raw: str
    """The row as text. Bytes that are no UTF-8 stand as lone surrogates in it."""
    problem: str = ""
    """Why it cannot be decoded."""


def read_any(source: str) -> Iterator[Row]:
    """The rows of a source, those that cannot be decoded among them.

    Args:
        source: A .jsonl, .jsonl.gz or .parquet file, or `hub:owner/name[@revision][:split]`.

    Raises:
        DataError: The source cannot be read.
        MissingExtraError: Parquet files and hub data sets need the extra `data`.
    """
    if source.endswith((".jsonl", ".jsonl.gz")) and Path(source).is_file():
        for index, (number, line) in enumerate(read_lines(Path(source))):
            place, raw = f"{source}:{number}", line.decode("utf-8", "surrogateescape").strip()
            try:
                yield Row(index, place, json.loads(line.decode("utf-8-sig")), raw)
            except (ValueError, RecursionError) as error:
                yield Row(index, place, None, raw, f"is no JSON: {error}"[:300])
        return
    for index, (number, read_row) in enumerate(read_rows(source)):
        place = f"{source}:{number}"
        try:
            fields = plain(read_row())
            yield Row(index, place, fields, json.dumps(fields, ensure_ascii=False))
        except (ValueError, RecursionError) as error:
            yield Row(index, place, None, "", str(error)[:300])


def parse_example(
    row: Row, *, kind: Kind | None = None, default_style: str = "model", name: str = ""
) -> Example:
    """A row as an example.

    Args:
        row: What was read.
        kind: What it is to be; None takes what its fields say. A conversation that ends with an
            answer is a prompt without that answer where prompts are asked for.
        default_style: `reward_model.style` of prompts that have none.
        name: Where the row comes from, for messages; its place by default.

    Raises:
        ValueError: The row is malformed, prefers nothing, or is not of that kind.
    """
    if row.problem:
        raise ValueError(row.problem)
    try:
        fields = plain(row.fields)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError(f"is {kind_of(fields)}; expected an object")
    fields = _with_known_names(fields)
    source = name or row.place
    found = kind or kind_of_row(fields)
    if found == "preferences":
        if is_tie(fields):
            raise ValueError("prefers nothing: it is a tie")
        pair = parse_pair(_with_apart_answers(fields), source=source)
        return Example("preferences", pair.messages, (pair.chosen, pair.rejected))
    if found == "demonstrations":
        shown = parse_demonstration(fields, source=source)
        return Example("demonstrations", shown.messages, (shown.response,))
    prompt = parse_row(_without_answer(fields), source=source, default_style=default_style)
    return Example("prompts", prompt.messages, prompt=prompt)


def kind_of_row(fields: Mapping[str, Any]) -> Kind:
    """What the fields of a row say it is."""
    if "chosen" in fields and "rejected" in fields:
        return "preferences"
    is_rewarded = fields.get("reward_model") is not None or "question" in fields
    if is_rewarded:
        return "prompts"
    turns = fields.get("messages")
    if fields.get("prompt") is None and isinstance(turns, list) and turns:
        last = turns[-1]
        if isinstance(last, dict) and last.get("role") == "assistant":
            return "demonstrations"
    flat = [name for name in RESPONSE_FIELDS if "." not in name]
    return "demonstrations" if any(fields.get(name) is not None for name in flat) else "prompts"


def output_row(example: Example, *, source: str, ability: str, extra: Mapping[str, Any]) -> dict:
    """The example as the training stages and verl read it.

    Args:
        example: What is written.
        source: Name of the source (verl's `data_source`).
        ability: What it is about.
        extra: Further fields of `extra_info`.
    """
    turns = [{"role": message.role, "content": message.content} for message in example.messages]
    if example.kind == "preferences":
        chosen, rejected = example.answers
        answers = {"chosen": chosen, "rejected": rejected}
        return {"messages": turns, **answers, "data_source": source, "meta": dict(extra)}
    if example.kind == "demonstrations":
        response = {"prompt": turns, "response": example.answers[0]}
        return {**response, "data_source": source, "extra_info": dict(extra)}
    prompt = cast(Prompt, example.prompt)
    known = {"data_source", "split", "index"}
    meta = {key: value for key, value in prompt.meta.items() if key not in known}
    return {
        "data_source": source,
        "prompt": turns,
        "ability": ability,
        "reward_model": {"style": prompt.style, "ground_truth": prompt.reference or ""},
        "extra_info": {**meta, **extra},
    }


def _with_known_names(fields: dict[str, Any]) -> dict[str, Any]:
    if "messages" not in fields:
        turns = fields.get("conversation", fields.get("conversations"))
        if isinstance(turns, list) and fields.get("prompt") is None:
            rest = {k: v for k, v in fields.items() if not k.startswith("conversation")}
            return {**rest, "messages": [_turn(turn) for turn in turns]}
    if "prompt" not in fields and isinstance(fields.get("instruction"), str):
        context = fields.get("input")
        more = f"\n\n{context}" if isinstance(context, str) and context.strip() else ""
        rest = {k: v for k, v in fields.items() if k not in ("instruction", "input")}
        return {**rest, "prompt": fields["instruction"] + more}
    return fields


def _turn(turn: object) -> object:
    if not isinstance(turn, dict):
        return turn
    if "from" in turn:
        speaker = str(turn["from"])
        return {"role": _ROLE_OF.get(speaker, speaker), "content": turn.get("value")}
    return {"role": turn.get("role"), "content": turn.get("content")}


def _with_apart_answers(fields: dict[str, Any]) -> dict[str, Any]:
    """A pair of whole conversations as a prompt and two answers."""
    if "messages" not in fields and isinstance(fields.get("prompt"), (str, list)):
        prompt = fields["prompt"]
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        fields = {**fields, "messages": turns}
    for key in ("chosen", "rejected"):
        turns = fields.get(key)
        if isinstance(turns, list) and turns and isinstance(turns[-1], dict):
            fields = {"messages": turns[:-1], **fields, key: turns[-1].get("content")}
    return fields


def _without_answer(fields: dict[str, Any]) -> dict[str, Any]:
    """A conversation up to the last thing that the user says."""
    key = "prompt" if isinstance(fields.get("prompt"), list) else "messages"
    turns = fields.get(key)
    while isinstance(turns, list) and len(turns) > 1 and _is_assistant(turns[-1]):
        turns = turns[:-1]
    return {**fields, key: turns} if key in fields else fields


def _is_assistant(turn: object) -> bool:
    return isinstance(turn, dict) and turn.get("role") == "assistant"
