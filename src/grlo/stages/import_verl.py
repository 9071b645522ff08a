"""`grlo import verl`: what verl has left, as an ordinary run directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig

from grlo.errors import CheckpointError
from grlo.evaluation.stats import clustered_mean
from grlo.interfaces import Algorithm
from grlo.launchers.verl.converting import convert
from grlo.launchers.verl.folder import VerlFolder
from grlo.launchers.verl.importing import OTHER, LoggedStep, logged_steps
from grlo.launchers.verl.scoring import read_answers
from grlo.model_shape import shape_from_config
from grlo.moments import RunningMoments
from grlo.rollout import ChatRenderer
from grlo.rundir import RunDir
from grlo.settings import Recipe
from grlo.stages.models import saved_shape
from grlo.stages.report import report
from grlo.stages.runs import open_policy, reward_shapes
from grlo.training import checkpoint
from grlo.training.flops import FlopCounter
from grlo.training.metrics import step_metrics
from grlo.training.watch import watch_metrics
from grlo.types import Rollout, Score, StepResult, Work


def import_verl(folder: Path, *, out: Path) -> Path:
    """Brings what verl has left of an export into a run directory, and draws its page.

    Nothing is brought twice; a run that has gone on since is completed.

    Args:
        folder: Of `grlo export verl`.
        out: New folder, or the one that the export was brought into before.

    Raises:
        CheckpointError: The folder holds no export, or `out` another run, or a checkpoint cannot
            be converted.
    """
    exported = VerlFolder(folder.resolve())
    with open_run(exported, out) as run:
        bringing = Bringing(exported, run)
        num_steps = len(list(bringing.steps()))
        checkpoints = bringing.checkpoints()
    print(f"{num_steps} steps and {len(checkpoints)} checkpoints of {folder} are new in {out}")
    print(f"report: {report(out)}")
    return out


@contextmanager
def open_run(
    exported: VerlFolder, out: Path, *, recipe: Mapping[str, Any] | None = None
) -> Iterator[RunDir]:
    """The run directory of an export.

    Args:
        exported: What verl works on.
        out: Its folder.
        recipe: What is asked for; None is what was exported.

    Raises:
        CheckpointError: It holds another run, or one that verl has not made.
    """
    record = exported.record()
    with RunDir.create_or_open(
        out,
        recipe=recipe or record["recipe"],
        prompt_hash=record["prompt_hash"],
        data=record["data"],
    ) as run:
        rows = run.metrics()
        if rows and not any(name.startswith(OTHER) for name in rows[0]):
            raise CheckpointError(
                f"{out} holds a run of `grlo train`. Choose another folder for the one of verl."
            )
        yield run


class Bringing:
    """Brings steps and checkpoints of verl into a run, as far as they are not there yet.

    Args:
        exported: What verl works on.
        run: Open for writing.
    """

    def __init__(self, exported: VerlFolder, run: RunDir) -> None:
        self._exported, self._run = exported, run
        self._recipe: Recipe = exported.recipe()
        self._num_devices = exported.cluster().num_devices
        self._device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cuda"
        self._renderer: ChatRenderer | None = None
        self._counter: FlopCounter | None = None

    def steps(self) -> Iterator[StepResult]:
        """Brings the steps that are new, one after the other."""
        run = self._run
        paid = {(entry.attempt, entry.step) for entry in run.ledger()}
        last = max((row["step"] for row in run.metrics()), default=0)
        rows = list(logged_steps(self._exported))
        for logged in rows:
            is_paid = (logged.attempt, logged.step) in paid
            is_redone = any(
                other.attempt > logged.attempt and other.step <= logged.step for other in rows
            )
            if is_paid and (is_redone or logged.step <= last):
                continue
            result = self._result(logged)
            # In the order of `grlo train`: costs first, metrics last.
            if not is_paid:
                run.append_ledger(result.costs)
            if is_redone:
                continue
            if logged.step <= last:  # What an earlier start has left there and behind it.
                run.truncate_after(logged.step - 1)
            run.write_rollouts(result.step, result.rollouts, result.scores)
            result = self._with_gold(logged, result)
            run.append_metrics(result.step, result.metrics)
            last = logged.step
            yield result

    def checkpoints(self) -> list[Path]:
        """Converts checkpoints that are new and wanted, and removes those that no longer are."""
        steps = self._exported.checkpoint_steps()
        recorded = {row["step"]: row for row in self._run.metrics()}
        made: list[Path] = []
        for step in steps:
            path = self._run.checkpoint(step)
            # A step that is not recorded yet will be, with its metrics, when verl has logged it.
            if step not in recorded or path.exists() or step not in self._wanted(steps):
                continue
            self._run.checkpoints_dir.mkdir(exist_ok=True)
            convert(self._exported.actor_checkpoint(step), out=path, renderer=self._policy())
            made.append(path)
        kept = {self._run.checkpoint(step).name for step in self._wanted(steps)}
        checkpoint.prune(
            self._run.checkpoints_dir, keep_last=self._recipe.checkpoint.keep_last, keep=kept
        )
        return made

    def _wanted(self, steps: Sequence[int]) -> set[int]:
        """The newest checkpoints, and the best by its metric of all that there have been."""
        settings = self._recipe.checkpoint
        there = {int(path.name.removeprefix("step_")) for path in self._run.checkpoints()}
        known = sorted({*steps, *there})
        wanted = set(known[-settings.keep_last :])
        default = "reward/mean" if self._recipe.gold is None else "gold/mean"
        name = settings.best_by or default
        values = {
            row["step"]: row[name]
            for row in self._run.metrics()
            if row["step"] in known and name in row
        }
        if settings.keep_best and values:
            wanted.add(max(values, key=lambda step: values[step]))
        return wanted

    def _result(self, logged: LoggedStep) -> StepResult:
        found = read_answers(
            self._exported, attempt=logged.attempt, step=logged.step, split="rollouts"
        )
        rollouts, scores = found.rollouts, found.scores
        num_generated = sum(len(rollout.completion.tokens) for rollout in rollouts)
        num_read = num_generated + sum(len(rollout.prompt_tokens) for rollout in rollouts)
        costs = logged.costs(
            num_devices=self._num_devices,
            device=self._device,
            tokens={"generate": num_generated}
            | dict.fromkeys(("score", "annotate", "update"), num_read),
            work=lambda phase: self._count(phase, rollouts, step=logged.step),
            usage=found.usage,
        )
        metrics = logged.metrics()
        if any(score.value is not None for score in scores):
            std = self._moments(scores, before=logged.step).std
            metrics |= watch_metrics(rollouts, scores)
            metrics |= step_metrics(rollouts, scores, score_std=std, costs=costs)
        return StepResult(
            step=logged.step,
            metrics=metrics,
            rollouts=tuple(rollouts),
            scores=tuple(scores),
            costs=tuple(costs),
        )

    def _count(self, phase: str, rollouts: Sequence[Rollout], *, step: int) -> Mapping[str, Work]:
        """Estimated work; with adapters none, whose share only the models in memory would tell."""
        if self._recipe.policy.lora is not None or self._recipe.critic.lora is not None:
            return {}
        if self._counter is None:
            self._counter = _flop_counter(self._recipe)
        return self._counter(phase, rollouts, step=step)

    def _moments(self, scores: Sequence[Score], *, before: int) -> RunningMoments:
        """Of all scores so far."""
        moments = RunningMoments()
        for step in self._run.rollout_steps():
            if step < before:
                earlier = (row["score"] for row in self._run.rollouts(step))
                moments.update(value for value in earlier if value is not None)
        moments.update(score.value for score in scores if score.value is not None)
        return moments

    def _with_gold(self, logged: LoggedStep, result: StepResult) -> StepResult:
        """The step with what the gold reward has said, where it was asked."""
        found = read_answers(self._exported, attempt=logged.attempt, step=logged.step, split="gold")
        rollouts, scores = found.rollouts, found.scores
        if not rollouts:
            return result
        self._run.write_rollouts(result.step, rollouts, scores, kind="gold")
        metrics = {**result.metrics, **_gold_metrics(rollouts, scores)}
        return StepResult(result.step, metrics, result.rollouts, result.scores, result.costs)

    def _policy(self) -> ChatRenderer:
        if self._renderer is None:
            self._renderer = open_policy(self._recipe.policy, num_threads=0)
        return self._renderer


def _flop_counter(recipe: Recipe) -> FlopCounter:
    """Work as verl does it: log-probabilities before every update, each sample with its prompt."""
    algorithm = cast(Algorithm, recipe.algorithm)
    critic = None
    if algorithm.needs_critic:
        config = AutoConfig.from_pretrained(recipe.critic.model or recipe.policy.model)
        head = {"architectures": ["TokenClassification"], "num_labels": 1, "id2label": {0: ""}}
        critic = shape_from_config(config.get_text_config().to_dict() | head)
    return FlopCounter(
        policy=saved_shape(recipe.policy.model),
        critic=critic,
        rewards=reward_shapes(recipe.reward),
        has_reference=algorithm.needs_reference,
        annotates_policy=True,
        num_epochs=recipe.training.num_epochs,
        critic_warmup_steps=getattr(algorithm, "critic_warmup_steps", 0),
        shares_prompts=False,
    )


def _gold_metrics(rollouts: Sequence[Rollout], scores: Sequence[Score]) -> dict[str, float]:
    scored = [
        (score.value, rollout.group)
        for rollout, score in zip(rollouts, scores, strict=True)
        if score.value is not None
    ]
    metrics = {"gold/num": float(len(scored)), "gold/unscored": 1 - len(scored) / len(scores)}
    if scored:
        metrics["gold/mean"] = clustered_mean(*zip(*scored, strict=True)).value
    return metrics
