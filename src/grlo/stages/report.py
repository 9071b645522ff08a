"""`grlo report`: what a run did, as one page."""

from __future__ import annotations

from pathlib import Path

from grlo.reporting.run_page import run_page
from grlo.rundir import RunDir, write_atomic


def report(run_dir: Path) -> Path:
    """Writes the page of a run, finished or not, and returns its path.

    Raises:
        CheckpointError: The folder holds no run, or the page cannot be written.
        DataError: A file of the run is damaged.
    """
    run = RunDir.existing(run_dir)
    write_atomic(run.report_file, run_page(run))
    return run.report_file
