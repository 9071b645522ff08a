"""Entries of the ledger add up to the time that a run took, whatever took it.

Time is virtual: every call that is looked at takes 1000 seconds, so that one that no entry accounts
for is missed by far more than a busy machine can hide.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import grlo.stages.sft as sft_stage
import grlo.stages.train as train_stage
from grlo.recipe import load_recipe, load_recipe_of
from grlo.rundir import RunDir
from grlo.settings import SFTRecipe
from grlo.training import checkpoint
from grlo.training.learner import Learner
from grlo.training.sft import SFTLearner

RECIPES = Path(__file__).parents[2] / "recipes"
SECONDS = 1000.0


class Clock:
    """`time.perf_counter`, and what calls are said to take on top."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch, self._real, self.more = patch, time.perf_counter, 0.0
        patch.setattr(time, "perf_counter", self)

    def __call__(self) -> float:
        return self._real() + self.more

    def slow(self, owner: Any, *names: str) -> None:
        """Calls of these functions take so long."""
        for name in names:
            self._patch.setattr(owner, name, self._slowed(getattr(owner, name)))

    def _slowed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def slowed(*args: Any, **options: Any) -> Any:
            self.more += SECONDS
            return function(*args, **options)

        return slowed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(monkeypatch)
    clock.slow(RunDir, "append_metrics", "write_rollouts", "append_environment", "metrics")
    clock.slow(checkpoint, "save", "restore", "prune")
    for stage in (train_stage, sft_stage):
        clock.slow(stage, "open_policy", "record_data", "machine", "report", "newest_checkpoint")
    clock.slow(train_stage, "load_prompts")
    clock.slow(sft_stage, "load_demonstrations")
    clock.slow(Learner, "annotate", "update")
    clock.slow(SFTLearner, "update", "loss")
    return clock


def train(run: Path, **options: float) -> None:
    small = ["training.steps=4", "sampling.prompts_per_step=2", "sampling.samples_per_prompt=2"]
    small += ["sampling.max_tokens=4", "optimizer.warmup_steps=0"]
    recipe = load_recipe([RECIPES / "nano.toml"], overrides=small)
    train_stage.train(recipe, run_dir=run, **options)


def sft(run: Path, **options: float) -> None:
    small = ["training.num_epochs=none", "training.steps=4", "training.rows_per_step=2"]
    small += ["checkpoint.every=1", "training.evaluate_every=2", "optimizer.warmup_steps=0"]
    recipe = load_recipe_of(SFTRecipe, [RECIPES / "nano-sft.toml"], overrides=small)
    sft_stage.sft(recipe, run_dir=run, **options)


def accounted(run: Path, attempt: int) -> float:
    return sum(entry.seconds for entry in RunDir(run).ledger() if entry.attempt == attempt)


@pytest.mark.parametrize("stage", [train, sft])
def test_entries_add_up_to_the_time_of_each_start(
    stage: Callable[..., None], clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = RunDir.append_metrics

    def fail_at_step_3(self: RunDir, step: int, metrics: Any) -> None:
        append(self, step, metrics)
        if step == 3:
            raise OSError("gone")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append_metrics", fail_at_step_3)
        start = clock()
        with pytest.raises(OSError, match="gone"):
            stage(run)
        broken = clock() - start
    start = clock()
    stage(run)
    resumed = clock() - start
    assert min(broken, resumed) > 10 * SECONDS
    assert accounted(run, 0) == pytest.approx(broken, rel=0.02)
    assert accounted(run, 1) == pytest.approx(resumed, rel=0.02)
    assert all(entry.seconds >= 0 for entry in RunDir(run).ledger())


@pytest.mark.parametrize("stage", [train, sft])
def test_what_happens_before_the_models_are_there_is_loading(
    stage: Callable[..., None], clock: Clock, tmp_path: Path
) -> None:
    began = clock()
    clock.more += 5 * SECONDS  # Imports, as the command line sees them.
    stage(tmp_path / "run", started=began)
    total = clock() - began
    first, *_ = RunDir(tmp_path / "run").ledger()
    assert (first.phase, first.step) == ("load", 0)
    # Imports, policy, rows, data records, newest checkpoint, metrics to truncate and machine.
    assert first.seconds == pytest.approx(11 * SECONDS, rel=0.02)
    assert accounted(tmp_path / "run", 0) == pytest.approx(total, rel=0.02)
