"""Whole runs on two ranks: the numbers of one, one run directory, and what a death leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from grlo.errors import LostRankError, RecipeError
from grlo.recipe import load_recipe
from grlo.rundir import RunDir, read_jsonl
from grlo.settings import Recipe
from grlo.stages.train import follow_leader, train
from grlo.training import checkpoint
from grlo.training.distributed.ranks import connected
from two_ranks import forked

NANO = Path(__file__).parents[2] / "recipes"
SMALL = [
    "training.steps=3",
    "optimizer.warmup_steps=1",
    "sampling.prompts_per_step=5",
    "sampling.samples_per_prompt=2",
    "sampling.max_tokens=24",
]
WATCHED = [
    "gold.every=2",
    "gold.num_prompts=3",
    "evaluation.every=2",
    "evaluation.limit=2",
    "evaluation.num_samples=2",
]
NOT_NUMERICS = ("time/", "tokens_per_second/")


def recipe(*overrides: str, is_watched: bool = False) -> Recipe:
    names = ["nano.toml", *(["nano-gold.toml", "nano-evaluation.toml"] if is_watched else [])]
    more = WATCHED if is_watched else []
    return load_recipe([NANO / name for name in names], overrides=[*SMALL, *more, *overrides])


def train_on_two(made: Recipe, run: Path) -> None:
    def job(rank: int) -> None:
        if rank:
            follow_leader(made)
        else:
            train(made, run_dir=run)

    forked(job)


def numerics(run: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if not key.startswith(NOT_NUMERICS)}
        for row in RunDir(run).metrics()
    ]


def answers(run: Path, step: int) -> list[str]:
    return [row["output"] for row in RunDir(run).rollouts(step)]


def require_alike(found: Path, expected: Path) -> None:
    """Answers alike, and numbers but for rounding."""
    ours, theirs = numerics(found), numerics(expected)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=2e-5, rel=1e-4)
        assert answers(found, one["step"]) == answers(expected, one["step"])


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run of one process, with a gold signal and benchmarks."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train(recipe(is_watched=True), run_dir=run)
    return run


@pytest.mark.long
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_a_run_on_two_devices_has_the_numbers_of_one(alone, tmp_path, sharding):
    run = tmp_path / "run"
    train_on_two(recipe(f"training.sharding={sharding}", is_watched=True), run)
    require_alike(run, alone)
    assert any(key.startswith("eval/") for key in numerics(run)[-1])
    assert "gold/mean" in numerics(run)[-1]
    # Written once, by the leader.
    entries = RunDir(run).ledger()
    assert {entry.num_devices for entry in entries} == {2}
    phases = [(e.step, e.phase) for e in entries if e.phase != "idle"]
    assert phases == [(e.step, e.phase) for e in RunDir(alone).ledger() if e.phase != "idle"]
    (facts,) = read_jsonl(run / "environment.jsonl")
    assert facts["distributed"] == {"ranks": 2, "backend": "gloo", "sharding": sharding}
    assert sorted(p.name for p in run.rglob("*.jsonl")) == sorted(
        p.name for p in alone.rglob("*.jsonl")
    )


@pytest.mark.long
def test_a_run_goes_on_with_other_devices_and_another_sharding(alone, tmp_path):
    run = tmp_path / "run"
    for steps, sharding in ((1, "fsdp"), (2, "ddp"), (3, "fsdp")):
        made = recipe(f"training.sharding={sharding}")
        stop_after(steps, made, run, on_two=steps != 2)
    whole = tmp_path / "whole"
    train(recipe(), run_dir=whole)
    require_alike(run, whole)


def stop_after(step: int, made: Recipe, run: Path, *, on_two: bool) -> None:
    """Trains until the checkpoint of a step is there, and asks for the stop of the run then."""

    def job(rank: int) -> None:
        if rank:
            with suppress(LostRankError):  # Of a leader that stops.
                follow_leader(made)
            return
        save = checkpoint.save

        def saving(path: Path, *arguments: Any, **options: Any) -> None:
            save(path, *arguments, **options)
            if path == RunDir(run).checkpoint(step) and step < made.training.steps:
                raise _StopError

        checkpoint.save = saving
        try:
            train(made, run_dir=run)
        except _StopError:
            pass
        finally:
            checkpoint.save = save

    if not on_two:
        job(0)
        return
    forked(job)
    assert RunDir(run).checkpoint(step).exists()


class _StopError(Exception):
    pass


@pytest.mark.long
def test_a_killed_process_ends_the_run_and_the_same_command_goes_on(tmp_path):
    """The real command: one process is killed, the others leave, nothing is lost."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    slow = "training.steps=40"
    command = [sys.executable, "-m", "grlo", "train", str(NANO / "nano.toml"), "--run", str(run)]
    command += [word for key in [*SMALL, slow] for word in ("--set", key)]
    process = subprocess.Popen(
        [*command, "--devices", "2"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not RunDir(run).checkpoint(2).exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(_pid_of_rank(1, of=process.pid), signal.SIGKILL)
    killed = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert process.returncode == 1
    assert "process 1 was ended by SIGKILL" in errors
    assert "the same command resumes" in errors
    newest = RunDir(run).checkpoints()[-1]
    state = checkpoint.read_state(newest)
    assert 2 <= state["step"] < 40  # type: ignore[operator]
    # On one device, to the step after the newest checkpoint.
    made = recipe(slow)
    stop_after(state["step"] + 1, made, run, on_two=False)  # type: ignore[operator]
    stop_after(state["step"] + 1, made, whole, on_two=False)  # type: ignore[operator]
    require_alike(run, whole)


def _pid_of_rank(rank: int, *, of: int) -> int:
    """The process of a rank among those that another has started."""
    for task in Path(f"/proc/{of}/task").iterdir():
        for pid in (task / "children").read_text().split():
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in variables:
                return int(pid)
    raise AssertionError(f"no process of rank {rank}")


def test_a_process_that_dies_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    made = recipe("training.sharding=fsdp")

    def job(rank: int) -> None:
        if not rank:
            with pytest.raises(LostRankError):
                train(made, run_dir=run)
            return
        save_share, folders = checkpoint.save_share, []

        def dying(folder: Path, learner: Any) -> None:
            folders.append(folder)
            if len(folders) == 2:
                raise _StopError
            save_share(folder, learner)

        checkpoint.save_share = dying
        with suppress(_StopError):
            follow_leader(made)

    forked(job)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_000001"]
    train(made, run_dir=run)
    train(recipe(), run_dir=whole)
    require_alike(run, whole)


def test_a_rank_that_loses_another_says_so():
    def job(rank: int) -> str:
        if rank:
            with suppress(_StopError), connected("cpu"):
                raise _StopError
            return "left"
        with pytest.raises(LostRankError, match="another process of this run has ended") as caught:
            wait_for_a_message()
        return str(caught.value.exit_status)

    def wait_for_a_message() -> None:
        with connected("cpu") as ranks:
            while True:
                ranks.any(False)

    assert forked(job) == ["3", "left"]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.overlap=true", "training.overlap"),
        ("engine.device=cpu", "engine.device"),
        ("training.device=cuda:0", "training.device"),
    ],
)
def test_what_does_not_go_with_several_devices_is_named_before_anything_is_loaded(
    tmp_path, monkeypatch, override, named
):
    variables = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "here"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=named):
        train(recipe(override, "algorithm.importance_cap=2"), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
