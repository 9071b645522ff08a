"""A sandbox of the strongest backend, and an ordinary user to run as."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import grlo.sandbox
from grlo.sandbox import Sandbox, SandboxSettings, open_sandbox

ORDINARY_USER = 54321


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    if shutil.which("bwrap") is None:
        pytest.skip("bwrap is not installed: apt-get install bubblewrap")
    with open_sandbox(SandboxSettings(backend="bubblewrap", num_workers=2)) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def as_ordinary_user() -> Iterator[Callable[[str, object], dict]]:
    """Runs a Python script by a user who is not root: takes its input and gives its output.

    As root, that user may not see our interpreter or checkout: the system's Python runs a copy of
    the few modules that the sandbox consists of, which need nothing else.
    """
    if shutil.which("bwrap") is None:
        pytest.skip("bwrap is not installed: apt-get install bubblewrap")
    python = sys.executable if os.geteuid() else "/usr/bin/python3"
    version = subprocess.run([python, "--version"], capture_output=True, text=True, check=False)
    if version.returncode or tuple(map(int, version.stdout.split()[1].split(".")[:2])) < (3, 11):
        pytest.skip(f"{python} is missing or too old")
    with tempfile.TemporaryDirectory(prefix="grlo-user-") as name:
        package = Path(grlo.__file__).parent
        copy = Path(name, "grlo")
        copy.mkdir()
        for module in ("__init__.py", "errors.py", "settings.py"):
            shutil.copy(package / module, copy)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package / "sandbox", copy / "sandbox", ignore=ignored)
        for path in [Path(name), *Path(name).rglob("*")]:
            path.chmod(0o755)

        def run(script: str, argument: object) -> dict:
            user = ORDINARY_USER if os.geteuid() == 0 else None
            result = subprocess.run(
                [python, "-c", script],
                input=json.dumps(argument).encode(),
                capture_output=True,
                timeout=60,
                env={"PYTHONPATH": name, "PYTHONDONTWRITEBYTECODE": "1"},
                cwd="/",
                user=user,
                group=user,
                extra_groups=[] if user else None,
            )
            assert result.returncode == 0, result.stderr.decode()
            return json.loads(result.stdout)

        yield run


def processes() -> dict[int, tuple[int, int]]:
    """Process id -> (parent, user)."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_bytes()
                user = folder.stat().st_uid
            except OSError:
                continue
            found[int(folder.name)] = (int(stat.rpartition(b")")[2].split()[1]), user)
    return found


def descendants_of(ancestor: int) -> set[int]:
    parents = {pid: parent for pid, (parent, _) in processes().items()}
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {ancestor}


def launchers_of(ancestor: int) -> set[int]:
    found = set()
    for pid in descendants_of(ancestor):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"launcher.py" in command:
            found.add(pid)
    return found


@pytest.fixture(scope="session")
def descendants() -> Callable[[int], set[int]]:
    """Processes below a process."""
    return descendants_of


@pytest.fixture(scope="session")
def launchers() -> Callable[[int], set[int]]:
    """Launchers below a process."""
    return launchers_of


@pytest.fixture(scope="session")
def left_behind() -> Callable[[Sandbox], set[int]]:
    """Processes of programs: those below the launchers and those of the workers' users."""

    def find(sandbox: Sandbox) -> set[int]:
        launchers = launchers_of(os.getpid())
        below = {pid for launcher in launchers for pid in descendants_of(launcher)}
        users = sandbox.users()
        theirs = {pid for pid, (_, user) in processes().items() if user in users}
        return (below | theirs) - launchers

    return find
