"""`grlo grade` with the verifiers of the package on real problems."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from grlo import cli
from grlo.errors import GrloError
from grlo.sandbox import open_sandbox


def write(path: Path, rows: Sequence[object]) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines()]


def run_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> dict[str, Any]:
    """Runs the command with `--json` and returns the last line of stdout."""
    monkeypatch.setattr(sys, "argv", ["grlo", "grade", *map(str, arguments), "--json"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    captured = capsys.readouterr()
    assert caught.value.code == 0, captured.err
    return json.loads(captured.out.splitlines()[-1])


def rows_of(path: Path, count: int) -> list[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(count), strict=False)]


def test_mathematics_of_a_real_competition(
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("math_verify")
    data = data_dir / "math_aime24.jsonl"
    rows = rows_of(data, 30)
    responses = [{"id": r["id"], "response": f"So it is \\boxed{{{r['answer']}}}."} for r in rows]
    wrong = [{"id": r["id"], "response": "Surely \\boxed{-1}."} for r in rows[:15]]
    silent = [{"id": r["id"], "response": "I do not know."} for r in rows[15:]]
    numbers = run_json(
        monkeypatch,
        capsys,
        *("math", write(tmp_path / "r.jsonl", [*responses, *wrong, *silent])),
        *("--data", data, "--out", tmp_path / "o.jsonl"),
    )
    assert (numbers["num_problems"], numbers["num_samples"]) == (30, 60)
    assert (numbers["score"], numbers["avg_at_k"], numbers["pass_at_k"]) == (0.5, 0.5, 1)
    assert numbers["maj_at_k"] == 1, "the right answer comes first, or alone"
    assert (numbers["unscored"], numbers["extraction_failures"]) == (0, 0.25)
    verdicts = read(tmp_path / "o.jsonl")
    assert [row["score"] for row in verdicts] == [1] * 30 + [0] * 30
    assert {row["sample"] for row in verdicts[30:]} == {1}


def test_choices_of_a_real_examination(
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = data_dir / "mcq_mmlu_stem.jsonl.gz"
    letters = "ABCD"
    rows = rows_of(data, 40)
    responses = [
        {
            "id": r["id"],
            "response": "Answer: " + letters[(letters.index(r["answer"]) + (n % 2)) % 4],
        }
        for n, r in enumerate(rows)
    ]
    numbers = run_json(
        monkeypatch,
        capsys,
        *("choice", write(tmp_path / "r.jsonl", responses)),
        *("--data", data, "--out", tmp_path / "o.jsonl"),
    )
    assert (numbers["score"], numbers["num_problems"]) == (0.5, 40)
    assert [row["score"] for row in read(tmp_path / "o.jsonl")] == [1, 0] * 20
    assert {row["extracted"] for row in read(tmp_path / "o.jsonl")} <= set(letters)


def test_instructions_have_a_verdict_each(
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("langdetect")
    data = data_dir / "ifeval_input_data.jsonl"
    rows = rows_of(data, 541)
    plain = [r for r in rows if r["instruction_id_list"] == ["punctuation:no_comma"]]
    texts = ["Not one here.", "One, two, three."]
    responses = [{"id": str(r["key"]), "response": text} for r in plain for text in texts]
    responses += [{"id": r["key"], "response": ""} for r in rows if r not in plain]
    numbers = run_json(
        monkeypatch,
        capsys,
        *("instructions", write(tmp_path / "r.jsonl", responses)),
        *("--data", data, "--out", tmp_path / "o.jsonl"),
    )
    assert (numbers["num_problems"], numbers["maj_at_k"]) == (541, None)
    verdicts = read(tmp_path / "o.jsonl")
    assert plain
    assert [(v["strict"], v["loose"], v["score"]) for v in verdicts[: 2 * len(plain)]] == [
        ([True], [True], 1),
        ([False], [False], 0),
    ] * len(plain)
    counts = {str(r["key"]): len(r["instruction_id_list"]) for r in rows}
    for verdict in verdicts:
        assert len(verdict["strict"]) == len(verdict["loose"]) == counts[str(verdict["id"])]
        assert verdict["score"] == all(verdict["strict"])


def test_programs_that_solve_real_problems_pass_and_others_fail(
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        open_sandbox().close()
    except GrloError as error:
        pytest.skip(f"no sandbox: {error}")
    data = data_dir / "code_humaneval.jsonl"
    rows = rows_of(data, 3)
    forms = (
        "Here it is:\n```python\n{prompt}{canonical_solution}\n```\nIt is fast.",
        "{prompt}{canonical_solution}",
        "```python\n{prompt}    return None\n```",
    )
    responses = [{"id": r["task_id"], "response": f.format_map(r)} for r in rows for f in forms]
    numbers = run_json(
        monkeypatch,
        capsys,
        *("code", write(tmp_path / "r.jsonl", responses)),
        *("--data", data, "--out", tmp_path / "o.jsonl"),
    )
    assert [row["score"] for row in read(tmp_path / "o.jsonl")] == [1, 1, 0] * 3
    assert (numbers["pass_at_k"], numbers["maj_at_k"], numbers["unscored"]) == (1, None, 0)
