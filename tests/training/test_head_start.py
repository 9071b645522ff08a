"""Rewards that begin while others are drawn: what they are told, and that nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from grlo.ledger import Ledger
from grlo.training.head_start import head_start
from grlo.training.trainer import Trainer
from grlo.types import Completion, Message, Prompt, Rollout, SamplingParams, Score, Usage

NUM_SAMPLES = 2


class Prompts:
    def batch(self, step: int) -> list[Prompt]:
        return [Prompt(f"{step}{x}", (Message("user", x),)) for x in "abc"]


class Renderer:
    stop_ids, pad_id = (0,), 0

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return (7,)

    def decode(self, tokens: Sequence[int]) -> str:
        return f"text {tokens[0]}"


class Engine:
    """Draws in an odd order, and the last completion only when `before_last` returns."""

    device = "elsewhere"

    def __init__(self, before_last: Callable[[], object]) -> None:
        self.before_last = before_last

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        progress: object,
        on_completion: Callable[[int, Completion], None],
    ) -> list[Completion]:
        drawn = [
            Completion(tokens=(index, 0), logprobs=(-1.0, -1.0), finish_reason="stop")
            for index in range(len(prompts) * sampling.num_samples)
        ]
        for index in (3, 0, 2, 5, 1, 4):
            if index == 4:
                self.before_last()
            on_completion(index, drawn[index])
        return drawn

    def load_weights(self, named_tensors: object) -> None: ...


class Reward:
    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.begun_all = error, threading.Event()
        self.begun: list[Rollout] = []
        self.drawn_on: set[str] = set()

    def begin(self, rollouts: Sequence[Rollout], *, drawn_on: str) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if self.error is not None:
            self.begun_all.set()
            raise self.error
        self.begun += rollouts
        self.drawn_on.add(drawn_on)
        if len(self.begun) == 2 * NUM_SAMPLES:
            self.begun_all.set()

    def score(self, rollouts: Sequence[Rollout], *, progress: object) -> list[Score]:
        self.scored = list(rollouts)
        return [Score(1.0) for _ in rollouts]

    def metrics(self) -> dict[str, float]:
        return {}

    def usage(self) -> Usage:
        return Usage()


def draw(reward: Reward, engine: Engine) -> Any:
    sampling = SamplingParams(max_tokens=2, num_samples=NUM_SAMPLES)
    parts: dict[str, Any] = {"algorithm": None, "learner": None}
    parts |= {"prompts": Prompts(), "renderer": Renderer(), "engine": engine, "reward": reward}
    trainer = Trainer(
        **parts,
        sampling=sampling,
        ledger=Ledger(device="cpu", num_devices=1, attempt=0),
        count_flops=lambda name, rollouts, *, step: {},
        seed=0,
    )
    return trainer._draw(1)


def test_whole_groups_are_begun_before_the_last_answer_is_drawn() -> None:
    reward = Reward()
    # Not drawn to the end before two of three groups have been begun.
    draws = draw(reward, Engine(lambda: reward.begun_all.wait(timeout=60)))
    assert reward.begun_all.is_set()
    assert [(r.prompt.id, r.group, r.text) for r in reward.begun[:4]] == [
        ("1b", 1, "text 2"),
        ("1b", 1, "text 3"),
        ("1a", 0, "text 0"),
        ("1a", 0, "text 1"),
    ]
    assert reward.drawn_on == {"elsewhere"}
    assert [r.text for r in reward.scored] == [f"text {index}" for index in range(6)]
    assert all(rollout in reward.scored for rollout in reward.begun)
    assert draws.rollouts == reward.scored


def test_what_fails_is_left_for_the_call_that_counts_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reward = Reward(error=OSError("no route to the judge"))
    draw(reward, Engine(lambda: reward.begun_all.wait(timeout=60)))
    assert "could not begin while answers are drawn (no route to the judge)" in (
        capsys.readouterr().err
    )
    assert not reward.begun
    assert len(reward.scored) == 6


def test_nothing_is_begun_after_the_drawing_has_failed() -> None:
    reward, error = Reward(), RuntimeError("out of order")

    def fail() -> None:
        raise error

    with pytest.raises(RuntimeError, match="out of order"):
        draw(reward, Engine(fail))
    for thread in threading.enumerate():
        if thread.name == "head start":
            thread.join(timeout=60)
            assert not thread.is_alive()
    assert len(reward.begun) <= 2 * NUM_SAMPLES


def test_a_failure_does_not_wait_for_what_has_been_begun() -> None:
    """Such as a judge that is asked again and again while somebody presses Ctrl-C."""
    is_asked, may_answer = threading.Event(), threading.Event()

    class Slow(Reward):
        def begin(self, rollouts: Sequence[Rollout], *, drawn_on: str) -> None:
            is_asked.set()
            may_answer.wait()

    def interrupt() -> None:
        assert is_asked.wait(timeout=60)
        raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            draw(Slow(), Engine(interrupt))
    finally:
        may_answer.set()


def test_a_reward_that_cannot_begin_is_not_told() -> None:
    with head_start(object(), drawn_on="cpu") as on_group:  # pyright: ignore[reportArgumentType]
        assert on_group is None
