"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any, Protocol

from grlo.batch import collate
from grlo.errors import RewardError
from grlo.interfaces import Algorithm, Progress, Renderer, Reward, RolloutEngine, silent
from grlo.ledger import Ledger, PhaseCost
from grlo.moments import RunningMoments
from grlo.rollout import sample
from grlo.training.learner import Learner
from grlo.training.metrics import informative_groups, step_metrics
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
    max_draws: int = 1
    """With more than 1, groups whose samples all score the same are left out of training and
    further prompts are drawn in their place, at most so many times (DAPO's dynamic sampling)."""
    num_draws: int = 0
    """Stretches of prompts drawn so far; one per step without dynamic sampling."""
    scores: RunningMoments = field(default_factory=RunningMoments)
    """Of all scores so far; their spread is the unit of clips and penalties."""
    progress_of: Callable[[str], Progress] = _silent_for
    """Progress to report to, by phase."""

    def steps(self, *, start: int, stop: int) -> Iterator[StepResult]:
        """Runs steps `start` to `stop`, both included, and yields after each.

        Raises:
            RewardError: No rollout of a draw could be scored, or dynamic sampling has found no
                group to train on.
            NonFiniteError: A loss or gradient is not finite.
        """
        for step in range(start, stop + 1):
            rollouts, scores, rows = self._draw(step)
            kept = [rollouts[row] for row in rows]
            batch = collate(kept, [scores[row] for row in rows], pad_id=self.renderer.pad_id)
            self.scores.update(batch.scores_B.tolist())
            with self._phase("annotate", step, kept):
                batch = self.learner.annotate(batch, step=step, score_std=self.scores.std)
            batch = self.algorithm.assign_credit(batch)
            with self._phase("update", step, kept):
                losses = self.learner.update(batch, step=step, progress=self.progress_of("update"))
            with self._phase("sync", step, []):
                self.engine.load_weights(self.learner.policy_weights())
            costs = self.ledger.drain()
            yield StepResult(
                step=step,
                metrics=losses
                | self._draw_metrics(rollouts, kept)
                | self.reward.metrics()
                | watch_metrics(rollouts, scores)
                | step_metrics(rollouts, scores, score_std=self.scores.std, costs=costs),
                rollouts=tuple(rollouts),
                scores=tuple(scores),
                costs=costs,
            )

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps besides weights and optimizers."""
        return {
            "scores": asdict(self.scores),
            "reward": self.reward.state_dict(),
            "num_draws": self.num_draws,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave."""
        self.scores = RunningMoments(**state["scores"])
        self.num_draws = state["num_draws"]
        self.reward.load_state_dict(state["reward"])

    def _draw(self, step: int) -> tuple[list[Rollout], list[Score], list[int]]:
        """All rollouts of a step with their scores, and the rows to train on."""
        rollouts: list[Rollout] = []
        scores: list[Score] = []
        groups: list[int] = []
        num_prompts = 0
        for _ in range(self.max_draws):
            # A step begins no earlier in the stream of prompts than without dynamic sampling.
            self.num_draws = max(self.num_draws, step - 1) + 1
            drawn = self._generate(step, first_group=num_prompts)
            drawn_scores = self._score(drawn, step)
            rollouts += drawn
            scores += drawn_scores
            if self.max_draws == 1:
                return rollouts, scores, list(range(len(rollouts)))
            num_prompts = rollouts[-1].group + 1
            groups += informative_groups(drawn, drawn_scores)
            num_wanted = len(drawn) // self.sampling.num_samples
            if len(groups) >= num_wanted:
                groups = groups[:num_wanted]
                break
        if not groups:
            raise RewardError(
                f"in each of the {num_prompts} groups of step {step} all answers score the same "
                f"(the mean is {fmean(s.value for s in scores if s.value is not None):.3g}): there "
                "is nothing to learn from. Choose prompts that the model answers sometimes "
                "(grlo pass-rate), or raise sampling.samples_per_prompt."
            )
        chosen = set(groups)
        return rollouts, scores, [i for i, r in enumerate(rollouts) if r.group in chosen]

    def _draw_metrics(
        self, rollouts: Sequence[Rollout], kept: Sequence[Rollout]
    ) -> dict[str, float]:
        if self.max_draws == 1:
            return {}
        num_drawn, num_kept = (len({r.group for r in rows}) for rows in (rollouts, kept))
        return {"sampling/drawn_groups": num_drawn, "sampling/kept_groups": num_kept}

    def _generate(self, step: int, *, first_group: int) -> list[Rollout]:
        with self.ledger.phase("generate", step=step) as cost:
            rollouts = sample(
                self.engine,
                self.renderer,
                self.prompts.batch(self.num_draws),
                self.sampling,
                seed=self.seed,
                step=self.num_draws,
                progress=self.progress_of("generate"),
            )
            cost.tokens = sum(len(rollout.completion.tokens) for rollout in rollouts)
            cost.flops = self.count_flops("generate", rollouts)
        return [replace(rollout, group=rollout.group + first_group) for rollout in rollouts]

    def _score(self, rollouts: Sequence[Rollout], step: int) -> list[Score]:
        with self._phase("score", step, rollouts) as cost:
            try:
                scores = self.reward.score(rollouts, progress=self.progress_of("score"))
            finally:  # What a failure has asked for was paid as well.
                cost.usage = self.reward.usage()
        if all(score.value is None for score in scores):
            raise RewardError(
                f"none of {len(scores)} rollouts of step {step} could be scored; the first "
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
