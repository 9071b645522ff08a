"""Runs programs one after another, each in a sandbox of its own, for one worker of the pool.

Started as `python -I -S launcher.py` by `grlo.sandbox.pool`; imports the standard library only, so
that every program is started from a small process. Speaks over stdin and stdout: one line of JSON
with the numbers of bytes that follow it, then these bytes. The first line is the configuration, and
the answer to it says who the programs run as: for root a user that nobody else is.

The launcher ends, and with it the program, when its parent does or closes the pipe.
"""

from __future__ import annotations

import contextlib
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
import struct
import sys
import time
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38

# systemd's documentation of user ids calls 1879048192 and above unused; a container that maps
# fewer ids has its highest ones free.
_FIRST_USER_ID = 1_900_000_000
_NUM_USER_IDS = 4096
_NUM_IDS_OF_CONTAINER = 60_000

_NUM_OPEN_FILES = 256
_LAST_SIGNAL = 64
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
    """User ids that belong to nobody, of those that a user namespace has; may be empty.

    Args:
        uid_map: The namespace's /proc/PID/uid_map: lines of first id, first id outside and count.
    """
    extents = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    for first, _, count in extents:
        if first <= _FIRST_USER_ID and first + count >= _FIRST_USER_ID + _NUM_USER_IDS:
            return range(_FIRST_USER_ID, _FIRST_USER_ID + _NUM_USER_IDS)
    first, _, count = max(extents, default=(0, 0, 0))
    if count < _NUM_IDS_OF_CONTAINER:
        return range(0)
    return range(first + count - 2000, first + count - 1000)


def reserve_user(preferred: int | None) -> tuple[int | None, socket.socket | None]:
    """As root finds a user id that no other launcher has; returns it and what reserves it.

    The reservation is an abstract socket: the kernel drops it with the process that holds it. There
    is no such id where we are not root, or root of a user namespace with few ids: that is the
    ordinary user who made the namespace.

    Args:
        preferred: Who the programs of a launcher ran as whose place we take.
    """
    if os.geteuid() != 0:
        return None, None
    candidates = [*free_user_ids(Path("/proc/self/uid_map").read_text())]
    if preferred is not None:
        candidates.insert(0, preferred)
    for user in candidates:
        reservation = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            reservation.bind(f"\0grlo-sandbox-user-{user}")
        except OSError:
            reservation.close()
            continue
        return user, reservation
    return None, None


def become(user: int | None) -> None:
    """Gives up root for good; None stays who we are."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def into_own_process_tree() -> None:
    """Goes on as the first process of a pid namespace: whatever ends it ends all programs.

    A program that is just being started could otherwise be missed. The process that was there
    before stays outside and waits; each of the two dies with the other.

    Raises:
        OSError: The machine refuses; /proc may be partly hidden in a container.
    """
    user, group = os.geteuid(), os.getegid()
    # Without this, files in /proc/self belong to root after a change of user.
    _libc.prctl(_PR_SET_DUMPABLE, 1)
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    outside = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid:
        signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGKILL))
        # The pipes are the other's: they close when it ends.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        _, status = os.waitpid(pid, 0)
        os._exit(1 if status else 0)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([outside], [], [], 0)[0]:
        os._exit(1)
    os.close(outside)
    mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
    mount("proc", "/proc", kind="proc", flags=_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)


def can_have_own_process_tree() -> bool:
    """Tries `into_own_process_tree` in a child."""
    pid = os.fork()
    if pid == 0:
        try:
            into_own_process_tree()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


# Processes.


def start(arguments, environment, streams, *, keep=(), user=None, prepare) -> int:
    """Forks and executes; the child dies with the launcher. Returns the process id.

    Args:
        arguments: Of the new process, its executable first.
        environment: Of the new process.
        streams: Descriptors that become its stdin, stdout and stderr.
        keep: Other descriptors that it inherits.
        user: Id that it becomes; None stays who we are.
        prepare: Called in the child as that user before it executes.

    Raises:
        LauncherError: The child did not come to execute.
    """
    launcher = os.getpid()
    failure, failure_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become(user)
            # Becoming another user clears the death signal.
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


def end_children(user: int | None) -> None:
    """Kills and waits for every process that is left of a program.

    The launcher is the subreaper of its descendants: orphans become its children.

    Args:
        user: Who the programs run as, if nobody else does.
    """
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0 and os.getpid() == 1:
            # The first process of a process tree: all others are the program's.
            kill_others()
        elif pid == 0 and user is not None:
            kill_user(user)
        elif pid == 0:
            for child in children():
                os.kill(child, signal.SIGKILL)
    raise LauncherError("processes of a program could not be killed")


def kill_user(user: int) -> None:
    """Kills all processes of another user at once, however fast they fork."""
    pid = os.fork()
    if pid == 0:
        try:
            become(user)
            kill_others()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def kill_others() -> None:
    """Kills all processes that we may kill, but ourselves."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


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


def limit_resources(limits, *, longest_file: int) -> None:
    """Limits this process and its children. The number of processes is the backends' affair."""
    for kind, limit in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, math.ceil(limits["cpu_seconds"])),
        (resource.RLIMIT_FSIZE, longest_file),
        (resource.RLIMIT_NOFILE, _NUM_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 64),
    ):
        resource.setrlimit(kind, (limit, limit))


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
        self.user = config["user"]
        # bwrap as a user who is not root, and we as the same, so that we may limit what it starts.
        become(self.user)
        if can_have_own_process_tree():
            into_own_process_tree()
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

        def prepare() -> None:
            # bwrap writes the program to a file within the same limits.
            limit_resources(limits, longest_file=max(limits["file_bytes"], len(source)))

        keep = (text, self.filter, status_write, block_read)
        try:
            pid = start(arguments, {}, streams, keep=keep, prepare=prepare)
        finally:
            for descriptor in (text, status_write, block_read):
                os.close(descriptor)
        self.status = os.fdopen(status, "rb")
        try:
            if line := self.status.readline():
                self._admit(json.loads(line)["child-pid"], limits["num_processes"])
                os.write(block, b"1")
        except (OSError, ValueError):
            # bwrap is dying; `finish` says so.
            os.kill(pid, signal.SIGKILL)
        finally:
            os.close(block)
        return pid

    def _admit(self, program: int, num_processes: int) -> None:
        """Limits the number of processes while the program waits to be let in.

        Since Linux 5.14 processes are counted per user namespace: a limit that is set inside holds
        for this program alone, however many processes its user has outside.
        """
        self.program = os.pidfd_open(program)
        resource.prlimit(program, resource.RLIMIT_NPROC, (num_processes, num_processes))

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
        return 128 - code if 128 < code <= 128 + _LAST_SIGNAL else code

    def close(self) -> None:
        """Nothing is left: namespaces end with their processes."""


class Landlock:
    """Landlock for files and signals, the filter of system calls, resource limits."""

    def __init__(self, config) -> None:
        self.config = config
        self.user = config["user"]
        self.folder = scratch_folder(config["scratch"])

    def start(self, source: bytes, limits, streams) -> int:
        scratch = self.folder / "scratch"
        scratch.mkdir(mode=0o700)
        program = self.folder / "program.py"
        program.write_bytes(source)
        num_processes = limits["num_processes"]
        if self.user is None:
            num_processes += num_tasks_of_user()
        else:
            os.chown(scratch, self.user, self.user)

        def prepare() -> None:
            os.chdir(scratch)
            limit_resources(limits, longest_file=limits["file_bytes"])
            resource.setrlimit(resource.RLIMIT_NPROC, (num_processes, num_processes))
            self.restrict(program, scratch)

        arguments = [*self.config["python"], str(program)]
        environment = self.config["environment"] | {"HOME": str(scratch), "TMPDIR": str(scratch)}
        self.program = start(arguments, environment, streams, user=self.user, prepare=prepare)
        return self.program

    def restrict(self, program: Path, scratch: Path) -> None:
        read_only = [*self.config["folders"], str(program)]
        restrict_files(read_only, str(scratch), version=self.config["landlock"])
        load_filter(bytes.fromhex(self.config["filter"]))

    def kill(self) -> None:
        os.kill(self.program, signal.SIGKILL)

    def finish(self, code: int) -> int:
        empty(self.folder)
        return code

    def close(self) -> None:
        empty(self.folder)
        self.folder.rmdir()


class Unsandboxed(Landlock):
    """Resource limits only."""

    def restrict(self, program: Path, scratch: Path) -> None:
        pass


BACKENDS = {"bubblewrap": Bubblewrap, "landlock": Landlock, "none": Unsandboxed}

_SCRATCH_PREFIX = "grlo-sandbox-"


def scratch_folder(parent: str) -> Path:
    """A folder of our own in `parent`; it is locked as long as we live."""
    folder = Path(parent, f"{_SCRATCH_PREFIX}{os.getpid()}-{time.monotonic_ns()}")
    folder.mkdir(mode=0o711)
    fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)
    return folder


def remove_stale_folders(parent: str) -> None:
    """Removes the folders of launchers that were killed: those that nobody locks."""
    for folder in Path(parent).glob(f"{_SCRATCH_PREFIX}*"):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                empty(folder)
                folder.rmdir()
        except OSError:
            pass  # in use
        finally:
            os.close(descriptor)


def empty(folder: Path) -> None:
    """Removes everything in a folder of ours, however deep and whatever its permissions.

    Goes down by single steps: trees can be deeper than a path or the Python stack is long. Nobody
    else must be at work in the folder.
    """

    def remove_files() -> list[str]:
        """Of the working directory; returns the folders in it."""
        entries = list(os.scandir("."))
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name)
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    os.chdir(folder)
    path: list[str] = []
    waiting = [remove_files()]
    while waiting:
        if waiting[-1]:
            name = waiting[-1].pop()
            os.chmod(name, 0o700)
            os.chdir(name)
            path.append(name)
            waiting.append(remove_files())
        else:
            waiting.pop()
            if path:
                os.chdir("..")
                os.rmdir(path.pop())
    os.chdir("/")


# Landlock (linux/landlock.h). Access rights to files are bits; each version added some.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_NUM_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
_MAKE_DEVICES_AND_SOCKETS = 1 << 6 | 1 << 9 | 1 << 11


def restrict_files(read_only, scratch: str, *, version: int) -> None:
    """Leaves this process and its children the files `read_only` and the folder `scratch`."""
    rights = (1 << _NUM_RIGHTS.get(version, 16)) - 1
    network = 0b11 if version >= 4 else 0
    scopes = 0b11 if version >= 6 else 0  # abstract sockets and signals
    attributes = struct.pack("=QQQ", rights, network, scopes)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = call(_CREATE_RULESET, attributes, size, 0)
    allow(ruleset, scratch, rights & ~_MAKE_DEVICES_AND_SOCKETS)
    for path in ("/dev/null", "/dev/zero", "/dev/urandom"):
        allow(ruleset, path, rights & (_READ_FILE | _WRITE_FILE | _TRUNCATE))
    for path in read_only:
        folder_rights = _READ_DIR if os.path.isdir(path) else 0
        allow(ruleset, path, _EXECUTE | _READ_FILE | folder_rights)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    call(_RESTRICT_SELF, ruleset, 0)


def allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    call(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
    os.close(descriptor)


def load_filter(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    if _libc.prctl(_PR_SET_SECCOMP, 2, header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


def call(number: int, *arguments) -> int:
    """A system call that libc has no function for."""
    result = _libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result


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
    end_children(backend.user)
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
    # The limit counts timer ticks and the usage nanoseconds: on a busy machine they differ widely.
    cpu_seconds = usage.ru_utime + usage.ru_stime
    if code == -signal.SIGKILL and cpu_seconds > 0.5 * limits["cpu_seconds"]:
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
    if any(len(part) < header[name] for name, part in zip(lengths, parts, strict=True)):
        raise ParentGoneError
    return header, parts


def write_message(header: dict, *parts: bytes) -> None:
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n")
    for part in parts:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def on_terminate(*_) -> None:
    raise ParentGoneError


def main() -> None:
    signal.signal(signal.SIGTERM, on_terminate)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    config, _ = read_message()
    parent = os.pidfd_open(config["parent"])
    if os.getppid() != config["parent"]:
        return
    os.umask(0o022)
    # When memory runs out, the kernel ends programs first and the training last.
    Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        if config["hidden"]:
            reveal(config["hidden"])
        if "scratch" in config:
            remove_stale_folders(config["scratch"])
        user, _reservation = reserve_user(config["preferred_user"])
        if user is not None:
            # What a launcher left that was killed: its user id was free again.
            kill_user(user)
        config["user"] = user
        backend = BACKENDS[config["backend"]](config)
    except OSError as error:
        write_message({"error": f"the launcher cannot isolate itself: {error}"})
        return
    try:
        write_message({"user": user, "own_tree": os.getpid() == 1})
        serve(backend, parent)
    finally:
        end_children(backend.user)
        backend.close()


def serve(backend, parent: int) -> None:
    """Runs program after program, until one shows that the sandbox is broken."""
    idle = select.poll()
    for descriptor in (0, parent):
        idle.register(descriptor, select.POLLIN)
    while parent not in dict(idle.poll()):
        limits, (source, stdin) = read_message("source", "stdin")
        try:
            answer, outputs = run(backend, limits, source, stdin, parent=parent)
        except LauncherError as error:
            write_message({"error": str(error), "stdout": 0, "stderr": 0})
            return
        answer["stdout"], answer["stderr"] = map(len, outputs)
        write_message(answer, *outputs)


if __name__ == "__main__":
    with contextlib.suppress(ParentGoneError, BrokenPipeError):
        main()
