"""Trains several arms side by side, each in a process of its own, one core each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grlo.errors import GrloError
from grlo.progress import progress_bar
from grlo.rundir import RunDir

_POLL_SECONDS = 0.2
_LOG_LINES = 15


@dataclass(frozen=True)
class ArmPlan:
    """How an arm is trained."""

    label: str
    """As people read it."""
    recipe: Path | None = None
    """None for a model that is not trained."""
    overrides: tuple[str, ...] = ()
    starts_from: str | None = None
    """The arm whose last checkpoint it starts from; None is the recipe's own policy."""


def train_arms(
    plans: Mapping[str, ArmPlan],
    *,
    run_dir: Path,
    overrides: Sequence[str],
    total_steps: int,
    num_parallel: int,
) -> None:
    """Trains every arm with a recipe as `run_dir/<arm>`; finished ones are not trained again.

    An arm that starts from another waits for it. What an arm prints goes to `run_dir/<arm>.log`.

    Args:
        plans: Arms in the order in which they are started where they can.
        run_dir: Created if need be.
        overrides: `section.key=value` for all arms, before those of the plans.
        total_steps: Steps of all arms together, for the progress.
        num_parallel: Arms that are trained at a time.

    Raises:
        GrloError: An arm could not be trained; the message ends with its last words.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    waiting = [name for name, plan in plans.items() if plan.recipe is not None]
    running: dict[str, subprocess.Popen[bytes]] = {}
    done: set[str] = {name for name, plan in plans.items() if plan.recipe is None}
    try:
        with progress_bar("training, steps of all arms") as progress:
            while waiting or running:
                for name in [n for n in waiting if plans[n].starts_from in (None, *done)]:
                    if len(running) < num_parallel:
                        waiting.remove(name)
                        running[name] = _start(name, plans[name], run_dir, overrides)
                time.sleep(_POLL_SECONDS)
                for name, process in list(running.items()):
                    if process.poll() is not None:
                        del running[name]
                        done.add(name)
                        if process.returncode:
                            raise GrloError(_last_words(run_dir, name, process.returncode))
                rows = [row for name in plans for row in RunDir(run_dir / name).metrics()]
                progress(
                    done=len(rows),
                    total=total_steps,
                    tokens=round(sum(row["tokens/generated"] for row in rows)),
                )
    except KeyboardInterrupt:
        # The terminal has told the arms as well; each saves the step it is in and ends.
        for process in running.values():
            process.wait()
        print("stopped; the same command goes on from here")
        raise
    finally:
        for process in running.values():
            if process.poll() is None:
                process.terminate()
                process.wait()


def _start(
    name: str, plan: ArmPlan, run_dir: Path, overrides: Sequence[str]
) -> subprocess.Popen[bytes]:
    settings = [*overrides, *plan.overrides]
    if plan.starts_from is not None:
        settings.append(f"policy.model={(run_dir / plan.starts_from).resolve()}")
    command = [sys.executable, "-m", "grlo", "train", str(plan.recipe)]
    command += ["--run", str(run_dir / name)]
    command += [word for setting in settings for word in ("--set", setting)]
    with _log_file(run_dir, name).open("wb") as log:
        return subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _log_file(run_dir: Path, arm: str) -> Path:
    return run_dir / f"{arm}.log"


def _last_words(run_dir: Path, arm: str, code: int) -> str:
    log = _log_file(run_dir, arm)
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return "\n".join(
        [f"training of arm {arm} ended with exit code {code}; the end of {log}:", *lines]
    )
