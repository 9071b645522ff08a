"""Runs the jobs of a study, here or through a launcher, each when what it needs is finished."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from grlo.errors import GrloError
from grlo.progress import progress_bar
from grlo.reporting.tables import duration
from grlo.reporting.text import visible
from grlo.studies.layout import Job, StudyDir, jobs_of, needed
from grlo.studies.loading import Study

TIED = "GRLO_STUDY_TIED"
"""In the environment of a job that is to end with the process that started it."""
_POLL_SECONDS = 0.2
_LOG_LINES = 15


def run_jobs(study: Study, folder: StudyDir, *, say: Callable[[str], None] = print) -> list[str]:
    """Runs what is not finished yet, at most `jobs.parallel` at a time.

    A job that fails does not stop those that do not need it; the same command tries it again.

    Args:
        study: The study.
        folder: Where it is run.
        say: Told of every job that has ended.

    Returns:
        One text per job that failed, or could not begin because another failed.

    Raises:
        CheckpointError: A job was finished with other settings.
    """
    jobs = jobs_of(study)
    done = {job for job in jobs if folder.require_same(study, job)}
    waiting = [job for job in jobs if job not in done]
    if done:
        say(f"{len(done)} of {len(jobs)} arms and seeds are finished already")
    failed: dict[Job, str] = {}
    running: dict[Job, tuple[subprocess.Popen[bytes], float]] = {}
    try:
        with progress_bar("arms and seeds") as progress:
            while waiting or running:
                for job in list(waiting):
                    before = needed(study, job)
                    if blocked := [one for one in before if one in failed]:
                        waiting.remove(job)
                        failed[job] = f"{job.name} needs {blocked[0].name}, which failed"
                    elif len(running) < study.settings.jobs.parallel and done.issuperset(before):
                        waiting.remove(job)
                        running[job] = (_start(study, folder, job), time.monotonic())
                time.sleep(_POLL_SECONDS)
                for job, (process, since) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[job]
                    text = _ended(study, folder, job, process.returncode)
                    if text:
                        failed[job] = text
                    else:
                        done.add(job)
                    verb = "FAILED" if text else "finished"
                    took = duration(time.monotonic() - since)
                    left = len(jobs) - len(done) - len(failed)
                    say(f"{job.name} {verb} after {took}; {left} left")
                progress(done=len(done) + len(failed), total=len(jobs), tokens=0)
    except KeyboardInterrupt:
        # The terminal has told the jobs as well; each saves the step it is in and ends.
        for process, _ in running.values():
            process.wait()
        say("stopped; the same command goes on from here")
        raise
    finally:
        for process, _ in running.values():
            if process.poll() is None:
                process.terminate()
                process.wait()
    return list(failed.values())


def _ended(study: Study, folder: StudyDir, job: Job, code: int) -> str:
    """Why a job failed; empty if it did not."""
    if not code and folder.require_same(study, job):
        return ""
    log = folder.job(job).log_file
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
    how = f"ended with exit code {code}" if code else "ended without having finished"
    return "\n".join([f"{job.name} {how}; the end of {log}:", *map(visible, lines)])


def _start(study: Study, folder: StudyDir, job: Job) -> subprocess.Popen[bytes]:
    place = folder.job(job)
    place.path.mkdir(parents=True, exist_ok=True)
    command = job_command(study.path, folder.path, job, seeds=study.settings.seeds)
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    if study.settings.jobs.num_threads:
        environment["OMP_NUM_THREADS"] = str(study.settings.jobs.num_threads)
    launcher = study.settings.jobs.command
    with place.log_file.open("wb") as log:
        return subprocess.Popen(
            launched(launcher, command, name=job.name, log=place.log_file) if launcher else command,
            shell=bool(launcher),
            env=environment if launcher else {**environment, TIED: "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def job_command(study: Path, folder: Path, job: Job, *, seeds: Sequence[int]) -> list[str]:
    """The command line that runs one job."""
    command = [sys.executable, "-m", "grlo", "study", str(study.resolve())]
    command += ["--out", str(folder.resolve()), "--job", job.name]
    return [*command, "--seeds", ",".join(map(str, seeds))]


def launched(template: str, command: Sequence[str], *, name: str, log: Path) -> str:
    """The shell line of a launcher.

    Args:
        template: `JobSettings.command`.
        command: What is to be run.
        name: Of the job.
        log: File that the launcher may write to.
    """
    line = shlex.join(command)
    words = {
        "{command}": line,
        "{quoted}": shlex.quote(line),
        "{name}": shlex.quote(name.replace("/", "-")),
        "{log}": shlex.quote(str(log)),
    }
    for mark, text in words.items():
        template = template.replace(mark, text)
    return template


def find_job(study: Study, name: str) -> Job:
    """The job of a name.

    Raises:
        GrloError: There is none.
    """
    jobs = {job.name: job for job in jobs_of(study)}
    if name not in jobs:
        raise GrloError(f"there is no job {name!r}; expected one of {', '.join(jobs)}.")
    return jobs[name]
