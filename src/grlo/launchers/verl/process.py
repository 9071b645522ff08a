"""verl in a process of its own."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from grlo.errors import EngineError, MissingExtraError
from grlo.launchers.verl import SUPPORTED
from grlo.launchers.verl.exporting import arguments
from grlo.launchers.verl.folder import VerlFolder

POLL_SECONDS = 5.0
_GRACE_SECONDS = 120.0
"""Between asking verl to stop and ending it."""
_PR_SET_PDEATHSIG = 1
"""See prctl(2)."""
_SHOWN = 3000
"""Characters of verl's last words that an error shows."""


def require_verl() -> str:
    """The version of verl that is installed.

    Raises:
        MissingExtraError: There is none.
        EngineError: It is one that this package was not written for.
    """
    try:
        version = importlib.metadata.version("verl")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtraError("verl", extra="verl") from error
    if version not in SUPPORTED:
        raise EngineError(
            f"verl {version} is installed; supported is {', '.join(SUPPORTED)}, whose "
            f"configuration is written. Install verl=={SUPPORTED[-1]}."
        )
    return version


def run_verl(
    folder: VerlFolder, *, attempt: int, ray_address: str | None, watch: Callable[[], None]
) -> None:
    """Starts verl and waits until it ends.

    Args:
        folder: The export.
        attempt: Number of this start.
        ray_address: Of a Ray cluster; None starts one on this machine.
        watch: Called every few seconds, and once more after the end.

    Raises:
        EngineError: verl has failed; its last words are shown.
        KeyboardInterrupt: It was asked to stop, and has.
    """
    console = folder.console_file(attempt)
    console.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ) | ({"RAY_ADDRESS": ray_address} if ray_address else {})
    command = [sys.executable, *arguments(folder, attempt=str(attempt))]
    with console.open("wb") as log:
        # A session of its own: Ctrl-C reaches it through us, once.
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder.path,
            start_new_session=True,
            preexec_fn=_preparation(),
        )
    try:
        with _termination_as_interrupt():
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
                watch()
    finally:
        _stop(process)
    if process.returncode:
        words = console.read_text(errors="replace")[-_SHOWN:]
        raise EngineError(
            f"verl ended with exit code {process.returncode}; its last words, of {console}:\n"
            f"{words}\nWhat is recorded is kept; mend it and run the same command again to resume."
        )


def _preparation() -> Callable[[], None]:
    """What is done in verl's process before it begins."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        # A launcher in the background of a shell is started with interrupts ignored, and what it
        # starts would ignore them too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if libc is not None:
            # The kernel stops it where the launcher is killed: a second start must not meet it.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)

    return prepare


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """A cluster's SIGTERM stops verl as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
