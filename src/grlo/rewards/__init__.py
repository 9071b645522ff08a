"""Rewards by name; each is the settings dataclass that builds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from grlo.types import Prompt

REWARDS: dict[str, str] = {
    "reward_model": "grlo.rewards.reward_model:RewardModelSettings",
    "verified": "grlo.rewards.verified:VerifiedSettings",
    "mixture": "grlo.rewards.mixture:MixtureSettings",
    "shuffled": "grlo.rewards.shuffled:ShuffledRewardSettings",
}


def single_rewards(reward: object, *, path: str = "reward") -> Iterator[tuple[str, object]]:
    """The settings of all rewards that a reward consists of, with the key where each stands.

    A reward that is made of others has them in its attribute `parts`, by name.
    """
    parts = getattr(reward, "parts", None)
    if not isinstance(parts, Mapping):
        yield path, reward
        return
    for name, part in parts.items():
        yield from single_rewards(part, path=f"{path}.parts.{name}")


def style_problems(reward: object, prompts: Sequence[Prompt]) -> list[str]:
    """What is wrong with the styles of prompts for a reward.

    Args:
        reward: Settings of a reward. Their `styles` says what it scores; without one it is what a
            reward model scores.
        prompts: Of the run.

    Returns:
        One line per style that the reward does not score, with the first such row.
    """
    handled = getattr(reward, "styles", ("model",))
    first = {prompt.style: prompt.source for prompt in reversed(prompts)}
    counts = Counter(prompt.style for prompt in prompts)
    return [
        f"{counts[style]} prompts (first: {source}) have the style {style!r}, which the reward "
        f"does not score; it scores {', '.join(handled)}. Choose another reward, or remove them."
        for style, source in sorted(first.items())
        if style not in handled
    ]
