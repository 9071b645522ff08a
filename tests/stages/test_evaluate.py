"""The evaluation stage on a tiny random model: the road from a folder to a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import pytest

from grlo.engines.hf import HFEngine
from grlo.errors import ModelError, RecipeError
from grlo.stages.evaluate import evaluate

PLUGIN = """
from grlo.interfaces import Benchmark
from grlo.types import Message, Prompt, SamplingParams, Score


def grade(prompt, text):
    if prompt.reference is None:
        raise ValueError("no [reference]")
    return Score(value=float(len(text) % 2), parts={"attempt": 1.0})


def make(name, references):
    prompts = [
        Prompt(id=str(i), messages=(Message("user", f"{name} {i}"),), reference=reference)
        for i, reference in enumerate(references)
    ]
    sampling = SamplingParams(max_tokens=5, num_samples=2)
    return Benchmark(name, name, tuple(prompts), grade, sampling, "made here", "1")


def code():
    return make("code", "abc")


def math():
    return make("math", ["a", None])


def nothing():
    return None
"""


class ModelMaker(Protocol):
    def __call__(self, name: str, **shape: int) -> Path: ...


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_length.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def num_generated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of prompts of every call to the engine."""
    calls: list[int] = []
    original = HFEngine.generate

    def generate(self: HFEngine, prompts, sampling, **options):
        calls.append(len(prompts))
        return original(self, prompts, sampling, **options)

    monkeypatch.setattr(HFEngine, "generate", generate)
    return calls


def test_a_model_is_measured_and_the_table_says_how(
    tmp_path: Path, make_model: ModelMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = make_model("model"), tmp_path / "out"
    names = ["odd_length:code", "odd_length:math"]
    results = evaluate(str(model), benchmarks=names, out=out, device="cpu")
    assert [result.name for result in results] == ["code", "math"]
    assert [len(result.rollouts) for result in results] == [6, 4]
    assert [result.num_unscored for result in results] == [0, 2]
    shown = capsys.readouterr().out
    assert "math: 2 of 4 answers could not be graded" in shown
    assert "no [reference]" in shown
    assert "average of domains" in shown
    entry = json.loads((out / "summary.json").read_text())["benchmarks"]["code"]
    assert entry["model"]["dtype"] == "float32"
    assert len((out / "code.jsonl").read_text().splitlines()) == 6


def test_what_is_finished_is_not_run_again_unless_the_weights_change(
    tmp_path: Path, make_model: ModelMaker, num_generated: list[int]
) -> None:
    model, out = make_model("model"), tmp_path / "out"

    def run(*names: str, seed: int = 0) -> list[float | None]:
        benchmarks = [f"odd_length:{name}" for name in names]
        results = evaluate(str(model), benchmarks=benchmarks, out=out, seed=seed, device="cpu")
        return [result.score and result.score.value for result in results]

    first = run("code")
    assert num_generated == [3]
    both = run("math", "code")
    assert num_generated == [3, 2], "only what was missing"
    assert both[1] == first[0]
    run("code", seed=1)
    assert num_generated == [3, 2, 3]
    run("code", seed=1)
    assert num_generated == [3, 2, 3]
    make_model("model", intermediate_size=64)
    run("code", seed=1)
    assert num_generated == [3, 2, 3, 3]


def test_a_run_directory_stands_for_its_newest_checkpoint(
    tmp_path: Path, make_model: ModelMaker
) -> None:
    make_model("run/checkpoints/step_000001", intermediate_size=64)
    newest = make_model("run/checkpoints/step_000002")
    out = tmp_path / "out"
    evaluate(str(tmp_path / "run"), benchmarks=["odd_length:code"], out=out, device="cpu")
    entry = json.loads((out / "summary.json").read_text())["benchmarks"]["code"]
    assert entry["model"]["path"] == str(newest)


def test_what_cannot_be_evaluated_is_named_before_weights_are_loaded(
    tmp_path: Path, make_model: ModelMaker
) -> None:
    model = str(make_model("model"))
    with pytest.raises(RecipeError, match=r"unknown benchmark 'nano_maths'.*'nano_math'"):
        evaluate(model, benchmarks=["nano_maths"], out=tmp_path)
    with pytest.raises(RecipeError, match="expected a function that returns a"):
        evaluate(model, benchmarks=["odd_length:nothing"], out=tmp_path)
    with pytest.raises(RecipeError, match="dtype 'float16' is unknown"):
        evaluate(model, benchmarks=["odd_length:code"], out=tmp_path, dtype="float16")
    with pytest.raises(ModelError, match="neither a model"):
        evaluate(str(tmp_path), benchmarks=["odd_length:code"], out=tmp_path)
