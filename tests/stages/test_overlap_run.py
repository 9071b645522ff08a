"""Overlap in whole runs: killed and resumed, what it costs, what is refused."""

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

from grlo.errors import RecipeError
from grlo.ledger import add_up, summarize
from grlo.recipe import load_recipe
from grlo.rundir import RunDir
from grlo.settings import Recipe
from grlo.stages.train import train
from grlo.training import checkpoint

STEPS = 4
RECIPE = f"""
seed = 3
[policy]
model = "policy"
compute_dtype = "float32"
gradient_checkpointing = false
[prompts]
sources = ["prompts.jsonl"]
[sampling]
prompts_per_step = 3
samples_per_prompt = 2
max_tokens = 10
[reward]
name = "reward_model"
model = "reward_model"
standardize = true
[algorithm]
name = "ppo"
importance_cap = 2.0
[optimizer]
learning_rate = 1e-3
[training]
steps = {STEPS}
num_minibatches = 2
device = "cpu"
num_threads = 1
overlap = true
"""
# Runs the stage and kills its own process at the n-th call of a function.
KILLER = """
import os, signal, sys
from pathlib import Path
from grlo.recipe import load_recipe
from grlo.rundir import RunDir
from grlo.stages.train import train
from grlo.training import checkpoint
from grlo.training.learner import Learner

recipe, run, owner, name, call = sys.argv[1:]
owner = {"checkpoint": checkpoint, "learner": Learner, "rundir": RunDir}[owner]
original, calls = getattr(owner, name), 0
def wrapped(*args, **kwargs):
    global calls
    calls += 1
    result = original(*args, **kwargs)
    if calls == int(call):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, wrapped)
train(load_recipe([Path(recipe)]), run_dir=Path(run))
"""
# In step 3, before its answers are written and after its metrics, and behind the first checkpoint.
KILL_POINTS = [("learner", "update", 3), ("rundir", "append_metrics", 3), ("checkpoint", "save", 1)]


@pytest.fixture
def recipe(tmp_path: Path, make_model: Callable[..., Path]) -> Path:
    make_model("policy")
    make_model("reward_model", num_labels=1)
    rows = [{"prompt": f"Tell me about number {n}" + "." * (n % 5)} for n in range(7)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def load(recipe: Path, *overrides: str) -> Recipe:
    return load_recipe([recipe], overrides=list(overrides))


def numerics(run: Path) -> list[dict[str, float]]:
    clocks = ("time/", "tokens_per_second/")
    rows = RunDir(run).metrics()
    return [{k: v for k, v in row.items() if not k.startswith(clocks)} for row in rows]


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = RunDir(run).checkpoint(STEPS)
    files = ["model.safetensors", "critic/model.safetensors", "grlo_optimizer.safetensors"]
    return {f"{file}/{key}": t for file in files for key, t in load_file(folder / file).items()}


@pytest.mark.long
@pytest.mark.parametrize("every", [1, 2])
def test_a_run_killed_anywhere_and_resumed_equals_one_that_was_not(
    recipe: Path, tmp_path: Path, every: int
) -> None:
    recipe.write_text(RECIPE + f"[checkpoint]\nevery = {every}\n")
    train(load(recipe), run_dir=tmp_path / "whole")
    for number, (owner, name, call) in enumerate(KILL_POINTS):
        run = tmp_path / f"killed_{number}"
        arguments = [str(recipe), str(run), owner, name, str(call)]
        killed = subprocess.run(
            [sys.executable, "-c", KILLER, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        train(load(recipe), run_dir=run)
        assert {entry.attempt for entry in RunDir(run).ledger()} == {0, 1}
        assert numerics(run) == numerics(tmp_path / "whole")
        expected, found = weights(tmp_path / "whole"), weights(run)
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            assert torch.equal(tensor, found[key]), key
        for step in range(1, STEPS + 1):
            assert RunDir(run).rollouts(step) == RunDir(tmp_path / "whole").rollouts(step)


def test_a_checkpoint_holds_the_answers_drawn_ahead_and_the_last_one_none(
    recipe: Path, tmp_path: Path
) -> None:
    train(load(recipe), run_dir=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    kept = {}
    for path in run.checkpoints():
        state = checkpoint.read_state(path)
        kept[state["step"]] = state["trainer"]["ahead"]  # pyright: ignore
    assert len(kept[STEPS - 1]) == 6
    assert kept[STEPS] == []


def test_metrics_have_the_statistics_of_the_weights(recipe: Path, tmp_path: Path) -> None:
    train(load(recipe), run_dir=tmp_path / "run")
    for row in RunDir(tmp_path / "run").metrics():
        assert 0.5 < row["importance/weight"] <= 2
        assert 0 < row["importance/effective_sample_size"] <= 1
        assert 0 <= row["importance/capped"] <= 1
        assert "importance/weight_squared" not in row


def test_every_drawn_token_stands_once_in_the_ledger(recipe: Path, tmp_path: Path) -> None:
    train(load(recipe), run_dir=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    drawing = [entry for entry in run.ledger() if entry.phase == "generate"]
    assert [entry.step for entry in drawing] == [1, *range(1, STEPS)]
    assert sum(e.tokens for e in drawing) == sum(r["tokens/generated"] for r in run.metrics())
    totals = {total.phase: total for total in summarize(run.ledger())}
    assert totals["generate"].overlapped_seconds > 0
    assert add_up("total", list(totals.values())).seconds == pytest.approx(
        sum(entry.seconds for entry in run.ledger())
    )


def test_a_budget_ends_the_run_where_it_ends_one_without_overlap(
    recipe: Path, tmp_path: Path
) -> None:
    """Each of the three prompts a step is charged with the step that trains on it."""
    for overlap in ("true", "false"):
        run = tmp_path / overlap
        train(load(recipe, "budget.prompts=6", f"training.overlap={overlap}"), run_dir=run)
        assert len(RunDir(run).metrics()) == 2


def test_weights_correct_for_an_engine_in_another_type_without_overlap(
    recipe: Path, tmp_path: Path
) -> None:
    changes = ["training.overlap=false", "engine.dtype=bfloat16", "training.steps=2"]
    train(load(recipe, *changes), run_dir=tmp_path / "run")
    for row in RunDir(tmp_path / "run").metrics():
        assert 0.9 < row["importance/weight"] < 1.1
        assert row["importance/effective_sample_size"] < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["algorithm.importance_cap=0"], "nothing would correct for that"),
        (["sampling.max_draws=3"], "depends on scores that are not there yet"),
        (["algorithm.importance_cap=0.5"], "at least 1"),
        (["engine.device=gpu7"], "device must be"),
    ],
)
def test_recipes_that_cannot_be_meant_are_refused(
    recipe: Path, changes: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load(recipe, *changes)
