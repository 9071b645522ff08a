"""Chooses the Python that programs run in, and the files of the machine that it has to read."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from grlo.errors import SandboxError

OLDEST = (3, 11)
_CANDIDATES = ("/usr/bin/python3", "/usr/local/bin/python3")
_SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/lib32", "/lib", "/lib64", "/lib32")
_PROBE = """
import json, os, sys
print(json.dumps([os.path.realpath(sys.executable), sys.version_info[:3], sys.base_prefix,
                  [p for p in sys.path if os.path.isdir(p)]]))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python and what it needs."""

    path: str
    version: str
    folders: tuple[str, ...]
    """Read-only paths: the executable, its standard library, the system's shared libraries."""
    links: tuple[tuple[str, str], ...]
    """(path, target) of the system's folders that are symbolic links, such as /lib."""
    hidden: tuple[str, ...]
    """Those of `folders` that lie under a folder closed to other users, such as /root."""


def choose_interpreter(python: str | None, *, privileged: bool) -> Interpreter:
    """The first that will do of `python`, or of this process's own and the system's.

    Args:
        python: Path or None.
        privileged: Whether programs run as another user, who sees less than we do.

    Raises:
        SandboxError: None will do; the message says why.
    """
    own = getattr(sys, "_base_executable", None) or sys.executable
    reasons: list[str] = []
    for candidate in (python,) if python else (own, *_CANDIDATES):
        try:
            interpreter = _inspect(candidate, privileged=privileged)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reasons.append(f"{candidate}: {error}")
            continue
        if interpreter.hidden and not _can_mount():
            reasons.append(f"{candidate}: other users cannot reach {interpreter.hidden[0]}")
            continue
        return interpreter
    raise SandboxError(
        "no Python for the sandbox: "
        + "; ".join(reasons)
        + f". Install Python {OLDEST[0]}.{OLDEST[1]} or newer where every user can read it"
        " (apt-get install python3) and name it by `python` of the sandbox's settings."
    )


def _inspect(path: str, *, privileged: bool) -> Interpreter:
    answer = subprocess.run(
        [path, "-I", "-S", "-c", _PROBE], capture_output=True, check=True, timeout=30, env={}
    )
    executable, version, prefix, library_folders = json.loads(answer.stdout)
    if tuple(version) < OLDEST:
        raise ValueError(f"is Python {version[0]}.{version[1]}, too old")
    folders = {executable}
    for folder in library_folders:
        # prefix/lib as a whole: shared libraries lie beside the standard library.
        inside = Path(folder).is_relative_to(prefix)
        first = Path(folder).relative_to(prefix).parts[:1] if inside else ()
        folders.add(str(Path(prefix, *first)) if first else folder)
    links = []
    for folder in _SYSTEM_LIBRARIES:
        if os.path.islink(folder):
            links.append((folder, os.readlink(folder)))
        elif os.path.isdir(folder):
            folders.add(folder)
    if os.path.isfile("/etc/ld.so.cache"):
        folders.add("/etc/ld.so.cache")
    folders = {
        folder
        for folder in folders
        if not any(folder != other and Path(folder).is_relative_to(other) for other in folders)
    }
    hidden = [folder for folder in folders if privileged and _is_hidden(folder)]
    return Interpreter(
        path=executable,
        version=".".join(map(str, version)),
        folders=tuple(sorted(folders)),
        links=tuple(links),
        hidden=tuple(sorted(hidden)),
    )


def _is_hidden(path: str) -> bool:
    """Whether permission bits keep a user from `path` who owns nothing and is in no group."""
    return not all(os.stat(parent).st_mode & stat.S_IXOTH for parent in Path(path).parents)


def _can_mount() -> bool:
    """Whether we have the capability CAP_SYS_ADMIN (bit 21)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & 1 << 21)
    return False
