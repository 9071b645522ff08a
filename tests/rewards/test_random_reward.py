"""Rewards by chance: of the seed and the place only, with the distribution that was asked for."""

from __future__ import annotations

import statistics

import pytest

from grlo.interfaces import BuildContext
from grlo.rewards.random_reward import RandomRewardSettings
from grlo.types import Completion, Message, Prompt, Rollout


def rollouts(count: int, *, text: str = "x") -> list[Rollout]:
    prompt = Prompt(id="p", messages=(Message("user", "?"),))
    completion = Completion(tokens=(1,), logprobs=(0.0,), finish_reason="stop")
    return [Rollout(prompt, 0, (1,), completion, text) for _ in range(count)]


def values(settings: RandomRewardSettings, count: int, *, seed: int = 0, text: str = "x"):
    reward = settings.build(context=BuildContext(device="cpu", seed=seed))
    return [score.value for score in reward.score(rollouts(count, text=text))]


def test_an_answer_has_no_influence_on_its_reward() -> None:
    settings = RandomRewardSettings()
    assert values(settings, 50) == values(settings, 50, text="a better one")
    assert values(settings, 50) != values(settings, 50, seed=1)


@pytest.mark.parametrize(("distribution", "mean", "spread"), [("coin", 0.5, 0.5), ("normal", 0, 1)])
def test_rewards_have_the_mean_and_spread_of_their_distribution(distribution, mean, spread) -> None:
    found = values(RandomRewardSettings(distribution=distribution), 4000)
    assert statistics.fmean(found) == pytest.approx(mean, abs=0.05)
    assert statistics.pstdev(found) == pytest.approx(spread, abs=0.05)
    assert distribution == "normal" or set(found) == {0.0, 1.0}


def test_a_resumed_reward_goes_on_where_it_was() -> None:
    context = BuildContext(device="cpu", seed=0)
    one = RandomRewardSettings().build(context=context)
    one.score(rollouts(8))
    other = RandomRewardSettings().build(context=context)
    other.load_state_dict(one.state_dict())
    assert one.score(rollouts(8)) == other.score(rollouts(8))
