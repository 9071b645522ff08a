"""One job of a study: an arm with a seed, trained and measured, in a process of its own."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from grlo.benchmarks.loading import Choice, choose, load_benchmarks
from grlo.benchmarks.spec import DataPlaces
from grlo.errors import CheckpointError, GrloError
from grlo.evaluation.results import BenchmarkResult
from grlo.rundir import locked
from grlo.settings import Recipe
from grlo.stages.evaluate import judge_of, run_benchmarks
from grlo.stages.own_samples import draw_own_samples
from grlo.stages.respondents import ModelChoice
from grlo.stages.runs import choose_device
from grlo.stages.sft import sft
from grlo.stages.train import train
from grlo.studies.layout import Job, JobDir, StudyDir, definition_of
from grlo.studies.loading import Study, load_arm, load_prompt_recipe
from grlo.studies.settings import StudyEvaluation
from grlo.studies.spending import budget, chain, drawn, spent
from grlo.training import checkpoint

_LOCK_SECONDS, _POLL_SECONDS = 15.0, 0.2
"""A process of a study that was killed needs a moment to notice and end."""
_LEAST_SHARE = 0.02


def run_job(study: Study, folder: StudyDir, job: Job) -> None:
    """Trains and measures an arm; goes on where an earlier process stopped.

    Raises:
        GrloError: What the user has to mend; what was finished is kept.
    """
    place = folder.job(job)
    place.path.mkdir(parents=True, exist_ok=True)
    with locked(place.path, patience=_LOCK_SECONDS):
        if folder.require_same(study, job):
            print(f"{job.name} is complete.")
            return
        if study.settings.jobs.num_threads:
            torch.set_num_threads(study.settings.jobs.num_threads)
        facts: dict[str, object] = {}
        model = study.settings.arms[job.arm].model
        if study.settings.arms[job.arm].recipes:
            model = str(_train(study, folder, job, facts))
        results = _measure(study, job, model, out=place.evaluation)
        print(", ".join(f"{result.name} {_shown(result)}" for result in results))
        place.finish({**facts, "definition": definition_of(study, job)})


def _train(study: Study, folder: StudyDir, job: Job, facts: dict[str, object]) -> Path:
    """Trains as far as the budget goes, and returns the checkpoint that is measured."""
    arm, place, matching = study.settings.arms[job.arm], folder.job(job), study.settings.matching
    before = [folder.job(earlier) for earlier in chain(study, job)[:-1]]
    start = _checkpoint(before[-1], best=False) if before else None
    samples = None
    if arm.own_samples is not None:
        recipe = load_prompt_recipe(study, job.arm, seed=job.seed)
        samples = draw_own_samples(
            recipe,
            model=str(start or recipe.policy.model),
            num_samples=arm.own_samples.samples_per_prompt,
            out=place.samples_file,
            ledger_file=place.samples_ledger_file,
        )
    limits = None
    amount = budget(study, folder, job)
    if amount is not None and matching is not None:
        # The run counts what it does itself; the rest was spent before it began.
        earlier = spent(before)[matching.by] + drawn(place)[matching.by]
        if amount - earlier < _LEAST_SHARE * amount:
            raise GrloError(
                f"{job.name}: of {amount:,.6g} {matching.by} {earlier:,.6g} are spent before it "
                "begins. Give the arm that it starts from a smaller share, or set matched = false."
            )
        limits = {matching.by: amount - earlier}
    recipe = load_arm(study, job.arm, seed=job.seed, start=start, samples=samples, budget=limits)
    if isinstance(recipe, Recipe):
        train(recipe, run_dir=place.run.path)
    else:
        sft(recipe, run_dir=place.run.path)
    if amount is not None and matching is not None:
        total = spent([*before, place])[matching.by]
        facts |= {"by": matching.by, "budget": amount, "spent": total}
        print(f"{matching.by}: {total:,.6g} of {amount:,.6g} ({100 * (total / amount - 1):+.2f} %)")
    return _checkpoint(place, best=arm.checkpoint == "best")


def _checkpoint(place: JobDir, *, best: bool) -> Path:
    last = place.run.checkpoints()[-1]
    if not best:
        return last
    found: Any = checkpoint.read_state(last).get("best")
    path = place.run.checkpoint(int(found["step"])) if found else last
    if not path.exists():
        raise CheckpointError(f"{path}, the best checkpoint, is gone. Set checkpoint.keep_best.")
    return path


def _measure(study: Study, job: Job, model: str, *, out: Path) -> list[BenchmarkResult]:
    settings = study.settings.evaluation
    assert settings is not None
    choice = _choice(settings)
    if job.is_wide:
        choice = replace(choice, num_samples=settings.base_samples, variants=("sampled",))
    judge = judge_of(
        Path(settings.judge) if settings.judge else None,
        device=choose_device(settings.device),
        seed=job.seed,
    )
    is_trained = bool(study.settings.arms[job.arm].recipes)
    return run_benchmarks(
        ModelChoice(
            model,
            template=None if is_trained else settings.template or None,
            device=settings.device,
            engine=settings.engine,
        ),
        load_benchmarks(choice, make_judge=judge),
        out=out,
        seed=job.seed,
        overwrite=True,
    )


def _choice(settings: StudyEvaluation) -> Choice:
    choice = choose(
        suite=settings.suite or None,
        names=settings.benchmarks,
        variants=settings.rows,
        limit=settings.limit,
    )
    return replace(
        choice,
        max_tokens=settings.max_tokens,
        num_samples=settings.num_samples,
        places=DataPlaces(folder=Path(settings.data) if settings.data else None),
    )


def _shown(result: BenchmarkResult) -> str:
    return "-" if result.score is None else f"{result.score.value:.3f}"


def end_with_parent() -> None:
    """Ends this process at once when the one that started it is gone; nothing is lost by that."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
