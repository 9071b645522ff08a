"""Rewards by name; each is the settings dataclass that builds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from grlo.types import Prompt

REWARDS: dict[str, str] = {
    "reward_model": "grlo.rewards.reward_model:RewardModelSettings",
    "verified": "grlo.rewards.verified:VerifiedSettings",
    "judge": "grlo.rewards.judge:JudgeSettings",
    "mixture": "grlo.rewards.mixture:MixtureSettings",
    "shuffled": "grlo.rewards.shuffled:ShuffledRewardSettings",
    "random": "grlo.rewards.random_reward:RandomRewardSettings",
}


@dataclass(frozen=True)
class SingleReward:
    """A reward that stands alone or as a part of others."""

    key: str
    """Where the recipe states it, such as `reward.parts.quality`."""
    settings: object
    styles: tuple[str, ...]
    """Styles of the prompts that it scores."""


def single_rewards(
    reward: object, *, key: str = "reward", styles: Sequence[str] | None = None
) -> Iterator[SingleReward]:
    """The rewards that a reward consists of.

    Args:
        reward: Settings. Those of a sum of rewards have `parts`, settings by name, and `routes`,
            style -> part -> weight.
        key: Where the recipe states it.
        styles: Styles of the prompts that reach it; None is all that it scores.
    """
    reached = scored_styles(reward) if styles is None else tuple(styles)
    parts = getattr(reward, "parts", None)
    if not isinstance(parts, Mapping):
        yield SingleReward(key, reward, reached)
        return
    routes: Mapping[str, Mapping[str, float]] = getattr(reward, "routes", {})
    for name, part in parts.items():
        here = [style for style in reached if name in routes.get(style, ())]
        yield from single_rewards(part, key=f"{key}.parts.{name}", styles=here)


def scored_styles(reward: object) -> tuple[str, ...]:
    """Styles of prompts that a reward scores: its `styles`, else what a reward model scores."""
    return tuple(getattr(reward, "styles", ("model",)))


def style_problems(reward: object, prompts: Sequence[Prompt]) -> list[str]:
    """What is wrong with the styles of prompts for a reward.

    Args:
        reward: Settings of a reward.
        prompts: Of the run.

    Returns:
        One line per style that the reward does not score, with the first such row.
    """
    handled = scored_styles(reward)
    first = {prompt.style: prompt.source for prompt in reversed(prompts)}
    counts = Counter(prompt.style for prompt in prompts)
    return [
        f"{counts[style]} prompts (first: {source}) have the style {style!r}, which the reward "
        f"does not score; it scores {', '.join(handled)}. Choose another reward, or remove them."
        for style, source in sorted(first.items())
        if style not in handled
    ]
