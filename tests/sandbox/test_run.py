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
