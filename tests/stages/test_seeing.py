"""`grlo rollouts`, `grlo cost`, the live view and trackers: what people see of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from grlo.errors import CheckpointError, DataError, MissingExtraError, RecipeError
from grlo.reporting.live import LiveView, sparkline
from grlo.rundir import RunDir
from grlo.stages.cost import cost
from grlo.stages.rollouts import show, visible
from grlo.trackers import open_trackers, redacted
from grlo.types import Completion, LedgerEntry, Message, Prompt, Rollout, Score, StepResult

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


def test_rollouts_are_sorted_and_untrusted_text_stays_text(run_dir, capsys):
    show(run_dir, step=None, sort="reward", limit=3)
    out = capsys.readouterr().out
    assert "\x1b[31m" not in out
    assert "[red]not markup[/red]" in out
    assert out.index("reward 2.500") < out.index("reward 0.250") < out.index("unscored")
    assert "judge down" in out
    show(run_dir, step=1, sort="length", limit=1)
    out = capsys.readouterr().out
    assert TEXTS[2] in out
    assert TEXTS[0] not in out


def test_a_step_that_is_not_there_is_an_error_that_says_which_are(run_dir):
    with pytest.raises(DataError, match="steps 1 to 1"):
        show(run_dir, step=9, sort="reward", limit=1)


def test_direction_marks_and_controls_are_spelled_out_but_lines_stay():
    assert visible("a\tb\nc\u202ed\x07") == "a\tb\nc\\x202ed\\x07"


def test_cost_adds_up(run_dir, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    cost(run_dir)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert "75.0" in rows["update"]
    assert "25.0" in rows["generate"]
    assert "100.0" in rows["total"]
    assert "900" in rows["total"]
    assert "3.00e+09" in rows["total"]


def test_cost_of_what_is_no_run_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="not a run directory"):
        cost(tmp_path)


def result(step: int) -> StepResult:
    metrics = {
        "reward/mean": step / 10,
        "reward/std": 1.0,
        "response/length_mean": 9.0,
        "response/truncated": 0.5,
        "engine/logprob_gap": 1e-6,
        "time/step": 2.0,
        "time/generate": 1.5,
    }
    return StepResult(step, metrics, *(tuple(part) for part in rollouts()), costs=())


def test_without_a_terminal_every_step_is_one_plain_line(capsys):
    with LiveView(total_steps=2, start_step=0) as view:
        view.progress("generate")(done=1, total=2, tokens=3)
        view.update(result(1))
        view.update(result(2))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 1/2  reward 0.100")
    assert "\x1b" not in "".join(lines)


def test_in_a_terminal_the_panel_shows_the_metrics(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with LiveView(total_steps=4, start_step=1) as view:
        view.progress("generate")(done=1, total=2, tokens=3)
        view.update(result(2))
    out = capsys.readouterr().out
    for text in ("step 2/4", "spread", "truncated", "50.0%", "engine gap"):
        assert text in out


def test_a_sparkline_rises_with_its_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 1.0]) == "▁▁"


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


def test_a_tracker_that_fails_later_does_not_stop_training(tmp_path, monkeypatch, capsys):
    class Broken:
        def __init__(self, *arguments): ...
        def log(self, metrics, *, step):
            raise ConnectionError("no network")

        def log_rollouts(self, rollouts, scores, *, step): ...
        def close(self): ...

    monkeypatch.setitem(__import__("grlo.trackers").trackers.TRACKERS, "broken", Broken)
    [tracker] = open_trackers(["broken"], run_dir=tmp_path, project="p", config={})
    tracker.log({}, step=1)
    tracker.log({}, step=2)
    assert capsys.readouterr().err.count("no network") == 1


def test_a_tracker_that_cannot_be_opened_is_an_error(tmp_path, monkeypatch):
    options = {"run_dir": tmp_path, "project": "p", "config": {}}
    with pytest.raises(RecipeError, match="tensorboard"):
        open_trackers(["tensorbord"], **options)
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"grlo\[wandb\]"):
        open_trackers(["wandb"], **options)


def test_secrets_are_redacted_and_token_counts_are_not():
    config = {"max_tokens": 3, "judge": {"api_key": "sk-1", "model": "m"}}
    assert redacted(config) == {"max_tokens": 3, "judge": {"api_key": "<redacted>", "model": "m"}}
