"""`grlo train`: one recipe, one run directory, resumed by default."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from grlo import registry
from grlo.errors import DataError, GrloError
from grlo.evaluation.gold import GoldSignal
from grlo.evaluation.periodic import PeriodicEvaluation
from grlo.prompts.sources import suffix_problems
from grlo.recipe import dump_recipe
from grlo.reporting.live import LiveView
from grlo.rundir import RunDir
from grlo.settings import Recipe
from grlo.stages.memory import plan_for
from grlo.stages.report import report
from grlo.stages.runs import (
    begin,
    choose_device,
    machine,
    newest_checkpoint,
    open_policy,
    record_data,
    stop_requests,
)
from grlo.stages.train_data import hash_prompts, load_evaluation, load_gold_prompts, load_prompts
from grlo.stages.train_parts import build_evaluation, build_gold, build_trainer
from grlo.stages.train_saving import Saver
from grlo.stages.train_team import Team, engine_dtype, follow
from grlo.trackers import open_trackers
from grlo.training.budget import Budget
from grlo.training.distributed.problems import require_sound
from grlo.training.distributed.ranks import Ranks, connected, num_launched
from grlo.training.gap import gap_problem
from grlo.training.trainer import Trainer
from grlo.types import StepResult


def train(recipe: Recipe, *, run_dir: Path, started: float | None = None) -> Path:
    """Trains, or resumes the run that the directory holds.

    Where torchrun has started several processes, this one is their leader (rank 0), and the others
    do `follow_leader`.

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
    require_sound(recipe, num_devices=num_launched())
    with connected(choose_device(recipe.training.device)) as ranks:
        last = _train(recipe, ranks, run_dir=run_dir, started=started)
        ranks.send(None)
        return last


def follow_leader(recipe: Recipe) -> None:
    """What the other processes do while rank 0 does `train`: their share, until it has ended."""
    with connected(choose_device(recipe.training.device)) as ranks:
        follow(ranks)


def _train(recipe: Recipe, ranks: Ranks, *, run_dir: Path, started: float) -> Path:
    renderer = open_policy(recipe.policy, num_threads=recipe.training.num_threads)
    device = ranks.device
    prompts = load_prompts(recipe, renderer)
    gold_prompts = load_gold_prompts(recipe, renderer, training=prompts)
    if problems := suffix_problems([*prompts, *gold_prompts], recipe.prompts.suffixes):
        raise DataError("\n".join(problems))
    benchmarks = load_evaluation(recipe, device=device)
    with RunDir.create_or_open(
        run_dir,
        recipe=dump_recipe(recipe),
        prompt_hash=hash_prompts([*prompts, *gold_prompts]),
        data=record_data(recipe.prompts.sources),
    ) as run:
        start, last, state = newest_checkpoint(run)
        num_steps = recipe.training.steps
        if last is not None and (reason := _stop_reason(state)):
            print(f"{run_dir} is complete: stopped early after step {start}: {reason}.")
            return last
        if last is not None and start >= num_steps:
            print(f"{run_dir} is complete: {num_steps} of {num_steps} steps. Nothing to do.")
            return last
        budget = Budget(
            recipe.budget,
            prompts_per_step=recipe.sampling.prompts_per_step,
            ledger=run.ledger(),
            step=start,
        )
        if last is not None and budget.reason:
            print(f"{run_dir} is complete: {budget.reason}.")
            return last
        attempt = begin(run, start=start, num_steps=num_steps, model=recipe.policy.model)
        facts = machine(device, dtype=recipe.policy.compute_dtype)
        plan = plan_for(recipe, device=device, num_devices=ranks.size)
        planned = plan.applied(recipe, at_most=state.get("micro_batch_tokens"))
        ranks.send((planned, last))
        team = Team(ranks, planned)
        trainer = build_trainer(
            planned,
            renderer=renderer,
            prompts=prompts,
            device=device,
            attempt=attempt,
            resume_from=last,
            started=started,
            team=team,
        )
        gold = build_gold(planned, trainer, prompts=gold_prompts, device=device, team=team)
        if gold is not None and last is not None:
            gold.load_state_dict(state["gold"])
        evaluation = build_evaluation(recipe, trainer, run, benchmarks=benchmarks, device=device)
        rewards = {"reward": trainer.reward} | ({} if gold is None else {"gold": gold})
        described = {key: registry.describe(reward) for key, reward in rewards.items()}
        facts |= team.facts() | {"memory": plan.facts(), **described}
        run.append_environment(attempt, facts)
        saver = Saver(trainer, recipe, run, gold=gold, best=state.get("best"))
        run.append_ledger(trainer.ledger.drain())
        last = _run_steps(
            trainer,
            recipe,
            run,
            saver,
            budget=budget,
            evaluation=evaluation,
            start=start,
            is_alone=not ranks.is_group,
        )
        try:
            print(f"report: {report(run_dir)}")
        except GrloError as error:  # The run itself is whole.
            print(f"no report: {error}")
        run.append_ledger(trainer.ledger.drain())
        return last


def _stop_reason(state: Mapping[str, Any]) -> str:
    """Why the gold signal ended the run that left this state; empty if it did not."""
    gold = state.get("gold")
    return gold["parting"]["reason"] if gold else ""


def _run_steps(
    trainer: Trainer,
    recipe: Recipe,
    run: RunDir,
    saver: Saver,
    *,
    budget: Budget,
    evaluation: PeriodicEvaluation | None,
    start: int,
    is_alone: bool,
) -> Path:
    """Runs the remaining steps, records each, and leaves a checkpoint as often as asked."""
    stop = recipe.training.steps
    gold = saver.gold
    trackers = open_trackers(
        recipe.trackers.names,
        run_dir=run.path,
        project=recipe.trackers.project,
        config=dump_recipe(recipe),
    )
    path = run.checkpoint(start)
    dtypes = (recipe.policy.compute_dtype, engine_dtype(recipe))
    has_warned = False
    with (
        stop_requests(is_alone=is_alone) as request,
        LiveView(total_steps=stop, start_step=start) as view,
    ):
        trainer.progress_of = view.progress
        view.total = trainer.learner.num_steps = budget.expected_steps(start, most=stop)
        try:
            for result in trainer.steps(start=start + 1, stop=stop):
                run.append_ledger(result.costs)  # Paid, whatever fails from here on.
                budget.charge(result.step, result.costs)
                expected = budget.expected_steps(result.step, most=stop)
                view.total = trainer.learner.num_steps = expected
                is_last = result.step == stop or bool(budget.reason)
                if gold is not None:
                    result = _with_gold(result, gold, trainer, run, is_last=is_last)
                if evaluation is not None:
                    result = _with_evaluation(result, evaluation, trainer, run, is_last=is_last)
                run.write_rollouts(result.step, result.rollouts, result.scores)
                run.append_metrics(result.step, result.metrics)
                for tracker in trackers:
                    tracker.log(result.metrics, step=result.step)
                    tracker.log_rollouts(result.rollouts, result.scores, step=result.step)
                view.update(result)
                problem = gap_problem(result.metrics, dtypes=dtypes)
                if problem and not has_warned:
                    print(f"warning: step {result.step}: {problem}.")
                    has_warned = True
                is_due = result.step % recipe.checkpoint.every == 0 or is_last
                has_parted = gold is not None and bool(gold.parting.reason)
                if is_due or saver.wants(result) or has_parted or request.stop:
                    path = saver.save(result)
                    run.append_ledger(trainer.ledger.drain())
                if has_parted or budget.reason:
                    break
                if request.stop and result.step < stop:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            kept = path if path.exists() else "no checkpoint yet"
            print(f"\nstopped; newest checkpoint: {kept}\nTo resume, run the same command again.")
            raise
        finally:
            run.append_ledger(trainer.ledger.drain())
            trainer.engine.close()
            registry.close(trainer.reward)
            registry.close(gold)
            registry.close(evaluation)
            for tracker in trackers:
                tracker.close()
    if budget.reason:
        print(f"{budget.reason}.")
    if gold is not None and gold.parting.reason:
        print(f"stopped early: {gold.parting.reason}.")
    if saver.best is not None and saver.best_by != "reward/mean" and recipe.checkpoint.keep_best:
        kept = run.checkpoint(int(saver.best["step"]))
        print(f"best {saver.best_by}: {saver.best['value']:.4g}, {kept}")
    return path


def _with_gold(
    result: StepResult, gold: GoldSignal, trainer: Trainer, run: RunDir, *, is_last: bool
) -> StepResult:
    """The step with what the gold signal found; its answers and what they cost are recorded."""
    found = gold.after_step(result, is_last=is_last, progress=trainer.progress_of("evaluate"))
    if found:
        run.write_rollouts(result.step, *zip(*gold.answers, strict=True), kind="gold")
    return _with_metrics(result, found, trainer, run)


def _with_evaluation(
    result: StepResult,
    evaluation: PeriodicEvaluation,
    trainer: Trainer,
    run: RunDir,
    *,
    is_last: bool,
) -> StepResult:
    """The step with what benchmarks found; what that cost is recorded."""
    progress = trainer.progress_of("evaluate")
    found = evaluation.after_step(result.step, is_last=is_last, progress=progress)
    return _with_metrics(result, found, trainer, run)


def _with_metrics(
    result: StepResult, found: Mapping[str, float], trainer: Trainer, run: RunDir
) -> StepResult:
    costs = trainer.ledger.drain()
    run.append_ledger(costs)
    metrics = {**result.metrics, **found}
    evaluated = [cost for cost in costs if cost.phase != "idle"]
    if evaluated:
        seconds = sum(cost.seconds for cost in evaluated)
        metrics["time/evaluate"] = metrics.get("time/evaluate", 0.0) + seconds
    return replace(result, metrics=metrics)
