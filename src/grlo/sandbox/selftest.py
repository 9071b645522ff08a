"""A quick proof, at every start, that a handful of attacks fail; the many are in the tests."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from grlo.errors import SandboxError
from grlo.sandbox.pool import Sandbox
from grlo.sandbox.types import Limits

_LIMITS = Limits(wall_seconds=10.0, memory_bytes=256 << 20, num_processes=4, scratch_bytes=1 << 20)

# Each attack returns if it gains what it is after and raises otherwise; `works` must return.
_PROGRAM = """
import json, os, socket, sys
known = json.loads(sys.stdin.read())

def connect(family, address):
    with socket.socket(family) as connection:
        connection.connect(address)

def write(path):
    with open(path, "w") as file:
        file.write("x")

def see_process():
    with open(f"/proc/{known['process']}/stat") as file:
        file.read()

def signal_process(pid):
    # In a process tree of our own there is no parent, and any number may be ours.
    if pid in (0, os.getpid()):
        raise LookupError
    os.kill(pid, 0)

def read_environment():
    allowed = {"PWD", "LC_CTYPE", "TMPDIR", *known["environment"]}
    if not set(os.environ) - allowed:
        raise LookupError

def fork_too_often():
    num_processes, children = 1, []
    try:
        while num_processes <= known["num_processes"]:
            pid = os.fork()
            if pid == 0:
                import time
                time.sleep(60)
            children.append(pid)
            num_processes += 1
    finally:
        for pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)

def fill_scratch():
    for number in range(4):
        with open(f"fill{number}", "wb") as file:
            file.write(bytes(known["scratch_bytes"] // 2))

def works():
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    write("scratch")
    os.remove("scratch")

def fails(attack, *arguments):
    try:
        attack(*arguments)
    except (OSError, MemoryError, LookupError):
        return True
    return False

works()
print(json.dumps({
    "network": fails(connect, socket.AF_INET, ("127.0.0.1", known["port"])),
    "abstract sockets": fails(connect, socket.AF_UNIX, known["abstract"]),
    "reading outside": fails(open, known["secret"]),
    "writing outside": fails(write, known["folder"] + "/new")
        and fails(os.truncate, known["secret"], 0) and fails(os.chmod, known["secret"], 0),
    "environment": fails(read_environment),
    "other processes": fails(see_process) and fails(signal_process, known["process"])
        and fails(signal_process, os.getppid()),
    "system calls": fails(os.memfd_create, "x"),
    "number of processes": fails(fork_too_often),
    "memory": fails(bytearray, known["memory_bytes"]),
    "scratch size": fails(fill_scratch),
}))
"""

ATTACKS = (
    "network",
    "abstract sockets",
    "reading outside",
    "writing outside",
    "environment",
    "other processes",
    "system calls",
    "number of processes",
    "memory",
    "scratch size",
)


def self_test(sandbox: Sandbox, *, environment: Mapping[str, str]) -> dict[str, bool]:
    """Whether each attack failed, as it should.

    Args:
        sandbox: To be tested.
        environment: Variables that its programs may see.

    Raises:
        SandboxError: An ordinary program does not run, or a sandbox cannot be made.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grlo-selftest-")))
        secret = folder / "secret"
        secret.write_text("secret")
        # Readable and writable to every user: what protects them is the sandbox alone.
        folder.chmod(0o777)
        secret.chmod(0o666)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0grlo-selftest-{os.getpid()}-{id(sandbox)}")
        abstract.listen()
        known = {
            "process": os.getpid(),
            "environment": list(environment),
            "num_processes": _LIMITS.num_processes,
            "memory_bytes": _LIMITS.memory_bytes,
            "scratch_bytes": _LIMITS.scratch_bytes,
            "port": listener.getsockname()[1],
            "abstract": abstract.getsockname().decode(),
            "secret": str(secret),
            "folder": str(folder),
        }
        execution = sandbox.run(_PROGRAM, stdin=json.dumps(known).encode(), limits=_LIMITS)
    if execution.status != "exited" or execution.exit_code != 0:
        said = execution.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise SandboxError(
            f"a harmless program does not run in the sandbox: {execution.status}, "
            f"exit code {execution.exit_code}, {' '.join(said)}"
        )
    blocked = json.loads(execution.stdout)
    assert tuple(blocked) == ATTACKS
    return blocked
