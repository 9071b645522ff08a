"""The training stage: whole runs on a tiny random model, killed and resumed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from grlo.errors import CheckpointError, DataError, ModelError, RecipeError
from grlo.recipe import load_recipe
from grlo.rundir import RunDir, read_jsonl
from grlo.stages.prompts_build import build
from grlo.stages.train import train
from grlo.training import learner as learner_module

STEPS = 4
NOT_NUMERICS = ("time/", "tokens_per_second/")

RECIPE = """
seed = 3
[policy]
model = "{policy}"
compute_dtype = "float32"
gradient_checkpointing = false
[prompts]
sources = ["{prompts}"]
[sampling]
prompts_per_step = 3
samples_per_prompt = 2
max_tokens = 12
[reward]
name = "reward_model"
model = "{reward_model}"
standardize = true
[algorithm]
name = "{algorithm}"
[optimizer]
learning_rate = 1e-3
[training]
steps = {steps}
num_minibatches = 2
device = "cpu"
num_threads = 1
"""

# Runs the stage and kills its own process at the n-th call of a function.
KILLER = """
import os, signal, sys
from pathlib import Path
import grlo.rundir, grlo.training.checkpoint, grlo.stages.train as stage
from grlo.recipe import load_recipe
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
stage.train(load_recipe([Path(recipe)]), run_dir=Path(run))
"""
KILL_POINTS = [
    ("rundir", "write_rollouts", "before", 2),
    ("rundir", "append_metrics", "before", 3),
    ("rundir", "append_metrics", "after", 3),
    ("checkpoint", "write_states", "after", 2),
    ("checkpoint", "_write_json", "after", 3),
    ("checkpoint", "save", "after", 2),
    ("checkpoint", "prune", "after", 3),
]


@pytest.fixture
def make_recipe(tmp_path, chat_policy_path, chat_reward_model_path):
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"Tell me about number {i}" + "." * (i % 5)} for i in range(7)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(algorithm: str = "grpo", steps: int = STEPS, extra: str = "") -> Path:
        path = tmp_path / f"{algorithm}_{steps}.toml"
        text = RECIPE.format(
            policy=chat_policy_path,
            reward_model=chat_reward_model_path,
            prompts=prompts,
            algorithm=algorithm,
            steps=steps,
        )
        path.write_text(text + extra)
        return path

    return make


def numerics(run: Path) -> list[dict[str, float]]:
    return [
        {key: value for key, value in row.items() if not key.startswith(NOT_NUMERICS)}
        for row in RunDir(run).metrics()
    ]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = RunDir(run).checkpoint(step)
    files = [folder / "model.safetensors", folder / "grlo_optimizer.safetensors"]
    files += folder.glob("critic/*.safetensors")
    return {f"{file.parent.name}/{key}": t for file in files for key, t in load_file(file).items()}


def assert_equal_runs(one: Path, other: Path, step: int) -> None:
    assert numerics(one) == numerics(other)
    expected, found = weights(one, step), weights(other, step)
    for (name, a), (other_name, b) in zip(expected.items(), found.items(), strict=True):
        assert name.split("/")[1] == other_name.split("/")[1]
        assert torch.equal(a, b), name


def run_stage(recipe: Path, run: Path) -> Path:
    return train(load_recipe([recipe]), run_dir=run)


def test_a_run_leaves_a_model_metrics_rollouts_and_a_ledger(make_recipe, tmp_path):
    last = run_stage(make_recipe("ppo"), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert last == run.checkpoint(STEPS)
    AutoModelForCausalLM.from_pretrained(last)
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row["engine/logprob_gap_max"] < 1e-4
        assert row["tokens/generated"] > 0
    assert run.rollout_steps() == [1, 2, 3, 4]
    phases = {entry.phase for entry in run.ledger()}
    work = {"load", "generate", "score", "annotate", "update", "sync", "checkpoint"}
    assert phases == {*work, "idle"}
    working = [e for e in run.ledger() if e.phase in ("generate", "score", "annotate", "update")]
    assert all(e.tokens > 0 and e.flops > 0 and e.seconds > 0 for e in working)
    assert all(e.flops == sum(e.flops_by.values()) for e in run.ledger())
    assert {(e.phase, *e.flops_by) for e in working} == {
        ("generate", "engine"),
        ("score", "reward_model"),
        ("annotate", "policy", "critic"),
        ("update", "policy", "critic"),
    }
    assert len(run.rollouts_file(1).read_text().splitlines()) == 6


def test_every_prompt_is_used_once_per_epoch(make_recipe, tmp_path):
    run_stage(make_recipe("grpo", steps=7), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    used = []
    for step in range(1, 8):
        rows = [json.loads(line) for line in run.rollouts_file(step).read_text().splitlines()]
        used += [row["prompt_id"] for row in rows[::2]]
    assert len(used) == 21
    for epoch in range(3):
        assert len(set(used[7 * epoch : 7 * epoch + 7])) == 7


@pytest.mark.long
@pytest.mark.parametrize(
    ("algorithm", "extra"),
    [
        ("ppo", ""),
        ("grpo", ""),
        ("ppo", "[critic]\nshare_trunk = true\n"),
        ("ppo", "[critic.lora]\nrank = 2\n"),
    ],
    ids=["ppo", "grpo", "shared trunk", "critic with adapters"],
)
def test_a_run_killed_anywhere_and_resumed_equals_one_that_was_not(
    make_recipe, tmp_path, algorithm, extra
):
    if "lora" in extra:
        pytest.importorskip("peft")
    recipe = make_recipe(algorithm, extra=extra)
    run_stage(recipe, tmp_path / "whole")
    points = KILL_POINTS if (algorithm, extra) == ("ppo", "") else KILL_POINTS[1::3]
    for number, (owner, name, when, call) in enumerate(points):
        run = tmp_path / f"killed_{number}"
        arguments = [str(recipe), str(run), owner, name, when, str(call)]
        killed = subprocess.run(
            [sys.executable, "-c", KILLER, *arguments], capture_output=True, text=True, check=False
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        done = len(list((run / "checkpoints").glob("step_??????")))
        run_stage(recipe, run)
        assert_equal_runs(tmp_path / "whole", run, STEPS)
        assert done >= 1
        ledger = RunDir(run).ledger()
        assert {entry.attempt for entry in ledger} == {0, 1}


def test_a_finished_run_is_left_alone_and_a_longer_recipe_is_refused(make_recipe, tmp_path):
    recipe = make_recipe()
    first = run_stage(recipe, tmp_path / "run")
    before = RunDir(tmp_path / "run").metrics_file.read_bytes()
    assert run_stage(recipe, tmp_path / "run") == first
    assert RunDir(tmp_path / "run").metrics_file.read_bytes() == before
    with pytest.raises(CheckpointError, match=r"training\.steps: 4 -> 5"):
        run_stage(make_recipe(steps=5), tmp_path / "run")


def test_a_damaged_newest_checkpoint_is_named(make_recipe, tmp_path):
    recipe = make_recipe()
    last = run_stage(recipe, tmp_path / "run")
    file = last / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step_000004.*model\.safetensors"):
        run_stage(recipe, tmp_path / "run")


def test_only_the_newest_and_the_best_checkpoint_are_kept(make_recipe, tmp_path):
    run_stage(make_recipe("grpo", steps=6), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    rewards = {row["step"]: row["reward/mean"] for row in run.metrics()}
    best = max(rewards, key=lambda step: rewards[step])
    expected = {run.checkpoint(step).name for step in (5, 6, best)}
    assert {path.name for path in run.checkpoints_dir.iterdir()} == expected


@pytest.mark.long
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_resume(make_recipe, tmp_path):
    recipe = make_recipe("grpo", steps=500, extra="[checkpoint]\nevery = 400\n")
    run = RunDir(tmp_path / "run")
    command = [sys.executable, "-m", "grlo", "train", str(recipe), "--run", str(run.path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )
    while not run.metrics() and process.poll() is None:
        pass
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "run the same command again" in output
    steps = len(run.metrics())
    assert 1 <= steps < 500
    assert run.checkpoint(steps).is_dir()


def test_prompts_that_are_all_too_long_are_an_error_before_any_model_is_loaded(
    make_recipe, tmp_path
):
    recipe = load_recipe([make_recipe()], overrides=["prompts.max_prompt_tokens=3"])
    with pytest.raises(DataError, match="Raise the limit"):
        train(recipe, run_dir=tmp_path / "run")


def test_a_style_without_a_reward_is_an_error_before_any_model_is_loaded(make_recipe, tmp_path):
    prompts = tmp_path / "rule.jsonl"
    row = {"prompt": [{"role": "user", "content": "1 + 1"}], "reward_model": {"style": "rule"}}
    prompts.write_text(json.dumps(row) + "\n")
    recipe = load_recipe([make_recipe()], overrides=[f'prompts.sources=["{prompts}"]'])
    with pytest.raises(DataError, match="the style 'rule'"):
        train(recipe, run_dir=tmp_path / "run")


def test_a_tokenizer_of_another_model_is_an_error_before_any_weights_are_loaded(
    make_recipe, tmp_path, chat_policy_path
):
    folder = tmp_path / "policy"
    shutil.copytree(chat_policy_path, folder)
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 100}
    (folder / "config.json").write_text(json.dumps(config))
    recipe = load_recipe([make_recipe()], overrides=[f"policy.model={folder}"])
    with pytest.raises(ModelError, match="tokenizer makes ids up to 258"):
        train(recipe, run_dir=tmp_path / "run")


def test_an_engine_in_another_type_follows_the_weights(make_recipe, tmp_path):
    recipe = load_recipe(
        [make_recipe(steps=3)],
        overrides=["engine.dtype=bfloat16", "optimizer.learning_rate=0.01"],
    )
    train(recipe, run_dir=tmp_path / "run")
    gaps = [row["engine/logprob_gap"] for row in RunDir(tmp_path / "run").metrics()]
    # Rounding to bfloat16 alone; weights of an earlier step would be far off at this rate.
    assert max(gaps) < 0.05
    assert min(gaps) > 0


def test_a_second_stage_starts_from_the_first_and_keeps_its_costs(make_recipe, tmp_path):
    first, second = RunDir(tmp_path / "first"), RunDir(tmp_path / "second")
    run_stage(make_recipe(algorithm="grpo", steps=2), first.path)
    recipe = make_recipe(algorithm="rloo", steps=1)
    overrides = [f"policy.model={first.path}"]
    train(load_recipe([recipe], overrides=overrides), run_dir=second.path)
    newest = first.checkpoints()[-1]
    assert second.record()["recipe"]["policy"]["model"] == str(newest)
    assert second.earlier_ledger() == {str(first.path): first.ledger()}

    # A third stage from the first checkpoint of the second knows of both.
    third = RunDir(tmp_path / "third")
    overrides = [f"policy.model={second.checkpoints()[0]}", "seed=4"]
    train(load_recipe([recipe], overrides=overrides), run_dir=third.path)
    earlier = third.earlier_ledger()
    assert list(earlier) == [str(first.path), str(second.path)]
    assert earlier[str(second.path)] == [e for e in second.ledger() if e.step <= 1]


def test_every_start_records_its_machine(make_recipe, tmp_path):
    run = RunDir(tmp_path / "run")
    run_stage(make_recipe(algorithm="grpo", steps=1), run.path)
    (row,) = read_jsonl(run.environment_file)
    assert (row["attempt"], row["device"], row["reward"]) == (0, "cpu", {})
    assert row["versions"]["torch"] == torch.__version__
    assert row["peak_dtype"] == "float32"
    assert run.peaks() == {0: row["peak_flops"]}
    assert row["peak_flops"] > 1e6


def test_a_run_may_choose_its_micro_batches_and_records_and_keeps_them(make_recipe, tmp_path):
    """On a CPU with room for all the plan is the default, so that nothing else changes."""
    path = make_recipe(algorithm="ppo", steps=2)
    run_stage(path, tmp_path / "stated")
    path.write_text(path.read_text().replace("[training]", "[training]\nmicro_batch_tokens = 0"))
    run_stage(path, tmp_path / "chosen")
    assert_equal_runs(tmp_path / "stated", tmp_path / "chosen", 2)
    run = RunDir(tmp_path / "chosen")
    (row,) = read_jsonl(run.environment_file)
    assert row["memory"]["micro_batch_tokens"] == 16384
    assert row["memory"]["offload"] == []
    assert 0 < row["memory"]["estimated_peak_bytes"] < row["memory"]["device_bytes"]
    state = json.loads((run.checkpoint(2) / "grlo_state.json").read_text())
    assert state["micro_batch_tokens"] == 16384


def test_a_resumed_run_keeps_the_budget_that_memory_was_enough_for(
    make_recipe, tmp_path, monkeypatch
):
    recipe = make_recipe(algorithm="grpo", steps=2)
    plain, calls = learner_module.token_logprobs, []

    def full_once(*args, **options):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(*args, **options)

    monkeypatch.setattr(learner_module, "token_logprobs", full_once)
    run_stage(recipe, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    first, second = (row["update/micro_batch_tokens"] for row in run.metrics())
    assert first == second < 16384
    shutil.rmtree(run.checkpoint(2))
    run_stage(recipe, run.path)
    assert [row["update/micro_batch_tokens"] for row in run.metrics()] == [first, first]


def test_nothing_can_leave_a_cpu_for_the_cpu(make_recipe, tmp_path):
    path = make_recipe(algorithm="ppo", steps=2)
    text = path.read_text()
    path.write_text(text.replace("[training]", '[training]\noffload = ["critic"]'))
    with pytest.raises(RecipeError, match=r"training\.offload: critic .* train on a GPU"):
        run_stage(path, tmp_path / "run")


def test_a_run_on_a_built_file_records_its_manifest_and_shows_it(make_recipe, tmp_path, capsys):
    built = tmp_path / "built"
    rows = "".join(json.dumps({"prompt": f"What is {word}?"}) + "\n" for word in ("tin", "zinc"))
    (tmp_path / "metals.jsonl").write_text(rows)
    (tmp_path / "build.toml").write_text(
        '[[sources]]\nfile = "metals.jsonl"\n[duplicates]\nnear = 0\nsemantic = 0\n'
    )
    prompts = build(tmp_path / "build.toml", out=built)
    manifest = hashlib.sha256((built / "manifest.json").read_bytes()).hexdigest()
    recipe = load_recipe([make_recipe(steps=1)], overrides=[f'prompts.sources=["{prompts}"]'])
    train(recipe, run_dir=tmp_path / "run")
    (record,) = json.loads((tmp_path / "run" / "recipe.json").read_text())["data"]
    assert record["manifest_sha256"] == manifest
    assert record["sha256"] == hashlib.sha256(prompts.read_bytes()).hexdigest()
    assert record["matches"] is True
    assert manifest in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    # Blanks between rows change the file and not its prompts: the run goes on, and it is said.
    prompts.write_text(prompts.read_text() + "\n")
    capsys.readouterr()
    train(recipe, run_dir=tmp_path / "run")
    said = capsys.readouterr().out
    assert "the file was changed since" in said
    assert "is complete" in said


def test_a_run_on_other_files_records_no_manifest(make_recipe, tmp_path):
    train(load_recipe([make_recipe(steps=1)]), run_dir=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["data"] == []


def test_a_run_ends_at_its_budget_with_a_checkpoint_and_is_complete_then(
    make_recipe, tmp_path, capsys
):
    recipe = load_recipe([make_recipe()], overrides=["budget.prompts=6"])
    last = train(recipe, run_dir=tmp_path / "run")
    assert last.name == "step_000002"
    assert len(RunDir(tmp_path / "run").metrics()) == 2
    assert "6 of 6 prompts are spent after step 2" in capsys.readouterr().out
    assert train(recipe, run_dir=tmp_path / "run") == last
    assert "is complete: 6 of 6 prompts" in capsys.readouterr().out
    whole = load_recipe([make_recipe()])
    train(whole, run_dir=tmp_path / "whole")
    assert numerics(tmp_path / "whole")[:2] == numerics(tmp_path / "run")


def test_the_ledger_of_a_run_agrees_with_what_its_budget_was_charged(make_recipe, tmp_path):
    recipe = load_recipe([make_recipe()], overrides=["budget.trained_tokens=700"])
    train(recipe, run_dir=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    updates = [entry.tokens for entry in run.ledger() if entry.phase == "update"]
    first = next(n for n in range(1, 5) if 700 - sum(updates[:n]) < updates[n - 1] / 2)
    assert len(updates) == len(run.metrics()) == first
