"""Supervised fine-tuning as a stage: whole runs on a tiny random model, killed and resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from grlo.errors import CheckpointError, DataError, RecipeError
from grlo.ledger import summarize
from grlo.recipe import ASSETS, dump_recipe, load_recipe, load_recipe_of
from grlo.rundir import RunDir
from grlo.settings import SFTRecipe
from grlo.stages.chat import newest_model
from grlo.stages.sft import sft

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*sft*.toml"))
RECIPE = """
seed = 3
[policy]
model = "{policy}"
compute_dtype = "float32"
gradient_checkpointing = false
[data]
sources = ["rows.jsonl"]
max_tokens = 80
held_out_fraction = 0.2
[optimizer]
learning_rate = 1e-2
schedule = "linear"
[training]
num_epochs = 2
rows_per_step = 4
evaluate_every = 2
device = "cpu"
num_threads = 1
[checkpoint]
every = 1
"""
# Ten prompts, two of them held out: eight rows, two epochs, four steps of four.
STEPS = 4
KILLER = """
import os, signal, sys
from pathlib import Path
import grlo.rundir, grlo.training.checkpoint, grlo.stages.sft as stage
from grlo.recipe import load_recipe_of
from grlo.settings import SFTRecipe
recipe, run, owner, name, when, call = sys.argv[1:]
owner = {"rundir": grlo.rundir.RunDir, "checkpoint": grlo.training.checkpoint}[owner]
original, calls = getattr(owner, name), 0
def wrapped(*args, **kwargs):
    global calls
    calls += 1
    if calls == int(call) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args, **kwargs)
    if calls == int(call) and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, wrapped)
stage.sft(load_recipe_of(SFTRecipe, [Path(recipe)]), run_dir=Path(run))
"""
KILL_POINTS = [
    ("rundir", "append_metrics", "after", 3),
    ("checkpoint", "_write_json", "after", 3),
    pytest.param("rundir", "append_metrics", "before", 2, marks=pytest.mark.slow),
    pytest.param("checkpoint", "write_states", "after", 2, marks=pytest.mark.slow),
    pytest.param("checkpoint", "prune", "after", 3, marks=pytest.mark.slow),
]


@pytest.fixture
def recipe(tmp_path: Path, chat_policy_path: Path) -> Path:
    rows = [
        {"prompt": f"Number {i}?", "response": f"It is {i}." + "!" * (i % 3)} for i in range(10)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(policy=chat_policy_path))
    return path


def load(recipe: Path, *overrides: str) -> SFTRecipe:
    return load_recipe_of(SFTRecipe, [recipe], overrides=overrides)


def numerics(run: Path) -> list[dict[str, float]]:
    return [
        {key: value for key, value in row.items() if not key.startswith(("time/", "tokens_per_"))}
        for row in RunDir(run).metrics()
    ]


def assert_equal_runs(one: Path, other: Path) -> None:
    assert numerics(one) == numerics(other)
    names = [path.name for path in RunDir(one).checkpoints()]
    assert names == [path.name for path in RunDir(other).checkpoints()]
    for file in ("model.safetensors", "grlo_optimizer.safetensors"):
        expected = load_file(RunDir(one).checkpoint(STEPS) / file)
        found = load_file(RunDir(other).checkpoint(STEPS) / file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_command_leaves_a_model_metrics_a_ledger_and_a_page(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path / "run")
    command = [sys.executable, "-m", "grlo", "sft", str(recipe), "--run", str(run.path)]
    done = subprocess.run(
        [*command, "--set", "training.evaluate_every=3"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last == str(run.checkpoint(STEPS))
    assert newest_model(str(run.path)) == last
    AutoModelForCausalLM.from_pretrained(last)
    assert "8 demonstrations to train on, 2 held out; the first:\n<|im_start|>user" in done.stdout
    assert re.search(r"assistant\n\n\[learned from here\] It is \d\.!*<\|im_end\|>\n", done.stdout)
    assert re.search(r"step 4/4 .*loss \d.*held-out \d.*left 0:00:00", done.stdout)
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "held_out/loss" in row] == [3, 4]
    assert rows[-1]["sft/epoch"] == 2
    rates = [row["policy/learning_rate"] for row in rows]
    assert rates == pytest.approx([0.0075, 0.005, 0.0025, 0])  # Linear over the four steps.
    assert rows[-1]["sft/loss"] < rows[0]["sft/loss"]
    phases = {total.phase for total in summarize(run.ledger())}
    assert phases == {"load", "update", "evaluate", "checkpoint", "idle"}
    page = run.report_file.read_text()
    assert "loss of demonstrations" in page
    assert "held-out loss, lowest and last" in page
    settings = load(recipe, "training.evaluate_every=3")
    assert sft(settings, run_dir=run.path) == run.checkpoint(STEPS)
    assert "is complete: 4 of 4 steps" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"training\.evaluate_every: 3 -> 2"):
        sft(load(recipe), run_dir=run.path)


@pytest.mark.long
@pytest.mark.parametrize(("owner", "name", "when", "call"), KILL_POINTS)
def test_a_killed_run_resumes_to_the_same_numbers(
    recipe: Path, tmp_path: Path, owner: str, name: str, when: str, call: int
) -> None:
    sft(load(recipe), run_dir=tmp_path / "whole")
    arguments = [str(recipe), str(tmp_path / "killed"), owner, name, when, str(call)]
    process = subprocess.run([sys.executable, "-c", KILLER, *arguments], capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    sft(load(recipe), run_dir=tmp_path / "killed")
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")


def test_adapters_and_sparse_checkpoints_resume_too(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    settings = load(recipe, "policy.lora.rank=4", "policy.lora.dropout=0.1", "checkpoint.every=2")
    sft(settings, run_dir=tmp_path / "whole")
    append, calls = RunDir.append_metrics, []

    def fail_once(self: RunDir, step: int, metrics: Any) -> None:
        calls.append(step)
        if len(calls) == 3:
            raise OSError("gone")
        append(self, step, metrics)

    monkeypatch.setattr(RunDir, "append_metrics", fail_once)
    with pytest.raises(OSError, match="gone"):
        sft(settings, run_dir=tmp_path / "broken")
    sft(settings, run_dir=tmp_path / "broken")
    assert calls == [1, 2, 3, 3, 4]
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")
    attempts = {entry.attempt for entry in RunDir(tmp_path / "broken").ledger()}
    assert attempts == {0, 1}


@pytest.mark.long
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_resume(
    recipe: Path, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    command = [sys.executable, "-m", "grlo", "sft", str(recipe), "--run", str(run.path)]
    command += ["--set", "training.num_epochs=9999", "--set", "checkpoint.every=99999"]
    command += ["--set", "training.evaluate_every=99999"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )
    while not run.metrics() and process.poll() is None:
        pass
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "run the same command again" in output
    assert run.checkpoint(len(run.metrics())).is_dir()


def test_the_checkpoint_with_the_lowest_held_out_loss_is_kept(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # So high a rate ruins the model, the more the longer it is trained.
    overrides = ["optimizer.learning_rate=0.3", "training.evaluate_every=1", "checkpoint.every=99"]
    sft(load(recipe, *overrides, "checkpoint.keep_last=1"), run_dir=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    losses = {row["step"]: row["held_out/loss"] for row in run.metrics()}
    best = min(losses, key=lambda step: losses[step])
    assert best < STEPS
    assert [path.name for path in run.checkpoints()] == [
        run.checkpoint(step).name for step in (best, STEPS)
    ]
    assert f"lowest held-out loss: {losses[best]:.4f}" in capsys.readouterr().out
    sft(load(recipe, *overrides, "checkpoint.keep_best=false"), run_dir=tmp_path / "last")
    assert RunDir(tmp_path / "last").checkpoints() == [RunDir(tmp_path / "last").checkpoint(STEPS)]


def test_a_resumed_run_knows_its_best_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["optimizer.learning_rate=0.3", "training.evaluate_every=1"]
    settings = load(recipe, *overrides, "checkpoint.keep_last=1")
    sft(settings, run_dir=tmp_path / "whole")
    append = RunDir.append_metrics

    def fail_at_the_end(self: RunDir, step: int, metrics: Any) -> None:
        if step == STEPS:
            raise OSError("gone")
        append(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append_metrics", fail_at_the_end)
        with pytest.raises(OSError, match="gone"):
            sft(settings, run_dir=tmp_path / "broken")
    sft(settings, run_dir=tmp_path / "broken")
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")
    assert len(RunDir(tmp_path / "broken").checkpoints()) == 2


def test_demonstrations_that_are_too_long_are_counted(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "Long?", "response": "x" * 99}) + "\n")
    sft(load(recipe, "data.held_out_fraction=0"), run_dir=tmp_path / "run")
    output = capsys.readouterr().out
    assert "of 11 demonstrations, 1 exceed 80 tokens and are left out, 0 are cut there" in output
    assert "10 demonstrations to train on, 0 held out" in output
    with pytest.raises(DataError, match=r"rows\.jsonl:11: \d+ \+ 100 tokens"):
        sft(load(recipe, "data.overlong=error"), run_dir=tmp_path / "other")


def test_malformed_rows_and_other_demonstrations_are_refused(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sft(load(recipe), run_dir=run)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows.read_text().replace("It is 3", "It was 3"))
    with pytest.raises(CheckpointError, match="prompt_hash"):
        sft(load(recipe), run_dir=run)
    rows.write_text(rows.read_text() + '{"prompt": "?"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:11: has no answer"):
        sft(load(recipe), run_dir=run)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["training.steps=3"], "either num_epochs or steps"),
        (["training.num_epochs=none"], "either num_epochs or steps"),
        (["data.sources=[]"], "data (--set): sources must name"),
        (["data.respons=x"], "Did you mean 'data.response'"),
        (["datta.response=x"], "datta (--set): unknown key"),
        (["reward.name=judge"], "reward (--set): unknown key"),
        (["data.held_out_fraction=1.0"], "held_out_fraction must lie in [0, 1)"),
        (["training.num_epochs=none", "training.steps=5", "optimizer.warmup_steps=5"], "warm-up"),
    ],
)
def test_useless_recipes_are_refused(recipe: Path, overrides: list[str], problem: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(problem)):
        load(recipe, *overrides)


def test_a_warm_up_longer_than_the_demonstrations_allow_is_refused(
    recipe: Path, tmp_path: Path
) -> None:
    settings = load(recipe, "optimizer.warmup_steps=4")
    with pytest.raises(RecipeError, match=r"4 of training\.steps = 4"):
        sft(settings, run_dir=tmp_path / "run")


def test_a_recipe_of_the_other_command_is_named_as_such(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="this is a recipe of `grlo sft`"):
        load_recipe([recipe])
    with pytest.raises(RecipeError, match="this is a recipe of `grlo train`"):
        load(RECIPES[0].with_name("nano.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_recipe_of_the_package_loads(path: Path) -> None:
    recipe = load(path)
    assert dump_recipe(recipe)["data"]["sources"]


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} == {"nano-sft", "sft-qwen3-4b"}


def test_losses_of_the_miniature_are_those_of_trl(tmp_path: Path) -> None:
    (path,) = (path for path in RECIPES if path.stem == "nano-sft")
    rows = (ASSETS / "math_prompts.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(rows[:16]))
    overrides = [
        f'data.sources=["{tmp_path / "rows.jsonl"}"]',
        "data.held_out_fraction=0",
        "training.num_epochs=6",
        "optimizer.schedule=constant",
        "optimizer.warmup_steps=0",
        "optimizer.weight_decay=0.01",
        "optimizer.betas=[0.9, 0.999]",
    ]
    sft(load(path, *overrides), run_dir=tmp_path / "run")
    losses = [row["sft/loss"] for row in RunDir(tmp_path / "run").metrics()]
    # SFTTrainer of TRL 1.16 on the same tokens, all 16 rows in every step.
    expected = [0.118367, 0.0235986, 0.00441040, 0.00182916, 0.00135160, 0.00115855]
    assert losses == pytest.approx(expected, rel=1e-3)


def test_the_miniature_learns_from_worked_solutions(tmp_path: Path) -> None:
    (path,) = (path for path in RECIPES if path.stem == "nano-sft")
    sft(load(path, "training.num_epochs=1"), run_dir=tmp_path / "run")
    rows = RunDir(tmp_path / "run").metrics()
    assert rows[-1]["held_out/loss"] < 0.2 * rows[0]["sft/loss"]


def test_fine_tuning_ends_at_its_budget(recipe: Path, tmp_path: Path, capsys) -> None:
    loaded = load_recipe_of(SFTRecipe, [recipe], overrides=["budget.prompts=8"])
    last = sft(loaded, run_dir=tmp_path / "run")
    assert last.name == "step_000002"
    assert "8 of 8 prompts are spent after step 2" in capsys.readouterr().out
    assert sft(loaded, run_dir=tmp_path / "run") == last
    assert "is complete" in capsys.readouterr().out
