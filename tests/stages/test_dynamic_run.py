"""Dynamic sampling in whole runs: what is recorded, killed and resumed, nothing to learn from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grlo.errors import RewardError
from grlo.recipe import load_recipe
from grlo.rundir import RunDir
from grlo.stages.train import train

STEPS, PROMPTS, SAMPLES = 4, 3, 2
RECIPE = f"""
[policy]
model = "policy"
compute_dtype = "float32"
gradient_checkpointing = false
[prompts]
sources = ["prompts.jsonl"]
[sampling]
prompts_per_step = {PROMPTS}
samples_per_prompt = {SAMPLES}
max_tokens = 6
max_draws = 4
[reward]
name = "verified"
verifier = {{ name = "function", path = "parity:grade" }}
[algorithm]
name = "dapo"
[optimizer]
learning_rate = 1e-3
[training]
steps = {STEPS}
num_minibatches = 2
device = "cpu"
num_threads = 1
[checkpoint]
every = 1
"""
PLUGIN = """
from grlo.types import Score

def grade(prompt, text):
    # Two in three prompts have answers that are all alike.
    is_mixed = prompt.meta["number"] % 3 == 0
    return Score(float(is_mixed and sum(map(ord, text)) % 2))
"""
# Runs the stage and kills its own process when the metrics of the n-th step are to be written.
KILLER = """
import os, signal, sys
from pathlib import Path
from grlo.recipe import load_recipe
from grlo.rundir import RunDir
from grlo.stages.train import train

original = RunDir.append_metrics
def append_metrics(self, step, metrics):
    if step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, step, metrics)
RunDir.append_metrics = append_metrics
train(load_recipe([Path(sys.argv[1])]), run_dir=Path(sys.argv[2]))
"""


@pytest.fixture
def recipe(
    tmp_path: Path, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    make_model("policy")
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Question {number}?"}],
            "reward_model": {"style": "rule", "ground_truth": "x"},
            "extra_info": {"number": number},
        }
        for number in range(10)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "parity.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "parity", raising=False)
    return tmp_path / "recipe.toml"


def numerics(run: Path) -> list[dict[str, float]]:
    clocks = ("time/", "tokens_per_second/", "answers_per_second/")
    rows = RunDir(run).metrics()
    return [{k: v for k, v in row.items() if not k.startswith(clocks)} for row in rows]


def test_all_that_was_drawn_is_recorded_and_paid_for(recipe: Path, tmp_path: Path) -> None:
    train(load_recipe([recipe]), run_dir=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    rows = run.metrics()
    assert max(row["sampling/draws"] for row in rows) > 1
    for row in rows:
        rollouts = run.rollouts(int(row["step"]))
        drawn = [rollouts[start : start + SAMPLES] for start in range(0, len(rollouts), SAMPLES)]
        assert [group[0]["group"] for group in drawn] == list(range(len(drawn)))
        assert row["sampling/drawn_groups"] == len(drawn) == PROMPTS * row["sampling/draws"]
        flat = sum(len({answer["score"] for answer in group}) == 1 for group in drawn)
        assert row["sampling/dropped_zero_spread"] == flat
        assert row["sampling/kept_groups"] == min(PROMPTS, len(drawn) - flat)
        tokens = sum(answer["num_tokens"] for answer in rollouts)
        costs = [cost for cost in run.ledger() if cost.step == row["step"]]
        assert sum(cost.tokens for cost in costs if cost.phase == "generate") == tokens
        assert row["tokens/generated"] == tokens
        assert [cost.phase for cost in costs].count("generate") == row["sampling/draws"]


@pytest.mark.long
@pytest.mark.parametrize("step", [2, 4])
def test_a_killed_run_resumes_to_the_same_numbers(recipe: Path, tmp_path: Path, step: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(load_recipe([recipe]), run_dir=whole)
    process = subprocess.run(
        [sys.executable, "-c", KILLER, str(recipe), str(killed), str(step)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len(RunDir(killed).metrics()) == step - 1
    train(load_recipe([recipe]), run_dir=killed)
    assert numerics(whole) == numerics(killed)
    for number in range(1, STEPS + 1):
        assert RunDir(whole).rollouts(number) == RunDir(killed).rollouts(number)
    one, other = (
        load_file(RunDir(run).checkpoint(STEPS) / "model.safetensors") for run in (whole, killed)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_without_anything_to_learn_fails_and_leaves_what_it_drew(
    recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text(recipe.read_text().replace("max_draws = 4", "max_draws = 2"))
    (tmp_path / "parity.py").write_text(PLUGIN.replace("% 3 == 0", "< 0"))
    with pytest.raises(RewardError, match="steps 1 to 3 changed nothing"):
        train(load_recipe([recipe]), run_dir=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert [row["sampling/kept_groups"] for row in run.metrics()] == [0, 0]
    before = load_file(tmp_path / "policy" / "model.safetensors")
    after = load_file(run.checkpoint(2) / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    phases = [c.phase for c in run.ledger() if c.step == 3 and c.phase != "idle"]
    assert phases == ["generate", "score"] * 2
