"""What the sandbox is asked and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grlo.settings import require

Backend = Literal["bubblewrap", "landlock", "none"]
Status = Literal["exited", "timeout", "output_limit", "killed"]

ACCEPT_UNSANDBOXED = (
    "I accept that programs written by a model run on this machine without a sandbox."
)
"""The sentence without which the backend `none` refuses to start."""


@dataclass(frozen=True)
class Limits:
    """What one program may use up."""

    wall_seconds: float = 10.0
    """From the start of the sandbox to its end."""
    cpu_seconds: float = 5.0
    """Processor time of each of its processes, rounded up to whole seconds."""
    memory_bytes: int = 1 << 30
    """Address space of each of its processes."""
    num_processes: int = 8
    """Processes and threads at one time, the program itself included."""
    file_bytes: int = 16 << 20
    """Size of the largest file."""
    scratch_bytes: int = 64 << 20
    """Size of the scratch folder."""
    output_bytes: int = 1 << 20
    """Of stdout and of stderr, each; more ends the program."""

    def __post_init__(self) -> None:
        for name in ("wall_seconds", "cpu_seconds", "memory_bytes", "num_processes"):
            require(getattr(self, name) > 0, f"{name} must be positive")
        for name in ("file_bytes", "output_bytes"):
            require(getattr(self, name) >= 0, f"{name} must not be negative")
        # A tmpfs of size 0 would be one without a limit.
        require(self.scratch_bytes > 0, "scratch_bytes must be positive")


@dataclass(frozen=True)
class Execution:
    """How a program ended and what it wrote."""

    status: Status
    """`timeout` at the limit on wall-clock or processor time; `output_limit` when it wrote too
    much; `killed` by another signal (memory, a denied system call, ...); else `exited`."""
    exit_code: int | None
    """Of `exited`; the negative number of the signal for `killed`; else None. The backend
    bubblewrap cannot tell exit codes from 129 to 192 from signals and calls them `killed`."""
    stdout: bytes
    """At most `output_bytes`."""
    stderr: bytes
    """At most `output_bytes`."""
    seconds: float
    """Wall-clock seconds, the making of the sandbox included."""


@dataclass(frozen=True)
class SandboxSettings:
    """How programs written by a model are isolated."""

    backend: Literal["auto", "bubblewrap", "landlock", "none"] = "auto"
    """`auto` takes the strongest that passes its self-test and never `none`."""
    accept_unsandboxed: str = ""
    """The backend `none` needs the sentence `ACCEPT_UNSANDBOXED` here, in as many words."""
    num_workers: int = 0
    """Programs that run at a time; 0 takes the number of usable cores."""
    python: str | None = None
    """Interpreter of the programs, Python 3.11 or newer; None takes this process's own where the
    sandbox can read it, else one of the system."""

    def __post_init__(self) -> None:
        require(self.num_workers >= 0, "num_workers must not be negative")
