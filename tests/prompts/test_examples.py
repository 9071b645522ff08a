import json

import pytest

from grlo.prompts.examples import Row, kind_of_row, output_row, parse_example, read_any
from grlo.prompts.preferences import parse_pair
from grlo.prompts.sources import parse_row

USER = {"role": "user", "content": "What floats?"}
ANSWER = {"role": "assistant", "content": "Cork does."}
MORE = {"role": "user", "content": "And what else?"}


def example(fields, **options):
    return parse_example(Row(0, "file:1", fields, json.dumps(fields)), **options)


@pytest.mark.parametrize(
    ("fields", "kind", "num_messages", "answers"),
    [
        ({"prompt": "What floats?"}, "prompts", 1, ()),
        ({"prompt": [USER], "reward_model": {"style": "rule"}}, "prompts", 1, ()),
        ({"messages": [USER, ANSWER, MORE]}, "prompts", 3, ()),
        ({"messages": [USER, ANSWER]}, "demonstrations", 1, ("Cork does.",)),
        ({"conversation": [{**USER, "hash": 3}, ANSWER]}, "demonstrations", 1, ("Cork does.",)),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
            "demonstrations",
            1,
            ("Yo",),
        ),
        ({"instruction": "Sum up.", "input": "A text."}, "prompts", 1, ()),
        (
            {"instruction": "Sum up.", "input": "A text.", "output": "Short."},
            "demonstrations",
            1,
            ("Short.",),
        ),
        ({"question": "1 + 1?", "answer": "2"}, "prompts", 1, ()),
        ({"messages": [USER], "chosen": "a", "rejected": "b"}, "preferences", 1, ("a", "b")),
        ({"prompt": "What?", "chosen": "a", "rejected": "b"}, "preferences", 1, ("a", "b")),
        (
            {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "Lead."}]},
            "preferences",
            1,
            ("Cork does.", "Lead."),
        ),
    ],
)
def test_rows_of_public_sets_are_read(fields, kind, num_messages, answers):
    found = example(fields)
    assert (found.kind, len(found.messages), found.answers) == (kind, num_messages, answers)


def test_an_instruction_keeps_what_it_is_about():
    found = example({"instruction": "Sum up.", "input": "A text."})
    assert found.messages[0].content == "Sum up.\n\nA text."


def test_a_conversation_asked_for_as_a_prompt_loses_its_last_answer():
    found = example({"conversation": [USER, ANSWER, MORE, ANSWER]}, kind="prompts")
    assert [message.content for message in found.messages][-1] == "And what else?"


@pytest.mark.parametrize(
    "fields",
    [
        None,
        3,
        [],
        {},
        {"prompt": 5},
        {"prompt": {"role": "user"}},
        {"messages": [[USER]]},
        {"messages": [{"role": "user", "content": {"deep": 1}}]},
        {"conversation": ["x"]},
        {"conversations": [{"from": "martian", "value": "x"}]},
        {"chosen": "a", "rejected": "b"},
        {"messages": [USER], "chosen": "a", "rejected": "b", "meta": {"tie": True}},
        {"messages": [USER], "chosen": ["a"], "rejected": "b"},
        {"prompt": "half \ud800 a pair"},
    ],
)
def test_a_malformed_row_is_told_by_value_error(fields):
    with pytest.raises(ValueError, match=r"."):
        parse_example(Row(0, "file:1", fields, ""))


def test_every_kind_can_be_asked_of_any_row_without_another_error():
    for kind in ("prompts", "preferences", "demonstrations"):
        with pytest.raises(ValueError, match=r"."):
            example({"nothing": 1}, kind=kind)


def test_rows_that_cannot_be_decoded_are_kept_with_their_bytes(tmp_path):
    deep = b"[" * 200_000
    lines = [b'{"prompt": "ok"}', b"\xff\xfe{", b"", b'{"a": ', b'"\x00"', deep]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    rows = list(read_any(str(path)))
    assert [row.index for row in rows] == [0, 1, 2, 3, 4]
    assert [bool(row.problem) for row in rows] == [False, True, True, True, True]
    assert rows[1].raw.encode("utf-8", "surrogateescape") == lines[1]
    assert rows[1].place == f"{path}:2"
    assert len(rows[4].raw) == len(deep)


def test_output_rows_are_read_again_by_training():
    prompt = example({"question": "1 + 1?", "answer": "2", "id": 7, "data_source": "old"})
    row = output_row(prompt, source="sums", ability="other", extra={"turns": 1})
    again = parse_row(row, source="x", default_style="model")
    assert (again.style, again.reference, again.domain) == ("rule", "2", "other")
    assert again.meta["id"] == 7
    assert again.meta["data_source"] == "sums"
    pair = example({"chosen": [USER, ANSWER], "rejected": [USER, MORE]})
    row = output_row(pair, source="pairs", ability="other", extra={})
    assert parse_pair(row, source="x").chosen == "Cork does."
    shown = example({"messages": [USER, ANSWER]})
    row = output_row(shown, source="shown", ability="other", extra={})
    assert kind_of_row(row) == "demonstrations"
    assert example(row).answers == ("Cork does.",)
