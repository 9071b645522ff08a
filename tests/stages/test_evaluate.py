"""The evaluation stage on tiny random models: the road from a folder or an endpoint to a table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_endpoint import Answer, completion, error, serve
from grlo.benchmarks.loading import Choice, choose
from grlo.engines.hf import HFEngine
from grlo.errors import CheckpointError, DataError, ModelError, RecipeError
from grlo.evaluation.evaluator import identify
from grlo.evaluation.results import BenchmarkResult, summarize
from grlo.interfaces import Benchmark, GradedSample
from grlo.rundir import locked
from grlo.stages.evaluate import evaluate
from grlo.stages.evaluation_page import evaluation_page
from grlo.stages.respondents import ModelChoice
from grlo.types import Message, Prompt, SamplingParams, Score

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


value = make("value", "ab")
"""

ModelMaker = Callable[..., Path]


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


def run(model: Path | str, names: list[str], out: Path, **options: Any) -> list[BenchmarkResult]:
    chosen = ModelChoice(str(model), device="cpu", **options.pop("by", {}))
    return evaluate(chosen, Choice(tuple(names), **options.pop("choice", {})), out=out, **options)


def test_a_model_is_measured_and_the_table_says_how(
    tmp_path: Path, make_model: ModelMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = make_model("model"), tmp_path / "out"
    results = run(model, ["odd_length:code", "odd_length:math", "odd_length:value"], out)
    assert [result.name for result in results] == ["code", "math", "value"]
    assert [len(result.samples) for result in results] == [6, 4, 4]
    assert [result.num_unscored for result in results] == [0, 2, 0]
    shown = capsys.readouterr().out
    assert "math: 2 of 4 answers could not be graded" in shown
    assert "no [reference]" in shown
    assert "average of domains" in shown
    assert "Domains count equally" in shown
    entry = json.loads((out / "summary.json").read_text())["benchmarks"]["code"]
    assert entry["model"]["dtype"] == "float32"
    assert len((out / "code.jsonl").read_text().splitlines()) == 6
    page = (out / "report.html").read_text()
    assert page.count("<details>") == 6, "protocol and answers of three benchmarks"
    assert "code 0" in page
    assert "average of domains" in page
    assert "<script" not in page
    costs = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert [cost["benchmark"] for cost in costs] == ["code", "math", "value"]
    assert costs[0]["tokens"] == sum(sample.num_tokens for sample in results[0].samples)
    assert costs[0]["flops"] > 0


def test_what_is_finished_is_not_run_again_and_what_is_there_is_not_lost(
    tmp_path: Path, make_model: ModelMaker, num_generated: list[int]
) -> None:
    model, out = make_model("model"), tmp_path / "out"

    def scores(*names: str, **options: Any) -> list[float | None]:
        results = run(model, [f"odd_length:{name}" for name in names], out, **options)
        return [result.score and result.score.value for result in results]

    first = scores("code")
    assert num_generated == [6]
    both = scores("value", "code")
    assert num_generated == [6, 4], "only what was missing"
    assert both[1] == first[0]
    with pytest.raises(DataError, match=r"identity\.seed: 0 there, 1 now"):
        scores("code", seed=1)
    scores("code", seed=1, overwrite=True)
    scores("code", seed=1)
    assert num_generated == [6, 4, 6]
    make_model("model", intermediate_size=64)
    with pytest.raises(DataError, match=r"model\.weights_sha256"):
        scores("code", seed=1)


def test_two_at_once_do_not_write_one_folder(tmp_path: Path, make_model: ModelMaker) -> None:
    model, out = make_model("model"), tmp_path / "out"
    out.mkdir()
    with locked(out), pytest.raises(CheckpointError, match="another process is writing"):
        run(model, ["odd_length:code"], out)
    run(model, ["odd_length:code"], out)


def test_json_is_the_summary_and_nothing_else(
    tmp_path: Path, make_model: ModelMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    run(make_model("model"), ["odd_length:code"], tmp_path / "out", as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "summary.json").read_text())


def test_a_run_directory_stands_for_its_newest_checkpoint(
    tmp_path: Path, make_model: ModelMaker
) -> None:
    make_model("run/checkpoints/step_000001", intermediate_size=64)
    newest = make_model("run/checkpoints/step_000002")
    out = tmp_path / "out"
    run(tmp_path / "run", ["odd_length:code"], out)
    entry = json.loads((out / "summary.json").read_text())["benchmarks"]["code"]
    assert entry["model"]["path"] == str(newest)


def test_an_adapter_is_merged_into_its_base_and_has_an_identity_of_its_own(
    tmp_path: Path, make_model: ModelMaker
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = make_model("model")
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for file in base.glob("tokenizer*"):
        (tmp_path / "merged" / file.name).write_bytes(file.read_bytes())
    for file in base.glob("*.jinja"):
        (tmp_path / "merged" / file.name).write_bytes(file.read_bytes())
    texts = {
        name: [
            sample.text
            for sample in run(tmp_path / name, ["odd_length:code"], tmp_path / f"{name}_out")[
                0
            ].samples
        ]
        for name in ("model", "adapter", "merged")
    }
    assert texts["adapter"] == texts["merged"] != texts["model"]
    summary = json.loads((tmp_path / "adapter_out" / "summary.json").read_text())
    model = summary["benchmarks"]["code"]["model"]
    assert model["path"] == str(tmp_path / "adapter")
    assert model["base_path"] == str(base)
    assert model["weights_sha256"] != model["base_weights_sha256"]


def test_what_cannot_be_evaluated_is_named_before_weights_are_loaded(
    tmp_path: Path, make_model: ModelMaker
) -> None:
    model = make_model("model")
    with pytest.raises(RecipeError, match=r"unknown benchmark 'nano_maths'.*'nano_math'"):
        run(model, ["nano_maths"], tmp_path)
    with pytest.raises(RecipeError, match="expected a grlo"):
        run(model, ["odd_length:nothing"], tmp_path)
    with pytest.raises(RecipeError, match="dtype 'float16' is unknown"):
        run(model, ["odd_length:code"], tmp_path, by={"dtype": "float16"})
    with pytest.raises(RecipeError, match="unknown engine 'sglang'"):
        run(model, ["odd_length:code"], tmp_path, by={"engine": "sglang"})
    with pytest.raises(ModelError, match="neither a model"):
        run(tmp_path, ["odd_length:code"], tmp_path / "out")


def test_the_page_hides_private_problems_and_escapes_the_rest() -> None:
    def result(name: str, *, is_private: bool) -> BenchmarkResult:
        prompt = Prompt(
            id="p", messages=(Message("user", f"{name} <b>asks</b>\x1b"),), reference="r"
        )
        score = Score(1.0, note="because", extracted="x")
        sample = GradedSample(prompt, 0, 0, 0, f"{name} <i>says</i>", "stop", 3, score)
        benchmark = Benchmark(
            name, "math", (prompt,), None, SamplingParams(9), "here", "1", is_private=is_private
        )
        return summarize(benchmark, identify(benchmark, "t", seed=0), [sample])

    page = evaluation_page(
        [result("open", is_private=False), result("closed", is_private=True)], model="<m>"
    )
    assert "open &lt;b&gt;asks&lt;/b&gt;" in page
    assert "open &lt;i&gt;says" in page
    assert "closed &lt;" not in page
    assert "\x1b" not in page
    assert "because" in page


# Endpoints ----------------------------------------------------------------------------------------


def test_a_model_behind_an_endpoint_is_asked_each_draw_once_and_for_failures_again(
    tmp_path: Path,
) -> None:
    def answer(body: dict[str, Any], number: int) -> Answer:
        if number < 6 and body["messages"][-1]["content"].endswith("1"):
            return error(400, "refused")
        return completion(f"answer {number}", tokens=(10, 5))

    with serve(answer) as server:

        def ask() -> BenchmarkResult:
            return run(
                "some-model",
                ["odd_length:code"],
                tmp_path / "out",
                by={"base_url": server.url},
                choice={"max_tokens": 9, "temperature": 0.5},
            )[0]

        result = ask()
        assert result.num_failed == 2
        assert all("refused" in s.score.note for s in result.samples if s.problem == 1)
        texts = {(s.problem, s.draw): s.text for s in result.samples if s.problem != 1}
        assert len(set(texts.values())) == 4, "draws are no repetitions"
        result = ask()
        assert len(server.bodies) == 8
        assert result.num_unscored == 0
        assert texts.items() <= {(s.problem, s.draw): s.text for s in result.samples}.items()
        ask()
        assert len(server.bodies) == 8
    assert {(b["max_tokens"], b["temperature"], b["model"]) for b in server.bodies} == {
        (9, 0.5, "some-model")
    }
    costs = [json.loads(line) for line in (tmp_path / "out/ledger.jsonl").open()]
    assert [(cost["requests"], cost["output_tokens"]) for cost in costs] == [(6, 20), (2, 10)]


def test_an_endpoint_may_be_a_file_and_an_empty_reply_is_an_answer(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], number: int) -> Answer:
        return completion(None, finish="length")

    with serve(answer) as server:
        file = tmp_path / "remote.toml"
        file.write_text(f'base_url = "{server.url}"\nmodel = "m"\napi_key_env = ""\n')
        (result,) = run(file, ["odd_length:code"], tmp_path / "out")
    assert result.num_failed == 0
    assert result.truncated_share == 1
    file.write_text('base_url = "ftp://x"\nmodell = "m"\n')
    with pytest.raises(RecipeError, match="modell"):
        run(file, ["odd_length:code"], tmp_path / "other")


# A kill of the process ----------------------------------------------------------------------------

ENDLESS = """
import json
from pathlib import Path
from grlo.interfaces import Benchmark
from grlo.types import Message, Prompt, SamplingParams, Score


def grade(prompt, text):
    return Score(float(len(text) % 2))


prompts = tuple(
    Prompt(id=str(i), messages=(Message("user", f"{'so ' * (i % 7)}many {i}"),)) for i in range(300)
)
many = Benchmark("many", "x", prompts, grade, SamplingParams(12, num_samples=3), "here", "1")
"""


@pytest.mark.long
def test_kill_9_at_any_time_leaves_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, make_model: ModelMaker
) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    model = make_model("model")

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "grlo", "evaluate", str(model), "--out", str(out)]
        command += ["--benchmarks", "endless:many", "--device", "cpu"]
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    partial = tmp_path / "cut" / "many.partial.jsonl"
    for num_lines in (2, 3):
        process = start(tmp_path / "cut")
        while not (partial.exists() and len(partial.read_bytes().splitlines()) >= num_lines):
            assert process.poll() is None, "it was too fast to be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert partial.exists()
    assert start(tmp_path / "cut").wait() == 0
    for name in ("many.jsonl", "summary.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not partial.exists()


# Which benchmarks ---------------------------------------------------------------------------------


def test_names_are_found_without_regard_to_case_and_signs() -> None:
    assert choose(suite=None, names=["MATH-500", "Nano_Math"]).names == ("math500", "nano_math")
    assert choose(suite="nano", names=["math500"]).names[-1] == "math500"
    with pytest.raises(RecipeError, match="unknown suite 'nono'"):
        choose(suite="nono", names=[])
    with pytest.raises(RecipeError, match="unknown row grady"):
        choose(suite=None, names=["math500"], variants=["grady"])
