"""Shaping: every term against its formula by hand, its statistics against numpy."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grlo.errors import RewardError
from grlo.interfaces import Progress, silent
from grlo.rewards.shaping import ShapedReward
from grlo.settings import ShapingSettings
from grlo.types import Completion, Prompt, Rollout, Score, Usage

LIMIT = 20


class FixedReward:
    """Gives the scores it was told, in order, and counts its calls in its state."""

    def __init__(self, scores: Sequence[Score]) -> None:
        self.scores = list(scores)
        self.calls = 0.0

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        self.calls += 1
        return self.scores[: len(rollouts)]

    def state_dict(self) -> dict[str, float]:
        return {"count": self.calls}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        (self.calls,) = state.values()

    def metrics(self) -> dict[str, float]:
        return {"reward/own": 7.0}

    def usage(self) -> Usage:
        return Usage(requests=3, dollars=0.5)


def rollout(
    tokens: Sequence[int] = (1, 2, 3), *, is_cut: bool = False, reference: str | None = None
) -> Rollout:
    completion = Completion(
        tokens=tuple(tokens),
        logprobs=(0.0,) * len(tokens),
        finish_reason="length" if is_cut else "stop",
    )
    prompt = Prompt(id="p", messages=(), reference=reference)
    return Rollout(prompt=prompt, group=0, prompt_tokens=(), completion=completion, text="")


def shaped(scores: Sequence[Score], **settings: Any) -> ShapedReward:
    return ShapedReward(
        FixedReward(scores),
        ShapingSettings(**settings),
        max_tokens=LIMIT,
        count_tokens=lambda text: len(text.split()),
    )


@pytest.mark.parametrize(
    ("num_tokens", "penalty"), [(1, 0), (12, 0), (13, 1 / 8), (16, 4 / 8), (19, 7 / 8), (20, 1)]
)
def test_the_overlong_penalty_rises_linearly_in_the_buffer_and_is_full_at_the_limit(
    num_tokens, penalty
):
    reward = shaped([Score(-3.0)], overlong_buffer=8, overlong_penalty=1.5, unit="absolute")
    (score,) = reward.score([rollout(range(num_tokens))])
    assert score.value == pytest.approx(-3 - 1.5 * penalty, abs=1e-12)
    assert score.parts["shaping/overlong"] == pytest.approx(-1.5 * penalty, abs=1e-12)
    assert score.parts["unshaped"] == -3


def test_an_answer_that_the_limit_cut_loses_the_missing_end_penalty_and_one_that_ended_does_not():
    reward = shaped([Score(2.0), Score(2.0)], missing_end_penalty=0.75, unit="absolute")
    # Equal tokens: only the reason of the end tells them apart, not the token it ends with.
    cut, ended = reward.score([rollout((5, 5), is_cut=True), rollout((5, 5))])
    assert (cut.value, ended.value) == (1.25, 2.0)
    assert reward.metrics()["reward/shaping/missing_end"] == 0.5


def test_the_repetition_penalty_is_proportional_to_the_repeated_ngrams_above_the_threshold():
    # Bigrams of 1 2 1 2 1 2: 12 21 12 21 12: five, of which two are distinct: share 3/5.
    settings = {"repetition_penalty": 2.0, "repetition_ngram": 2, "repetition_threshold": 0.2}
    reward = shaped([Score(0.0)] * 4, unit="absolute", **settings)
    answers = [(1, 2, 1, 2, 1, 2), (1, 2, 3, 4), (7,), (4,) * 6]
    scores = reward.score([rollout(tokens) for tokens in answers])
    assert scores[0].value == pytest.approx(-2 * (0.6 - 0.2) / 0.8)
    assert scores[1].value == scores[2].value == 0
    assert scores[3].value == pytest.approx(-2 * (0.8 - 0.2) / 0.8)  # Five bigrams, one distinct.


def test_the_length_difference_counts_tokens_of_right_answers_up_to_the_cap():
    reference = "x = 4"  # Three tokens for a tokenizer that splits at blanks.
    found = [
        (Score(1.0, extracted="4"), 2),
        (Score(1.0, extracted="x is equal to 4"), 2),
        (Score(1.0, extracted="x = 4"), 0),
        (Score(1.0, extracted=" ".join("x" * 40)), 10),
        (Score(0.0, extracted="4"), 0),
        (Score(1.0), 0),
        (Score(-8.0, parts={"correct/score": 1.0}, extracted="4"), 2),
        (Score(8.0, parts={"correct/score": 0.0}, extracted="4"), 0),
    ]
    reward = shaped([s for s, _ in found], length_difference_penalty=0.05, unit="absolute")
    scores = reward.score([rollout(reference=reference)] * len(found))
    for score, (unshaped, num_tokens) in zip(scores, found, strict=True):
        assert unshaped.value is not None
        assert score.value == pytest.approx(unshaped.value - 0.05 * num_tokens)
    assert reward.metrics()["reward/shaping/length_difference"] == pytest.approx(4 / 8)
    (score,) = reward.score([rollout(reference=None)])
    assert score.value == 1


def test_penalties_are_in_units_of_the_running_spread_of_the_unshaped_scores():
    rng = random.Random(0)
    steps = [[rng.gauss(-4, 9) for _ in range(7)] for _ in range(3)]
    reward = shaped([], missing_end_penalty=0.5)
    seen: list[float] = []
    for values in steps:
        reward._inner.scores = [Score(value) for value in values]  # type: ignore[attr-defined]
        scores = reward.score([rollout(is_cut=True)] * 7)
        seen += values
        expected = np.array(values) - 0.5 * np.std(seen)
        np.testing.assert_allclose([score.value for score in scores], expected, rtol=1e-12)


def test_standardised_scores_are_penalised_in_units_of_one():
    values = [-10.0, -4.0, 1.0, 30.0]
    reward = shaped([Score(v) for v in values], standardize=True, missing_end_penalty=0.5)
    rollouts = [rollout(is_cut=index == 2) for index in range(4)]
    scores = reward.score(rollouts)
    expected = (np.array(values) - np.mean(values)) / np.std(values) - [0, 0, 0.5, 0]
    np.testing.assert_allclose([score.value for score in scores], expected, rtol=1e-12)
    assert [score.parts["unshaped"] for score in scores] == values


def test_clipping_moves_far_scores_to_its_bounds_and_says_how_often():
    values = [0.0] * 9 + [100.0]
    reward = shaped([Score(v) for v in values], clip=2.0)
    scores = reward.score([rollout()] * 10)
    bound = np.mean(values) + 2 * np.std(values)
    assert bound < 100
    assert scores[9].value == pytest.approx(bound)
    assert scores[9].parts["shaping/clip"] == pytest.approx(bound - 100)
    assert all(score.value == 0 for score in scores[:9])
    assert reward.metrics()["reward/clipped"] == 0.1


ALL_ON = {
    "overlong_buffer": 8,
    "missing_end_penalty": 0.4,
    "repetition_penalty": 0.3,
    "length_difference_penalty": 0.05,
}


@pytest.mark.parametrize("unit", ["spread", "absolute"])
@pytest.mark.parametrize("term", ALL_ON)
def test_every_penalty_lowers_every_score_it_touches_negative_ones_too(term, unit):
    rng = random.Random(1)
    values = [rng.uniform(0.1, 5) if term.startswith("length") else rng.gauss(-8, 4)] * 3
    values += [rng.uniform(0.1, 5) if term.startswith("length") else rng.gauss(-8, 4)] * 3
    rollouts = [rollout((6,) * LIMIT, is_cut=True, reference="1")] * 6
    reward = shaped(
        [Score(v, extracted="1 000 000") for v in values], unit=unit, **{term: ALL_ON[term]}
    )
    scores = reward.score(rollouts)
    for score, value in zip(scores, values, strict=True):
        assert score.value is not None
        assert score.value < value
        (part,) = (part for name, part in score.parts.items() if name.startswith("shaping/"))
        assert part < 0
        assert score.value == pytest.approx(score.parts["unshaped"] + part)


def random_rollouts(rng: random.Random, count: int) -> list[Rollout]:
    return [
        rollout([rng.randrange(3) for _ in range(rng.randint(1, LIMIT))], is_cut=rng.random() < 0.5)
        for _ in range(count)
    ]


def test_the_order_of_the_rows_changes_no_score():
    rng = random.Random(2)
    rollouts = random_rollouts(rng, 20)
    values = [Score(rng.gauss(0, 5)) for _ in rollouts]
    order = rng.sample(range(20), 20)
    plain = shaped(values, clip=1.5, **ALL_ON).score(rollouts)
    mixed = shaped([values[i] for i in order], clip=1.5, **ALL_ON).score(
        [rollouts[i] for i in order]
    )
    assert mixed == [plain[i] for i in order]


def test_a_resumed_reward_scores_as_one_that_was_not_interrupted():
    rng = random.Random(3)
    steps = [random_rollouts(rng, 6) for _ in range(4)]
    values = [[Score(rng.gauss(2, 9)) for _ in range(6)] for _ in range(4)]

    def run(reward: ShapedReward, indices: range) -> list[list[Score]]:
        found = []
        for i in indices:
            reward._inner.scores = values[i]  # type: ignore[attr-defined]
            found.append(reward.score(steps[i]))
        return found

    whole = run(shaped([], clip=1.0, standardize=True, **ALL_ON), range(4))
    first = shaped([], clip=1.0, standardize=True, **ALL_ON)
    before = run(first, range(2))
    second = shaped([], clip=1.0, standardize=True, **ALL_ON)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + run(second, range(2, 4)) == whole
    assert second._inner.state_dict() == {"count": 4.0}


def test_the_state_of_an_unshaped_reward_is_refused():
    with pytest.raises(RewardError, match="no statistics of shaping"):
        shaped([], clip=1.0).load_state_dict({"count": 3.0})


def test_unscored_answers_stay_unscored_and_out_of_the_statistics():
    unscored = Score(None, note="broken")
    scores = [Score(1.0), unscored, Score(3.0)]
    reward = shaped(scores, missing_end_penalty=1.0)
    found = reward.score([rollout(is_cut=True)] * 3)
    assert found[1] is unscored
    assert [s.value for s in found if s.value is not None] == [0.0, 2.0]  # The spread is 1.
    assert reward.metrics()["reward/shaping/missing_end"] == 1.0
    only = shaped([unscored], missing_end_penalty=1.0)
    assert only.score([rollout()]) == [unscored]


def test_what_the_inner_reward_says_and_costs_passes_through():
    score = Score(1.0, parts={"raw": 9.0}, note="n", extracted="e", details={"k": 1})
    reward = shaped([score], missing_end_penalty=0.5, unit="absolute")
    (found,) = reward.score([rollout()])
    assert found == replace(score, parts={"raw": 9.0, "unshaped": 1.0, "shaping/missing_end": 0.0})
    assert reward.metrics() == {"reward/own": 7.0, "reward/shaping/missing_end": 0.0}
    assert reward.usage() == Usage(requests=3, dollars=0.5)


def test_settings_that_would_be_ignored_or_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no effect with standardize"):
        ShapingSettings(standardize=True, unit="absolute", missing_end_penalty=1.0)
    with pytest.raises(ValueError, match="without overlong_buffer"):
        ShapingSettings(overlong_penalty=2.0)
    with pytest.raises(ValueError, match="clip must not be negative"):
        ShapingSettings(clip=-1.0)


def test_each_term_alone_switches_shaping_on_and_none_is_on_by_default():
    assert not ShapingSettings().is_on
    for name, value in {**ALL_ON, "clip": 5.0, "standardize": True}.items():
        assert ShapingSettings(**{name: value}).is_on, name
