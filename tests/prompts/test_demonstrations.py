"""Demonstrations from files: every form, and every way a row can be malformed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from grlo.errors import DataError
from grlo.prompts.demonstrations import parse_demonstration, read_demonstrations
from grlo.types import Demonstration, Message

USER = {"role": "user", "content": "1 + 1?"}
ANSWER = {"role": "assistant", "content": "2"}
EXPECTED = ((Message("user", "1 + 1?"),), "2")


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER]},
        {"prompt": "1 + 1?", "response": "2"},
        {"prompt": "1 + 1?", "completion": "2"},
        {"prompt": [USER], "output": "2"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"messages": [USER], "response": "2"},
        {"prompt": "1 + 1?", "response": "2", "output": None},
        {
            "data_source": "gsm8k",
            "prompt": [USER],
            "reward_model": {"style": "rule", "ground_truth": "not this"},
            "extra_info": {"answer": "2", "split": "train"},
        },
    ],
)
def test_every_form_gives_the_same_demonstration(row: dict[str, Any]) -> None:
    found = parse_demonstration(row, source="here:1")
    assert (found.messages, found.response, found.source) == (*EXPECTED, "here:1")


def test_a_named_field_comes_before_the_others() -> None:
    row = {"prompt": [USER], "output": "3", "reward_model": {"style": "m", "ground_truth": "2"}}
    found = parse_demonstration(row, source="", response="reward_model.ground_truth")
    assert (found.messages, found.response) == EXPECTED
    row = {"messages": [USER, {"role": "assistant", "content": "a"}, USER], "best": "2"}
    found = parse_demonstration(row, source="", response="best")
    assert (len(found.messages), found.response) == (3, "2")


def test_only_the_last_turn_of_a_conversation_is_the_answer() -> None:
    system = {"role": "system", "content": "Be brief."}
    found = parse_demonstration({"messages": [system, USER, ANSWER, USER, ANSWER]}, source="")
    assert [message.role for message in found.messages] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "is a list; expected an object"),
        ({"prompt": "x"}, "has no answer"),
        ({"prompt": "x", "response": "a", "output": "b"}, "has the answers response and output"),
        ({"prompt": "x", "response": " "}, "response is empty"),
        ({"prompt": "x", "response": 7}, "response is a number; expected a string"),
        ({"prompt": "x", "response": "\ud800"}, "response has half of a surrogate pair"),
        ({"prompt": "x", "completion": [USER]}, "completion[0] has the role 'user'"),
        ({"prompt": "x", "completion": [ANSWER, ANSWER]}, "completion is a list"),
        ({"prompt": " ", "response": "a"}, "prompt[0].content is empty"),
        ({"prompt": [ANSWER], "response": "a"}, "prompt ends with the role 'assistant'"),
        ({"response": "a"}, "has neither prompt nor messages"),
        ({"text": "a"}, "messages is missing"),
        ({"messages": [USER]}, "messages is a list; expected a prompt and an answer"),
        ({"messages": [ANSWER, USER]}, "messages ends with the role 'user'"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "is empty"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "messages[1].content is"),
        ({"messages": [ANSWER, ANSWER]}, "messages ends with the role 'assistant'"),
    ],
)
def test_a_malformed_row_is_refused_with_its_reason(row: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_demonstration(row, source="")


def test_all_malformed_rows_of_a_file_are_named_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    source = write(path, [{"prompt": "a", "response": "b"}, {"prompt": "a"}, 3])
    with path.open("a") as file:
        file.write("\n{torn\n")
    with pytest.raises(DataError) as caught:
        read_demonstrations(source)
    message = str(caught.value)
    assert "3 rows are malformed" in message
    for line in (f"{source}:2: has no answer", f"{source}:3: is a number", f"{source}:5: "):
        assert line in message


def test_a_file_is_read_in_order_with_the_suffix_on_the_last_message(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "response": f"r{i}"} for i in range(3)]
    source = write(tmp_path / "rows.jsonl", rows)
    assert read_demonstrations(source, suffix=" Think.") == [
        Demonstration((Message("user", f"{i} Think."),), f"r{i}", f"{source}:{i + 1}")
        for i in range(3)
    ]
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="has no rows"):
        read_demonstrations(str(tmp_path / "empty.jsonl"))


def test_the_worked_solutions_of_the_miniature_are_demonstrations() -> None:
    from grlo.recipe import ASSETS

    found = read_demonstrations(
        str(ASSETS / "math_prompts.jsonl"), response="reward_model.ground_truth"
    )
    assert len(found) == 400
    assert all("The answer is" in item.response for item in found)
