"""`grlo study`: arms over seeds from one file, run, matched in cost, compared and reported."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from grlo.errors import GrloError
from grlo.evaluation.stats import Estimate
from grlo.reporting.tables import duration, make_table, percent
from grlo.rundir import locked
from grlo.stages.study_beside import ratio_card
from grlo.stages.study_report import write_report
from grlo.studies.findings import AVERAGE, ArmFindings, StudyFindings
from grlo.studies.layout import StudyDir, jobs_of, needed
from grlo.studies.loading import Study, load_study
from grlo.studies.running import TIED, find_job, run_jobs

_SHORT = {"instruction_following": "instr."}


def study(path: Path, *, out: Path, seeds: Sequence[int] = (), parallel: int = 0) -> StudyFindings:
    """Runs what is not finished of a study, and writes its report.

    Args:
        path: Study file.
        out: Folder of the study; an earlier call with the same file is gone on from.
        seeds: Instead of those of the file, if there are any.
        parallel: Arms at a time instead of `jobs.parallel`, if positive.

    Returns:
        What was found.

    Raises:
        RecipeError: Lists every problem of the study and of the recipes of its arms.
        CheckpointError: An arm was finished with other settings.
        GrloError: Arms failed; the report has the others.
    """
    found = load_study(path, seeds=seeds)
    if parallel:
        jobs = replace(found.settings.jobs, parallel=parallel)
        found = replace(found, settings=replace(found.settings, jobs=jobs))
    folder = StudyDir(out)
    out.mkdir(parents=True, exist_ok=True)
    say = _printer(Console())
    with locked(out):
        failures = run_jobs(found, folder, say=say)
        findings = write_report(found, folder, failures=failures)
    show(findings)
    say(f"\nNumbers: {folder.findings_file}")
    say(f"Report: {folder.report_file}")
    if failures:
        raise GrloError(
            "\n\n".join([f"{len(failures)} jobs failed:", *failures])
            + "\n\nThe report has what is finished. The same command tries again."
        )
    return findings


def plan(path: Path, *, out: Path, seeds: Sequence[int] = ()) -> None:
    """Shows what `study` would run, and runs nothing.

    Raises:
        RecipeError: Lists every problem of the study and of the recipes of its arms.
        CheckpointError: An arm was finished with other settings.
    """
    found = load_study(path, seeds=seeds)
    folder = StudyDir(out)
    rows = []
    for job in jobs_of(found):
        arm = found.settings.arms[job.arm]
        recipes = " + ".join(Path(recipe).name for recipe in arm.recipes)
        rows.append(
            [
                job.name,
                arm.role,
                "many answers" if job.is_wide else recipes or arm.model,
                ", ".join(before.name for before in needed(found, job)) or "-",
                "matched" if found.is_matched(job.arm) else "-",
                "finished" if folder.require_same(found, job) else "to do",
            ]
        )
    columns = ["job", "role", "what", "after", "cost", "state"]
    Console().print(make_table(columns, rows, title=found.settings.title))


def study_job(path: Path, *, out: Path, seeds: Sequence[int], name: str) -> None:
    """Runs one job, as `study` or a launcher asks for it."""
    from grlo.stages.study_job import end_with_parent, run_job

    if os.environ.get(TIED):
        end_with_parent()
    found: Study = load_study(path, seeds=seeds)
    run_job(found, StudyDir(out), find_job(found, name))


def show(found: StudyFindings) -> None:
    """Prints scores and costs of the arms, or ratios where there are none, and the answer."""
    console = Console()
    say = _printer(console)
    arms = [arm for arm in found.arms if arm.domains]
    keys = (*found.domains, AVERAGE)
    console.print()
    if arms:
        rows = [[arm.label, *(_short(arm.domains.get(key)) for key in keys)] for arm in arms]
        columns = ["score, %", *(_SHORT.get(key, key.replace("_", " ")) for key in keys)]
        console.print(
            make_table(columns, rows, title="Scores with half the width of the 95 % interval")
        )
        columns = ["", "ends, %", "length", "prompts", "tokens", "time"]
        title = "Answers that end, their length, and what training took with each seed"
        console.print(make_table(columns, [_effort(arm) for arm in arms], title=title))
    else:  # Published rows alone: the ratios are the answer.
        for card in map(ratio_card, found.ratios):
            say("\n- ".join((f"{card.title}: {'; '.join(card.facts)}", *card.warnings)))
    for line in (*found.answer, *found.notes):
        say(line)


def _short(score: Estimate | None) -> str:
    if score is None:
        return "-"
    return f"{100 * score.value:.1f} ±{50 * (score.high - score.low):.0f}"


def _effort(arm: ArmFindings) -> list[str]:
    form, cost = arm.forms[AVERAGE], arm.cost
    took = ["-"] * 3
    if cost is not None:
        took = [
            f"{cost.prompts:,.0f}",
            f"{cost.trained_tokens / 1000:,.0f}K",
            duration(3600 * cost.device_hours),
        ]
    return [arm.label, percent(form.stopped), f"{form.tokens:.1f}", *took]


def _printer(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)
