"""`grlo rollouts`, `grlo cost` and trackers on what is not there, and what TensorBoard receives."""

from __future__ import annotations

from pathlib import Path

import pytest

from grlo.errors import CheckpointError, DataError, MissingExtraError, RecipeError
from grlo.rundir import RunDir
from grlo.stages.cost import cost
from grlo.stages.rollouts import show
from grlo.trackers import open_trackers
from grlo.types import Completion, LedgerEntry, Message, Prompt, Rollout, Score

TEXTS = ["short", "[red]not markup[/red] \x1b[31mnot an escape\x1b[0m", "the longest of them"]
VALUES = [0.25, 2.5, None]


def rollouts() -> tuple[list[Rollout], list[Score]]:
    prompt = Prompt(id="p", messages=(Message("user", "What is [bold]?"),))
    made = [
        Rollout(prompt, 0, (1,), Completion((2,) * (i + 1), (-1.0,) * (i + 1), "stop"), text)
        for i, text in enumerate(TEXTS)
    ]
    return made, [Score(value, {"raw": 1.0}, "judge down" * (value is None)) for value in VALUES]


@pytest.fixture
def run_dir(tmp_path) -> Path:
    entries = [
        LedgerEntry(1, "generate", 2.0, 1, "cpu", tokens=300, flops=1e9),
        LedgerEntry(1, "update", 6.0, 1, "cpu", tokens=600, flops=2e9),
    ]
    with RunDir.create_or_open(tmp_path / "run", recipe={}, prompt_hash="") as run:
        run.write_rollouts(1, *rollouts())
        run.append_ledger(entries)
    return tmp_path / "run"


def test_a_step_that_is_not_there_is_an_error_that_says_which_are(run_dir):
    with pytest.raises(DataError, match="steps 1 to 1"):
        show(run_dir, step=9, sort="reward", limit=1)


def test_cost_of_what_is_no_run_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="not a run directory"):
        cost(tmp_path)


def test_tensorboard_receives_metrics_and_samples(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [tracker] = open_trackers(["tensorboard"], run_dir=tmp_path, project="p", config={})
    tracker.log({"reward/mean": 1.5}, step=3)
    tracker.log_rollouts(*rollouts(), step=3)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    [event] = events.Scalars("reward/mean")
    assert (event.step, event.value) == (3, 1.5)
    assert "rollouts/best/text_summary" in events.Tags()["tensors"]


def test_a_tracker_that_cannot_be_opened_is_an_error(tmp_path, monkeypatch):
    options = {"run_dir": tmp_path, "project": "p", "config": {}}
    with pytest.raises(RecipeError, match="tensorboard"):
        open_trackers(["tensorbord"], **options)
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"grlo\[wandb\]"):
        open_trackers(["wandb"], **options)
