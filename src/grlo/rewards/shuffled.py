"""The control arm: rewards of a reward model, dealt out at random among a step's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grlo import registry
from grlo.interfaces import BuildContext, Progress, Reward, silent
from grlo.rewards.reward_model import RewardModelSettings
from grlo.seeding import derive_rng
from grlo.types import Rollout, Score, Usage

_CALLS = "shuffled_calls"


@dataclass(frozen=True)
class ShuffledRewardSettings(RewardModelSettings):
    """The settings of the reward model whose scores are shuffled.

    Same prompts, same compute, same distribution of rewards in every step, but a reward says
    nothing of its answer: what this arm gains was not learned from the reward model.
    """

    name: str = "shuffled"

    def build(self, *, context: BuildContext) -> ShuffledReward:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `RewardModelSettings.build`."""
        return ShuffledReward(super().build(context=context), seed=context.seed)


class ShuffledReward:
    """Permutes the scores of another reward over the rollouts of a step.

    A score moves with its value and note; parts stay with their rollout, so that logs still show
    what the answers would have earned. Unscored rollouts stay unscored.

    Args:
        inner: The reward that scores.
        seed: The run's seed; the permutation is a function of it and of the number of the call.
    """

    def __init__(self, inner: Reward, *, seed: int) -> None:
        self._inner, self._seed, self._num_calls = inner, seed, 0

    def begin(self, rollouts: Sequence[Rollout], *, drawn_on: str) -> None:
        registry.begin(self._inner, rollouts, drawn_on=drawn_on)

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        """One score per rollout, each that of a random one among the scored."""
        scores = self._inner.score(rollouts, progress=progress)
        scored = [index for index, score in enumerate(scores) if score.value is not None]
        sources = list(scored)
        derive_rng(self._seed, "shuffled", self._num_calls).shuffle(sources)
        self._num_calls += 1
        shuffled = list(scores)
        for target, source in zip(scored, sources, strict=True):
            shuffled[target] = replace(
                scores[target], value=scores[source].value, note=scores[source].note
            )
        return shuffled

    def state_dict(self) -> dict[str, float]:
        """The inner reward's, and the number of calls."""
        return {**self._inner.state_dict(), _CALLS: self._num_calls}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._num_calls = int(state[_CALLS])
        self._inner.load_state_dict({k: v for k, v in state.items() if k != _CALLS})

    def metrics(self) -> dict[str, float]:
        return self._inner.metrics()

    def usage(self) -> Usage:
        return self._inner.usage()
