"""`grlo quickstart`: a small study of the embedded miniature."""

from __future__ import annotations

import os
from pathlib import Path

import grlo.nano
from grlo.stages.study import study
from grlo.studies.findings import StudyFindings
from grlo.studies.loading import load_study

NANO = Path(grlo.nano.__path__[0])
STUDY = NANO / "quickstart.toml"


def quickstart(*, run_dir: Path, seed: int = 0, path: Path = STUDY) -> StudyFindings:
    """Trains and measures the arms of the miniature, and reports.

    Args:
        run_dir: New folder, or that of an earlier call.
        seed: Of training and evaluation.
        path: Study file.

    Returns:
        What was found.

    Raises:
        GrloError: An arm failed; the message ends with its last words.
    """
    print(load_study(path).settings.question.strip() + "\n")
    found = study(path, out=run_dir, seeds=[seed], parallel=len(os.sched_getaffinity(0)))
    arm = next(arm.name for arm in found.arms if arm.role == "treatment")
    model = run_dir / "arms" / arm / f"seed_{seed}" / "run"
    print(f"Talk to it: grlo chat {model} --max-tokens 60 --temperature 1")
    return found
