"""The checkpoints of a training run: when, what with the weights, and which are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from grlo.evaluation.gold import GoldSignal
from grlo.rollout import ChatRenderer
from grlo.rundir import RunDir
from grlo.settings import Recipe
from grlo.training import checkpoint
from grlo.training.trainer import Trainer
from grlo.types import StepResult


@dataclass
class Saver:
    """Writes checkpoints and removes those that are no longer wanted."""

    trainer: Trainer
    recipe: Recipe
    run: RunDir
    gold: GoldSignal | None
    best: dict[str, float] | None
    """Step and value of the best checkpoint by `best_by`."""

    @property
    def best_by(self) -> str:
        """The metric that decides which checkpoint is the best."""
        default = "reward/mean" if self.gold is None else "gold/mean"
        return self.recipe.checkpoint.best_by or default

    def wants(self, result: StepResult) -> bool:
        """Whether a step is the best so far by a metric that is rare enough to be worth a
        checkpoint of its own; the reward is there at every step."""
        return self.best_by != "reward/mean" and self._is_best(result)

    def _is_best(self, result: StepResult) -> bool:
        value = result.metrics.get(self.best_by)
        return value is not None and (self.best is None or value > self.best["value"])

    def save(self, result: StepResult) -> Path:
        if self._is_best(result):
            self.best = {"step": result.step, "value": result.metrics[self.best_by]}
        path = self.run.checkpoint(result.step)
        with self.trainer.ledger.phase("checkpoint", step=result.step):
            checkpoint.save(
                path,
                self.trainer.learner,
                cast(ChatRenderer, self.trainer.renderer),
                tell_others=self.trainer.learner.tell_checkpoint,
                state={
                    "step": result.step,
                    "best": self.best,
                    "gold": None if self.gold is None else self.gold.state_dict(),
                    "trainer": self.trainer.state_dict(),
                    "micro_batch_tokens": self.trainer.learner.micro_batches.max_tokens,
                },
            )
        keep: set[str] = set()
        if self.best is not None and self.recipe.checkpoint.keep_best:
            keep = {self.run.checkpoint(int(self.best["step"])).name}
        checkpoint.prune(
            self.run.checkpoints_dir, keep_last=self.recipe.checkpoint.keep_last, keep=keep
        )
        return path
