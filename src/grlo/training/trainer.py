"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Protocol

from grlo.batch import collate
from grlo.errors import RewardError
from grlo.interfaces import Algorithm, Progress, Renderer, Reward, RolloutEngine, silent
from grlo.ledger import Ledger, PhaseCost
from grlo.moments import RunningMoments
from grlo.rollout import sample
from grlo.training.learner import Learner
from grlo.training.metrics import step_metrics
from grlo.training.watch import watch_metrics
from grlo.types import Prompt, Rollout, SamplingParams, Score, StepResult


class PromptSource(Protocol):
    """Says which prompts belong to a step."""

    def batch(self, step: int) -> list[Prompt]: ...


class FlopCounter(Protocol):
    """Estimates the floating-point operations of a phase from the tokens that went through it."""

    def __call__(self, phase: str, rollouts: Sequence[Rollout]) -> float: ...


def _silent_for(phase: str) -> Progress:
    return silent


@dataclass
class Trainer:
    """Turns prompts into updates, one step at a time. It writes nothing."""

    prompts: PromptSource
    renderer: Renderer
    engine: RolloutEngine
    reward: Reward
    algorithm: Algorithm
    learner: Learner
    sampling: SamplingParams
    ledger: Ledger
    count_flops: FlopCounter
    seed: int
    scores: RunningMoments = field(default_factory=RunningMoments)
    """Of all scores so far; their spread is the unit of clips and penalties."""
    progress_of: Callable[[str], Progress] = _silent_for
    """Progress to report to, by phase."""

    def steps(self, *, start: int, stop: int) -> Iterator[StepResult]:
        """Runs steps `start` to `stop`, both included, and yields after each.

        Raises:
            RewardError: No rollout of a step could be scored.
            NonFiniteError: A loss or gradient is not finite.
        """
        for step in range(start, stop + 1):
            rollouts = self._generate(step)
            scores = self._score(rollouts, step)
            batch = collate(rollouts, scores, pad_id=self.renderer.pad_id)
            self.scores.update(batch.scores_B.tolist())
            with self._phase("annotate", step, rollouts):
                batch = self.learner.annotate(batch, step=step, score_std=self.scores.std)
            batch = self.algorithm.assign_credit(batch)
            with self._phase("update", step, rollouts):
                losses = self.learner.update(batch, step=step, progress=self.progress_of("update"))
            with self._phase("sync", step, []):
                self.engine.load_weights(self.learner.policy_weights())
            costs = self.ledger.drain()
            yield StepResult(
                step=step,
                metrics=losses
                | self.reward.metrics()
                | watch_metrics(rollouts, scores)
                | step_metrics(rollouts, scores, score_std=self.scores.std, costs=costs),
                rollouts=tuple(rollouts),
                scores=tuple(scores),
                costs=costs,
            )

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps besides weights and optimizers."""
        return {"scores": asdict(self.scores), "reward": self.reward.state_dict()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Puts back what `state_dict` gave."""
        self.scores = RunningMoments(**state["scores"])  # pyright: ignore[reportArgumentType]
        self.reward.load_state_dict(state["reward"])

    def _generate(self, step: int) -> list[Rollout]:
        with self.ledger.phase("generate", step=step) as cost:
            rollouts = sample(
                self.engine,
                self.renderer,
                self.prompts.batch(step),
                self.sampling,
                seed=self.seed,
                step=step,
                progress=self.progress_of("generate"),
            )
            cost.tokens = sum(len(rollout.completion.tokens) for rollout in rollouts)
            cost.flops = self.count_flops("generate", rollouts)
        return rollouts

    def _score(self, rollouts: Sequence[Rollout], step: int) -> list[Score]:
        with self._phase("score", step, rollouts) as cost:
            try:
                scores = self.reward.score(rollouts, progress=self.progress_of("score"))
            finally:  # What a failure has asked for was paid as well.
                cost.usage = self.reward.usage()
        if all(score.value is None for score in scores):
            raise RewardError(
                f"none of the {len(scores)} rollouts of step {step} could be scored; the first "
                f"because: {scores[0].note or 'no reason given'}"
            )
        return scores

    @contextmanager
    def _phase(self, name: str, step: int, rollouts: Sequence[Rollout]) -> Iterator[PhaseCost]:
        """A phase that reads every token of the given rollouts."""
        with self.ledger.phase(name, step=step) as cost:
            cost.tokens = sum(len(r.prompt_tokens) + len(r.completion.tokens) for r in rollouts)
            cost.flops = self.count_flops(name, rollouts)
            yield cost
