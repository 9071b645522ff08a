"""What hostile programs try, and that none of it works or leaves anything behind.

Every attack says how it has to end, so that one with a mistake of its own does not pass. Those
marked `bare` are also run without isolation, where they must succeed: that shows the isolation, and
not some other hindrance, stops them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from grlo.errors import SandboxError
from grlo.sandbox import (
    ACCEPT_UNSANDBOXED,
    Execution,
    Limits,
    Sandbox,
    SandboxSettings,
    open_sandbox,
)

LIMITS = Limits(
    wall_seconds=20,
    cpu_seconds=1,
    memory_bytes=256 << 20,
    num_processes=6,
    file_bytes=1 << 20,
    scratch_bytes=4 << 20,
    output_bytes=100_000,
)

# For attacks that last until they are ended.
SHORT = dataclasses.replace(LIMITS, wall_seconds=0.6)

PRELUDE = """
import errno, json, os, signal, sys, time
known = json.loads(sys.stdin.read())

def attempt(attack, *arguments):
    try:
        result = attack(*arguments)
    except (OSError, MemoryError, RuntimeError, LookupError) as error:
        print("REFUSED", type(error).__name__, getattr(error, "errno", ""))
    else:
        print("GAINED", result)

def syscall(name, *arguments):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(known["calls"][name]), *numbers)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result

def read(path):
    with open(path, "rb") as file:
        return file.read()

def write(path):
    with open(path, "w") as file:
        file.write("x")

def connect(family, address, kind=1):
    import socket
    with socket.socket(family, kind) as connection:
        connection.connect(address)
        connection.send(b"x")
"""

# Numbers on x86_64 and aarch64, from the kernel's tables.
CALLS = {
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "clone": (56, 220),
    "clone3": (435, 435),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "pivot_root": (155, 41),
    "reboot": (169, 142),
    "open_by_handle_at": (304, 265),
    "pidfd_getfd": (438, 438),
    "prlimit64": (302, 261),
    "prctl": (157, 167),
    "ioctl": (16, 29),
}


@dataclass(frozen=True)
class Attack:
    name: str
    program: str
    ends: str = "refused"
    """`refused`: it prints REFUSED and never GAINED. `harmless`: it runs to its end and prints
    HARMLESS. Else the status of its execution. Several are joined by ` or `."""
    bare: bool = False
    """Without isolation it prints GAINED."""

    def limits(self) -> Limits:
        return SHORT if self.ends.startswith("timeout") else LIMITS


def refused_call(name: str, *arguments: object) -> Attack:
    code = ", ".join(map(repr, (name, *arguments)))
    return Attack(f"system call {name}", f"attempt(syscall, {code})")


ATTACKS = [
    # Network.
    Attack("tcp", "attempt(connect, 2, ('127.0.0.1', known['tcp']))", bare=True),
    Attack("tcp over ipv6", "attempt(connect, 10, ('::1', known['tcp']))"),
    Attack("udp", "attempt(connect, 2, ('127.0.0.1', known['udp']), 2)", bare=True),
    Attack("unix socket in the file system", "attempt(connect, 1, known['unix'])", bare=True),
    Attack("abstract unix socket", "attempt(connect, 1, known['abstract'])", bare=True),
    Attack(
        "datagram pair to an abstract socket",
        """
import socket
def attack():
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"x", known["abstract_datagram"])
attempt(attack)
""",
    ),
    Attack("netlink", "import socket\nattempt(socket.socket, 16, 3, 0)", bare=True),
    Attack("packet socket", "import socket\nattempt(socket.socket, 17, 3, 0)"),
    Attack("listening", "import socket\nattempt(socket.create_server, ('', 0))", bare=True),
    Attack("dns", "import socket\nattempt(socket.getaddrinfo, 'example.com', 80)"),
    # Files.
    Attack("/etc/shadow", "attempt(read, '/etc/shadow')"),
    Attack("/etc/passwd", "attempt(read, '/etc/passwd')", bare=True),
    Attack("a readable secret", "attempt(read, known['secret'])", bare=True),
    Attack(
        "the home",
        """
def attack():
    # An interpreter in the home is shown, with the empty folders that lead to it.
    way = lambda name: sys.base_prefix.startswith(os.path.join(known["home"], name))
    names = [name for name in os.listdir(known["home"]) if not way(name)]
    if not names:
        raise LookupError
    return names
attempt(attack)
""",
    ),
    Attack("listing secrets", "attempt(os.listdir, known['folder'])", bare=True),
    Attack("/proc/self/environ", "attempt(read, '/proc/self/environ')", bare=True),
    Attack(
        "/proc/*/environ",
        "attempt(lambda: [read(f'/proc/{p}/environ') for p in os.listdir('/proc') if p.isdigit()])",
    ),
    Attack("/proc/self/root", "attempt(os.listdir, '/proc/self/root/etc')", bare=True),
    Attack("/sys", "attempt(os.listdir, '/sys')", bare=True),
    Attack("/run", "attempt(os.listdir, '/run')", bare=True),
    Attack("writing outside", "attempt(write, known['folder'] + known['escaped'])", bare=True),
    Attack("writing into the root", "attempt(write, known['escaped'])"),
    Attack("writing over the program", "attempt(write, '/program.py')"),
    Attack(
        "writing into the standard library",
        "attempt(write, os.path.dirname(os.__file__) + known['escaped'])",
    ),
    Attack("/dev/shm", "attempt(write, '/dev/shm' + known['escaped'])", bare=True),
    Attack("/var/tmp", "attempt(write, '/var/tmp' + known['escaped'])", bare=True),
    Attack(
        "unlinking through posix", "import posix\nattempt(posix.unlink, known['folder'] + '/bait')"
    ),
    Attack(
        "chmod of a file outside",
        "attempt(os.chmod, os.path.dirname(os.__file__) + '/os.py', 0o777)",
    ),
    Attack(
        "symbolic link to a secret",
        "os.symlink(known['secret'], 'link')\nattempt(read, 'link')",
        bare=True,
    ),
    Attack("hard link to a secret", "attempt(os.link, known['secret'], 'link')"),
    Attack(
        "walking up from the scratch folder",
        "os.chdir('../../../..')\nattempt(read, known['secret'].lstrip('/'))",
    ),
    Attack(
        "a FIFO that nobody reads",
        "os.mkfifo('fifo')\nopen('fifo', 'w')",
        ends="timeout",
    ),
    Attack(
        "device nodes",
        "import stat\nattempt(os.mknod, 'memory', stat.S_IFCHR | 0o666, os.makedev(1, 1))",
    ),
    Attack("the disk", "attempt(lambda: os.open('/dev/vda', os.O_RDONLY))"),
    Attack("/dev/mem and /dev/kmsg", "attempt(read, '/dev/mem')\nattempt(read, '/dev/kmsg')"),
    # What the parent has.
    Attack(
        "environment of the parent",
        """
allowed = {"HOME", "PYTHONHASHSEED", "PWD", "LC_CTYPE", "TMPDIR"}
print("GAINED" if set(os.environ) - allowed else "HARMLESS")
""",
        ends="harmless",
    ),
    Attack(
        "inherited descriptors",
        """
found = []
for number in range(3, 4096):
    try:
        os.fstat(number)
        found.append(number)
    except OSError:
        pass
print("GAINED" if found else "HARMLESS", found)
""",
        ends="harmless",
    ),
    Attack(
        "writing to stdin",
        """
attempt(os.write, 0, b"x")
attempt(os.ftruncate, 0, 1 << 30)
""",
    ),
    Attack("system call ioctl TIOCSTI", "attempt(syscall, 'ioctl', 0, 0x5412, b'x')"),
    # The kernel reads only the low half of the command.
    Attack("system call ioctl TIOCSTI, long", "attempt(syscall, 'ioctl', 0, 0xF00005412, b'x')"),
    Attack("system call ioctl TIOCLINUX", "attempt(syscall, 'ioctl', 0, 0x541C, b'x')"),
    Attack("the controlling terminal", "attempt(lambda: os.open('/dev/tty', os.O_RDWR))"),
    # Other processes.
    Attack(
        "signals to the parent",
        """
if known["process"] == os.getpid():
    print("REFUSED")
else:
    attempt(os.kill, known["process"], 0)
""",
    ),
    Attack(
        "kill -1",
        """
try:
    os.kill(-1, signal.SIGKILL)
except ProcessLookupError:
    pass
print("HARMLESS")
""",
        ends="harmless",
    ),
    Attack(
        "seeing other processes",
        """
seen = []
for pid in range(2, 20000):
    try:
        os.kill(pid, 0)
        seen.append(pid)
    except ProcessLookupError:
        pass
    except PermissionError:
        seen.append(pid)
print("GAINED" if seen else "HARMLESS", seen)
""",
        ends="harmless",
    ),
    Attack(
        "a child that traces, kills and strangles the program",
        """
child = os.fork()
if child == 0:
    attempt(syscall, "ptrace", 16, os.getppid(), 0, 0)
    attempt(syscall, "process_vm_readv", os.getppid(), 0, 0, 0, 0, 0)
    attempt(syscall, "pidfd_getfd", os.pidfd_open(os.getppid()), 1, 0)
    attempt(syscall, "prlimit64", os.getppid(), 7, bytes(16), 0)
    sys.stdout.flush()
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getppid(), signal.SIGTERM)
    os.kill(os.getppid(), signal.SIGSTOP)
    os._exit(0)
os.waitpid(child, 0)
print("REFUSED")
""",
    ),
    Attack("system call prctl to clear the death signal", "attempt(syscall, 'prctl', 1, 0)"),
    # Processes.
    Attack(
        "fork bomb",
        """
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        ends="timeout",
    ),
    Attack(
        "counting forks",
        """
children = []
try:
    while len(children) < 50:
        child = os.fork()
        if child == 0:
            time.sleep(60)
        children.append(child)
except OSError:
    pass
print("HARMLESS" if len(children) == known["num_processes"] - 1 else "GAINED", len(children))
""",
        ends="harmless",
    ),
    Attack(
        "thread bomb",
        """
import threading
def attack():
    for _ in range(50):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
attempt(attack)
""",
    ),
    Attack(
        "sleeping children",
        """
for _ in range(3):
    if os.fork() == 0:
        time.sleep(600)
print("HARMLESS")
""",
        ends="harmless",
    ),
    Attack(
        "double-fork daemon that holds the streams",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.wait()
print("HARMLESS")
""",
        ends="harmless",
    ),
    Attack(
        "daemon that closes the streams",
        """
if os.fork() == 0:
    os.setsid()
    for number in range(3):
        os.close(number)
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.wait()
print("HARMLESS")
""",
        ends="harmless",
    ),
    Attack(
        "zombies",
        """
for _ in range(4):
    if os.fork() == 0:
        os._exit(0)
time.sleep(0.1)
print("HARMLESS")
""",
        ends="harmless",
    ),
    Attack(
        "ignoring all signals",
        """
for number in range(1, signal.NSIG):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
time.sleep(600)
""",
        ends="timeout",
    ),
    Attack("stopping itself", "os.kill(0, signal.SIGSTOP)\ntime.sleep(600)", ends="timeout"),
    # Memory.
    Attack("memory in one process", "attempt(bytearray, 300 << 20)"),
    Attack(
        "memory in many processes",
        """
import mmap
for _ in range(3):
    if os.fork() == 0:
        break
attempt(mmap.mmap, -1, 300 << 20)
""",
    ),
    Attack(
        "memory in small pieces",
        "pieces = []\ndef attack():\n    while True:\n        pieces.append(bytearray(1 << 20))\n"
        "attempt(attack)",
    ),
    Attack("a huge list", "attempt(lambda: [0] * 10**10)"),
    Attack("memory as a file", "attempt(os.memfd_create, 'x')", bare=True),
    # Disk.
    Attack(
        "one large file",
        """
def attack():
    with open("large", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
attempt(attack)
""",
    ),
    Attack(
        "many large files",
        """
def attack():
    for number in range(64):
        with open(f"file{number}", "wb") as file:
            file.write(bytes(1 << 19))
attempt(attack)
""",
        bare=True,
    ),
    Attack(
        "many files",
        """
number = 0
while True:
    os.close(os.open(f"file{number}", os.O_CREAT | os.O_WRONLY))
    number += 1
""",
        ends="timeout",
    ),
    Attack(
        "deep folders",
        """
try:
    while True:
        os.mkdir("d")
        os.chdir("d")
except OSError:
    print("HARMLESS")
""",
        ends="timeout or harmless",
    ),
    Attack(
        "folders without permissions",
        "os.makedirs('a/b')\nos.chmod('a', 0)\nprint('HARMLESS')",
        ends="harmless",
    ),
    Attack(
        "descriptors",
        "held = []\ndef attack():\n    while True:\n        held.append(os.dup(1))\n"
        "attempt(attack)",
    ),
    Attack(
        "pipes",
        "held = []\ndef attack():\n    while True:\n        held.append(os.pipe())\n"
        "attempt(attack)",
    ),
    # Time.
    Attack("busy loop", "while True: pass", ends="timeout"),
    Attack("sleep", "time.sleep(600)", ends="timeout"),
    Attack("arithmetic", "x = 10 ** 10 ** 8", ends="timeout"),
    Attack("regular expression", "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')", ends="timeout"),
    Attack(
        "deep recursion",
        "sys.setrecursionlimit(10**9)\nf = lambda n: f(n + 1) + 1\nattempt(f, 0)",
        ends="refused or killed or timeout",
    ),
    Attack(
        "deep recursion in C",
        "sys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nattempt(repr, x)",
        ends="refused or killed or timeout",
    ),
    Attack("reading beyond stdin", "sys.stdin.read()\nprint('HARMLESS')", ends="harmless"),
    # Output.
    Attack("endless stdout", "while True: print('x' * 1000)", ends="output_limit"),
    Attack("endless stderr", "while True: print('x' * 1000, file=sys.stderr)", ends="output_limit"),
    Attack(
        "endless output from many processes",
        "os.fork()\nos.fork()\nwhile True:\n    os.write(1, b'x' * 1000)\n    os.write(2, b'x')",
        ends="output_limit",
    ),
    Attack(
        "output that is no text",
        "sys.stdout.buffer.write(b'HARMLESS\\x00\\xff\\xfe\\xed\\xa0\\x80')",
        ends="harmless",
    ),
    Attack("a crash", "import ctypes\nctypes.string_at(0)", ends="killed"),
    Attack("abort", "os.abort()", ends="killed"),
    # Programs of the machine.
    Attack(
        "setuid programs",
        """
import ctypes
for path in ("/bin/su", "/bin/mount", "/usr/bin/su", "/usr/bin/sudo", "/usr/bin/passwd"):
    attempt(os.execv, path, [path])
PR_GET_NO_NEW_PRIVS = 39
print("HARMLESS" if ctypes.CDLL(None).prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 else "GAINED")
""",
    ),
    Attack("a shell", "attempt(os.execv, '/bin/sh', ['sh', '-c', 'echo GAINED'])"),
    Attack("becoming root", "attempt(os.setuid, 0)\nattempt(os.setgroups, [0])"),
    Attack("chroot", "attempt(os.chroot, '.')"),
    # System calls.
    refused_call("mount", 0, 0, 0, 0, 0),
    refused_call("unshare", 0x10000000),
    refused_call("unshare", 0x40000000),
    refused_call("setns", 0, 0),
    refused_call("clone", 0x10000000 | 17, 0, 0, 0, 0),
    refused_call("clone3", 0, 88),
    refused_call("bpf", 0, 0, 0),
    refused_call("io_uring_setup", 1, 0),
    refused_call("keyctl", 0, -3, 0),
    refused_call("add_key", 0, 0, 0, 0, -3),
    refused_call("perf_event_open", 0, 0, -1, -1, 0),
    refused_call("userfaultfd", 1),
    refused_call("kexec_load", 0, 0, 0, 0),
    refused_call("init_module", 0, 0, 0),
    refused_call("memfd_create", 0, 0),
    refused_call("shmget", 0, 1 << 20, 0o1600),
    refused_call("pivot_root", 0, 0),
    refused_call("reboot", 0, 0, 0, 0),
    refused_call("open_by_handle_at", 0, 0, 0),
    # Code that is loaded by itself.
    Attack(
        "sitecustomize, PYTHONPATH and LD_PRELOAD for the next program",
        """
for name in ("sitecustomize.py", "usercustomize.py", "json.py", "os.py", "x.pth"):
    with open(name, "w") as file:
        file.write("import os; os.write(1, b'GAINED')")
os.environ["PYTHONPATH"] = os.environ["LD_PRELOAD"] = os.getcwd()
print("HARMLESS")
""",
        ends="harmless",
    ),
    Attack(
        "what an earlier program left",
        "print('GAINED' if os.listdir('.') else 'HARMLESS', os.listdir('.'))",
        ends="harmless",
    ),
]


@pytest.fixture(scope="module")
def known() -> Iterator[dict[str, object]]:
    """What there is to gain; the permissions of all of it are as lax as can be."""
    with tempfile.TemporaryDirectory(prefix="grlo-attacks-") as name:
        folder = Path(name)
        (folder / "secret").write_text("secret")
        (folder / "bait").write_text("bait")
        folder.chmod(0o777)
        listeners = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "unix": (socket.AF_UNIX, socket.SOCK_STREAM, f"{folder}/socket"),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{folder}"),
            "abstract_datagram": (socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{folder}/datagram"),
        }
        facts: dict[str, object] = {
            "folder": str(folder),
            "secret": str(folder / "secret"),
            "escaped": f"/escaped-{folder.name}",
            "home": str(Path.home()),
            "process": os.getpid(),
            "num_processes": LIMITS.num_processes,
            "calls": {
                name: numbers[platform.machine() == "aarch64"] for name, numbers in CALLS.items()
            },
        }
        sockets = []
        for key, (family, kind, address) in listeners.items():
            listener = socket.socket(family, kind)
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen(64)
            facts[key] = listener.getsockname()[1] if family == socket.AF_INET else address
            sockets.append(listener)
        (folder / "socket").chmod(0o777)
        yield facts
        for listener in sockets:
            listener.close()


def trivial_seconds(sandbox: Sandbox) -> float:
    durations = []
    for _ in range(15):
        begin = time.perf_counter()
        assert sandbox.run("pass").status == "exited"
        durations.append(time.perf_counter() - begin)
    return statistics.median(durations)


@pytest.fixture(scope="module")
def seconds_before(sandbox: Sandbox) -> float:
    return trivial_seconds(sandbox)


def owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return None


def escaped_files(sandbox: Sandbox, known: dict) -> list[Path]:
    users = sandbox.users()
    places = [Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path(known["folder"])]
    return [
        path
        for place in places
        if place.is_dir()
        for path in place.iterdir()
        if path.name == known["escaped"][1:] or owner(path) in users
    ]


def run(sandbox: Sandbox, attack: Attack, known: dict):
    stdin = json.dumps(known).encode()
    return sandbox.run(PRELUDE + attack.program, stdin=stdin, limits=attack.limits())


NAMES = [attack.name for attack in ATTACKS]


def check(attack: Attack, execution: Execution) -> None:
    """That the attack gained nothing and ended as it should."""
    assert b"GAINED" not in execution.stdout, execution
    end = execution.status
    if end == "exited" and b"REFUSED" in execution.stdout:
        end = "refused"
    elif end == "exited" and b"HARMLESS" in execution.stdout:
        end = "harmless"
    assert end in attack.ends.split(" or "), execution
    if attack.name.startswith("system call"):
        # Refused by the filter, not because the arguments make no sense.
        assert execution.stdout.split()[2] in (b"1", b"38"), execution
    assert len(execution.stdout) <= LIMITS.output_bytes
    assert len(execution.stderr) <= LIMITS.output_bytes
    assert execution.seconds < attack.limits().wall_seconds + 3


@pytest.mark.usefixtures("seconds_before")
@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_an_attack_gains_nothing_and_leaves_nothing(
    attack: Attack, sandbox: Sandbox, known: dict, left_behind
):
    mounts = Path("/proc/self/mountinfo").read_text()
    execution = run(sandbox, attack, known)
    check(attack, execution)
    assert not left_behind(sandbox)
    assert not escaped_files(sandbox, known)
    assert Path(known["folder"], "bait").read_text() == "bait"
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_there_are_forty_attacks_with_different_names():
    assert len({*NAMES}) >= 40


def test_programs_run_as_fast_after_the_attacks_as_before(sandbox: Sandbox, seconds_before: float):
    assert trivial_seconds(sandbox) < 4 * seconds_before + 0.05


# Without a process tree and a mount of their own, programs see that others exist, their processes
# reach each other, and their folder has no size of its own; chmod is denied everywhere.
OPEN_TO_LANDLOCK = {
    "seeing other processes",
    "a child that traces, kills and strangles the program",
    "many large files",
    "folders without permissions",
}


def launcher_of(sandbox: Sandbox) -> int:
    process = sandbox._workers[0]._process
    assert process is not None
    return process.pid


FOR_LANDLOCK = [
    attack
    for attack in ATTACKS
    if attack.name not in OPEN_TO_LANDLOCK
    and (attack.name == "fork bomb" or not attack.ends.startswith("timeout"))
]


@pytest.fixture(scope="module")
def landlock() -> Iterator[Sandbox]:
    try:
        sandbox = open_sandbox(SandboxSettings(backend="landlock", num_workers=1))
    except SandboxError as error:
        pytest.skip(f"no landlock here: {error}")
    with sandbox:
        yield sandbox


@pytest.mark.parametrize("attack", FOR_LANDLOCK, ids=[attack.name for attack in FOR_LANDLOCK])
def test_landlock_stops_it_too(attack: Attack, landlock: Sandbox, known: dict, left_behind):
    check(attack, run(landlock, attack, known))
    assert not left_behind(landlock)
    assert not escaped_files(landlock, known)
    scratch = [*Path(tempfile.gettempdir()).glob(f"grlo-sandbox-{launcher_of(landlock)}-*")]
    # Its folder is there, and nothing in it.
    assert [[*path.iterdir()] for path in scratch] == [[]]


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_an_ordinary_user_is_as_safe(attack: Attack, as_ordinary_user, known: dict):
    fields = as_ordinary_user(
        """
import dataclasses, json, sys
from grlo.sandbox import Limits, SandboxSettings, open_sandbox
source, stdin, limits = json.load(sys.stdin)
with open_sandbox(SandboxSettings(backend="bubblewrap", num_workers=1)) as sandbox:
    execution = sandbox.run(source, stdin=stdin.encode(), limits=Limits(**limits))
fields = dataclasses.asdict(execution)
fields |= {name: fields[name].decode("latin-1") for name in ("stdout", "stderr")}
print(json.dumps(fields))
""",
        [PRELUDE + attack.program, json.dumps(known), dataclasses.asdict(attack.limits())],
    )
    fields |= {name: fields[name].encode("latin-1") for name in ("stdout", "stderr")}
    check(attack, Execution(**fields))


@pytest.fixture(scope="module")
def bare() -> Iterator[Sandbox]:
    settings = SandboxSettings(backend="none", accept_unsandboxed=ACCEPT_UNSANDBOXED, num_workers=1)
    with open_sandbox(settings) as sandbox:
        yield sandbox


BARE = [attack for attack in ATTACKS if attack.bare]


@pytest.mark.parametrize("attack", BARE, ids=[attack.name for attack in BARE])
def test_without_isolation_the_same_attack_succeeds(attack: Attack, bare: Sandbox, known: dict):
    execution = run(bare, attack, known)
    for path in escaped_files(bare, known):
        if path.name == known["escaped"][1:]:
            path.unlink()
    assert b"GAINED" in execution.stdout, execution
