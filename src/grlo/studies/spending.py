"""What arms have spent of the resource by which a study matches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grlo.settings import BudgetSettings
from grlo.studies.layout import Job, JobDir, StudyDir
from grlo.studies.loading import Study
from grlo.training.budget import Budget
from grlo.types import LedgerEntry


def spent(jobs: Sequence[JobDir]) -> Mapping[str, float]:
    """Training of some jobs together, by field of `BudgetSettings`, drawing of own demonstrations
    included; what is not charged is told by `grlo.training.budget.TRAINING_PHASES`."""
    total = dict.fromkeys(vars(BudgetSettings()), 0.0)
    for job in jobs:
        for name in total:
            total[name] += trained(job)[name] + drawn(job)[name]
    return total


def chain(study: Study, job: Job) -> list[Job]:
    """The jobs that lead to a job, the first one first and itself last."""
    before = study.settings.arms[job.arm].starts_from
    return [*(chain(study, Job(before, job.seed)) if before else []), job]


def budget(study: Study, folder: StudyDir, job: Job) -> float | None:
    """What a matched arm and those it starts from may spend together; None without matching.

    The arm that others are matched to must be finished.
    """
    matching, arm = study.settings.matching, study.settings.arms[job.arm]
    if matching is None or not study.is_matched(job.arm):
        return None
    amount = matching.amount
    if matching.to:
        amount = spent([folder.job(Job(matching.to, job.seed))])[matching.by]
    return amount * arm.share


def trained(job: JobDir) -> Mapping[str, float]:
    """What training has spent."""
    if not job.run.recipe_file.is_file():
        return _charged([], prompts_per_step=0)
    recipe = job.run.record()["recipe"]
    per_step = recipe["training"].get("rows_per_step") or recipe["sampling"]["prompts_per_step"]
    return _charged(job.run.ledger(), prompts_per_step=per_step)


def drawn(job: JobDir) -> Mapping[str, float]:
    """What drawing own demonstrations has spent; their prompts count when they are trained on."""
    return _charged(job.samples_ledger(), prompts_per_step=0)


def _charged(ledger: Sequence[LedgerEntry], *, prompts_per_step: int) -> Mapping[str, float]:
    last = max((entry.step for entry in ledger), default=0)
    charged = Budget(BudgetSettings(), prompts_per_step=prompts_per_step, ledger=ledger, step=last)
    return charged.spent
