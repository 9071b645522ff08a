"""Runs programs one after another, each in a sandbox of its own, for one worker of the pool.

Started as `python -I -S launcher.py` by `grlo.sandbox.pool`; imports the standard library only, so
that every program is started from a small process. Speaks over stdin and stdout: one line of JSON
with the numbers of bytes that follow it, then these bytes. The first line is the configuration, and
the answer to it says who the programs run as. As root it first becomes a user that nobody else is.

The launcher ends, and with it the program, when its parent does or closes the pipe.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import os
import resource
import select
import signal
import socket
import stat
import sys
import time
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38

# systemd's documentation of user ids calls 1879048192 and above unused; a container that maps
# fewer ids has its highest ones free.
_FIRST_USER_ID = 1_900_000_000
_NUM_USER_IDS = 4096
_NUM_IDS_OF_CONTAINER = 60_000

_NUM_OPEN_FILES = 256
# Time in which a killed program must be gone: its memory and files have to be given back.
_GRACE_SECONDS = 5.0
_CHUNK = 1 << 16


class LauncherError(Exception):
    """The sandbox could not be made; never the program's fault."""


class ParentGoneError(Exception):
    """Nobody waits for answers any more."""


# Who the programs run as and what they see.


def reveal(paths) -> None:
    """Shows every user the `paths` although they lie under closed folders, such as /root.

    In a mount namespace of the launcher's own, an empty folder covers each closed one, and the
    paths are mounted in it where they were.
    """
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
    # Opened before they are covered; a descriptor from the old namespace could not be mounted.
    sources = {path: os.open(path, os.O_PATH) for path in paths}
    for path, source in sources.items():
        for ancestor in reversed(Path(path).parents):
            if ancestor.exists() and not ancestor.stat().st_mode & stat.S_IXOTH:
                flags = _MS_NOSUID | _MS_NODEV
                mount("tmpfs", str(ancestor), kind="tmpfs", flags=flags, data="mode=755")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if stat.S_ISDIR(os.stat(source).st_mode):
            os.mkdir(path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        mount(f"/proc/self/fd/{source}", path, flags=_MS_BIND | _MS_REC)
        os.close(source)


def mount(source: str, target: str, *, kind: str = "", flags: int, data: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode() or None)
    if _libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None) != 0:
        raise OSError(ctypes.get_errno(), "mount", target)


def free_user_ids(uid_map: str) -> range:
    """Ids that belong to nobody, of those that /proc/self/uid_map lists; may be empty."""
    extents = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    for first, _, count in extents:
        if first <= _FIRST_USER_ID and first + count >= _FIRST_USER_ID + _NUM_USER_IDS:
            return range(_FIRST_USER_ID, _FIRST_USER_ID + _NUM_USER_IDS)
    first, _, count = max(extents, default=(0, 0, 0))
    if count < _NUM_IDS_OF_CONTAINER:
        return range(0)
    return range(first + count - 2000, first + count - 1000)


def become_nobody_else() -> tuple[int, socket.socket | None]:
    """As root takes a user id that no other launcher has; returns it and what reserves it.

    The reservation is an abstract socket: the kernel drops it with the process that holds it.
    """
    if os.geteuid() != 0:
        return os.getuid(), None
    with open("/proc/self/uid_map") as file:
        candidates = free_user_ids(file.read())
    for user_id in candidates:
        reservation = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            reservation.bind(f"\0grlo-sandbox-user-{user_id}")
        except OSError:
            reservation.close()
            continue
        os.setgroups([])
        os.setresgid(user_id, user_id, user_id)
        os.setresuid(user_id, user_id, user_id)
        return user_id, reservation
    # In a user namespace with few ids, root is the ordinary user who made the namespace.
    return os.getuid(), None


# Processes.


def start(arguments, environment, streams, *, keep=(), prepare=lambda: None) -> int:
    """Forks and executes; the child dies with the launcher. Returns the process id.

    Args:
        arguments: Of the new process, its executable first.
        environment: Of the new process.
        streams: Descriptors that become its stdin, stdout and stderr.
        keep: Other descriptors that it inherits.
        prepare: Called in the child before it executes.

    Raises:
        LauncherError: The child did not come to execute.
    """
    launcher = os.getpid()
    failure, failure_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:
                os._exit(1)
            os.setsid()
            # Ignored signals stay ignored across exec.
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            for number, descriptor in enumerate(streams):
                os.dup2(descriptor, number)
            for descriptor in keep:
                os.set_inheritable(descriptor, True)
            prepare()
            os.execve(arguments[0], arguments, environment)
        except BaseException as error:
            os.write(failure_write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(127)
    os.close(failure_write)
    with os.fdopen(failure, "rb") as file:
        message = file.read()
    if message:
        os.waitpid(pid, 0)
        raise LauncherError(f"{arguments[0]} was not started: {message.decode()}")
    return pid


def children() -> list[int]:
    """Process ids of our children."""
    me, found = os.getpid(), []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    # The name in parentheses may hold anything.
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            if parent == me:
                found.append(int(entry))
    return found


def end_children() -> None:
    """Kills and waits for every process that is left of a program.

    The launcher is the subreaper of its descendants: orphans become its children.
    """
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            for child in children():
                os.kill(child, signal.SIGKILL)
            time.sleep(0.001)
    raise LauncherError("processes of a program could not be killed")


def num_tasks_of_user() -> int:
    """Processes and threads that run as our user."""
    num_tasks, user_id = 0, os.getuid()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.stat(f"/proc/{entry}").st_uid == user_id:
                    num_tasks += len(os.listdir(f"/proc/{entry}/task"))
            except OSError:
                continue
    return num_tasks


def resource_limits(limits, *, source_bytes) -> list[tuple[int, int]]:
    """(resource, limit) pairs. The number of processes is not among them."""
    return [
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, math.ceil(limits["cpu_seconds"])),
        # The file that the program itself is written to must fit.
        (resource.RLIMIT_FSIZE, max(limits["file_bytes"], source_bytes)),
        (resource.RLIMIT_NOFILE, _NUM_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 64),
    ]


def sealed(content: bytes) -> int:
    """A descriptor that reads `content` and cannot be written to."""
    descriptor = os.memfd_create("grlo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


# Backends: `start` returns the process to wait for, `kill` ends the program, `finish` cleans up and
# returns its exit code, negative for a signal.


class Bubblewrap:
    """Namespaces of its own, made by `bwrap`, and the filter of system calls."""

    def __init__(self, config) -> None:
        self.filter = sealed(bytes.fromhex(config["filter"]))
        self.python = config["python"]
        self.arguments = [config["bwrap"], "--unshare-all", "--die-with-parent", "--new-session"]
        self.arguments += ["--as-pid-1", "--cap-drop", "ALL", "--clearenv"]
        self.arguments += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
        for path in config["folders"]:
            self.arguments += ["--ro-bind", path, path]
        for path, target in config["links"]:
            self.arguments += ["--symlink", target, path]
        for path in ("/dev/null", "/dev/zero", "/dev/urandom"):
            self.arguments += ["--dev-bind", path, path]
        for name, value in config["environment"].items():
            self.arguments += ["--setenv", name, value]

    def start(self, source: bytes, limits, streams) -> int:
        self.program = None
        text = sealed(source)
        status, status_write = os.pipe()
        block_read, block = os.pipe()
        os.lseek(self.filter, 0, os.SEEK_SET)
        arguments = [
            *self.arguments,
            *("--size", str(limits["scratch_bytes"]), "--tmpfs", "/tmp", "--chdir", "/tmp"),
            *("--file", str(text), "/program.py", "--remount-ro", "/"),
            *("--seccomp", str(self.filter), "--json-status-fd", str(status_write)),
            *("--block-fd", str(block_read), "--", *self.python, "/program.py"),
        ]
        keep = (text, self.filter, status_write, block_read)
        try:
            pid = start(arguments, {}, streams, keep=keep)
        finally:
            for descriptor in (text, status_write, block_read):
                os.close(descriptor)
        self.status = os.fdopen(status, "rb")
        try:
            if line := self.status.readline():
                self._admit(json.loads(line)["child-pid"], limits, source_bytes=len(source))
                os.write(block, b"1")
        except (OSError, ValueError):
            # bwrap is dying; `finish` says so.
            os.kill(pid, signal.SIGKILL)
        finally:
            os.close(block)
        return pid

    def _admit(self, program: int, limits, *, source_bytes: int) -> None:
        """Sets the limits of the program from outside while it waits to be let in.

        Since Linux 5.14 processes are counted per user namespace: the limit on their number holds
        for this program alone, whoever else has the same user id.
        """
        self.program = os.pidfd_open(program)
        for kind, limit in resource_limits(limits, source_bytes=source_bytes):
            resource.prlimit(program, kind, (limit, limit))
        resource.prlimit(program, resource.RLIMIT_NPROC, (limits["num_processes"],) * 2)

    def kill(self) -> None:
        if self.program is not None:
            # The first process of a pid namespace takes all others with it.
            signal.pidfd_send_signal(self.program, signal.SIGKILL)

    def finish(self, code: int) -> int:
        if self.program is not None:
            os.close(self.program)
        with self.status:
            # bwrap reports an exit code only if it came as far as the program.
            if b"exit-code" not in self.status.read():
                raise LauncherError(f"bwrap failed with exit code {code}")
        return 128 - code if code > 128 else code


BACKENDS = {"bubblewrap": Bubblewrap}


# One program.


def run(backend, limits, source: bytes, stdin: bytes, *, parent: int) -> tuple[dict, list[bytes]]:
    """Runs a program to its end; returns how it ended, and what it wrote to stdout and stderr."""
    begin = time.monotonic()
    given = sealed(stdin)
    pipes = [os.pipe(), os.pipe()]
    outputs = {pipe[0]: bytearray() for pipe in pipes}
    try:
        pid = backend.start(source, limits, (given, pipes[0][1], pipes[1][1]))
    finally:
        for descriptor in (given, pipes[0][1], pipes[1][1]):
            os.close(descriptor)
    process = os.pidfd_open(pid)
    deadline = begin + limits["wall_seconds"]
    verdict = watch(process, outputs, limits, parent=parent, deadline=deadline, kill=backend.kill)
    _, wait_status, usage = os.wait4(pid, 0)
    end_children()
    for descriptor, output in outputs.items():
        # Everything that could write is gone: what is in the pipe is the rest.
        while verdict != "output_limit" and (chunk := os.read(descriptor, _CHUNK)):
            output += chunk
            if len(output) > limits["output_bytes"]:
                verdict = "output_limit"
    for descriptor in (process, *outputs):
        os.close(descriptor)
    try:
        code = backend.finish(os.waitstatus_to_exitcode(wait_status))
    except LauncherError as error:
        if verdict is None:
            said = b" ".join(outputs.values()).decode(errors="replace").strip()
            raise LauncherError(f"{error}: {said}") from None
        code = 0
    cpu_limit = math.ceil(limits["cpu_seconds"])
    if code == -signal.SIGKILL and usage.ru_utime + usage.ru_stime > 0.95 * cpu_limit:
        verdict = verdict or "timeout"
    answer = {
        "status": verdict or ("killed" if code < 0 else "exited"),
        "exit_code": None if verdict else code,
        "seconds": time.monotonic() - begin,
    }
    return answer, [bytes(output[: limits["output_bytes"]]) for output in outputs.values()]


def watch(process: int, outputs, limits, *, parent: int, deadline: float, kill) -> str | None:
    """Reads what the program writes until it ends, and ends it at its limits.

    Returns:
        The limit that it broke, or None.

    Raises:
        ParentGoneError: Our parent ended or closed the pipe.
        LauncherError: The program was killed and is still there.
    """
    verdict: str | None = None
    poll = select.poll()
    poll.register(0, 0)  # that the other end is closed is reported without asking
    for descriptor in (process, parent, *outputs):
        poll.register(descriptor, select.POLLIN)
    events: dict[int, int] = {}
    while process not in events:
        left = deadline - time.monotonic()
        events = dict(poll.poll(left * 1000)) if left > 0 else {}
        if 0 in events or parent in events:
            raise ParentGoneError
        broken = None if left > 0 else "timeout"
        for descriptor in outputs.keys() & events.keys():
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                poll.unregister(descriptor)
            room = limits["output_bytes"] - len(outputs[descriptor])
            outputs[descriptor] += chunk[: max(0, room)]
            if len(chunk) > room:
                broken = broken or "output_limit"
        if broken and verdict is None:
            verdict = broken
            deadline = time.monotonic() + _GRACE_SECONDS
            kill()
        elif left <= 0:
            raise LauncherError("a program could not be killed")
    return verdict


# The conversation with the pool.


def read_message(*lengths: str) -> tuple[dict, list[bytes]]:
    """A line of JSON and as many bytes as its `lengths` say."""
    line = sys.stdin.buffer.readline()
    if not line:
        raise ParentGoneError
    header = json.loads(line)
    parts = [sys.stdin.buffer.read(header[name]) for name in lengths]
    return header, parts


def write_message(header: dict, *parts: bytes) -> None:
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n")
    for part in parts:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def main() -> None:
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    config, _ = read_message()
    parent = os.pidfd_open(config["parent"])
    if os.getppid() != config["parent"]:
        return
    os.umask(0o022)
    try:
        if config["hidden"]:
            reveal(config["hidden"])
        user_id, _reservation = become_nobody_else()
        backend = BACKENDS[config["backend"]](config)
    except OSError as error:
        write_message({"error": f"the launcher cannot isolate itself: {error}"})
        return
    write_message({"user_id": user_id})
    while True:
        idle = select.poll()
        for descriptor in (0, parent):
            idle.register(descriptor, select.POLLIN)
        if parent in dict(idle.poll()):
            return
        limits, (source, stdin) = read_message("source", "stdin")
        try:
            answer, outputs = run(backend, limits, source, stdin, parent=parent)
        except LauncherError as error:
            write_message({"error": str(error), "stdout": 0, "stderr": 0})
            return
        answer["stdout"], answer["stderr"] = map(len, outputs)
        write_message(answer, *outputs)


if __name__ == "__main__":
    try:
        main()
    except (ParentGoneError, BrokenPipeError):
        pass
    finally:
        end_children()
