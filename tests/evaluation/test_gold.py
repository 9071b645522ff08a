"""The gold signal: when curves part, on synthetic ones; and what it asks of its parts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest

from grlo.errors import RewardError
from grlo.evaluation.gold import GoldSignal, Parting, choose
from grlo.evaluation.stats import Estimate, clustered_mean
from grlo.interfaces import Progress, ignore, silent
from grlo.ledger import Ledger
from grlo.settings import GoldSettings
from grlo.types import (
    Completion,
    Message,
    Prompt,
    Rollout,
    SamplingParams,
    Score,
    StepResult,
    Usage,
    Work,
)


def estimate(value: float, error: float = 0.01) -> Estimate:
    return Estimate(value, error, value - 2 * error, value + 2 * error)


def stopped_at(
    gold: Sequence[float], training: Sequence[float], *, stop_after: int, error: float = 0.01
) -> int | None:
    """Number of the evaluation after which there is a reason to stop."""
    parting = Parting(stop_after=stop_after, margin=1.0)
    for number, (value, reward) in enumerate(zip(gold, training, strict=True), start=1):
        parting.add(estimate(value, error), step=10 * number, training_reward=reward)
        if parting.reason:
            return number
    return None


RISING = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_it_stops_at_the_kth_evaluation_below_the_best_while_the_reward_rises():
    gold = [0.1, 0.3, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]  # The best is the third.
    assert stopped_at(gold, RISING, stop_after=1) == 4
    assert stopped_at(gold, RISING, stop_after=3) == 6
    assert stopped_at(gold, RISING, stop_after=0) is None


def test_gold_that_rises_or_stays_stops_nothing():
    assert stopped_at([0.1 * i for i in range(8)], RISING, stop_after=1) is None
    assert stopped_at([0.5] * 8, RISING, stop_after=1) is None


def test_gold_that_falls_with_the_training_reward_is_a_collapse_and_no_hacking():
    gold = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0]
    assert stopped_at(gold, [-reward for reward in RISING], stop_after=1) is None


def test_a_fall_within_the_noise_of_the_evaluation_does_not_count():
    gold = [0.60, 0.58, 0.57, 0.56, 0.58, 0.57, 0.56, 0.58]
    assert stopped_at(gold, RISING, stop_after=2, error=0.05) is None
    assert stopped_at(gold, RISING, stop_after=2, error=0.005) == 3


def test_an_evaluation_that_recovers_starts_the_count_again():
    gold = [0.6, 0.5, 0.5, 0.6, 0.5, 0.5, 0.5, 0.6]
    assert stopped_at(gold, RISING, stop_after=3) == 7
    gold = [0.6, 0.5, 0.5, 0.7, 0.6, 0.6, 0.6, 0.7]  # The fourth is a new best.
    assert stopped_at(gold, RISING, stop_after=3) == 7


def test_a_slow_fall_is_measured_against_the_best_and_not_against_the_evaluation_before():
    gold = [0.600 - 0.004 * number for number in range(8)]
    # Each falls by 0.4 standard errors; the fourth is the first below the best by more than one.
    assert stopped_at(gold, RISING, stop_after=1) == 4


def test_the_reason_has_the_numbers_and_survives_a_checkpoint():
    parting = Parting(stop_after=1, margin=1.0)
    parting.add(estimate(0.6), step=10, training_reward=1.5)
    halfway = Parting(stop_after=1, margin=1.0)
    halfway.load_state_dict(json.loads(json.dumps(parting.state_dict())))
    for one in (parting, halfway):
        one.add(estimate(0.2), step=20, training_reward=2.5)
    assert parting.reason == halfway.reason
    for number in ("1.5", "2.5", "0.6", "0.2", "step 10", "step 20"):
        assert number in parting.reason
    assert parting.best is not None
    assert parting.best.step == 10


PROMPTS = [Prompt(id=str(i), messages=(Message("user", str(i)),)) for i in range(6)]


class Renderer:
    stop_ids = (0,)
    pad_id = 0

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return (1, 2)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(len(tokens))


class Engine:
    """Answers with as many tokens as `length` says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.length = 3
        self.seeds: list[tuple[int, ...]] = []

    def generate(self, prompts, sampling, *, seeds, progress=silent, on_completion=ignore):
        self.seeds.append(tuple(seeds))
        answer = Completion((5,) * self.length, (0.0,) * self.length, "stop")
        return [answer] * (len(prompts) * sampling.num_samples)


class LengthReward:
    """One per token; unscored where told."""

    unscored: frozenset[str] = frozenset()

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        return [
            Score(None if r.prompt.id in self.unscored else float(len(r.completion.tokens)))
            for r in rollouts
        ]

    def state_dict(self) -> dict[str, float]:
        return {"seen": 1.0}

    def load_state_dict(self, state) -> None:
        assert state == {"seen": 1.0}

    def metrics(self) -> dict[str, float]:
        return {}

    def usage(self) -> Usage:
        return Usage(requests=6, dollars=0.25)


def signal(prompts: Sequence[Prompt] = PROMPTS, **settings) -> tuple[GoldSignal, Engine, Ledger]:
    engine, ledger = Engine(), Ledger(device="cpu", num_devices=1, attempt=0)
    sources = ("held_out.jsonl",) if prompts else ()
    gold = GoldSignal(
        GoldSettings(reward=None, sources=sources, **settings),
        LengthReward(),
        prompts=prompts,
        engine=engine,  # type: ignore[arg-type]
        renderer=Renderer(),
        sampling=SamplingParams(max_tokens=9),
        ledger=ledger,
        count_flops=lambda phase, rollouts: {
            "generate": {"engine": Work(18, 100.0)},
            "score": {"reward_model": Work(30, 10.0)},
        }[phase],
        seed=0,
    )
    return gold, engine, ledger


def step(number: int, reward: float, rollouts: Sequence[Rollout] = ()) -> StepResult:
    return StepResult(number, {"reward/mean": reward}, tuple(rollouts), (), ())


def test_evaluations_come_every_k_steps_and_at_the_last_with_the_mean_reward_between():
    gold, engine, ledger = signal(every=3)
    found = {n: gold.after_step(step(n, float(n)), is_last=n == 8) for n in range(1, 9)}
    assert [n for n, metrics in found.items() if metrics] == [3, 6, 8]
    rewards = [found[n]["gold/training_reward"] for n in (3, 6, 8)]
    assert rewards == [2.0, 5.0, 7.5]  # Means of 1 2 3, 4 5 6 and 7 8.
    assert found[3]["gold/mean"] == 3.0
    assert found[3]["gold/num"] == 6
    assert engine.seeds[0] == engine.seeds[1] == engine.seeds[2]
    entries = ledger.drain()
    assert [(e.phase, e.step, e.tokens, e.flops, e.requests, e.dollars) for e in entries] == [
        ("evaluate", n, 18, 110.0, 6, 0.25) for n in (3, 6, 8)
    ]
    assert all(e.tokens_by == {"engine": 18, "reward_model": 30} for e in entries)


def test_without_held_out_prompts_the_rollouts_of_the_step_are_scored():
    gold, engine, ledger = signal(prompts=(), every=1)
    rollouts = [
        Rollout(PROMPTS[0], group, (1,), Completion((5,) * n, (0.0,) * n, "stop"), "")
        for group, n in [(0, 2), (0, 4), (1, 9)]
    ]
    metrics = gold.after_step(step(1, 0.0, rollouts), is_last=False)
    expected = clustered_mean([2.0, 4.0, 9.0], [0, 0, 1])
    assert metrics["gold/mean"] == 5.0
    assert metrics["gold/standard_error"] == pytest.approx(expected.standard_error)
    assert not engine.seeds
    (entry,) = ledger.drain()
    assert (entry.tokens, entry.flops, entry.flops_by) == (0, 10.0, {"reward_model": 10.0})


def test_unscored_answers_are_left_out_and_counted():
    gold, _, _ = signal(every=1)
    gold.reward.unscored = frozenset("01")  # type: ignore[attr-defined]
    metrics = gold.after_step(step(1, 0.0), is_last=False)
    assert (metrics["gold/num"], metrics["gold/unscored"]) == (4, pytest.approx(1 / 3))
    gold.reward.unscored = frozenset("012345")  # type: ignore[attr-defined]
    metrics = gold.after_step(step(2, 6.0), is_last=False)
    assert metrics == {"gold/num": 0.0, "gold/unscored": 1.0}
    gold.reward.unscored = frozenset()  # type: ignore[attr-defined]
    # What the lost evaluation would have covered belongs to the next one.
    assert gold.after_step(step(3, 2.0), is_last=False)["gold/training_reward"] == 4.0


def test_a_gold_reward_that_never_scored_anything_stops_the_run():
    gold, _, _ = signal(every=1)
    gold.reward.unscored = frozenset("012345")  # type: ignore[attr-defined]
    with pytest.raises(RewardError, match="could not score any of 6 answers"):
        gold.after_step(step(1, 0.0), is_last=False)


def test_one_prompt_has_no_standard_error():
    gold, _, _ = signal(PROMPTS[:1], every=1)
    metrics = gold.after_step(step(1, 0.0), is_last=False)
    assert "gold/standard_error" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_resumed_signal_goes_on_as_one_that_was_not_interrupted():
    def run(gold: GoldSignal, engine: Engine, steps: range) -> list[dict[str, float]]:
        found = []
        for n in steps:
            engine.length = 9 - n
            found.append(gold.after_step(step(n, n / 7), is_last=False))
        return found

    whole, engine, _ = signal(every=2, stop_after=2)
    expected = run(whole, engine, range(1, 9))
    assert whole.parting.reason
    for cut in range(1, 8):
        first, engine, _ = signal(every=2, stop_after=2)
        before = run(first, engine, range(1, cut + 1))
        second, engine, _ = signal(every=2, stop_after=2)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert before + run(second, engine, range(cut + 1, 9)) == expected
        assert second.parting.reason == whole.parting.reason
        assert second.best_step == whole.best_step == 2


def test_the_drawn_prompts_depend_on_the_seed_only_and_keep_their_order():
    drawn = choose(PROMPTS, count=4, seed=1)
    assert drawn == choose(PROMPTS, count=4, seed=1)
    assert len({prompt.id for prompt in drawn}) == 4
    assert [p.id for p in drawn] == sorted(p.id for p in drawn)
    assert any(choose(PROMPTS, count=4, seed=seed) != drawn for seed in range(2, 9))
    assert choose(PROMPTS, count=0, seed=1) == choose(PROMPTS, count=99, seed=1) == tuple(PROMPTS)


def test_settings_of_held_out_prompts_without_any_are_refused():
    with pytest.raises(ValueError, match="no effect without sources"):
        GoldSettings(reward=None, num_prompts=5)
