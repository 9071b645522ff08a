"""`grlo train --devices N`: the same command in N processes, by torch's own launcher."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from grlo.errors import GrloError, LostRankError, RecipeError
from grlo.settings import Recipe
from grlo.stages.runs import choose_device
from grlo.training.distributed.problems import require_sound
from grlo.training.distributed.ranks import LEADER_FILE, num_launched

SECONDS_TO_LEAVE = 10
"""After one process has ended, until those that do not leave are killed."""
LINES_SHOWN = 40
"""Of the log of a process that has failed."""


class ProcessFailedError(GrloError):
    """A process of a run on several devices has failed."""


def launch(recipe: Recipe, arguments: Sequence[str], *, num_devices: int) -> None:
    """Runs a command of this program in several processes of this machine, and waits for them.

    The terminal shows what the leader writes. What others write goes to files, which are shown
    where they fail.

    Args:
        recipe: Of the run.
        arguments: Of the command, `--devices` among them.
        num_devices: Processes; on GPUs each has its own.

    Raises:
        RecipeError: Something in the recipe does not go with several devices, or there are fewer.
        ProcessFailedError: Another process than the leader has failed.
        SystemExit: The leader has failed, and has said why.
    """
    if num_launched() > 1:
        raise RecipeError("--devices starts processes, but torchrun has done so. Leave it out.")
    require_sound(recipe, num_devices=num_devices)
    if choose_device(recipe.training.device) != "cpu" and num_devices > torch.cuda.device_count():
        raise RecipeError(
            f"--devices {num_devices}: this machine has {torch.cuda.device_count()} GPUs that are "
            "visible."
        )
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_LEAVE))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_devices)))
    logs = Path(tempfile.mkdtemp(prefix="grlo_ranks_"))
    others = dict.fromkeys(range(1, num_devices), Std.ALL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_devices,
        run_id="grlo",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.2,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=others),
        signals_to_handle="SIGTERM,SIGHUP,SIGQUIT",
    )
    os.environ[LEADER_FILE] = str(logs / "leader")
    signal.signal(signal.SIGINT, partial(_interrupt, logs / "leader"))
    # What it would say of failures is said below.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        elastic_launch(config, sys.executable)("-m", "grlo", *without_devices(arguments))
    except ChildFailedError as error:
        failures = _culprits(error.failures)
        if 0 in failures and failures[0].exitcode > 0:
            raise SystemExit(failures[0].exitcode) from error
        raise ProcessFailedError(_in_words(failures, logs)) from error
    except SignalException as error:
        raise ProcessFailedError(
            f"ended by {error.sigval.name}. The newest checkpoint is intact; the same command "
            "resumes."
        ) from error
    shutil.rmtree(logs, ignore_errors=True)


def _interrupt(leader: Path, number: int, frame: object) -> None:
    """Passes Ctrl-C on: a terminal does not reach the processes, which have sessions of their own.
    The leader's end is that of all."""
    if not leader.is_file():  # It has not begun.
        raise KeyboardInterrupt
    with suppress(ProcessLookupError):
        os.kill(int(leader.read_text()), signal.SIGINT)


def without_devices(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command without the option `--devices` and its value."""
    kept: list[str] = []
    is_value = False
    for argument in arguments:
        if not is_value and argument != "--devices" and not argument.startswith("--devices="):
            kept.append(argument)
        is_value = argument == "--devices" and not is_value
    return kept


def _culprits(failures: Mapping[int, ProcessFailure]) -> dict[int, ProcessFailure]:
    """Without those that have only lost another, unless there are no others."""
    own = {
        rank: failure
        for rank, failure in failures.items()
        if failure.exitcode != LostRankError.exit_status
    }
    return own or dict(failures)


def _in_words(failures: Mapping[int, ProcessFailure], logs: Path) -> str:
    parts = []
    for rank, failure in sorted(failures.items()):
        code = failure.exitcode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed ({code})"
        parts.append(f"process {rank} {how}")
        for log in logs.glob(f"*/attempt_0/{failure.local_rank}/stderr.log"):
            lines = log.read_text(errors="replace").splitlines()[-LINES_SHOWN:]
            if lines:
                parts += [f"the end of {log}:", *(f"  | {line}" for line in lines)]
    parts.append("The newest checkpoint is intact; the same command resumes.")
    return "\n".join(parts)
