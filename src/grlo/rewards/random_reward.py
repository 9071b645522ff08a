"""A control arm: rewards that are drawn at random and look at no answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from grlo.interfaces import BuildContext, Progress, silent
from grlo.seeding import derive_rng
from grlo.settings import require
from grlo.types import Rollout, Score, Usage

_CALLS = "random_calls"


@dataclass(frozen=True)
class RandomRewardSettings:
    """Draws every reward on its own, with mean 1/2 for a coin and 0 for the normal distribution.

    The coin is the random reward of "Spurious Rewards" (Shao et al. 2025, arXiv:2506.10947), which
    raised mathematics of one family of models. No reward model is run, so that an arm at equal
    operations takes more steps than with one; the reward `shuffled` spends the same on scoring.
    """

    name: str = "random"
    distribution: Literal["coin", "normal"] = "coin"
    """0 or 1 with equal chances, or standard normal."""
    styles: tuple[str, ...] = ("model", "rule")
    """Styles of the prompts that it scores."""

    def __post_init__(self) -> None:
        require(len(self.styles) > 0, "styles must name at least one style")

    def build(self, *, context: BuildContext) -> RandomReward:
        """A reward that is a function of the run's seed."""
        return RandomReward(self, seed=context.seed)


class RandomReward:
    """Scores by chance.

    Args:
        settings: The distribution.
        seed: The run's seed; a reward is a function of it, the number of the call and the place of
            the answer in it.
    """

    def __init__(self, settings: RandomRewardSettings, *, seed: int) -> None:
        self._settings, self._seed, self._num_calls = settings, seed, 0

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        """One score per rollout."""
        rng = derive_rng(self._seed, "random reward", self._num_calls)
        self._num_calls += 1
        is_coin = self._settings.distribution == "coin"
        return [
            Score(value=float(rng.getrandbits(1)) if is_coin else rng.gauss(0.0, 1.0))
            for _ in rollouts
        ]

    def state_dict(self) -> dict[str, float]:
        """The number of calls."""
        return {_CALLS: self._num_calls}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._num_calls = int(state[_CALLS])

    def metrics(self) -> dict[str, float]:
        """None: nothing was read."""
        return {}

    def usage(self) -> Usage:
        """None: nobody was asked."""
        return Usage()
