"""`grlo export hf`: a checkpoint of a run as a plain Hugging Face model with a model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from grlo.errors import CheckpointError
from grlo.evaluation.results import BenchmarkResult, read_results, read_summary
from grlo.rundir import PARTIAL, RunDir, write_atomic
from grlo.stages.model_card import model_card
from grlo.training import checkpoint


def export_hf(
    run_dir: Path, *, out: Path, step: int | None = None, evaluations: Sequence[Path] = ()
) -> Path:
    """Copies the model of a checkpoint, adapters merged in, and writes its card.

    Args:
        run_dir: A run.
        out: New or empty folder.
        step: Of the checkpoint; None takes the newest.
        evaluations: Folders of `grlo evaluate`, shown in the card besides those of the run.

    Raises:
        CheckpointError: The run or the checkpoint is not there or damaged, or `out` holds
            something.
        DataError: An evaluation cannot be read.
    """
    run = RunDir.existing(run_dir)
    checkpoints = {int(path.name.removeprefix("step_")): path for path in run.checkpoints()}
    if not checkpoints:
        raise CheckpointError(f"{run_dir} has no checkpoint yet.")
    if step is not None and step not in checkpoints:
        kept = ", ".join(map(str, checkpoints))
        raise CheckpointError(f"{run_dir} has no checkpoint of step {step}; there are {kept}.")
    step = max(checkpoints) if step is None else step
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty. Choose a new or empty folder for --out.")
    card = model_card(
        run, name=out.name, step=step, evaluations=_evaluations(run, step, evaluations)
    )
    files = checkpoint.model_files(checkpoints[step])
    temporary = out.with_name(f".{out.name}{PARTIAL}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for file in files:
            shutil.copy2(file, temporary / file.name)
        write_atomic(temporary / "README.md", card)
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"cannot write {out}: {error}") from error
    print(f"{checkpoints[step].name} of {run_dir}: {out}")
    return out


def _evaluations(
    run: RunDir, step: int, folders: Sequence[Path]
) -> Mapping[str, Sequence[BenchmarkResult]]:
    """Results by label: during training, at the latest step up to this one, then those named."""
    found: dict[str, Sequence[BenchmarkResult]] = {}
    steps = [number for number in range(step, -1, -1) if read_summary(run.evaluation(number))]
    if steps:
        found[f"step {steps[0]}, during training"] = read_results(run.evaluation(steps[0]))
    return found | {folder.name: read_results(folder) for folder in folders}
