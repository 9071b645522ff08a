"""`grlo rollouts`: order, search, and text that must not reach a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grlo.errors import DataError
from grlo.reporting.text import visible
from grlo.rundir import RunDir
from grlo.stages.rollouts import select, show
from grlo.types import Completion, Message, Prompt, Rollout, Score

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\b\u202e\u200b\ufeff[bold]x[/bold] [/oops]"


def answer(
    text: str, *, num_tokens: int, finish_reason: str = "stop", role: str = "user"
) -> Rollout:
    prompt = Prompt(id="p", messages=(Message(role, f"About {text[:5]}"),))
    ids, logprobs = (2,) * num_tokens, (-1.0,) * num_tokens
    completion = Completion(ids, logprobs, finish_reason)  # pyright: ignore[reportArgumentType]
    return Rollout(prompt, 0, (1,), completion, text)


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    def write(rollouts: list[Rollout], scores: list[Score], *, step: int = 1) -> Path:
        with RunDir.create_or_open(tmp_path / "run", recipe={}, prompt_hash="") as run:
            run.write_rollouts(step, rollouts, scores)
        return tmp_path / "run"

    return write


@pytest.fixture
def three(write_run: Callable[..., Path]) -> Path:
    texts = [answer("alpha", num_tokens=2), answer("Beta", num_tokens=9)]
    texts += [answer("gamma", num_tokens=5), answer("delta", num_tokens=7)]
    return write_run(texts, [Score(-1.0), Score(None), Score(2.0), Score(0.5)])


@pytest.mark.parametrize(
    ("sort", "descending", "expected"),
    [
        ("reward", True, ["gamma", "delta", "alpha", "Beta"]),
        ("reward", False, ["alpha", "delta", "gamma", "Beta"]),
        ("length", True, ["Beta", "delta", "gamma", "alpha"]),
        ("length", False, ["alpha", "gamma", "delta", "Beta"]),
        ("order", False, ["alpha", "Beta", "gamma", "delta"]),
        ("order", True, ["delta", "gamma", "Beta", "alpha"]),
    ],
)
def test_answers_come_in_the_order_asked_for_and_unscored_ones_last_by_reward(
    three, sort, descending, expected
):
    rows = select(RunDir(three).rollouts(1), sort=sort, descending=descending)
    assert [row["output"] for row in rows] == expected


def test_the_search_looks_in_prompts_and_answers_whatever_the_case(three, write_run, capsys):
    rows = RunDir(three).rollouts(1)
    assert [row["output"] for row in select(rows, sort="order", search="BETA")] == ["Beta"]
    assert len(select(rows, sort="order", search="about")) == 4
    show(three, search="gamm")
    out = capsys.readouterr().out
    assert "1 of 4 rollouts" in out
    assert "answer: gamma" in out
    assert "alpha" not in out
    with pytest.raises(DataError, match=r"none of the 4 rollouts of step 1 holds 'zeta'"):
        show(three, search="zeta")


def test_the_limit_keeps_the_first_of_the_order_and_says_how_many_there_are(three, capsys):
    show(three, limit=2)
    out = capsys.readouterr().out
    assert "2 of 4 rollouts" in out
    assert [text in out for text in ("gamma", "delta", "alpha", "Beta")] == [
        True,
        True,
        False,
        False,
    ]


def test_the_last_step_is_shown_unless_another_is_named(write_run, capsys):
    write_run([answer("early", num_tokens=1)], [Score(1.0)], step=2)
    run = write_run([answer("late", num_tokens=1)], [Score(1.0)], step=10)
    show(run)
    assert "answer: late" in capsys.readouterr().out
    show(run, step=2)
    assert "answer: early" in capsys.readouterr().out


def test_piped_output_is_plain_and_never_cut_into_lines(write_run, capsys):
    text = "word " * 200
    show(write_run([answer(text, num_tokens=200, finish_reason="length")], [Score(1.0, {"r": 3})]))
    out = capsys.readouterr().out
    assert f"answer: {text}".rstrip() in out
    assert "== reward 1.000 · r 3.000 · 200 tokens · length" in out
    assert "\x1b" not in out
    assert not set("│╭╰─") & set(out)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_nothing_a_model_or_a_prompt_says_acts_on_the_terminal(
    write_run, capsys, monkeypatch, is_terminal
):
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "200")
    run = write_run(
        [answer(HOSTILE, num_tokens=3, role=f"user{HOSTILE}")],
        [Score(1.0, {f"part{HOSTILE}": 2.0}, note=f"note{HOSTILE}")],
    )
    show(run)
    out = capsys.readouterr().out
    for hostile in ("\x1b]0;", "\x1b[2J", "\x9b", "\x07", "\b", "\r", "\u202e", "\u200b", "\ufeff"):
        assert hostile not in out
    assert out.count("[bold]x[/bold] [/oops]") == 4, "role, parts, answer and note"
    assert out.count("\\x1b]0;owned\\x07") == 4
    assert ("╭" in out) == is_terminal


@pytest.mark.parametrize("text", ["plain", "a\tb\nc", "日本語 é", "👩\u200d🚀", "क्\u200dष"])
def test_ordinary_text_of_any_language_stays_as_it_is(text):
    assert visible(text) == text


def test_half_a_character_can_be_printed():
    assert visible("\ud800").encode() == b"\\xd800"
