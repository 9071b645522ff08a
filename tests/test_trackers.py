"""Trackers: opened loudly, silent failures afterwards, nothing secret leaves the process."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from grlo import trackers
from grlo.errors import CheckpointError, RecipeError
from grlo.rundir import RunDir
from grlo.trackers import open_trackers, redacted, sample_texts
from grlo.types import Completion, Message, Prompt, Rollout, Score


def rollouts(*values: float | None) -> tuple[list[Rollout], list[Score]]:
    prompt = Prompt(id="p", messages=(Message("user", "Why?"),))
    completion = Completion((1,), (-1.0,), "stop")
    made = [Rollout(prompt, 0, (1,), completion, f"answer {i}") for i in range(len(values))]
    return made, [Score(value) for value in values]


class FakeLibrary(ModuleType):
    """Records the calls that wandb and trackio have in common."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []

    def init(self, **options: Any) -> None:
        self.calls.append(("init", options))

    def log(self, metrics: dict[str, Any], *, step: int) -> None:
        self.calls.append(("log", (metrics, step)))

    def Table(self, *, columns: list[str], data: list[list[str]]) -> Any:  # noqa: N802
        return columns, data

    def finish(self) -> None:
        self.calls.append(("finish", None))


def make_run(path: Path) -> Path:
    with RunDir.create_or_open(path, recipe={}, prompt_hash=""):
        return path


def opened_with(library: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    fake = FakeLibrary(library)
    monkeypatch.setitem(sys.modules, library, fake)
    [tracker] = open_trackers([library], run_dir=run, project="p", config={"hf_token": "x"})
    tracker.log({"reward/mean": 0.5}, step=4)
    tracker.log_rollouts(*rollouts(1.0, None, 3.0, 2.0), step=4)
    tracker.log_rollouts(*rollouts(None), step=5)
    tracker.close()
    names, values = zip(*fake.calls, strict=True)
    assert names == ("init", "log", "log", "finish")
    assert values[1] == ({"reward/mean": 0.5}, 4)
    [(key, (columns, data))] = values[2][0].items()
    assert (key, columns, values[2][1]) == ("rollouts", ["which", "text"], 4)
    assert [row[0] for row in data] == ["best", "median", "worst"]
    assert values[0]["config"] == {"hf_token": "<redacted>"}
    return values[0]


def test_a_resumed_run_goes_on_in_wandb_and_another_run_of_that_name_does_not(
    tmp_path, monkeypatch
):
    first = opened_with("wandb", make_run(tmp_path / "a" / "run"), monkeypatch)
    again = opened_with("wandb", make_run(tmp_path / "a" / "run"), monkeypatch)
    other = opened_with("wandb", make_run(tmp_path / "b" / "run"), monkeypatch)
    assert first == again
    assert first["resume"] == "allow"
    assert first["name"] == other["name"] == "run"
    assert first["id"] != other["id"]
    assert first["dir"] == str(tmp_path / "a" / "run")


def test_a_resumed_run_goes_on_in_trackio_and_another_run_of_that_name_does_not(
    tmp_path, monkeypatch
):
    first = opened_with("trackio", make_run(tmp_path / "a" / "run"), monkeypatch)
    again = opened_with("trackio", make_run(tmp_path / "a" / "run"), monkeypatch)
    other = opened_with("trackio", make_run(tmp_path / "b" / "run"), monkeypatch)
    assert first == again
    assert first["resume"] == "allow"
    assert first["name"] != other["name"]
    assert first["name"].startswith("run-")


def test_a_tracker_for_what_is_no_run_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeLibrary("wandb"))
    with pytest.raises(CheckpointError, match="not a run directory"):
        open_trackers(["wandb"], run_dir=tmp_path, project="p", config={})


class Recorder:
    def __init__(self, *arguments: object) -> None:
        self.calls: list[str] = []
        RECORDERS.append(self)

    def log(self, metrics: object, *, step: int) -> None:
        self.calls.append("log")

    def log_rollouts(self, rollouts: object, scores: object, *, step: int) -> None:
        self.calls.append("log_rollouts")

    def close(self) -> None:
        self.calls.append("close")


class Unavailable:
    def __init__(self, *arguments: object) -> None:
        raise ConnectionError("log in first")


class Failing(Recorder):
    def log(self, metrics: object, *, step: int) -> None:
        raise TimeoutError("no network")

    def close(self) -> None:
        raise TimeoutError("no network")


RECORDERS: list[Recorder] = []


@pytest.fixture(autouse=True)
def _more_trackers(monkeypatch):
    RECORDERS.clear()
    for name, tracker in [("good", Recorder), ("closed", Unavailable), ("failing", Failing)]:
        monkeypatch.setitem(trackers.TRACKERS, name, tracker)


def test_one_that_cannot_be_opened_is_named_and_those_opened_before_are_closed(tmp_path):
    with pytest.raises(RecipeError, match=r"'closed' cannot be opened \(log in first\)"):
        open_trackers(["good", "closed"], run_dir=tmp_path, project="p", config={})
    assert RECORDERS[0].calls == ["close"]


def test_failures_while_training_are_said_once_counted_and_keep_nobody_else_from_logging(
    tmp_path, capsys
):
    opened = open_trackers(["failing", "good"], run_dir=tmp_path, project="p", config={})
    for step in (1, 2):
        for tracker in opened:
            tracker.log({}, step=step)
    for tracker in opened:
        tracker.close()
    assert RECORDERS[1].calls == ["log", "log", "close"]
    errors = capsys.readouterr().err
    assert errors.count("training goes on: no network") == 1
    assert "failing failed 3 times" in errors


def test_ctrl_c_in_a_tracker_still_stops(tmp_path, monkeypatch):
    def interrupted(self: Recorder, metrics: object, *, step: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "log", interrupted)
    [tracker] = open_trackers(["good"], run_dir=tmp_path, project="p", config={})
    with pytest.raises(KeyboardInterrupt):
        tracker.log({}, step=1)


def test_secrets_are_found_at_any_depth_and_numbers_and_tokenizers_are_none():
    config = {
        "max_tokens": 5,
        "tokenizer": "path",
        "judges": [{"API_KEY": "sk-1", "name": "j"}, {"password": "pw"}],
        "reward": {"client_secret": "s", "access_tokens": ["t1", "t2"], "keys": {"a": 1}},
        "seed": None,
    }
    assert redacted(config) == {
        "max_tokens": 5,
        "tokenizer": "path",
        "judges": [{"API_KEY": "<redacted>", "name": "j"}, {"password": "<redacted>"}],
        "reward": {
            "client_secret": "<redacted>",
            "access_tokens": ["<redacted>", "<redacted>"],
            "keys": {"a": 1},
        },
        "seed": None,
    }


def test_samples_are_the_best_the_median_and_the_worst_of_what_was_scored():
    texts = sample_texts(*rollouts(2.0, None, -1.0, 5.0))
    assert {which: text.split("\n")[-1] for which, text in texts.items()} == {
        "best": "answer 3",
        "median": "answer 0",
        "worst": "answer 2",
    }
    assert texts["best"].startswith("reward 5.000\n\nWhy?")
    assert sample_texts(*rollouts(None, None)) == {}


def test_tensorboard_keeps_the_recipe_without_its_secrets_and_text_as_it_is(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = {"seed": 7, "api_key": "sk-secret"}
    [tracker] = open_trackers(["tensorboard"], run_dir=tmp_path, project="p", config=config)
    for step in (1, 2):
        tracker.log({"reward/mean": step / 2, "policy/kl": 0.1}, step=step)
    tracker.log_rollouts(*rollouts(1.0), step=2)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(1, 0.5), (2, 1.0)]
    [recipe] = events.Tensors("recipe/text_summary")
    text = recipe.tensor_proto.string_val[0].decode()
    assert '"seed": 7' in text
    assert "sk-secret" not in text
    [best] = events.Tensors("rollouts/best/text_summary")
    assert "    answer 0" in best.tensor_proto.string_val[0].decode()
    for file in (tmp_path / "tensorboard").iterdir():
        assert b"sk-secret" not in file.read_bytes()
