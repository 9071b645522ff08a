"""The folder of a study: the only file that knows the names of files in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grlo.errors import CheckpointError
from grlo.rundir import RunDir, flatten, read_jsonl, write_atomic
from grlo.studies.loading import Study, definition
from grlo.types import LedgerEntry

PASS_AT_K = "pass_at_k"
"""Job of the base model with many answers a problem."""


@dataclass(frozen=True)
class Job:
    """One arm with one seed, or the base model's many answers."""

    arm: str
    seed: int
    is_wide: bool = False
    """Whether it is the base model's many answers."""

    @property
    def name(self) -> str:
        return f"{self.arm}/{PASS_AT_K if self.is_wide else f'seed_{self.seed}'}"


class JobDir:
    """What one job leaves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = RunDir(path / "run")
        self.evaluation = path / "evaluation"
        self.samples_file = path / "own_samples.jsonl"
        self.samples_ledger_file = path / "own_samples_ledger.jsonl"
        self.log_file = path / "job.log"
        self.done_file = path / "done.json"

    def done(self) -> dict[str, Any] | None:
        """What a finished job has written last; None while it is not finished.

        Raises:
            CheckpointError: The file is damaged.
        """
        if not self.done_file.is_file():
            return None
        try:
            return dict(json.loads(self.done_file.read_bytes()))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self.done_file} is damaged ({error}). Remove it: the same command writes it "
                "again and repeats nothing that is finished."
            ) from error

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Marks the job as finished."""
        write_atomic(self.done_file, json.dumps(facts, indent=1, allow_nan=False) + "\n")

    def samples_ledger(self) -> list[LedgerEntry]:
        """What drawing the arm's own demonstrations has cost."""
        return [LedgerEntry(**row) for row in read_jsonl(self.samples_ledger_file)]


class StudyDir:
    """The folder of a study.

    Args:
        path: Created when it is written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study_file = path / "study.json"
        """Where the study file lies, and the seeds."""
        self.rewards_file = path / "rewards.jsonl"
        """Of the answers that the report shows."""
        self.report_file = path / "report.html"
        self.findings_file = path / "findings.json"

    def job(self, job: Job) -> JobDir:
        return JobDir(self.path / "arms" / job.name)

    def require_same(self, study: Study, job: Job) -> bool:
        """Whether a job is finished.

        Raises:
            CheckpointError: It was finished with other settings than those of the study now.
        """
        done = self.job(job).done()
        if done is None:
            return False
        before = dict(flatten(done.get("definition", {})))
        now = dict(flatten(definition_of(study, job)))
        changed = [
            f"  {key}: {before.get(key)!r} -> {now.get(key)!r}"
            for key in dict.fromkeys((*before, *now))
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise CheckpointError(
                f"{self.job(job).path} was finished with other settings:\n"
                + "\n".join(changed)
                + "\nChoose another --out, or remove that folder to run the arm again."
            )
        return True


def definition_of(study: Study, job: Job) -> dict[str, Any]:
    """What the results of a job depend on, besides its seed."""
    found = definition(study, job.arm)
    if job.is_wide and study.settings.evaluation is not None:
        found["base_samples"] = study.settings.evaluation.base_samples
    return found


def jobs_of(study: Study) -> list[Job]:
    """All jobs, seed by seed, an arm after what it starts from and is matched to."""
    if not study.settings.arms:
        return []
    wide = study.settings.evaluation is not None and study.settings.evaluation.base_samples
    jobs = [Job(study.settings.base, study.settings.seeds[0], is_wide=True)] if wide else []
    for seed in study.settings.seeds:
        ordered: dict[Job, None] = {}
        for name in study.settings.arms:
            for job in _with_needed(study, Job(name, seed)):
                ordered.setdefault(job)
        jobs += ordered
    return jobs


def needed(study: Study, job: Job) -> list[Job]:
    """Jobs that have to be finished before a job can begin."""
    if job.is_wide:
        return []
    arm, matching = study.settings.arms[job.arm], study.settings.matching
    names = [arm.starts_from] if arm.starts_from else []
    if matching is not None and matching.to and study.is_matched(job.arm):
        names.append(matching.to)
    return [Job(name, job.seed) for name in dict.fromkeys(names)]


def _with_needed(study: Study, job: Job) -> Iterator[Job]:
    for before in needed(study, job):
        yield from _with_needed(study, before)
    yield job
