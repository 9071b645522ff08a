"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from grlo.batch import collate
from grlo.errors import RewardError
from grlo.interfaces import (
    Algorithm,
    FlopCounter,
    OnGroup,
    Progress,
    PromptSource,
    Renderer,
    Reward,
    RolloutEngine,
    silent,
)
from grlo.ledger import Ledger, PhaseCost
from grlo.moments import RunningMoments
from grlo.rollout import sample
from grlo.training.ahead import beside, restored
from grlo.training.draws import Draws
from grlo.training.head_start import head_start
from grlo.training.learner import Learner
from grlo.training.metrics import step_metrics
from grlo.training.watch import watch_metrics
from grlo.types import Rollout, SamplingParams, Score, StepResult

MAX_IDLE_STEPS = 3
"""Steps on end without a group to train on after which a run fails."""


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
    num_idle_steps: int = 0
    """Latest steps in which dynamic sampling found nothing to train on."""
    scores: RunningMoments = field(default_factory=RunningMoments)
    """Of all scores that were trained on; their spread is the unit of clips."""
    progress_of: Callable[[str], Progress] = lambda phase: silent
    """Progress to report to, by phase."""
    overlap: bool = False
    """The engine draws the next step's answers while the learner updates, by its weights from
    before: one step old. It must hold weights of its own. Not with dynamic sampling."""
    ahead: list[Rollout] = field(default_factory=list)
    """Those answers."""

    def steps(self, *, start: int, stop: int) -> Iterator[StepResult]:
        """Runs steps `start` to `stop`, both included, and yields after each.

        Raises:
            RewardError: No rollout of a draw could be scored, or dynamic sampling has found no
                group to train on in `MAX_IDLE_STEPS` steps on end.
            NonFiniteError: A loss or gradient is not finite.
        """
        for step in range(start, stop + 1):
            draws = self._draw(step)
            is_last = step == stop
            losses = self._learn(step, *draws.kept(), is_last=is_last) if draws.groups else {}
            costs = self.ledger.drain()
            rollouts, scores = tuple(draws.rollouts), tuple(draws.scores)
            yield StepResult(
                step=step,
                metrics=losses
                | draws.metrics()
                | watch_metrics(rollouts, scores)
                | step_metrics(rollouts, scores, score_std=self.scores.std, costs=costs),
                rollouts=rollouts,
                scores=scores,
                costs=costs,
            )

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps besides weights and optimizers."""
        return {
            "scores": asdict(self.scores),
            "reward": self.reward.state_dict(),
            "num_draws": self.num_draws,
            "num_idle_steps": self.num_idle_steps,
            "ahead": [asdict(rollout.completion) for rollout in self.ahead],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave."""
        self.scores = RunningMoments(**state["scores"])
        self.num_draws = state["num_draws"]
        self.num_idle_steps = state.get("num_idle_steps", 0)
        self.reward.load_state_dict(state["reward"])
        # The weights that drew them are gone, so what they drew was kept.
        prompts = self.prompts.batch(self.num_draws + 1)
        self.ahead = restored(state.get("ahead", []), prompts, renderer=self.renderer)

    def _draw(self, step: int) -> Draws:
        """Draws stretches of prompts until there are enough groups to train on."""
        draws = Draws(is_dynamic=self.max_draws > 1)
        # A step begins no earlier in the stream of prompts than without dynamic sampling.
        self.num_draws = max(self.num_draws, step - 1)
        for _ in range(self.max_draws):
            self.num_draws += 1
            rollouts = self._generate(step, first_group=draws.num_groups)
            draws.add(rollouts, self._score(rollouts, step), metrics=self.reward.metrics())
            if draws.is_enough:
                break
        self.num_idle_steps = 0 if draws.groups else self.num_idle_steps + 1
        if self.num_idle_steps == MAX_IDLE_STEPS:
            raise RewardError(
                f"steps {step - MAX_IDLE_STEPS + 1} to {step} changed nothing: in every group all "
                f"answers score the same (the mean of step {step} is {draws.mean_score():.3g}). "
                "Choose prompts that the model answers right sometimes (grlo pass-rate), or raise "
                "sampling.samples_per_prompt."
            )
        return draws

    def _learn(
        self, step: int, rollouts: Sequence[Rollout], scores: Sequence[Score], *, is_last: bool
    ) -> dict[str, float]:
        """One step of the algorithm on scored rollouts."""
        batch = collate(rollouts, scores, pad_id=self.renderer.pad_id)
        rollouts = [r for r, s in zip(rollouts, scores, strict=True) if s.value is not None]
        self.scores.update(batch.scores_B.tolist())
        with self._drawing_ahead(step) if self.overlap and not is_last else nullcontext():
            with self._phase("annotate", step, rollouts):
                batch = self.learner.annotate(batch, step=step, score_std=self.scores.std)
            batch = self.algorithm.assign_credit(batch)
            # Rows without a gradient are neither read nor counted.
            read = [rollouts[row] for row in self.learner.rows_to_read(batch).tolist()]
            with self._phase("update", step, read):
                losses = self.learner.update(batch, step=step, progress=self.progress_of("update"))
        with self._phase("sync", step, []):
            self.engine.load_weights(self.learner.policy_weights())
        return losses

    def _generate(self, step: int, *, first_group: int) -> list[Rollout]:
        rollouts, self.ahead = self.ahead, []
        if not rollouts:
            device = getattr(self.engine, "device", "")
            with (
                self.ledger.phase("generate", step=step) as cost,
                head_start(self.reward, drawn_on=device) as on_group,
            ):
                rollouts = self._sample(self.num_draws, self.progress_of("generate"), on_group)
                self._count_drawn(cost, rollouts, step)
        return [replace(rollout, group=rollout.group + first_group) for rollout in rollouts]

    @contextmanager
    def _drawing_ahead(self, step: int) -> Iterator[None]:
        """The engine draws the next step's answers in a second thread while the body runs."""
        with beside(lambda progress: self._sample(self.num_draws + 1, progress)) as drawing:
            yield
            with self.ledger.phase("generate", step=step) as cost:
                self.ahead = drawing.result(progress=self.progress_of("generate"))
                cost.overlapped_seconds = drawing.overlapped_seconds
                self._count_drawn(cost, self.ahead, step)

    def _sample(
        self, draw: int, progress: Progress, on_group: OnGroup | None = None
    ) -> list[Rollout]:
        """Answers to a stretch of prompts."""
        return sample(
            self.engine,
            self.renderer,
            self.prompts.batch(draw),
            self.sampling,
            seed=self.seed,
            step=draw,
            progress=progress,
            on_group=on_group,
        )

    def _count_drawn(self, cost: PhaseCost, rollouts: Sequence[Rollout], step: int) -> None:
        cost.tokens = sum(len(rollout.completion.tokens) for rollout in rollouts)
        cost.add(self.count_flops("generate", rollouts, step=step))

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
            cost.add(self.count_flops(name, rollouts, step=step))
            yield cost
