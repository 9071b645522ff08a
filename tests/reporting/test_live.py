"""The live view: what it shows, and that no metric has to be there."""

from __future__ import annotations

import re

import pytest

from grlo.reporting.live import LiveView, sparkline
from grlo.types import StepResult

METRICS = {
    "reward/mean": 1.25,
    "reward/std": 0.5,
    "reward/unscored": 0.125,
    "reward/part/[bold]raw": 3.5,
    "response/length_mean": 80.0,
    "response/truncated": 0.25,
    "policy/entropy": 1.75,
    "policy/kl": 0.0625,
    "policy/clip_fraction": 0.01,
    "engine/logprob_gap": 2e-6,
    "time/generate": 1.5,
    "time/update": 2.5,
    "time/step": 4.0,
    "tokens_per_second/total": 1234.0,
}


def result(step: int, metrics: dict[str, float]) -> StepResult:
    return StepResult(step, metrics, rollouts=(), scores=(), costs=())


@pytest.fixture
def _terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.usefixtures("_terminal")
def test_the_panel_shows_metrics_parts_phases_history_and_the_best_step(capsys):
    with LiveView(total_steps=30, start_step=4) as view:
        for step, reward in [(5, 1.0), (6, 2.0), (7, 1.5)]:
            view.progress("score")(done=3, total=8, tokens=100)
            view.update(result(step, METRICS | {"reward/mean": reward}))
    panel = capsys.readouterr().out.rpartition("╭")[2]
    expected = ["step 7/30", "1.500", "part/[bold]raw", "3.500", "12.5%", "80.0 tokens", "25.0%"]
    expected += ["1.750 nats", "0.0625 nats", "1.00%", "2.0e-06", "1,234 tokens/s"]
    expected += ["generate 1.5 · update 2.5", "▁█▅", "best 2.000 in step 6"]
    for text in expected:
        assert text in panel, text


@pytest.mark.usefixtures("_terminal")
def test_the_phase_going_on_is_shown_with_its_speed(capsys):
    with LiveView(total_steps=2, start_step=0) as view:
        view.progress("generate")(done=3, total=8, tokens=100)
    out = capsys.readouterr().out
    assert re.search(r"generate 3/8 · [\d,]+ tokens/s", out)


def test_a_plain_line_names_every_number(capsys):
    with LiveView(total_steps=30, start_step=4) as view:
        view.update(result(5, METRICS))
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "step 5/30  reward 1.250  ± 0.500  length 80  truncated 25%  KL 0.0625  gap 2e-06  "
        "seconds 4.0  tokens/s 1,234  left 0:"
    )


def test_time_left_is_that_of_the_steps_left_at_the_speed_of_this_start(capsys, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("grlo.reporting.live.time.monotonic", lambda: clock[0])
    with LiveView(total_steps=30, start_step=20) as view:
        clock[0] += 1200.0  # Two steps of ten minutes; eight are left.
        view.update(result(22, METRICS))
        clock[0] += 4800.0
        view.update(result(30, METRICS))
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith("left 1:20:00")
    assert last.endswith("left 0:00:00")


@pytest.mark.parametrize("absent", [*METRICS, None])
def test_no_metric_has_to_be_there(capsys, monkeypatch, absent):
    metrics = {key: value for key, value in METRICS.items() if absent and key != absent}
    with LiveView(total_steps=2, start_step=0) as view:
        view.update(result(1, metrics))
    assert capsys.readouterr().out.startswith("step 1/2")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with LiveView(total_steps=2, start_step=0) as view:
        view.update(result(1, metrics))
    assert "step 1/2" in capsys.readouterr().out


@pytest.mark.usefixtures("_terminal")
def test_the_view_lets_go_of_the_terminal_when_training_fails(capsys):
    view = LiveView(total_steps=2, start_step=0)
    with pytest.raises(ZeroDivisionError), view:
        _ = 1 / 0
    assert capsys.readouterr().out.count("\x1b[?25h") == 1, "the cursor is back"


def test_a_sparkline_shows_the_latest_values_on_their_own_scale():
    assert sparkline([100.0, 0.0, 3.5, 7.0], width=3) == "▁▅█"
