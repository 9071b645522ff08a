"""Preference pairs from files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from grlo.errors import DataError
from grlo.prompts.preferences import read_preferences, read_preferences_and_ties
from grlo.types import Message, PreferencePair

ROW = {"messages": [{"role": "user", "content": "Hi"}], "chosen": "Hello", "rejected": "No"}


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    data = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_rows_become_pairs_with_their_source(tmp_path: Path, name: str) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    path = write(tmp_path / name, ROW, {**ROW, "messages": turns, "meta": {"label": 1}})
    assert read_preferences(path) == [
        PreferencePair((Message("user", "Hi"),), "Hello", "No", source=f"{path}:1"),
        PreferencePair(tuple(Message(**turn) for turn in turns), "Hello", "No", source=f"{path}:2"),
    ]


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    text = "one\u2028two\x0cthree\x85four\rfive"
    row = json.dumps({**ROW, "chosen": text}, ensure_ascii=False).encode()
    assert b"\xe2\x80\xa8" in row
    assert read_preferences(write(tmp_path / "p.jsonl", row))[0].chosen == text


def test_ties_are_left_out_and_counted(tmp_path: Path) -> None:
    tie, loss = {**ROW, "meta": {"tie": True}}, {**ROW, "meta": {"tie": False}}
    path = write(tmp_path / "p.jsonl", tie, ROW, tie, loss)
    pairs, num_ties = read_preferences_and_ties(path)
    assert ([pair.source for pair in pairs], num_ties) == ([f"{path}:2", f"{path}:4"], 2)


def test_empty_answers_and_json_scalars_are_answers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.jsonl", {**ROW, "chosen": True, "rejected": ""}, {**ROW, "chosen": 7}
    )
    assert [(p.chosen, p.rejected) for p in read_preferences(path)] == [("true", ""), ("7", "No")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{not json", "line 1 column 2"),
        (b"\xff\xfe", "decode"),
        ([1], "expected an object"),
        ({**ROW, "chosen": None}, "chosen is missing; expected a string"),
        ({**ROW, "rejected": ["a"]}, "rejected is"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, "has no messages"),
        ({**ROW, "messages": "Hi"}, "messages is"),
        ({**ROW, "messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\]\.role is 'tool'"),
        (
            b'{"messages":[{"role":"user","content":"a"}],"chosen":"\\ud800","rejected":"b"}',
            "surrog",
        ),
    ],
)
def test_a_malformed_row_is_named_with_its_line_and_reason(
    tmp_path: Path, row: object, reason: str
) -> None:
    path = write(tmp_path / "p.jsonl", ROW, row, ROW)
    with pytest.raises(DataError, match=reason) as caught:
        read_preferences(path)
    assert f"{path}:2: " in str(caught.value)


def test_files_without_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 ties"):
        read_preferences(write(tmp_path / "p.jsonl", {**ROW, "meta": {"tie": True}}))
    with pytest.raises(DataError, match=r"expected a \.jsonl"):
        read_preferences(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match=r"expected a \.jsonl"):
        read_preferences(write(tmp_path / "p.csv", ROW))


def test_real_pairs_are_read_without_loss(data_dir: Path) -> None:
    paths = sorted(data_dir.glob("pref_*.jsonl*"))
    assert len(paths) >= 7
    for path in paths:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).split(b"\n")
        rows = [json.loads(line) for line in lines if line]
        pairs, num_ties = read_preferences_and_ties(path)
        assert len(pairs) + num_ties == len(rows)
        kept = [row for row in rows if not row["meta"].get("tie")]
        for pair, row in zip(pairs, kept, strict=True):
            assert [{"role": m.role, "content": m.content} for m in pair.messages] == row[
                "messages"
            ]
            for ours, theirs in ((pair.chosen, row["chosen"]), (pair.rejected, row["rejected"])):
                assert ours == theirs or json.loads(ours) == theirs
