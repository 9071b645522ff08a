"""The parts of a training run, put together from its recipe, on one device or on several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from grlo.evaluation.gold import GoldSignal
from grlo.evaluation.periodic import PeriodicEvaluation
from grlo.inference import is_same_device
from grlo.interfaces import Algorithm, Benchmark
from grlo.ledger import Ledger
from grlo.prompts.sampler import PromptSampler
from grlo.rewards.shaping import shaped
from grlo.rollout import ChatRenderer
from grlo.rundir import RunDir
from grlo.settings import Recipe
from grlo.stages.respondents import local_model
from grlo.stages.runs import model_shape, num_adapter_weights, reward_shapes
from grlo.stages.train_team import Team, load_models
from grlo.training import checkpoint
from grlo.training.distributed.ranks import Ranks
from grlo.training.flops import FlopCounter
from grlo.training.learner import Learner
from grlo.training.shared_critic import ValueHead
from grlo.training.trainer import Trainer
from grlo.types import Prompt, SamplingParams


def build_trainer(
    recipe: Recipe,
    *,
    renderer: ChatRenderer,
    prompts: list[Prompt],
    device: str,
    attempt: int = 0,
    resume_from: Path | None = None,
    started: float | None = None,
    team: Team | None = None,
) -> Trainer:
    """Loads models and puts the parts of a run together, in the state of `resume_from`.

    The recipe says how much memory may be used: a plan for it (`grlo.stages.memory`) is applied.

    Time from the moment `started` (`time.perf_counter`) on is accounted for in the ledger, as
    loading until the models are there. With a team this is its leader's, and the others load theirs
    at the same time (`grlo.stages.train_team.follow`).
    """
    team = team or Team(Ranks(device), recipe)
    num_devices, devices = _devices(recipe, team.ranks)
    ledger = Ledger(
        device=device,
        num_devices=num_devices,
        attempt=attempt,
        since=started,
        energy_of=devices,
    )
    with ledger.phase("load", step=0, since=started):
        models = load_models(recipe, renderer, team, resume_from=resume_from)
        learner, engine = models.learner, models.engine
        reward = shaped(models.reward, recipe, renderer)
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
    recipe: Recipe,
    trainer: Trainer,
    *,
    prompts: Sequence[Prompt],
    device: str,
    team: Team | None = None,
) -> GoldSignal | None:
    """The gold signal of a run, if its recipe has one; the team is that of the trainer."""
    if recipe.gold is None:
        return None
    team = team or Team(Ranks(device), recipe)
    context = team.context(recipe, cast(ChatRenderer, trainer.renderer))
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


def _devices(recipe: Recipe, ranks: Ranks) -> tuple[int, list[str]]:
    """How many devices the run occupies (the learners' and a GPU that the engine has to itself),
    and those of this machine, whose energy can be read."""
    if ranks.is_group:
        num_here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size))
        # What other machines take is not known, and a part of the energy would pass for all of it.
        is_here = num_here == ranks.size and ranks.device != "cpu"
        return ranks.size, [f"cuda:{index}" for index in range(num_here)] if is_here else ["cpu"]
    device = ranks.device
    own: str = getattr(recipe.engine, "device", None) or device
    devices = [device] if own == "cpu" or is_same_device(own, device) else [device, own]
    return len(devices), devices


def _flop_counter(recipe: Recipe, learner: Learner, *, reward: object) -> FlopCounter:
    critic = None if isinstance(learner.critic, ValueHead) else learner.critic
    adapters = {name: num_adapter_weights(model) for name, model in learner.models().items()}
    return FlopCounter(
        policy=model_shape(learner.policy),
        critic=None if critic is None else model_shape(critic),
        rewards=reward_shapes(reward),
        has_reference=learner.algorithm.needs_reference,
        annotates_policy=learner.num_updates > 1 or learner.algorithm.needs_old_logprobs,
        num_epochs=recipe.training.num_epochs,
        critic_warmup_steps=getattr(recipe.algorithm, "critic_warmup_steps", 0),
        shares_prompts=recipe.policy.attention == "packed",
        adapters={name: count for name, count in adapters.items() if count is not None},
        shares_trunk=recipe.critic.share_trunk,
        detaches_values=recipe.critic.detach,
    )
