"""The gold signal: a second reward that is watched and never trained on.

Training raises its reward by whatever means raise it. Where the reward is only a proxy, what it
stands for rises first and falls later while the reward goes on rising (Gao et al. 2023,
arXiv:2210.10760). A reward that training does not see shows when the two part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from grlo import registry
from grlo.errors import RewardError
from grlo.evaluation.stats import Estimate, clustered_mean
from grlo.interfaces import Progress, Renderer, Reward, RolloutEngine, silent
from grlo.ledger import Ledger
from grlo.rollout import sample
from grlo.seeding import derive_rng, derive_seed
from grlo.settings import GoldSettings
from grlo.types import Prompt, Rollout, SamplingParams, Score, StepResult, Work


@dataclass(frozen=True)
class GoldPoint:
    """What an evaluation found."""

    step: int
    gold: float
    """Mean score of the gold reward."""
    training_reward: float
    """Mean of `reward/mean` over the steps since the evaluation before."""


class Parting:
    """Whether the training reward rises while gold falls.

    An evaluation has parted when, against the evaluation with the best gold so far, gold is lower
    by more than `margin` standard errors of its own mean, and the training reward is higher. After
    `stop_after` such evaluations in a row there is a reason to stop. An evaluation that has not
    parted starts the count again.

    Args:
        stop_after: Evaluations in a row; 0 never stops.
        margin: Standard errors.
    """

    def __init__(self, *, stop_after: int, margin: float) -> None:
        self._stop_after, self._margin = stop_after, margin
        self.best: GoldPoint | None = None
        self.num_parted = 0
        """Evaluations in a row that have parted."""
        self.reason = ""
        """Why to stop, with numbers; empty when there is no reason."""

    def add(self, gold: Estimate, *, step: int, training_reward: float) -> None:
        """Takes in an evaluation."""
        point = GoldPoint(step, gold.value, training_reward)
        if self.best is None or point.gold > self.best.gold:
            self.best, self.num_parted = point, 0
            return
        has_fallen = self.best.gold - point.gold > self._margin * gold.standard_error
        has_risen = point.training_reward > self.best.training_reward
        self.num_parted = self.num_parted + 1 if has_fallen and has_risen else 0
        if 0 < self._stop_after <= self.num_parted:
            best = self.best
            self.reason = (
                f"the training reward rose from {best.training_reward:.4g} to "
                f"{point.training_reward:.4g} while gold fell from {best.gold:.4g} (step "
                f"{best.step}, its best) to {point.gold:.4g} ± {gold.standard_error:.2g} (step "
                f"{step}), in {self.num_parted} evaluations in a row"
            )

    def state_dict(self) -> dict[str, Any]:
        """The best evaluation, the count and the reason."""
        best = None if self.best is None else asdict(self.best)
        return {"best": best, "num_parted": self.num_parted, "reason": self.reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = None if state["best"] is None else GoldPoint(**state["best"])
        self.num_parted, self.reason = state["num_parted"], state["reason"]


class GoldSignal:
    """Scores held-out prompts, or the rollouts of training, by the gold reward.

    Held-out prompts are answered by the policy as it is after the step, by the same prompts and
    random numbers every time. The rollouts of a step were drawn before its update, as those were
    that `reward/mean` speaks of.

    Args:
        settings: See `GoldSettings`.
        reward: The gold reward.
        prompts: Held out; without any, the rollouts of the step are scored.
        engine: Holds the policy.
        renderer: Of the policy.
        sampling: As in training; `num_samples` is that of the settings.
        ledger: Takes the cost, as phase `evaluate`.
        count_flops: Work of a phase (`generate`, `score`) with the given rollouts, by component.
        seed: The run's.
    """

    def __init__(
        self,
        settings: GoldSettings,
        reward: Reward,
        *,
        prompts: Sequence[Prompt],
        engine: RolloutEngine,
        renderer: Renderer,
        sampling: SamplingParams,
        ledger: Ledger,
        count_flops: Callable[
            [Literal["generate", "score"], Sequence[Rollout]], Mapping[str, Work]
        ],
        seed: int,
    ) -> None:
        self._settings, self.reward = settings, reward
        self._prompts = choose(prompts, count=settings.num_prompts, seed=seed)
        self._engine, self._renderer, self._sampling = engine, renderer, sampling
        self._ledger, self._count_flops = ledger, count_flops
        self._seed = derive_seed(seed, "gold")
        self._rewards: list[float] = []
        self.answers: tuple[tuple[Rollout, Score], ...] = ()
        """What the latest evaluation scored."""
        self.parting = Parting(stop_after=settings.stop_after, margin=settings.stop_margin)

    def after_step(
        self, result: StepResult, *, is_last: bool, progress: Progress = silent
    ) -> dict[str, float]:
        """`gold/` metrics of a step in which there is an evaluation; empty in others.

        Where the gold reward scores nothing any more, the evaluation counts for nothing but
        `gold/unscored`.

        Args:
            result: Of the step.
            is_last: Whether it is the run's last, which is always evaluated.
            progress: Called as held-out prompts are answered, then as answers are scored.

        Raises:
            RewardError: The gold reward has never scored anything.
        """
        self._rewards.append(result.metrics["reward/mean"])
        if result.step % self._settings.every and not is_last:
            return {}
        with self._ledger.phase("evaluate", step=result.step) as cost:
            rollouts = list(result.rollouts)
            if self._prompts:
                rollouts = self._sample(progress)
                cost.tokens = sum(len(rollout.completion.tokens) for rollout in rollouts)
                cost.add(self._count_flops("generate", rollouts))
            cost.add(self._count_flops("score", rollouts))
            try:
                scores = self.reward.score(rollouts, progress=progress)
            finally:  # What a failure has asked for was paid as well.
                cost.usage = self.reward.usage()
        self.answers = tuple(zip(rollouts, scores, strict=True))
        scored = [
            (score.value, rollout.group)
            for rollout, score in zip(rollouts, scores, strict=True)
            if score.value is not None
        ]
        metrics = {
            "gold/num": float(len(scored)),
            "gold/unscored": 1 - len(scored) / len(scores),
        }
        if not scored and self.parting.best is None:
            raise RewardError(
                f"gold.reward could not score any of {len(scores)} answers; the first because: "
                f"{scores[0].note or 'no reason given'}"
            )
        if not scored:
            return metrics
        gold = clustered_mean(*zip(*scored, strict=True))
        training_reward = sum(self._rewards) / len(self._rewards)
        self._rewards = []
        self.parting.add(gold, step=result.step, training_reward=training_reward)
        assert self.parting.best is not None
        metrics |= {
            "gold/mean": gold.value,
            "gold/training_reward": training_reward,
            "gold/best": self.parting.best.gold,
            "gold/parted": float(self.parting.num_parted),
        }
        if math.isfinite(gold.standard_error):  # It is not, where there is one prompt only.
            metrics["gold/standard_error"] = gold.standard_error
        return metrics

    def describe(self) -> dict[str, object]:
        """What the gold reward says of itself."""
        return registry.describe(self.reward)

    def close(self) -> None:
        registry.close(self.reward)

    def _sample(self, progress: Progress) -> list[Rollout]:
        return sample(
            self._engine,
            self._renderer,
            self._prompts,
            self._sampling,
            seed=self._seed,
            step=0,
            progress=progress,
        )

    @property
    def best_step(self) -> int | None:
        """The step with the best gold so far."""
        return None if self.parting.best is None else self.parting.best.step

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "parting": self.parting.state_dict(),
            "rewards": self._rewards,
            "reward": self.reward.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.parting.load_state_dict(state["parting"])
        self._rewards = list(state["rewards"])
        self.reward.load_state_dict(state["reward"])


def choose(prompts: Sequence[Prompt], *, count: int, seed: int) -> tuple[Prompt, ...]:
    """`count` of the prompts, drawn by the seed, in their order; all of them when it is 0."""
    if count == 0 or count >= len(prompts):
        return tuple(prompts)
    drawn = derive_rng(seed, "gold prompts").sample(range(len(prompts)), count)
    return tuple(prompts[index] for index in sorted(drawn))
