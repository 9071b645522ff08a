"""`grlo report`: one page of a run, of a study, or of several evaluations beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grlo.errors import DataError
from grlo.evaluation.results import read_results, read_summary
from grlo.reporting.run_page import run_page
from grlo.rundir import RunDir, write_atomic
from grlo.stages.study_report import find, is_study, read_study, render
from grlo.studies.analysis import assemble
from grlo.studies.findings import StudyFindings
from grlo.studies.layout import JobDir
from grlo.studies.results import ArmRun, read_run
from grlo.studies.settings import ArmSettings, Role, StudyEvaluation, StudySettings
from grlo.studies.transcripts import Picked, grouped, spaced

_PER_BENCHMARK = 40
_NOTHING = Path("/nonexistent")


def report(run_dir: Path) -> Path:
    """Writes the page of a run, finished or not, and returns its path.

    Raises:
        CheckpointError: The folder holds no run, or the page cannot be written.
        DataError: A file of the run is damaged.
    """
    run = RunDir.existing(run_dir)
    write_atomic(run.report_file, run_page(run))
    return run.report_file


def report_folders(folders: Sequence[Path], *, form: str, out: Path | None) -> Path:
    """Writes the report of a run, a study, or several evaluations, and returns its path.

    Args:
        folders: A run directory, the folder of a study, or folders of `grlo evaluate`, of which the
            first is the base model's. An evaluation of a checkpoint of a run brings what that run
            has cost.
        form: `html`, `md` or `json`; of a run `html` only.
        out: File to write; None writes beside the study or the run, or into the working directory.

    Raises:
        GrloError: A folder holds none of these, or files are damaged or not comparable.
    """
    first = folders[0]
    if len(folders) == 1 and RunDir(first).recipe_file.is_file():
        if form != "html":
            raise DataError(f"{first} is a run; its report is a page: --format html.")
        run = RunDir(first)
        out = out or run.report_file
        write_atomic(out, run_page(run))
        return out
    if len(folders) == 1 and is_study(first):
        found, name = find(*read_study(first)), first / f"report.{form}"
    else:
        found, name = side_by_side(folders), Path(f"report.{form}")
    out = out or name
    write_atomic(out, render(found, form=form))
    return out


def side_by_side(folders: Sequence[Path]) -> StudyFindings:
    """Evaluations as the arms of a study that nobody planned: costs are not matched.

    Raises:
        DataError: A folder holds no evaluation, or protocols differ.
    """
    if len(folders) < 2:
        raise DataError(
            f"{folders[0]} holds neither a run nor a study. Give one of them, or two and more "
            "folders of `grlo evaluate`, the base model's first."
        )
    names = _names(folders)
    arms: dict[str, ArmSettings] = {}
    runs: dict[str, list[ArmRun]] = {}
    picked: list[Picked] = []
    for index, (name, folder) in enumerate(zip(names, folders, strict=True)):
        stage = JobDir(folder)
        stage.run = _run_of(folder)
        facts = stage.run.record()["recipe"] if stage.run.recipe_file.is_file() else {}
        role: Role = "base" if index == 0 else _role(facts)
        arms[name] = ArmSettings(label=name, role=role, model=str(folder))
        runs[name] = [
            replace(read_run(seed=0, stages=[stage], evaluation=folder, facts={}), seed=0)
        ]
        for result in read_results(folder):
            for sample in spaced(result, _PER_BENCHMARK):
                picked.append(Picked(name, result.name, result.domain, sample))
    settings = StudySettings(
        title=" against ".join([", ".join(names[1:]), names[0]]),
        arms=arms,
        evaluation=StudyEvaluation(benchmarks=("as evaluated",)),
    )
    command = f"grlo report {' '.join(map(str, folders))}"
    found = assemble(settings, runs, command=command)
    note = "Arms were not matched in cost: they are as long as their recipes had them."
    shown = tuple(grouped(picked, rewards={}))
    return replace(found, transcripts=shown, notes=(*found.notes, note))


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart, as keys of arms."""
    parts = [folder.resolve().parts for folder in folders]
    length = 1
    while len({own[-length:] for own in parts}) < len(parts) and length < max(map(len, parts)):
        length += 1
    found = ["_".join(own[-length:]) for own in parts]
    return ["".join(c if c.isalnum() and c.isascii() else "_" for c in name) for name in found]


def _run_of(folder: Path) -> RunDir:
    """The run whose checkpoint was evaluated; one that is not there for another model."""
    for entry in read_summary(folder).values():
        path = Path(str(entry.get("model", {}).get("path", "")))
        run = RunDir(path.parent.parent)
        if path.parent.name == "checkpoints" and run.recipe_file.is_file():
            return run
    return RunDir(_NOTHING)


def _role(recipe: Mapping[str, Any]) -> Role:
    """What a recipe shows an arm to be."""
    if not recipe:
        return "reference"
    if "data" in recipe:
        return "baseline"
    reward = recipe.get("reward", {}).get("name")
    return {"shuffled": "control", "random": "control", "verified": "baseline"}.get(
        reward, "treatment"
    )  # pyright: ignore[reportReturnType]
