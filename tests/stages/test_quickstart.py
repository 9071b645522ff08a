"""The quickstart from end to end on a tiny random model, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grlo.engines.hf import HFEngine
from grlo.errors import CheckpointError, GrloError
from grlo.rundir import RunDir
from grlo.stages import quickstart as stage

RECIPE = """
[policy]
model = "policy"
compute_dtype = "float32"
gradient_checkpointing = false
[prompts]
sources = ["prompts.jsonl"]
[sampling]
prompts_per_step = 2
samples_per_prompt = 2
max_tokens = 6
[reward]
name = "reward_model"
model = "reward"
[algorithm]
name = "ppo"
[training]
steps = 2
num_minibatches = 1
device = "cpu"
"""
RLVR = RECIPE.replace(
    """name = "reward_model"
model = "reward"
""",
    """name = "verified"
styles = ["model"]
verifier = { name = "function", path = "tiny_world:grade" }
""",
).replace("ppo", "grpo")
PLUGIN = """
from functools import partial

from grlo.interfaces import Benchmark
from grlo.types import Message, Prompt, SamplingParams, Score


def grade(prompt, text):
    return Score(value=float(len(text) % 2), parts={"attempt": 1.0}, note="<script>")


def make(domain):
    prompts = tuple(
        Prompt(id=str(i), messages=(Message("user", f"<b>{domain}</b> [red] {i}"),))
        for i in range(3)
    )
    return Benchmark(
        domain, domain, prompts, grade, SamplingParams(max_tokens=6, num_samples=2), "here", "1"
    )


chat, code, math, instruction_following = map(
    lambda domain: partial(make, domain), ("chat", "code", "math", "instruction_following")
)
"""


@pytest.fixture
def tiny(tmp_path: Path, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The quickstart on a random model and benchmarks of three problems; its run directory."""
    make_model("policy")
    make_model("reward", num_labels=1)
    rows = [{"prompt": f"Tell me of {name}."} for name in ("owls", "bread", "the sea")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "rlvr.toml").write_text(RLVR)
    (tmp_path / "tiny_world.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    # Arms are trained by other processes.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(stage, "RECIPE", tmp_path / "recipe.toml")
    tiny_of = {
        None: None,
        stage.ARMS["rlvr"].recipe: tmp_path / "rlvr.toml",
        stage.ARMS["open_ended_rl"].recipe: tmp_path / "recipe.toml",
    }
    arms = {name: replace(plan, recipe=tiny_of[plan.recipe]) for name, plan in stage.ARMS.items()}
    reward_model = ("reward.name=shuffled", f"reward.model={tmp_path / 'reward'}")
    arms["shuffled_reward"] = replace(arms["shuffled_reward"], overrides=reward_model)
    monkeypatch.setattr(stage, "ARMS", arms)
    benchmarks = {domain: f"tiny_world:{domain}" for domain in stage.DOMAINS}
    monkeypatch.setattr(stage, "BENCHMARKS", benchmarks)
    return tmp_path / "run"


def test_from_nothing_to_a_report_and_nothing_is_done_twice(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    returned = stage.quickstart(run_dir=tiny, seed=3)
    shown = capsys.readouterr().out
    summary: dict[str, Any] = json.loads((tiny / "summary.json").read_text())
    assert summary == returned
    assert set(summary) == {"arms", "seconds"}
    trained = ["open_ended_rl", "shuffled_reward", "rlvr", "open_ended_then_rlvr"]
    assert list(summary["arms"]) == ["base", *trained]
    for arm in summary["arms"].values():
        scores = [arm[d] for d in ("chat", "instruction_following", "math", "code")]
        assert all(0 <= score <= 100 for score in scores)
        assert arm["average"] == pytest.approx(sum(scores) / 4, abs=0.01)
        low, high = arm["interval_95"]["average"]
        assert low <= arm["average"] <= high
        assert arm["attempt"]["math"] == 100
    assert summary["arms"]["base"]["training_prompts"] == 0
    assert summary["arms"]["base"]["gain_over_base_95"]["math"] == [0, 0]
    for name in trained[:3]:
        assert summary["arms"][name]["training_prompts"] == 4
        assert 8 <= summary["arms"][name]["training_tokens"] <= 48

    # The second stage starts from the first one's last checkpoint and counts its costs.
    assert summary["arms"]["open_ended_then_rlvr"]["training_prompts"] == 8
    first, second = (RunDir(tiny / name) for name in ("open_ended_rl", "open_ended_then_rlvr"))
    started_from = second.record()["recipe"]["policy"]["model"]
    assert started_from == str(first.checkpoints()[-1].resolve())
    assert second.earlier_ledger() == {str(first.path.resolve()): first.ledger()}
    seconds = sum(entry.seconds for run in (first, second) for entry in run.ledger())
    assert summary["arms"]["open_ended_then_rlvr"]["training_seconds"] == pytest.approx(
        seconds, abs=0.1
    )

    reward = json.loads((tiny / "shuffled_reward" / "recipe.json").read_text())["recipe"]["reward"]
    assert reward["name"] == "shuffled"
    assert reward["model"].endswith("reward")

    assert "1/3 evaluating the base model" in shown
    assert "shuffled reward" in shown
    assert "[red] 0" in shown, "brackets are text"
    assert shown.rstrip().endswith(str(tiny / "report.html"))
    page = (tiny / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "&lt;b&gt;math&lt;/b&gt;" in page
    assert "<script" not in page
    assert "<b>" not in page

    def fail(*args: object, **options: object) -> None:
        raise AssertionError("a finished part is done again")

    monkeypatch.setattr(HFEngine, "generate", fail)
    metrics = (tiny / "open_ended_rl" / "metrics.jsonl").read_bytes()
    again: dict[str, Any] = stage.quickstart(run_dir=tiny, seed=3)  # pyright: ignore
    assert again["arms"] == summary["arms"]
    assert (tiny / "open_ended_rl" / "metrics.jsonl").read_bytes() == metrics
    with pytest.raises(CheckpointError, match="with seed 3, not 4"):
        stage.quickstart(run_dir=tiny, seed=4)


def test_an_arm_that_fails_is_named_with_its_last_words(tiny: Path) -> None:
    (tiny.parent / "prompts.jsonl").write_text('{"prompt": 7}\n')
    with pytest.raises(GrloError, match=r"(?s)training of arm \w+ .*prompts\.jsonl:1"):
        stage.quickstart(run_dir=tiny)


def test_the_recipes_in_the_package_are_those_among_the_recipes() -> None:
    shown = Path(__file__).parents[2] / "recipes"
    assert stage.RECIPE.read_bytes() == (shown / "nano.toml").read_bytes()
    assert stage.RLVR_RECIPE.read_bytes() == (shown / "nano-rlvr.toml").read_bytes()
