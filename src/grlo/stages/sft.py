"""`grlo sft`: supervised fine-tuning by one recipe in one run directory, resumed by default."""

from __future__ import annotations

import hashlib
import math
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grlo.ledger import Ledger
from grlo.progress import progress_bar
from grlo.prompts.demonstrations import read_demonstrations
from grlo.recipe import dump_recipe, validate_sft
from grlo.reporting.live import LiveView
from grlo.reporting.text import visible
from grlo.rollout import ChatRenderer
from grlo.rundir import RunDir
from grlo.schema import recipe_error
from grlo.settings import SFTRecipe
from grlo.stages.report import report
from grlo.stages.runs import (
    begin,
    choose_device,
    machine,
    model_shape,
    newest_checkpoint,
    num_adapter_weights,
    open_policy,
    record_data,
    stop_requests,
)
from grlo.trackers import open_trackers
from grlo.training import checkpoint
from grlo.training.budget import Budget
from grlo.training.sft import (
    SFTLearner,
    SFTTrainer,
    TokenizedDemonstration,
    split_held_out,
    tokenize,
)
from grlo.types import StepResult

_PREVIEW = 300
"""Characters of the beginning and the end of a text that is shown."""


def sft(recipe: SFTRecipe, *, run_dir: Path, started: float | None = None) -> Path:
    """Fine-tunes, or resumes the run that the directory holds.

    Args:
        recipe: What to do.
        run_dir: New folder, or one that holds a run of the same recipe.
        started: Moment of `time.perf_counter` from which on time is accounted for in the ledger;
            None is now.

    Returns:
        Folder of the last checkpoint, an ordinary Hugging Face model.

    Raises:
        GrloError: What the user has to mend; the newest checkpoint is intact.
    """
    started = time.perf_counter() if started is None else started
    renderer = open_policy(recipe.policy, num_threads=recipe.training.num_threads)
    device = choose_device(recipe.training.device)
    rows = load_demonstrations(recipe, renderer)
    training, held_out = split_held_out(
        rows, fraction=recipe.data.held_out_fraction, seed=recipe.seed
    )
    num_rows = recipe.training.num_epochs * len(training) or None
    num_steps = recipe.training.steps
    if num_rows is not None:
        num_steps = math.ceil(num_rows / recipe.training.rows_per_step)
    if problems := validate_sft(recipe, steps=num_steps):
        raise recipe_error(problems)
    with RunDir.create_or_open(
        run_dir,
        recipe=dump_recipe(recipe),
        prompt_hash=hash_demonstrations(rows),
        data=record_data(recipe.data.sources),
    ) as run:
        start, last, state = newest_checkpoint(run)
        if last is not None and start >= num_steps:
            print(f"{run_dir} is complete: {num_steps} of {num_steps} steps. Nothing to do.")
            return last
        budget = Budget(
            recipe.budget,
            prompts_per_step=recipe.training.rows_per_step,
            ledger=run.ledger(),
            step=start,
        )
        if last is not None and budget.reason:
            print(f"{run_dir} is complete: {budget.reason}.")
            return last
        attempt = begin(run, start=start, num_steps=num_steps, model=recipe.policy.model)
        facts = machine(device, dtype=recipe.policy.compute_dtype)
        ledger = Ledger(device=device, num_devices=1, attempt=attempt, since=started)
        with ledger.phase("load", step=0, since=started):
            learner = SFTLearner(recipe, num_steps=num_steps, device=device, checkpoint=last)
            if last is not None:
                checkpoint.restore(last, learner)
                learner.micro_batches.limit(state.get("micro_batch_tokens"))
        trainer = SFTTrainer(
            learner=learner,
            rows=training,
            held_out=held_out,
            rows_per_step=recipe.training.rows_per_step,
            num_steps=num_steps,
            num_rows=num_rows,
            evaluate_every=recipe.training.evaluate_every,
            pad_id=renderer.pad_id,
            shape=model_shape(learner.policy),
            ledger=ledger,
            seed=recipe.seed,
            num_adapter_weights=num_adapter_weights(learner.policy),
        )
        run.append_environment(attempt, facts)
        print(f"{len(training)} demonstrations to train on, {len(held_out)} held out; the first:")
        print(preview(training[0], renderer))
        saver = _Saver(trainer, recipe, run, renderer, best=state.get("best"))
        run.append_ledger(ledger.drain())
        last = _run_steps(trainer, recipe, run, saver, budget=budget, start=start)
        print(f"report: {report(run_dir)}")
        run.append_ledger(ledger.drain())
        return last


def load_demonstrations(recipe: SFTRecipe, renderer: ChatRenderer) -> list[TokenizedDemonstration]:
    """All demonstrations of the recipe that fit its length limit, in order.

    Raises:
        DataError: A row is malformed, or no demonstration is left.
    """
    data = recipe.data
    found = [
        demonstration
        for source in data.sources
        for demonstration in read_demonstrations(source, response=data.response, suffix=data.suffix)
    ]
    with progress_bar("tokenizing") as progress:
        rows, num_dropped, num_cut = tokenize(
            found, renderer, max_tokens=data.max_tokens, overlong=data.overlong, progress=progress
        )
    if num_dropped or num_cut:
        print(
            f"of {len(found)} demonstrations, {num_dropped} exceed {data.max_tokens} tokens and "
            f"are left out, {num_cut} are cut there"
        )
    return rows


def preview(row: TokenizedDemonstration, renderer: ChatRenderer) -> str:
    """A demonstration as the policy sees it, with a mark where that begins which is learned."""

    def text(tokens: Sequence[int]) -> str:
        shown = str(renderer.tokenizer.decode(list(tokens)))
        if len(shown) > 2 * _PREVIEW:
            shown = f"{shown[:_PREVIEW]} [...] {shown[-_PREVIEW:]}"
        return visible(shown)

    return f"{text(row.prompt_tokens)}\n[learned from here] {text(row.response_tokens)}"


def hash_demonstrations(rows: list[TokenizedDemonstration]) -> str:
    """SHA-256 of the demonstrations as tokens, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{len(row.prompt_tokens)} {len(row.response_tokens)} ".encode())
        for tokens in (row.prompt_tokens, row.response_tokens):
            digest.update(array("i", tokens).tobytes())
    return digest.hexdigest()


def _run_steps(
    trainer: SFTTrainer,
    recipe: SFTRecipe,
    run: RunDir,
    saver: _Saver,
    *,
    budget: Budget,
    start: int,
) -> Path:
    """Runs the remaining steps, records each, and leaves a checkpoint as often as asked."""
    stop = trainer.num_steps
    trackers = open_trackers(
        recipe.trackers.names,
        run_dir=run.path,
        project=recipe.trackers.project,
        config=dump_recipe(recipe),
    )
    path = run.checkpoint(start)
    with stop_requests() as request, LiveView(total_steps=stop, start_step=start) as view:
        trainer.progress_of = view.progress
        view.total = trainer.learner.num_steps = budget.expected_steps(start, most=stop)
        try:
            for result in trainer.steps(start=start + 1):
                run.append_ledger(result.costs)  # Paid, whatever fails from here on.
                budget.charge(result.step, result.costs)
                expected = budget.expected_steps(result.step, most=stop)
                view.total = trainer.learner.num_steps = expected
                run.append_metrics(result.step, result.metrics)
                for tracker in trackers:
                    tracker.log(result.metrics, step=result.step)
                view.update(result)
                is_last = result.step == stop or bool(budget.reason)
                is_due = result.step % recipe.checkpoint.every == 0 or is_last
                if saver.is_best(result) or is_due or request.stop:
                    path = saver.save(result)
                    run.append_ledger(trainer.ledger.drain())
                if budget.reason:
                    break
                if request.stop and result.step < stop:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            kept = path if path.exists() else "no checkpoint yet"
            print(f"\nstopped; newest checkpoint: {kept}\nTo resume, run the same command again.")
            raise
        finally:
            run.append_ledger(trainer.ledger.drain())
            for tracker in trackers:
                tracker.close()
    if budget.reason:
        print(f"{budget.reason}.")
    if saver.best is not None:
        best = run.checkpoint(int(saver.best["step"]))
        print(f"lowest held-out loss: {saver.best['loss']:.4f} nats per token, {best}")
    return path


@dataclass
class _Saver:
    """Writes checkpoints and removes those that are no longer wanted."""

    trainer: SFTTrainer
    recipe: SFTRecipe
    run: RunDir
    renderer: ChatRenderer
    best: dict[str, float] | None
    """Step and held-out loss of the checkpoint with the lowest."""

    def is_best(self, result: StepResult) -> bool:
        """Whether the step has the lowest held-out loss so far and its checkpoint is wanted."""
        loss = result.metrics.get("held_out/loss")
        if loss is None or not self.recipe.checkpoint.keep_best:
            return False
        if self.best is not None and loss >= self.best["loss"]:
            return False
        self.best = {"step": result.step, "loss": loss}
        return True

    def save(self, result: StepResult) -> Path:
        path = self.run.checkpoint(result.step)
        with self.trainer.ledger.phase("checkpoint", step=result.step):
            checkpoint.save(
                path,
                self.trainer.learner,
                self.renderer,
                state={
                    "step": result.step,
                    "best": self.best,
                    "micro_batch_tokens": self.trainer.learner.micro_batches.max_tokens,
                },
            )
        keep = set() if self.best is None else {self.run.checkpoint(int(self.best["step"])).name}
        checkpoint.prune(
            self.run.checkpoints_dir, keep_last=self.recipe.checkpoint.keep_last, keep=keep
        )
        return path
