"""Engine, scoring and learner of a run on several devices.

On the leader each tells the others what to do and does its own share; `follow` is the loop in which
the others do theirs. A command is the name of a method here and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from grlo.batch import AnnotatedBatch, Batch, TrainBatch
from grlo.errors import GrloError
from grlo.interfaces import (
    OnCompletion,
    Progress,
    RolloutEngine,
    Scorer,
    ignore,
    silent,
)
from grlo.training import checkpoint
from grlo.training.distributed.fsdp import Sharding
from grlo.training.distributed.ranks import Ranks
from grlo.training.distributed.shares import balanced_share, stretch
from grlo.training.learner import Learner
from grlo.types import Completion, SamplingParams

Weights = Callable[[], Iterator[tuple[str, Tensor]]]


class SharedEngine:
    """An engine on each rank, each of which draws the answers to a stretch of the prompts.

    Noise is keyed by the seeds of prompts, so that answers are those of one engine.

    Args:
        engine: Of this rank.
        ranks: Who takes part.
        weights: The policy's, gathered from all ranks where they are in shards.
        ranks_per_engine: Neighbours that have an engine together and are given the same prompts.
    """

    def __init__(
        self, engine: RolloutEngine, ranks: Ranks, *, weights: Weights, ranks_per_engine: int = 1
    ) -> None:
        self._engine, self._ranks, self._weights = engine, ranks, weights
        self._ranks_per_engine = ranks_per_engine

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        progress: Progress = silent,
        on_completion: OnCompletion = ignore,
    ) -> list[Completion]:
        """See `RolloutEngine`; what others have drawn is reported when they hand it over.

        Raises:
            GrloError: What the engine of any rank has raised.
        """
        self._ranks.send(("generate", {"prompts": prompts, "sampling": sampling, "seeds": seeds}))
        parts = self.draw_share(
            prompts,
            sampling,
            seeds=seeds,
            progress=_scaled(progress, self._ranks.size // self._ranks_per_engine),
            on_completion=on_completion,
        )
        for part in parts:
            if isinstance(part, GrloError):
                raise part
        completions: list[Completion] = []
        for rank, part in enumerate(parts):
            if rank % self._ranks_per_engine:
                continue  # The same answers as its neighbour's.
            for completion in part:
                if rank:
                    on_completion(len(completions), completion)
                completions.append(completion)
        progress(
            done=len(completions),
            total=len(completions),
            tokens=sum(len(completion.tokens) for completion in completions),
        )
        return completions

    def draw_share(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        progress: Progress = silent,
        on_completion: OnCompletion = ignore,
    ) -> list[Any]:
        """Draws this rank's part; the leader gets all parts, or what has gone wrong with them."""
        part: list[Completion] | GrloError
        mine = stretch(
            len(prompts),
            part=self._ranks.rank // self._ranks_per_engine,
            num_parts=self._ranks.size // self._ranks_per_engine,
        )
        try:
            part = self._engine.generate(
                [prompts[place] for place in mine],
                sampling,
                seeds=[seeds[place] for place in mine],
                progress=progress,
                on_completion=on_completion,
            )
        except GrloError as error:  # The leader may know how to go on.
            part = error
        return self._ranks.gather(part)

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Gives every rank's engine the weights of that rank's learner."""
        self._ranks.send(("load_weights", {}))
        self._engine.load_weights(named_tensors)

    def load_share(self) -> None:
        """What the others do in `load_weights`."""
        self._engine.load_weights(self._weights())

    def close(self) -> None:
        self._engine.close()


class LeadersEngine(SharedEngine):
    """An engine that the leader alone asks, such as a server; the others help to gather weights."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        progress: Progress = silent,
        on_completion: OnCompletion = ignore,
    ) -> list[Completion]:
        """See `RolloutEngine`."""
        return self._engine.generate(
            prompts, sampling, seeds=seeds, progress=progress, on_completion=on_completion
        )


class NoEngine:
    """Stands where other ranks than the leader have none."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        progress: Progress = silent,
        on_completion: OnCompletion = ignore,
    ) -> list[Completion]:
        raise AssertionError("the leader alone draws")

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Helps to gather them."""
        for _ in named_tensors:
            pass

    def close(self) -> None:
        """There is nothing to close."""


class SharedScoring:
    """Scorers of all ranks: each has whole groups, as evenly by tokens as they allow.

    Args:
        ranks: Who takes part.
        sharding: Of the models, or None.
    """

    def __init__(self, ranks: Ranks, *, sharding: Sharding | None) -> None:
        self._ranks, self._sharding = ranks, sharding
        self._scorers: list[Scorer] = []

    def share(self, scorer: Scorer) -> Scorer:
        """The scorer with a share of the work on all ranks; see `BuildContext.share`."""
        number = len(self._scorers)
        self._scorers.append(scorer)

        def score(
            sequences: Sequence[tuple[int, ...]],
            groups: Sequence[int],
            *,
            progress: Progress = silent,
        ) -> list[float]:
            rows = {"number": number, "sequences": sequences, "groups": groups}
            self._ranks.send(("score", rows))
            progress = _scaled(progress, self._ranks.size)
            parts = self.score_share(number, sequences, groups, progress=progress)
            scores = [0.0] * len(sequences)
            for places, part in parts:
                for place, value in zip(places, part, strict=True):
                    scores[place] = value
            return scores

        return score

    def score_share(
        self,
        number: int,
        sequences: Sequence[tuple[int, ...]],
        groups: Sequence[int],
        *,
        progress: Progress = silent,
    ) -> list[tuple[list[int], list[float]]]:
        """Scores this rank's rows; the leader gets all parts, as places and their scores."""
        scorer = self._scorers[number]
        lengths = [len(sequence) for sequence in sequences]
        places = balanced_share(groups, lengths, rank=self._ranks.rank, size=self._ranks.size)
        scores = scorer(
            [sequences[place] for place in places],
            [groups[place] for place in places],
            progress=progress,
        )
        if self._sharding is not None:
            self._sharding.passes.finish(lambda: scorer([sequences[0][:1]], [0]))
        return self._ranks.gather((places, scores))


class LeadingLearner(Learner):
    """The leader's learner, which has the others' do as it does.

    Args:
        ranks: Who takes part; further arguments are those of `Learner`.
    """

    def __init__(self, *arguments: Any, ranks: Ranks, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._ranks = ranks

    def annotate(self, batch: Batch, *, step: int, score_std: float) -> AnnotatedBatch:
        """See `Learner.annotate`."""
        rows = {"batch": batch, "step": step, "score_std": score_std}
        self._ranks.send(("annotate", rows))
        return super().annotate(batch, step=step, score_std=score_std)

    def update(
        self, batch: TrainBatch, *, step: int, progress: Progress = silent
    ) -> dict[str, float]:
        """See `Learner.update`."""
        rows = {"batch": batch, "step": step, "num_steps": self.num_steps}
        self._ranks.send(("update", rows))
        return super().update(batch, step=step, progress=progress)

    def tell_checkpoint(self, folder: Path) -> None:
        """See `Learner.tell_checkpoint`."""
        if self.division.is_sharded:
            self._ranks.send(("checkpoint", {"folder": folder}))


def follow(ranks: Ranks, *, engine: SharedEngine, scoring: SharedScoring, learner: Learner) -> None:
    """Does what the leader asks for until it says that there is nothing more."""

    def update(batch: TrainBatch, step: int, num_steps: float) -> None:
        learner.num_steps = num_steps
        learner.update(batch, step=step)

    commands: Mapping[str, Callable[..., object]] = {
        "generate": engine.draw_share,
        "load_weights": engine.load_share,
        "score": scoring.score_share,
        "annotate": learner.annotate,
        "update": update,
        "checkpoint": lambda folder: checkpoint.save_share(folder, learner),
    }
    while (message := ranks.receive()) is not None:
        name, arguments = message
        commands[name](**arguments)
    engine.close()


def _scaled(progress: Progress, factor: int) -> Progress:
    """Reports the advance of this rank as that of all, each of which has about as much to do."""

    def report(*, done: int, total: int, tokens: int) -> None:
        progress(done=done * factor, total=total * factor, tokens=tokens * factor)

    return report
