"""Many programs at a time, and launchers that die, hang or lose their parent."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grlo.errors import SandboxError
from grlo.sandbox import Limits, Sandbox, SandboxSettings, open_sandbox, pool

SLEEPER = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    os.fork()
time.sleep(60)
"""
LONG = Limits(wall_seconds=60)


@pytest.fixture
def one(sandbox: Sandbox):
    """A sandbox with one worker; `sandbox` is asked for so that the test skips where it does."""
    with open_sandbox(SandboxSettings(backend=sandbox.backend, num_workers=1)) as one:
        yield one


def until(condition: Callable[[], object], seconds: float = 10.0):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)
    return result


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def launcher_of(sandbox: Sandbox) -> int:
    process = sandbox._workers[0]._process
    assert process is not None
    return process.pid


def test_calls_beyond_the_workers_wait_and_all_get_their_own_answer(sandbox: Sandbox):
    with ThreadPoolExecutor(8) as threads:
        executions = list(threads.map(lambda n: sandbox.run(f"print({n} ** 2)"), range(40)))
    assert [int(execution.stdout) for execution in executions] == [n**2 for n in range(40)]


def test_programs_run_at_the_same_time(sandbox: Sandbox):
    begin = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: sandbox.run("import time; time.sleep(2)"), range(2)))
    assert time.monotonic() - begin < 3.9


def test_programs_at_the_same_time_share_no_user_no_folder_and_no_process(sandbox: Sandbox):
    program = """
import os, time
os.mkdir("mine")
time.sleep(0.5)
others = []
for pid in range(2, 30000):
    try:
        os.kill(pid, 0)
        others.append(pid)
    except ProcessLookupError:
        pass
print(os.getpid(), os.listdir("."), others)
"""
    with ThreadPoolExecutor(2) as threads:
        executions = list(threads.map(lambda _: sandbox.run(program), range(2)))
    assert [execution.stdout for execution in executions] == [b"1 ['mine'] []\n"] * 2
    if os.getuid() == 0:
        assert len(sandbox.users() - {0}) == 2


def test_a_fork_bomb_does_not_keep_its_neighbour_from_forking(sandbox: Sandbox):
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    forks = "import os\nfor _ in range(50):\n    if os.fork() == 0: os._exit(0)\n    os.wait()"
    with ThreadPoolExecutor(2) as threads:
        exploding = threads.submit(sandbox.run, bomb, limits=Limits(wall_seconds=2.5))
        time.sleep(0.3)
        assert sandbox.run(forks).exit_code == 0
        assert not exploding.done()
        assert exploding.result().status == "timeout"


@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_launcher_takes_its_program_along_and_another_one_runs_it(
    which: int, one: Sandbox, descendants, launchers
):
    # The one that waits outside the process tree, or the one that is its first process.
    launcher = sorted(launchers(launcher_of(one)) | {launcher_of(one)})[which]
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(one.run, "import time; time.sleep(1.5); print('done')")
        tree = until(lambda: len(below := descendants(launcher)) >= 2 and below)
        os.kill(launcher, signal.SIGKILL)
        until(lambda: not any(map(is_running, tree)), seconds=2)
        assert running.result().stdout == b"done\n"
    assert not is_running(launcher)


def test_a_launcher_killed_at_any_moment_leaves_nothing(one: Sandbox, descendants, launchers):
    for milliseconds in range(0, 24, 3):
        one.run("pass")
        (inner,) = launchers(launcher_of(one))
        with ThreadPoolExecutor(1) as threads:
            threads.submit(one.run, "import time; time.sleep(0.2)")
            # From before bwrap is started until the program runs.
            time.sleep(milliseconds / 1000)
            tree = descendants(inner)
            os.kill(inner, signal.SIGKILL)
            until(lambda: not any(map(is_running, tree)), seconds=2)  # noqa: B023


def test_a_hanging_launcher_is_replaced(one: Sandbox, launchers, monkeypatch):
    monkeypatch.setattr(pool, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(pool, "_END_SECONDS", 0.2)
    (hanging,) = launchers(launcher_of(one))
    os.kill(hanging, signal.SIGSTOP)
    assert one.run("print('done')", limits=Limits(wall_seconds=2)).stdout == b"done\n"
    until(lambda: not is_running(hanging))


def test_a_sandbox_that_cannot_be_made_is_an_error_and_not_an_answer(one: Sandbox):
    one._workers[0].stop()
    one._workers[0]._config = dict(one._workers[0]._config) | {"folders": ["/no/such/folder"]}
    with pytest.raises(SandboxError, match="/no/such/folder"):
        one.run("print(1)")


@pytest.mark.parametrize("moment", ["idle", "running"])
def test_when_our_process_is_killed_nothing_is_left(moment: str, sandbox: Sandbox, descendants):
    # A forked child holds copies of the launchers' pipes and lives on.
    script = f"""
import os, threading, time
from grlo.sandbox import Limits, SandboxSettings, open_sandbox
sandbox = open_sandbox(SandboxSettings(backend={sandbox.backend!r}, num_workers=2))
if os.fork() == 0:
    time.sleep(20)
    os._exit(0)
if {moment == "running"}:
    for _ in range(2):
        arguments = {{"limits": Limits(wall_seconds=60)}}
        threading.Thread(target=sandbox.run, args=({SLEEPER!r},), kwargs=arguments).start()
print("ready", flush=True)
time.sleep(60)
"""
    mounts = Path("/proc/self/mountinfo").read_text()
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    # The forked child and one launcher in two processes; or two launchers, with bwrap and a program
    # of three processes each.
    least = {"idle": 3, "running": 13}[moment]
    tree = until(lambda: len(below := descendants(process.pid)) >= least and below)
    process.kill()
    process.wait()
    until(lambda: sum(map(is_running, tree)) <= 1, seconds=5)
    (survivor,) = filter(is_running, tree)
    os.kill(survivor, signal.SIGKILL)
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_closing_ends_running_programs_and_waiting_calls(sandbox: Sandbox, descendants):
    closing = open_sandbox(SandboxSettings(backend=sandbox.backend, num_workers=1))
    launcher = launcher_of(closing)
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(closing.run, SLEEPER, limits=LONG) for _ in range(3)]
        try:
            tree = until(lambda: len(below := descendants(launcher)) >= 5 and below)
        finally:
            closing.close()
        assert not any(map(is_running, tree | {launcher}))
        for call in calls:
            with pytest.raises(SandboxError, match="closed"):
                call.result(timeout=5)
    closing.close()


def test_a_forgotten_sandbox_ends_with_the_interpreter(sandbox: Sandbox):
    script = """
import json
from grlo.sandbox import open_sandbox
sandbox = open_sandbox()
sandbox.run("pass")
print(json.dumps([worker._process.pid for worker in sandbox._workers if worker._process]))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    until(lambda: not any(map(is_running, json.loads(answer.stdout))))


def test_a_forked_child_is_told_to_open_a_sandbox_of_its_own(sandbox: Sandbox):
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            sandbox.run("pass")
        except SandboxError as error:
            os.write(writable, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writable)
    assert b"after the fork" in os.read(readable, 1000)
    os.close(readable)
    assert sandbox.run("pass").exit_code == 0


def test_large_inputs_arrive_whole(sandbox: Sandbox):
    stdin = os.urandom(1 << 20) * 3
    source = "import sys, hashlib\nx = '" + "y" * (1 << 20) + "'\nprint(len(x), "
    source += "hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    expected = f"{1 << 20} {hashlib.sha256(stdin).hexdigest()}\n"
    assert sandbox.run(source, stdin=stdin).stdout.decode() == expected


def test_a_launcher_is_small_and_a_process_of_its_own_session(one: Sandbox):
    with open(f"/proc/{launcher_of(one)}/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident < 40 << 20
    assert os.getsid(launcher_of(one)) == launcher_of(one)


def test_a_launcher_runs_one_program_after_another(one: Sandbox):
    launcher = launcher_of(one)
    programs = [
        "pass",
        "raise SystemExit(3)",
        "import ctypes; ctypes.string_at(0)",
        "print('x' * 99)",
    ]
    limits = Limits(output_bytes=50, wall_seconds=60)  # A machine may have other things to do.
    for program in programs * 5:
        one.run(program, limits=limits)
    assert launcher_of(one) == launcher
