"""Prompts from files and hub data sets; every malformed row is reported, none is skipped."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from grlo.errors import DataError, ModelError
from grlo.interfaces import Renderer
from grlo.prompts.problems import form_of, parse_problem
from grlo.prompts.rows import kind_of, listed, plain, prompt_id, read_rows
from grlo.types import Message, Prompt

ROLES = ("system", "user", "assistant")

# Letters first, so that a style can be a key of a recipe: routes of rewards are named by it.
_STYLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_ROW_FIELDS = {"prompt", "messages", "ability", "reward_model", "reference", "extra_info"}

_NO_SUFFIXES: Mapping[str, str] = {}


@dataclass(frozen=True)
class OverlongPrompt:
    """A prompt that was left out because of its length."""

    source: str
    """As `file:line`."""
    num_tokens: int


def read_prompts(
    source: str, *, default_style: str, suffixes: Mapping[str, str] = _NO_SUFFIXES
) -> list[Prompt]:
    """The prompts of one source, in its order; repeated rows are kept.

    Rows have one of four forms: `prompt` as a list of messages (verl's, with `reward_model.style`,
    `reward_model.ground_truth`, `extra_info` and `ability`), `messages`, `prompt` as a string, or a
    problem of `grlo.prompts.problems`, whose style is `rule`. A row with both uses `prompt`. Only
    `reward_model.style` says how an answer is rewarded; labels such as `data_source` never do.

    Args:
        source: A .jsonl, .jsonl.gz or .parquet file, or `hub:owner/name[@revision][:split]`.
        default_style: Style of rows without `reward_model` that are no problems.
        suffixes: Style -> text that is appended, as it is, to the last message of its prompts.

    Raises:
        DataError: The source cannot be read, is empty, or has malformed rows (all are counted and
            the first ones listed with their line and reason).
        MissingExtraError: Parquet files and hub data sets need the extra `data`.
    """
    prompts: list[Prompt] = []
    malformed: list[str] = []
    num_rows = 0
    for number, read_row in read_rows(source):
        num_rows += 1
        try:
            row = read_row()
            prompt = parse_row(row, source=f"{source}:{number}", default_style=default_style)
            prompts.append(_with_suffix(prompt, suffixes.get(prompt.style, "")))
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
        default_style: Style of rows without `reward_model` that are no problems.

    Raises:
        ValueError: The row is malformed; the message is the reason.
    """
    fields = plain(row)
    if not isinstance(fields, dict):
        raise ValueError(f"is {kind_of(fields)}; expected an object")
    if _is_problem(fields):
        return parse_problem(fields, source=source)
    messages = _messages(fields)
    style, reference = _reward_of(fields, default_style)
    extra = fields.get("extra_info")
    if extra is not None and not isinstance(extra, dict):
        raise ValueError(f"extra_info is {kind_of(extra)}; expected an object")
    ability = fields.get("ability")
    if ability is not None and not isinstance(ability, str):
        raise ValueError(f"ability is {kind_of(ability)}; expected a string")
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


def _is_problem(fields: Mapping[str, Any]) -> bool:
    """A row with messages or a reward of its own is a prompt, whatever other fields it has."""
    is_prompt = isinstance(fields.get("prompt"), list) or "messages" in fields
    return not is_prompt and fields.get("reward_model") is None and form_of(fields) is not None


def suffix_problems(prompts: Sequence[Prompt], suffixes: Mapping[str, str]) -> list[str]:
    """One line per style that has a suffix and no prompt."""
    styles = {prompt.style for prompt in prompts}
    return [
        f"prompts.suffixes.{style}: no prompt has this style; found {', '.join(sorted(styles))}."
        for style in suffixes
        if style not in styles
    ]


def _with_suffix(prompt: Prompt, suffix: str) -> Prompt:
    if not suffix:
        return prompt
    *earlier, last = prompt.messages
    messages = (*earlier, replace(last, content=last.content + suffix))
    return replace(prompt, id=prompt_id(messages), messages=messages)


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
        raise ValueError(f"{key} is {kind_of(turns)}; expected a string or a list of messages")
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
        raise ValueError(f"{key} is {kind_of(turn)}; expected an object with role and content")
    role, content = turn.get("role"), turn.get("content")
    if role not in ROLES:
        raise ValueError(f"{key}.role is {role!r}; expected one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"{key}.content is {kind_of(content)}; expected a string")
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
        raise ValueError(f"reward_model is {kind_of(reward)}; expected an object")
    if not isinstance(style, str) or not _STYLE.fullmatch(style):
        raise ValueError(
            f"reward_model.style is {style!r}; expected a name such as 'model', 'rule' or 'judge'"
        )
    if reference is None or reference == "":
        return style, None
    if isinstance(reference, str):
        return style, reference
    return style, json.dumps(reference, ensure_ascii=False)
