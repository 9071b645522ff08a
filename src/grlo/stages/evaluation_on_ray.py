"""An evaluation on the workers of a Ray cluster: answers, and verdicts of verifiers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from grlo.errors import RecipeError
from grlo.evaluation.respondents import Answer, OnAnswer, Spent
from grlo.interfaces import Progress, silent
from grlo.ledger import PhaseCost, total_usage
from grlo.ray_cluster import RayCluster, RayWorkers, open_ray
from grlo.stages.models import newest_model
from grlo.stages.respondents import ModelChoice, Opened, open_model
from grlo.types import Prompt, SamplingParams
from grlo.verifiers.on_ray import RayVerifierSettings

_BLOCK = 256
"""Answers of a block where the model itself asks for as many as there are: on a GPU."""


@contextmanager
def open_on_ray(
    model: ModelChoice, *, cluster: RayCluster, out: Path, seed: int
) -> Iterator[Opened]:
    """The copies of a model on a cluster, which load its weights at the first question.

    Raises:
        RecipeError: The model is behind an endpoint.
        GrloError: See `grlo.stages.respondents.open_model` and `grlo.ray_cluster.RayWorkers`.
    """
    if model.is_remote:
        raise RecipeError(f"{model.model} is behind an endpoint, which needs no workers.")
    if model.device == "auto":
        has_gpus = open_ray(cluster.address).cluster_resources().get("GPU", 0) > 0
        model = replace(model, device="cuda" if has_gpus else "cpu")
    path = newest_model(model.model)
    model = replace(model, model=str(Path(path).resolve()) if Path(path).exists() else path)
    with open_model(model, out=out, seed=seed) as here:
        copies = RayModel(model, here, cluster=cluster, seed=seed)
        try:
            yield replace(here, respondent=copies, num_devices=copies.num_parallel)
        finally:
            copies.close()


def verified_on_ray(grader: object, *, cluster: RayCluster) -> object:
    """The settings of a verifier on a cluster."""
    return RayVerifierSettings(grader, address=cluster.address, num_workers=cluster.num_workers)


class RayModel:
    """The copies of a model on a cluster. Blocks are those of the model alone, so that on CPUs of
    one kind answers are the same to the last byte.

    Args:
        choice: The model, with a device that the workers have.
        here: The same model in this process; only its tokenizer is used.
        cluster: Where, and how many copies.
        seed: Of the engine.
    """

    def __init__(
        self, choice: ModelChoice, here: Opened, *, cluster: RayCluster, seed: int
    ) -> None:
        self.block_size = here.respondent.block_size or _BLOCK
        self._here = here
        num_gpus = 0.0 if here.device == "cpu" else 1.0
        make = partial(_Copy, choice, seed)
        self._workers = RayWorkers(make, cluster=cluster, num_gpus=num_gpus)
        self.num_parallel = self._workers.num_workers
        self._lock, self._spent = threading.Lock(), PhaseCost()

    def template(self, shots: Sequence[tuple[str, str]]) -> str:
        """See `Respondent`."""
        return self._here.respondent.template(shots)

    def answer(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        draws: Sequence[int],
        shots: Sequence[tuple[str, str]],
        progress: Progress = silent,
        on_answer: OnAnswer,
    ) -> list[Answer]:
        """See `Respondent`; answers come all at once.

        Raises:
            ClusterError: A worker is lost for good.
        """
        answers, spent = self._workers.call("answer", prompts, sampling, seeds, draws, shots)
        with self._lock:
            self._spent.tokens += spent.tokens
            self._spent.add(spent.work)
            self._spent.usage = total_usage([self._spent.usage, spent.usage])
        for index, answer in enumerate(answers):
            on_answer(index, answer)
        return answers

    def spent(self) -> Spent:
        """See `Respondent`; a block that was repeated for a lost worker counts once."""
        with self._lock:
            spent, self._spent = self._spent, PhaseCost()
        return Spent(tokens=spent.tokens, work=spent.work, usage=spent.usage)

    def close(self) -> None:
        """Ends the workers."""
        self._workers.close()


class _Copy:
    """In a process of the cluster."""

    def __init__(self, choice: ModelChoice, seed: int) -> None:
        self._opened = ExitStack().enter_context(open_model(choice, out=Path(), seed=seed))

    def answer(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        seeds: Sequence[int],
        draws: Sequence[int],
        shots: Sequence[tuple[str, str]],
    ) -> tuple[list[Answer], Spent]:
        """The answers to a block, and what they took."""
        respondent = self._opened.respondent
        answers = respondent.answer(
            prompts,
            sampling,
            seeds=seeds,
            draws=draws,
            shots=shots,
            on_answer=lambda index, answer: None,
        )
        return answers, respondent.spent()
