"""Reads what the finished arms of a study have left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grlo.evaluation.lenient import lenient_score
from grlo.evaluation.results import BenchmarkResult, read_results
from grlo.rundir import Row, RunDir, evaluation_ledger, read_jsonl
from grlo.studies.layout import Job, JobDir, StudyDir, jobs_of
from grlo.studies.loading import Study
from grlo.studies.spending import chain, spent
from grlo.types import LedgerEntry


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed."""

    seed: int
    results: tuple[BenchmarkResult, ...]
    """Without the texts of questions and answers."""
    origin: str
    """Model that its first stage started from; empty for an arm that is not trained."""
    spent: Mapping[str, float]
    """By training, earlier stages included, by field of `BudgetSettings`."""
    num_different: float
    """Different prompts, or demonstrations, of all stages."""
    metrics: tuple[Row, ...]
    """Of its own training."""
    ledger: tuple[LedgerEntry, ...]
    """Of its own training."""
    earlier: tuple[tuple[LedgerEntry, ...], ...]
    """One ledger for every stage before, drawing of own demonstrations included."""
    evaluation: tuple[LedgerEntry, ...]
    """Of the benchmarks at the end."""
    peak_flops: float | None
    """Operations a second that its device was measured to do; None where it was not."""
    record: Mapping[str, Any]
    """recipe.json of the run; empty for an arm that is not trained."""
    facts: Mapping[str, Any]
    """done.json."""


def read_arms(study: Study, folder: StudyDir) -> dict[str, list[ArmRun]]:
    """Finished runs of every arm, in the order of the seeds.

    Raises:
        DataError: A file of a finished job is damaged or gone.
        CheckpointError: A job was finished with other settings than those of the study now.
    """
    found: dict[str, list[ArmRun]] = {name: [] for name in study.settings.arms}
    for seed in study.settings.seeds:
        for name in study.settings.arms:
            job = Job(name, seed)
            if folder.require_same(study, job):
                found[name].append(_read(study, folder, job))
    return found


def read_wide(study: Study, folder: StudyDir) -> tuple[BenchmarkResult, ...]:
    """The base model's many answers; none where they are not there."""
    for job in jobs_of(study):
        if job.is_wide and folder.require_same(study, job):
            return tuple(map(_light, read_results(folder.job(job).evaluation)))
    return ()


def read_run(
    *,
    seed: int,
    stages: Sequence[JobDir],
    evaluation: Path,
    facts: Mapping[str, Any],
) -> ArmRun:
    """What a run and its evaluation have left.

    Args:
        seed: Of the run.
        stages: Jobs that led to the model, the last one its own; of those that trained nothing
            there is no run.
        evaluation: Folder of its benchmarks.
        facts: What its job has said at the end.
    """
    run = stages[-1].run
    trained = [stage for stage in stages if stage.run.recipe_file.is_file()]
    ledgers = [
        tuple(entries)
        for stage in stages
        for entries in (stage.samples_ledger(), [] if stage is stages[-1] else stage.run.ledger())
        if entries
    ]
    # A run that went on from another one outside of the study keeps what that has cost.
    ledgers += [
        tuple(entries) for stage in trained[:1] for entries in stage.run.earlier_ledger().values()
    ]
    return ArmRun(
        seed=seed,
        results=tuple(map(_light, read_results(evaluation))),
        origin=str(trained[0].run.record()["recipe"]["policy"]["model"]) if trained else "",
        spent=spent(stages),
        num_different=sum(_different(stage.run) for stage in trained),
        metrics=tuple(run.metrics()),
        ledger=tuple(run.ledger()),
        earlier=tuple(ledgers),
        evaluation=tuple(e for own in evaluation_ledger(evaluation).values() for e in own),
        peak_flops=_peak_flops(read_jsonl(run.environment_file)),
        record=run.record() if run.recipe_file.is_file() else {},
        facts=facts,
    )


def _read(study: Study, folder: StudyDir, job: Job) -> ArmRun:
    place = folder.job(job)
    return read_run(
        seed=job.seed,
        stages=[folder.job(one) for one in chain(study, job)],
        evaluation=place.evaluation,
        facts=place.done() or {},
    )


def _different(run: RunDir) -> float:
    """Different prompts of a run, or demonstrations: at most those of an epoch."""
    if steps := run.rollout_steps():
        rows = (row for step in steps for row in read_jsonl(run.rollouts_file(step)))
        return len({row["prompt_id"] for row in rows})
    rows = run.metrics()
    seen = len(rows) * run.record()["recipe"]["training"].get("rows_per_step", 0)
    return seen / max(1.0, rows[-1].get("sft/epoch", 1.0) if rows else 1.0)


def _light(result: BenchmarkResult) -> BenchmarkResult:
    """The result without the texts, which take most of its memory."""
    samples = tuple(
        replace(
            sample,
            text="",
            prompt=replace(sample.prompt, messages=()),
            score=replace(
                sample.score, details={"lenient": lenient_score(sample, domain=result.domain)}
            ),
        )
        for sample in result.samples
    )
    return replace(result, samples=samples)


def _peak_flops(environment: Sequence[Row]) -> float | None:
    found = [row["peak_flops"] for row in environment if row.get("peak_flops")]
    return float(found[-1]) if found else None
