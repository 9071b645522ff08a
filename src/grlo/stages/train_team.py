"""What of a run holds weights, on one device or on each of several."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from grlo.interfaces import BuildContext, Reward, RolloutEngine
from grlo.rollout import ChatRenderer
from grlo.settings import Dtype, Recipe
from grlo.stages.runs import open_policy
from grlo.training import checkpoint
from grlo.training.distributed.ranks import Ranks
from grlo.training.learner import Learner

if TYPE_CHECKING:
    from grlo.training.distributed.fsdp import Sharding
    from grlo.training.distributed.parts import SharedScoring


class Team:
    """The devices of a run as one of its processes sees them, and how work is divided among them.

    Args:
        ranks: Who takes part.
        recipe: With `training.sharding` decided, where there are several.
    """

    def __init__(self, ranks: Ranks, recipe: Recipe) -> None:
        self.ranks = ranks
        self._offload = recipe.training.offload
        self._sharding: Sharding | None = None
        self.scoring: SharedScoring | None = None
        if ranks.is_group:
            # Only here: what a single process does not need takes seconds to import.
            from grlo.training.distributed.fsdp import Sharding
            from grlo.training.distributed.parts import SharedScoring

            if recipe.training.sharding == "fsdp":
                self._sharding = Sharding(ranks, offload=self._offload)
            self.scoring = SharedScoring(ranks, sharding=self._sharding)

    def facts(self) -> dict[str, object]:
        """For a run's record; nothing where there is one process."""
        if not self.ranks.is_group:
            return {}
        sharding = "ddp" if self._sharding is None else "fsdp"
        return {"distributed": {**self.ranks.facts(), "sharding": sharding}}

    def context(self, recipe: Recipe, renderer: ChatRenderer) -> BuildContext:
        """What plug-ins are built with."""
        context = BuildContext(
            device=self.ranks.device,
            seed=recipe.seed,
            decode=renderer.decode,
            offload=self._offload,
        )
        if self.scoring is None:
            return context
        sharding = self._sharding
        return replace(
            context,
            num_ranks=self.ranks.size,
            at_end=self.ranks.endings.append,
            share=self.scoring.share,
            shard=None
            if sharding is None
            else lambda model, name: sharding.shard(model, name, dtype=model.dtype),
        )

    def learner(self, recipe: Recipe, *, resume_from: Path | None) -> Learner:
        """The learner of this process."""
        if not self.ranks.is_group:
            return Learner(recipe, device=self.ranks.device, checkpoint=resume_from)
        from grlo.training.distributed.parts import LeadingLearner
        from grlo.training.distributed.sharing import Divided

        options: dict[str, Any] = {
            "device": self.ranks.device,
            "checkpoint": resume_from,
            "division": Divided(self.ranks, sharding=self._sharding),
        }
        if self.ranks.is_leader:
            return LeadingLearner(recipe, ranks=self.ranks, **options)
        return Learner(recipe, **options)

    def engine(self, recipe: Recipe, learner: Learner, context: BuildContext) -> RolloutEngine:
        """The engine of this process, on the learner's own module where type and device agree and
        it never draws while that is updated; else on a copy."""
        settings = replace(cast(Any, recipe.engine), dtype=engine_dtype(recipe))
        if not self.ranks.is_group:
            return settings.build(learner.policy, context=context, live=True)
        from grlo.training.distributed.parts import LeadersEngine, NoEngine, SharedEngine

        is_remote = getattr(settings, "weights_place", "") == "remote"
        if is_remote and not self.ranks.is_leader:
            engine = NoEngine()
            engine.load_weights(learner.policy_weights())
        else:
            engine = settings.build(learner.policy, context=context, live=True)
        kind = LeadersEngine if is_remote else SharedEngine
        return kind(
            engine,
            self.ranks,
            weights=learner.policy_weights,
            ranks_per_engine=1 if is_remote else getattr(settings, "tensor_parallel", 1),
        )


@dataclass(frozen=True)
class Models:
    """What of a run holds weights."""

    learner: Learner
    reward: Reward
    engine: RolloutEngine


def load_models(
    recipe: Recipe, renderer: ChatRenderer, team: Team, *, resume_from: Path | None
) -> Models:
    """Loads them, in the state of `resume_from`; every process of a run does, in this order.

    The engine is given weights afterwards, by the leader's command.
    """
    context = team.context(recipe, renderer)
    learner = team.learner(recipe, resume_from=resume_from)
    reward = cast(Any, recipe.reward).build(context=context)
    engine = team.engine(
        recipe,
        learner,
        replace(
            context,
            save_tokenizer=renderer.save_tokenizer,
            reserved_bytes=learner.pending_bytes,
            snapshot=recipe.training.overlap,
        ),
    )
    if resume_from is not None:
        checkpoint.restore(resume_from, learner)
    return Models(learner, reward, engine)


def follow(ranks: Ranks) -> None:
    """All that another process of a run than the leader does: its share, as the leader asks.

    It writes nothing to the run's folder but its shards of a checkpoint.
    """
    from grlo.training.distributed.parts import SharedEngine
    from grlo.training.distributed.parts import follow as do_share

    order: tuple[Recipe, Path | None] | None = ranks.receive()
    if order is None:  # There was nothing to do.
        return
    recipe, resume_from = order
    renderer = open_policy(recipe.policy, num_threads=recipe.training.num_threads)
    team = Team(ranks, recipe)
    models = load_models(recipe, renderer, team, resume_from=resume_from)
    if recipe.gold is not None:  # Whose models take part by number, in this order.
        cast(Any, recipe.gold.reward).build(context=team.context(recipe, renderer))
    assert isinstance(models.engine, SharedEngine)
    assert team.scoring is not None
    do_share(ranks, engine=models.engine, scoring=team.scoring, learner=models.learner)


def engine_dtype(recipe: Recipe) -> Dtype:
    """The type that the engine computes in."""
    return cast(Any, recipe.engine).dtype or recipe.policy.compute_dtype
