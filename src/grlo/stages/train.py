"""`grlo train`: one recipe, one run directory, resumed by default."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig

from grlo import registry
from grlo.benchmarks.loading import choose, load_benchmarks
from grlo.benchmarks.spec import DataPlaces
from grlo.errors import DataError, GrloError, RecipeError
from grlo.estimates import shape_from_config
from grlo.evaluation.gold import GoldSignal
from grlo.evaluation.periodic import PeriodicEvaluation, metric_names
from grlo.inference import is_same_device
from grlo.interfaces import Algorithm, Benchmark, BuildContext, RolloutEngine
from grlo.ledger import Ledger
from grlo.prompts.sampler import PromptSampler
from grlo.prompts.sources import filter_overlong, read_prompts, suffix_problems
from grlo.recipe import dump_recipe
from grlo.reporting.live import LiveView
from grlo.rewards import single_rewards, style_problems
from grlo.rewards.shaping import ShapedReward
from grlo.rollout import ChatRenderer
from grlo.rundir import RunDir
from grlo.settings import Dtype, Recipe
from grlo.stages.evaluate import judge_of
from grlo.stages.memory import plan_for
from grlo.stages.report import report
from grlo.stages.respondents import local_model
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
from grlo.training.flops import FlopCounter
from grlo.training.gap import gap_problem
from grlo.training.learner import Learner
from grlo.training.shared_critic import ValueHead
from grlo.training.trainer import Trainer
from grlo.types import Prompt, SamplingParams, StepResult


def train(recipe: Recipe, *, run_dir: Path, started: float | None = None) -> Path:
    """Trains, or resumes the run that the directory holds.

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
        plan = plan_for(recipe, device=device)
        trainer = build_trainer(
            plan.applied(recipe),
            renderer=renderer,
            prompts=prompts,
            device=device,
            attempt=attempt,
            resume_from=last,
            started=started,
        )
        gold = build_gold(plan.applied(recipe), trainer, prompts=gold_prompts, device=device)
        if gold is not None and last is not None:
            gold.load_state_dict(state["gold"])
        evaluation = build_evaluation(recipe, trainer, run, benchmarks=benchmarks, device=device)
        rewards = {"reward": trainer.reward} | ({} if gold is None else {"gold": gold})
        described = {key: registry.describe(reward) for key, reward in rewards.items()}
        run.append_environment(attempt, {**facts, "memory": plan.facts(), **described})
        saver = _Saver(trainer, recipe, run, gold=gold, best=state.get("best"))
        run.append_ledger(trainer.ledger.drain())
        last = _run_steps(
            trainer, recipe, run, saver, budget=budget, evaluation=evaluation, start=start
        )
        try:
            print(f"report: {report(run_dir)}")
        except GrloError as error:  # The run itself is whole.
            print(f"no report: {error}")
        run.append_ledger(trainer.ledger.drain())
        return last


def load_prompts(recipe: Recipe, renderer: ChatRenderer) -> list[Prompt]:
    """All prompts of the recipe that fit its length limit, in order.

    Raises:
        DataError: A row is malformed, or no prompt is left.
    """
    settings = recipe.prompts
    prompts = [
        prompt
        for source in settings.sources
        for prompt in read_prompts(
            source, default_style=settings.default_style, suffixes=settings.suffixes
        )
    ]
    prompts = prompts[: settings.limit or None]
    kept, dropped = filter_overlong(
        prompts,
        renderer,
        max_prompt_tokens=settings.max_prompt_tokens,
        overlong=settings.overlong,
    )
    if problems := style_problems(recipe.reward, kept):
        raise DataError("\n".join(problems))
    if dropped:
        print(
            f"{len(dropped)} of {len(prompts)} prompts exceed {settings.max_prompt_tokens} tokens"
        )
    if not kept:
        raise DataError(
            f"all {len(prompts)} prompts exceed prompts.max_prompt_tokens = "
            f"{settings.max_prompt_tokens}. Raise the limit."
        )
    return kept


def load_gold_prompts(
    recipe: Recipe, renderer: ChatRenderer, *, training: Sequence[Prompt]
) -> list[Prompt]:
    """Held-out prompts of the gold signal; none where it scores the rollouts of training.

    Raises:
        DataError: A row is malformed, no prompt is left, or the gold reward does not score what it
            would be given.
    """
    gold = recipe.gold
    if gold is None:
        return []
    prompts = [
        prompt
        for source in gold.sources
        for prompt in read_prompts(
            source, default_style=recipe.prompts.default_style, suffixes=recipe.prompts.suffixes
        )
    ]
    if problems := style_problems(gold.reward, prompts if gold.sources else training):
        raise DataError("\n".join(f"gold: {problem}" for problem in problems))
    kept, dropped = filter_overlong(
        prompts,
        renderer,
        max_prompt_tokens=recipe.prompts.max_prompt_tokens,
        overlong=recipe.prompts.overlong,
    )
    if dropped:
        print(f"gold: {len(dropped)} of {len(prompts)} prompts are too long")
    if gold.sources and not kept:
        raise DataError(f"gold.sources: none of {len(prompts)} prompts is left.")
    trained = {prompt.id for prompt in training}
    if seen := sum(prompt.id in trained for prompt in kept):
        print(f"gold: {seen} of {len(kept)} prompts are trained on, so they are not held out")
    return kept


def hash_prompts(prompts: list[Prompt]) -> str:
    """SHA-256 of the prompts that a run draws from, in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(f"{prompt.id}\x1f{prompt.style}\x1f{prompt.reference}\x1e".encode())
    return digest.hexdigest()


def build_trainer(
    recipe: Recipe,
    *,
    renderer: ChatRenderer,
    prompts: list[Prompt],
    device: str,
    attempt: int = 0,
    resume_from: Path | None = None,
    started: float | None = None,
) -> Trainer:
    """Loads models and puts the parts of a run together, in the state of `resume_from`.

    The recipe says how much memory may be used: a plan for it (`grlo.stages.memory`) is applied.

    Time from the moment `started` (`time.perf_counter`) on is accounted for in the ledger, as
    loading until the models are there.
    """
    devices = _devices(recipe, device)
    ledger = Ledger(
        device=device,
        num_devices=len(devices),
        attempt=attempt,
        since=started,
        energy_of=devices,
    )
    context = BuildContext(
        device=device,
        seed=recipe.seed,
        decode=renderer.decode,
        offload=recipe.training.offload,
    )
    with ledger.phase("load", step=0, since=started):
        learner = Learner(recipe, device=device, checkpoint=resume_from)
        reward = cast(Any, recipe.reward).build(context=context)
        if recipe.shaping.is_on:
            reward = ShapedReward(
                reward,
                recipe.shaping,
                max_tokens=recipe.sampling.max_tokens,
                count_tokens=lambda text: len(
                    renderer.tokenizer.encode(text, add_special_tokens=False)
                ),
            )
        engine = _build_engine(recipe, learner, renderer, context)
        if resume_from is not None:
            checkpoint.restore(resume_from, learner)
        engine.load_weights(learner.policy_weights())
    trainer = Trainer(
        prompts=PromptSampler(
            prompts, prompts_per_step=recipe.sampling.prompts_per_step, seed=recipe.seed
        ),
        renderer=renderer,
        engine=engine,
        reward=reward,
        algorithm=cast(Algorithm, recipe.algorithm),
        learner=learner,
        sampling=SamplingParams(
            max_tokens=recipe.sampling.max_tokens,
            temperature=recipe.sampling.temperature,
            num_samples=recipe.sampling.samples_per_prompt,
        ),
        max_draws=recipe.sampling.max_draws,
        overlap=recipe.training.overlap,
        ledger=ledger,
        count_flops=_flop_counter(recipe, learner, reward=recipe.reward),
        seed=recipe.seed,
    )
    if resume_from is not None:
        state = cast(Any, checkpoint.read_state(resume_from))
        trainer.load_state_dict(state["trainer"])
        learner.micro_batches.limit(state.get("micro_batch_tokens"))
    return trainer


def build_gold(
    recipe: Recipe, trainer: Trainer, *, prompts: Sequence[Prompt], device: str
) -> GoldSignal | None:
    """The gold signal of a run, if its recipe has one."""
    if recipe.gold is None:
        return None
    context = BuildContext(device=device, seed=recipe.seed, offload=recipe.training.offload)
    with trainer.ledger.phase("load", step=0):
        reward = cast(Any, recipe.gold.reward).build(context=context)
    return GoldSignal(
        recipe.gold,
        reward,
        prompts=prompts,
        engine=trainer.engine,
        renderer=trainer.renderer,
        sampling=replace(trainer.sampling, num_samples=recipe.gold.samples_per_prompt),
        ledger=trainer.ledger,
        count_flops=_flop_counter(recipe, trainer.learner, reward=recipe.gold.reward),
        seed=recipe.seed,
    )


def load_evaluation(recipe: Recipe, *, device: str) -> list[Benchmark]:
    """The benchmarks that are run during training, ready to be run.

    Raises:
        RecipeError: There is no such suite, benchmark or judge, or `checkpoint.best_by` names a
            score that there will not be.
        DataError: The rows of a benchmark cannot be found or read.
    """
    settings = recipe.evaluation
    if settings is None:
        return []
    choice = choose(
        suite=settings.suite or None,
        names=settings.benchmarks,
        variants=settings.rows,
        limit=settings.limit,
    )
    choice = replace(
        choice,
        max_tokens=settings.max_tokens,
        num_samples=settings.num_samples,
        places=DataPlaces(folder=Path(settings.data) if settings.data else None),
    )
    judge = Path(settings.judge) if settings.judge else None
    benchmarks = load_benchmarks(
        choice, make_judge=judge_of(judge, device=device, seed=recipe.seed)
    )
    known = metric_names(benchmarks)
    best_by = recipe.checkpoint.best_by
    if best_by.startswith("eval/") and best_by not in known:
        raise RecipeError(
            f"checkpoint.best_by: there is no {best_by!r}; the section evaluation has "
            f"{', '.join(known)}."
        )
    return benchmarks


def build_evaluation(
    recipe: Recipe,
    trainer: Trainer,
    run: RunDir,
    *,
    benchmarks: Sequence[Benchmark],
    device: str,
) -> PeriodicEvaluation | None:
    """The evaluations of a run, if its recipe has any."""
    if recipe.evaluation is None:
        return None
    return PeriodicEvaluation(
        benchmarks,
        every=recipe.evaluation.every,
        respondent=local_model(
            lambda: trainer.engine,
            cast(ChatRenderer, trainer.renderer),
            shape=model_shape(trainer.learner.policy),
            device=device,
        ),
        folder=run.evaluation,
        ledger=trainer.ledger,
        seed=recipe.seed,
    )


def _devices(recipe: Recipe, device: str) -> list[str]:
    """What the run occupies: the learner's device, and a GPU that the engine has to itself."""
    own: str = getattr(recipe.engine, "device", None) or device
    return [device] if own == "cpu" or is_same_device(own, device) else [device, own]


def _build_engine(
    recipe: Recipe, learner: Learner, renderer: ChatRenderer, context: BuildContext
) -> RolloutEngine:
    """The engine on the learner's own module where type and device agree and it never draws while
    that is updated; else on a copy."""
    context = replace(
        context,
        save_tokenizer=renderer.save_tokenizer,
        reserved_bytes=learner.pending_bytes,
        snapshot=recipe.training.overlap,
    )
    settings = replace(cast(Any, recipe.engine), dtype=_engine_dtype(recipe))
    return settings.build(learner.policy, context=context, live=True)


def _engine_dtype(recipe: Recipe) -> Dtype:
    return cast(Any, recipe.engine).dtype or recipe.policy.compute_dtype


def _stop_reason(state: Mapping[str, Any]) -> str:
    """Why the gold signal ended the run that left this state; empty if it did not."""
    gold = state.get("gold")
    return gold["parting"]["reason"] if gold else ""


def _run_steps(
    trainer: Trainer,
    recipe: Recipe,
    run: RunDir,
    saver: _Saver,
    *,
    budget: Budget,
    evaluation: PeriodicEvaluation | None,
    start: int,
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
    dtypes = (recipe.policy.compute_dtype, _engine_dtype(recipe))
    has_warned = False
    with stop_requests() as request, LiveView(total_steps=stop, start_step=start) as view:
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


@dataclass
class _Saver:
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


def _flop_counter(recipe: Recipe, learner: Learner, *, reward: object) -> FlopCounter:
    critic = None if isinstance(learner.critic, ValueHead) else learner.critic
    adapters = {name: num_adapter_weights(model) for name, model in learner.models().items()}
    return FlopCounter(
        policy=model_shape(learner.policy),
        critic=None if critic is None else model_shape(critic),
        rewards=tuple(
            (shape_from_config(AutoConfig.from_pretrained(model).to_dict()), frozenset(part.styles))
            for part in single_rewards(reward)
            if isinstance(model := getattr(part.settings, "model", None), str)
        ),
        has_reference=learner.algorithm.needs_reference,
        annotates_policy=learner.num_updates > 1 or learner.algorithm.needs_old_logprobs,
        num_epochs=recipe.training.num_epochs,
        critic_warmup_steps=getattr(recipe.algorithm, "critic_warmup_steps", 0),
        shares_prompts=recipe.policy.attention == "packed",
        adapters={name: count for name, count in adapters.items() if count is not None},
        shares_trunk=recipe.critic.share_trunk,
        detaches_values=recipe.critic.detach,
    )
