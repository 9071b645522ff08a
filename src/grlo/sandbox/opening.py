"""Opens the strongest sandbox that this machine can make."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time

from grlo.errors import SandboxError
from grlo.sandbox.interpreter import choose_interpreter
from grlo.sandbox.pool import Sandbox
from grlo.sandbox.seccomp import architectures, build_filter
from grlo.sandbox.selftest import self_test
from grlo.sandbox.types import Backend, SandboxSettings

_STRONGEST_FIRST: tuple[Backend, ...] = ("bubblewrap",)

# No `site`, no files written beside modules, nothing imported from the program's own folder. Fixed
# hashes: a program whose result hangs on the order of a set gives the same result every time.
_PYTHON_OPTIONS = ("-s", "-S", "-B", "-P")
_ENVIRONMENT = {"HOME": "/tmp", "PYTHONHASHSEED": "0"}

_ENFORCED = {
    "bubblewrap": (
        "no network: own network namespace, and seccomp denies sockets",
        "files: the interpreter and shared libraries read-only, one scratch folder of limited size",
        "own process tree: programs neither see nor signal others and end as a whole",
        "empty environment",
        "seccomp: system calls for namespaces, mounts, tracing, keys, BPF, io_uring and such",
        "wall clock, output, processor time, memory, processes, file size, open files",
    )
}
_NOT_ENFORCED = {
    "bubblewrap": (
        "the kernel is shared: this is no virtual machine",
        "memory_bytes and cpu_seconds hold for each process: together num_processes times as much",
        "the number of files in the scratch folder: kernel memory, given back at the end",
    )
}
_SAME_USER = "all programs run as the user who started this process, in a user namespace each"


def open_sandbox(settings: SandboxSettings = SandboxSettings()) -> Sandbox:  # noqa: B008
    """The strongest sandbox that the settings allow and that passes its self-test.

    Raises:
        SandboxError: There is none; the message says why and what to do.
    """
    backends = _STRONGEST_FIRST if settings.backend == "auto" else (settings.backend,)
    reasons: list[str] = []
    for backend in backends:
        try:
            return _open(backend, settings)
        except SandboxError as error:
            reasons.append(f"{backend}: {error}")
    raise SandboxError(
        "no sandbox for programs written by a model. "
        + " ".join(reasons)
        + " Install bubblewrap (apt-get install bubblewrap) and allow user namespaces."
    )


def _open(backend: Backend, settings: SandboxSettings) -> Sandbox:
    config, description = _bubblewrap(settings)
    num_workers = settings.num_workers or len(os.sched_getaffinity(0))
    sandbox = Sandbox(backend, config, num_workers=num_workers)
    begin = time.monotonic()
    try:
        blocked = self_test(sandbox, environment=_ENVIRONMENT)
        if open_doors := [attack for attack, failed in blocked.items() if not failed]:
            raise SandboxError(f"the self-test was not stopped at: {', '.join(open_doors)}.")
    except BaseException:
        sandbox.close()
        raise
    (user_id,) = sandbox.user_ids()
    same_user = user_id == os.getuid()
    sandbox.description = description | {
        "backend": backend,
        "num_workers": num_workers,
        "kernel": platform.release(),
        "users": "one unused user id per worker" if not same_user else _SAME_USER,
        "enforced": _ENFORCED[backend],
        "not_enforced": _NOT_ENFORCED[backend] + ((_SAME_USER,) if same_user else ()),
        "self_test": blocked,
        "self_test_seconds": time.monotonic() - begin,
    }
    return sandbox


def _bubblewrap(settings: SandboxSettings) -> tuple[dict[str, object], dict[str, object]]:
    """Configuration of the launchers and the part of the description that is known before."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise SandboxError("the program bwrap is not installed.")
    version = _output(bwrap, "--version").strip()
    interpreter = choose_interpreter(settings.python, privileged=os.geteuid() == 0)
    config: dict[str, object] = {
        "backend": "bubblewrap",
        "parent": os.getpid(),
        "bwrap": bwrap,
        "filter": _filter().hex(),
        "python": [interpreter.path, *_PYTHON_OPTIONS],
        "environment": _ENVIRONMENT,
        "folders": interpreter.folders,
        "hidden": interpreter.hidden,
        "links": interpreter.links,
    }
    return config, {
        "version": version,
        "interpreter": interpreter.path,
        "python_version": interpreter.version,
    }


def _filter() -> bytes:
    machine = platform.machine()
    if machine not in architectures():
        known = ", ".join(architectures())
        raise SandboxError(f"no list of system calls for {machine}; there is one for {known}.")
    return build_filter(machine)


def _output(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return result.stdout + result.stderr
