"""Opens the strongest sandbox that this machine can make."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time

from grlo.errors import SandboxError
from grlo.sandbox.interpreter import choose_interpreter
from grlo.sandbox.pool import Sandbox
from grlo.sandbox.seccomp import architectures, build_filter
from grlo.sandbox.selftest import ATTACKS, self_test
from grlo.sandbox.types import ACCEPT_UNSANDBOXED, Backend, SandboxSettings

_STRONGEST_FIRST: tuple[Backend, ...] = ("bubblewrap", "landlock")

# The first with `--size` for a tmpfs.
_OLDEST_BUBBLEWRAP = (0, 7)
_LANDLOCK_CREATE_RULESET, _LANDLOCK_VERSION = 444, 1  # linux/landlock.h

# No `site`, no files written beside modules, nothing imported from the program's own folder. Fixed
# hashes: a program whose result hangs on the order of a set gives the same result every time.
_PYTHON_OPTIONS = ("-s", "-S", "-B", "-P")
_ENVIRONMENT = {"HOME": "/tmp", "PYTHONHASHSEED": "0"}

_SYSTEM_CALLS = "seccomp: no sockets, namespaces, mounts, tracing, keys, BPF, io_uring and such"
_LIMITS = "limits on wall clock, output, processor time, memory, processes, file size, open files"
_ENFORCED: dict[Backend, tuple[str, ...]] = {
    "bubblewrap": (
        "network: an empty network namespace",
        "files: interpreter and shared libraries, read-only, and a scratch folder of limited size",
        "processes: programs neither see nor signal others and end as a whole",
        "an empty environment",
        _SYSTEM_CALLS,
        _LIMITS,
    ),
    "landlock": (
        "files: interpreter and shared libraries, read-only, and a scratch folder",
        "signals to other processes",
        "an empty environment",
        _SYSTEM_CALLS,
        _LIMITS,
    ),
    "none": (_LIMITS,),
}
_SUMS = "sums: memory_bytes and cpu_seconds hold for each process, of which there may be several"
_KERNEL = "the kernel is shared: this is no virtual machine"
_SEEN = "that other processes and files exist, their sizes and times can be seen"
_SCRATCH = "the size of the scratch folder"
_NOT_ENFORCED: dict[Backend, tuple[str, ...]] = {
    "bubblewrap": (_KERNEL, _SUMS, "the number of files in the scratch folder"),
    "landlock": (_KERNEL, _SUMS, _SEEN, _SCRATCH, "a program's processes can end each other"),
    "none": (_KERNEL, _SUMS, "network, files, other processes, system calls", _SCRATCH),
}
_SAME_USER = "no user ids of their own: programs run as the user who started this process"
_SAME_USER_COUNT = (
    "num_processes: counted together with the user's other processes at the program's start"
)
_ORPHANS = "orphans: processes of a program may outlive a launcher that is killed"
_DEFAULT = SandboxSettings()

# What a self-test may find open.
_OPEN_DOORS: dict[Backend, frozenset[str]] = {
    "bubblewrap": frozenset(),
    "landlock": frozenset({"scratch size"}),
    "none": frozenset(ATTACKS) - {"environment", "number of processes", "memory"},
}


def open_sandbox(settings: SandboxSettings = _DEFAULT) -> Sandbox:
    """The strongest sandbox that the settings allow and that passes its self-test.

    Raises:
        SandboxError: There is none; the message says why and what to do.
    """
    if settings.backend == "none" and settings.accept_unsandboxed != ACCEPT_UNSANDBOXED:
        raise SandboxError(
            "the backend none isolates nothing: a program can read, write and send whatever you "
            f"can. If you accept that, set accept_unsandboxed to {ACCEPT_UNSANDBOXED!r}"
        )
    backends = _STRONGEST_FIRST if settings.backend == "auto" else (settings.backend,)
    reasons: list[str] = []
    for backend in backends:
        try:
            return _open(backend, settings)
        except SandboxError as error:
            reasons.append(f"{backend}: {error}")
    raise SandboxError(
        f"programs written by a model cannot be run in isolation. {' '.join(reasons)} To mend it, "
        "install bubblewrap (apt-get install bubblewrap) and allow user namespaces (on Ubuntu: "
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0). To do without isolation, set "
        f"backend to 'none' and accept_unsandboxed to {ACCEPT_UNSANDBOXED!r}"
    )


def _open(backend: Backend, settings: SandboxSettings) -> Sandbox:
    interpreter = choose_interpreter(settings.python, privileged=os.geteuid() == 0)
    num_workers = settings.num_workers or len(os.sched_getaffinity(0))
    version, config = _CONFIGURE[backend]()
    config |= {
        "backend": backend,
        "parent": os.getpid(),
        "python": [interpreter.path, *_PYTHON_OPTIONS],
        "environment": _ENVIRONMENT,
        "folders": interpreter.folders,
        "hidden": interpreter.hidden,
        "links": interpreter.links,
    }
    sandbox = Sandbox(backend, config, num_workers=num_workers)
    begin = time.monotonic()
    try:
        blocked = self_test(sandbox, environment=_ENVIRONMENT)
        doors = [attack for attack, failed in blocked.items() if not failed]
        if not _OPEN_DOORS[backend].issuperset(doors):
            raise SandboxError(f"the self-test was not stopped at: {', '.join(doors)}.")
    except BaseException:
        sandbox.close()
        raise
    not_enforced = [*_NOT_ENFORCED[backend]]
    if not sandbox.users():
        not_enforced += [_SAME_USER] if backend == "bubblewrap" else [_SAME_USER, _SAME_USER_COUNT]
    if not sandbox.own_trees():
        not_enforced.append(_ORPHANS)
    sandbox.description = {
        "backend": backend,
        "version": version,
        "kernel": platform.release(),
        "num_workers": num_workers,
        "interpreter": interpreter.path,
        "python_version": interpreter.version,
        "own_users": bool(sandbox.users()),
        "enforced": _ENFORCED[backend],
        "not_enforced": not_enforced,
        "self_test": blocked,
        "self_test_seconds": round(time.monotonic() - begin, 3),
    }
    return sandbox


def _bubblewrap() -> tuple[str, dict[str, object]]:
    """Version and the launchers' configuration."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise SandboxError("the program bwrap is not installed.")
    answer = subprocess.run(
        [bwrap, "--version"], capture_output=True, text=True, check=False, timeout=30
    )
    version = answer.stdout.strip()
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers < _OLDEST_BUBBLEWRAP:
        oldest = ".".join(map(str, _OLDEST_BUBBLEWRAP))
        raise SandboxError(f"{bwrap} is {version!r}; {oldest} or newer is needed.")
    return version, {"bwrap": bwrap, "filter": _filter(namespaces=True)}


def _landlock() -> tuple[str, dict[str, object]]:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        reason = os.strerror(ctypes.get_errno())
        raise SandboxError(f"the kernel has no landlock ({reason}).")
    scratch = tempfile.gettempdir()
    return f"landlock {version}", {
        "landlock": version,
        "scratch": scratch,
        "filter": _filter(namespaces=False),
    }


def _none() -> tuple[str, dict[str, object]]:
    return "", {"scratch": tempfile.gettempdir(), "filter": ""}


_CONFIGURE = {"bubblewrap": _bubblewrap, "landlock": _landlock, "none": _none}


def _filter(*, namespaces: bool) -> str:
    machine = platform.machine()
    if machine not in architectures():
        known = ", ".join(architectures())
        raise SandboxError(f"no list of system calls for {machine}; there is one for {known}.")
    return build_filter(machine, namespaces=namespaces).hex()
