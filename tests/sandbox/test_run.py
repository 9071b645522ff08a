"""Ordinary programs, limits and settings."""

from __future__ import annotations

import pytest

from grlo.sandbox import Limits, Sandbox


def test_a_program_reads_stdin_and_gives_back_both_streams_and_its_exit_code(sandbox: Sandbox):
    program = """
import sys
text = sys.stdin.read()
print(text.upper())
print("bad", file=sys.stderr)
sys.exit(3)
"""
    execution = sandbox.run(program, stdin=b"hello")
    assert (execution.status, execution.exit_code) == ("exited", 3)
    assert execution.stdout == b"HELLO\n"
    assert execution.stderr == b"bad\n"
    assert 0 < execution.seconds < 10


def test_a_traceback_shows_the_line_of_the_program(sandbox: Sandbox):
    execution = sandbox.run("x = 1\nraise ValueError('here')\n")
    assert execution.exit_code == 1
    assert b'File "/program.py", line 2' in execution.stderr
    assert b"ValueError: here" in execution.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_whole_at_the_limit_and_ends_the_program_beyond(sandbox: Sandbox, stream: str):
    program = "import sys; sys.{}.write('x' * {})"
    limits = Limits(output_bytes=200_000)
    whole = sandbox.run(program.format(stream, 200_000), limits=limits)
    assert whole.status == "exited"
    assert getattr(whole, stream) == b"x" * 200_000
    more = sandbox.run(program.format(stream, 200_001), limits=limits)
    assert (more.status, more.exit_code) == ("output_limit", None)
    assert getattr(more, stream) == b"x" * 200_000


def test_processor_time_ends_a_program_and_sleeping_does_not_use_it(sandbox: Sandbox):
    limits = Limits(wall_seconds=20, cpu_seconds=1)
    busy = sandbox.run("while True: pass", limits=limits)
    assert (busy.status, busy.exit_code) == ("timeout", None)
    assert busy.seconds < 15
    assert sandbox.run("import time; time.sleep(1.3)", limits=limits).status == "exited"


def test_wall_clock_ends_a_program_and_keeps_what_it_wrote(sandbox: Sandbox):
    program = "import time\nprint('before', flush=True)\ntime.sleep(60)"
    execution = sandbox.run(program, limits=Limits(wall_seconds=0.5))
    assert (execution.status, execution.exit_code) == ("timeout", None)
    assert execution.stdout == b"before\n"
    assert 0.5 <= execution.seconds < 5


def test_a_signal_is_told_from_an_exit_code(sandbox: Sandbox):
    # The first process of a tree is immune to its own signals; its child is not.
    by_fault = sandbox.run("import ctypes; ctypes.string_at(0)")
    assert (by_fault.status, by_fault.exit_code) == ("killed", -11)
    for code in (0, 1, 128, 193, 255):
        execution = sandbox.run(f"import os; os._exit({code})")
        assert (execution.status, execution.exit_code) == ("exited", code)


def test_each_limit_lets_through_what_lies_below_it(sandbox: Sandbox):
    limits = Limits(
        memory_bytes=256 << 20, file_bytes=1 << 20, scratch_bytes=4 << 20, num_processes=4
    )
    program = """
import os
held = bytearray(150 << 20)
for number in range(3):
    with open(f"file{number}", "wb") as file:
        file.write(bytes(1 << 20))
children = []
for _ in range(3):
    children.append(os.fork())
    if children[-1] == 0:
        os._exit(0)
for child in children:
    os.waitpid(child, 0)
print("fine")
"""
    assert sandbox.run(program, limits=limits).stdout == b"fine\n"


def test_a_forked_child_is_watched_by_its_parent_as_a_harness_does(sandbox: Sandbox):
    program = """
import os, resource, signal, sys
def child(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def busy():
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    while True: pass
def attack():
    os.kill(os.getppid(), signal.SIGKILL)
print(child(lambda: os._exit(5)), child(busy), child(attack))
"""
    limits = Limits(wall_seconds=30, cpu_seconds=5)
    assert sandbox.run(program, limits=limits).stdout == b"5 -9 0\n"


def test_the_ordinary_standard_library_works(sandbox: Sandbox):
    program = """
import asyncio, collections, ctypes, dataclasses, datetime, decimal, fractions, functools, hashlib
import heapq, io, itertools, json, math, os, pathlib, pickle, random, re, resource, signal, sqlite3
import statistics, string, subprocess, sys, tempfile, threading, time, typing, unittest, uuid, zlib

async def double(x):
    await asyncio.sleep(0)
    return 2 * x

assert asyncio.run(double(4)) == 8
thread = threading.Thread(target=random.random)
thread.start()
thread.join()
with tempfile.TemporaryDirectory() as name:
    pathlib.Path(name, "x").write_text("é")
command = [sys.executable, "-S", "-c", "print(6 * 7)"]
assert subprocess.run(command, capture_output=True).stdout == b"42\\n"
assert sqlite3.connect(":memory:").execute("select 1 + 1").fetchone() == (2,)
assert os.urandom(4) and open("/dev/urandom", "rb").read(4) and not open(os.devnull).read()
assert __name__ == "__main__" and sys.argv == ["/program.py"]
print("é")
"""
    execution = sandbox.run(program)
    assert execution.stdout == "é\n".encode(), execution


def test_the_same_program_gives_the_same_result_every_time(sandbox: Sandbox):
    program = "print(list({str(n) for n in range(100)}))"
    assert len({sandbox.run(program).stdout for _ in range(4)}) == 1


@pytest.mark.parametrize(
    "fields",
    [{"wall_seconds": 0}, {"num_processes": 0}, {"scratch_bytes": 0}, {"output_bytes": -1}],
)
def test_limits_that_make_no_sense_are_refused(fields: dict):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Limits(**fields)
