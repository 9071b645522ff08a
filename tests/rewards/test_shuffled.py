"""The shuffled reward: the same scores, on other answers, by a seeded permutation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from grlo.interfaces import Progress, silent
from grlo.rewards.shuffled import ShuffledReward
from grlo.types import Completion, Message, Prompt, Rollout, Score


class LengthReward:
    """Scores a text by its length and leaves empty ones unscored."""

    def __init__(self) -> None:
        self.state: dict[str, float] = {"mean": 2.0}

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        return [
            Score(value=float(len(r.text)), parts={"raw": float(len(r.text))}, note=r.text)
            if r.text
            else Score(value=None, note="empty")
            for r in rollouts
        ]

    def state_dict(self) -> dict[str, float]:
        return self.state

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.state = dict(state)

    def metrics(self) -> dict[str, float]:
        return {"reward/truncated": 0.25}


def make_rollouts(lengths: Sequence[int]) -> list[Rollout]:
    prompt = Prompt(id="p", messages=(Message("user", "?"),))
    completion = Completion(tokens=(1,), logprobs=(0.0,), finish_reason="stop")
    return [Rollout(prompt, i, (1,), completion, "x" * n) for i, n in enumerate(lengths)]


LENGTHS = [*range(1, 40), 0, *range(40, 60), 0]


def values(reward: ShuffledReward) -> list[float | None]:
    return [score.value for score in reward.score(make_rollouts(LENGTHS))]


def test_scores_are_a_permutation_and_unscored_rollouts_stay_where_they_are() -> None:
    scores = ShuffledReward(LengthReward(), seed=0).score(make_rollouts(LENGTHS))
    unscored = [index for index, length in enumerate(LENGTHS) if length == 0]
    assert [i for i, score in enumerate(scores) if score.value is None] == unscored
    assert all(scores[i].note == "empty" for i in unscored)
    scored = [score for score in scores if score.value is not None]
    assert sorted(score.value for score in scored) == sorted(length for length in LENGTHS if length)
    moved = sum(score.value != score.parts["raw"] for score in scored)
    assert moved > 50, "a random permutation of 59 leaves about one in place"
    assert [score.parts["raw"] for score in scored] == [n for n in LENGTHS if n]
    assert all(len(score.note) == score.value for score in scored), "a note goes with its value"


def test_the_permutation_depends_on_the_seed_and_on_the_call() -> None:
    first = ShuffledReward(LengthReward(), seed=0)
    calls = [values(first) for _ in range(3)]
    again = ShuffledReward(LengthReward(), seed=0)
    assert [values(again) for _ in range(3)] == calls
    assert calls[0] != calls[1] != calls[2] != calls[0]
    assert values(ShuffledReward(LengthReward(), seed=1)) != calls[0]


def test_a_resumed_run_goes_on_with_the_same_permutations() -> None:
    whole = ShuffledReward(LengthReward(), seed=0)
    values(whole)
    whole_state = whole.state_dict()
    expected = values(whole)
    inner = LengthReward()
    inner.state = {}
    resumed = ShuffledReward(inner, seed=0)
    resumed.load_state_dict(whole_state)
    assert values(resumed) == expected
    assert inner.state == {"mean": 2.0}, "the inner reward gets its own state and nothing else"
    assert resumed.metrics() == {"reward/truncated": 0.25}


def test_what_a_rollout_gets_says_nothing_of_the_rollout() -> None:
    reward = ShuffledReward(LengthReward(), seed=0)
    lengths = list(range(1, 61))
    given = np.array(
        [[s.value for s in reward.score(make_rollouts(lengths))] for _ in range(200)], dtype=float
    )
    # 200 permutations of 60: the mean of each place lies within five standard errors of 30.5.
    assert np.abs(given.mean(0) - 30.5).max() < 5 * given.std() / np.sqrt(200)
