"""A pool of launchers, each of which runs one program at a time."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from grlo.errors import SandboxError
from grlo.sandbox.types import Execution, Limits

_LAUNCHER = Path(__file__).with_name("launcher.py")
_START_SECONDS = 30.0
# Beyond the program's wall-clock limit: making the sandbox and taking it apart on a busy machine.
_ANSWER_SECONDS = 30.0
_END_SECONDS = 3.0
_NUM_ATTEMPTS = 3
_CHUNK = 1 << 16


class _LauncherLostError(Exception):
    """The launcher died, hangs, or could not make a sandbox."""


class _Worker:
    """One launcher, started when it is first needed and again whenever it is lost."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self.user: int | None = None
        self.own_tree = False

    def run(self, source: bytes, stdin: bytes, limits: Limits) -> Execution:
        """Runs one program.

        Raises:
            _LauncherLostError: There is no answer, by no fault of the program.
        """
        try:
            process = self._process or self._start()
            request = asdict(limits) | {"source": len(source), "stdin": len(stdin)}
            answer, stdout, stderr = self._ask(
                process, request, source, stdin, seconds=limits.wall_seconds + _ANSWER_SECONDS
            )
            if "error" in answer:
                raise _LauncherLostError(answer["error"])
        except BaseException:
            self.stop()
            raise
        return Execution(
            status=answer["status"],
            exit_code=answer["exit_code"],
            stdout=stdout,
            stderr=stderr,
            seconds=answer["seconds"],
        )

    def stop(self) -> None:
        """Ends the launcher and, by its death, the program that it runs."""
        process, self._process = self._process, None
        if process is not None:
            end_launcher(process)

    def terminate(self) -> None:
        """Tells the launcher to end, from any thread; a running call finds out."""
        if (process := self._process) is not None:
            process.terminate()

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LAUNCHER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env={},
            # An interrupt typed at the terminal is for us, not for the programs.
            start_new_session=True,
        )
        config = {**self._config, "preferred_user": self.user}
        hello, _, _ = self._ask(process, config, seconds=_START_SECONDS)
        if "error" in hello:
            raise _LauncherLostError(hello["error"])
        self.user, self.own_tree = hello["user"], hello["own_tree"]
        return process

    def _ask(
        self,
        process: subprocess.Popen[bytes],
        header: Mapping[str, object],
        *parts: bytes,
        seconds: float,
    ) -> tuple[dict, bytes, bytes]:
        """Sends a message and returns the answer, its stdout and its stderr."""
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        message = json.dumps(header).encode() + b"\n" + b"".join(parts)
        _write(process.stdin.fileno(), message, deadline=deadline)
        received = bytearray()
        while b"\n" not in received:
            received += _read(process.stdout.fileno(), deadline=deadline)
        line, _, rest = bytes(received).partition(b"\n")
        answer = json.loads(line)
        num_stdout, num_stderr = answer.get("stdout", 0), answer.get("stderr", 0)
        received = bytearray(rest)
        while len(received) < num_stdout + num_stderr:
            received += _read(process.stdout.fileno(), deadline=deadline)
        return answer, bytes(received[:num_stdout]), bytes(received[num_stdout:])


def end_launcher(process: subprocess.Popen[bytes]) -> None:
    """Asks the launcher to end by closing its pipe, and kills it if it does not."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _write(descriptor: int, data: bytes, *, deadline: float) -> None:
    os.set_blocking(descriptor, False)
    view = memoryview(data)
    while view:
        _wait(descriptor, select.POLLOUT, deadline=deadline)
        try:
            view = view[os.write(descriptor, view[:_CHUNK]) :]
        except BlockingIOError:
            continue
        except OSError as error:
            raise _LauncherLostError(f"the launcher is gone: {error}") from None


def _read(descriptor: int, *, deadline: float) -> bytes:
    _wait(descriptor, select.POLLIN, deadline=deadline)
    chunk = os.read(descriptor, _CHUNK)
    if not chunk:
        raise _LauncherLostError("the launcher died")
    return chunk


def _wait(descriptor: int, event: int, *, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise _LauncherLostError("the launcher hangs")


class Sandbox:
    """Runs programs, several at a time, each isolated from everything else. Thread-safe.

    Made by `grlo.sandbox.open_sandbox`.

    Args:
        backend: Its name.
        config: For the launchers.
        num_workers: Programs that run at a time.
    """

    def __init__(self, backend: str, config: Mapping[str, object], *, num_workers: int) -> None:
        self.backend = backend
        self.num_workers = num_workers
        self._owner = os.getpid()
        self._closed = threading.Event()
        self._workers = [_Worker(config) for _ in range(num_workers)]
        # The worker used last is taken first: no more launchers are started than are needed.
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self.description: dict[str, object] = {}
        # Also at the end of the interpreter, for those who do not close.
        weakref.finalize(self, _stop_all, self._workers, self._owner)

    def run(self, source: str, *, stdin: bytes = b"", limits: Limits = Limits()) -> Execution:  # noqa: B008
        """Runs a Python program in a fresh isolated interpreter and waits for its end.

        The program finds an empty folder, which is its working directory and the only place that it
        can write to. Up to `num_workers` calls run at a time; others wait.

        Args:
            source: Text of the program.
            stdin: What it reads from its standard input.
            limits: What it may use up.

        Raises:
            SandboxError: No sandbox could be made; never the program's fault.
        """
        if os.getpid() != self._owner:
            raise SandboxError(
                "this sandbox was opened by the parent process. Call open_sandbox() after the fork."
            )
        encoded = source.encode("utf-8", "surrogatepass")
        worker = self._idle.get()
        try:
            failures: list[str] = []
            while len(failures) < _NUM_ATTEMPTS and not self._closed.is_set():
                try:
                    return worker.run(encoded, stdin, limits)
                except _LauncherLostError as error:
                    failures.append(str(error))
        finally:
            self._idle.put(worker)
        if self._closed.is_set():
            raise SandboxError("the sandbox is closed. Open another by open_sandbox().")
        raise SandboxError(
            f"a program could not be run in {_NUM_ATTEMPTS} attempts: {'; '.join(failures)}. "
            "Run `grlo check` to see what the sandbox needs."
        )

    def describe(self) -> dict[str, object]:
        """Backend, interpreter, what is enforced and what is not, and the self-test's result."""
        return dict(self.description)

    def users(self) -> set[int]:
        """Ids of the users that programs were run as so far and that nobody else has."""
        return {worker.user for worker in self._workers if worker.user is not None}

    def own_trees(self) -> bool:
        """Whether a launcher and its program are a process tree that ends as a whole."""
        return any(worker.own_tree for worker in self._workers)

    def close(self) -> None:
        """Ends all programs and launchers; calls of `run` that wait for one raise."""
        self._closed.set()
        for worker in self._workers:
            worker.terminate()
        # Pipes are closed by whoever holds the worker: not under the hands of a running call.
        held = [self._idle.get() for _ in self._workers]
        for worker in held:
            worker.stop()
            self._idle.put(worker)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _stop_all(workers: list[_Worker], owner: int) -> None:
    # A forked child has copies of the pipes, but the launchers are not its own.
    if os.getpid() == owner:
        for worker in workers:
            with contextlib.suppress(OSError):
                worker.stop()
