"""Small processes that answer one request at a time and are killed when they take too long."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_START_SECONDS = 120.0
_MAX_REPLY_BYTES = 1 << 20


class WorkerTimeoutError(Exception):
    """A request took longer than its limit; its worker is gone."""


class WorkerDiedError(Exception):
    """A worker ended before it had replied."""


class WorkerStartError(Exception):
    """A worker cannot be started; the message has the end of what it wrote to its error stream."""


class WorkerPool:
    """Processes of one module, started when they are first needed and again after they were killed.

    A worker is a fresh interpreter, not a fork, so it holds nothing of this process. It reads one
    JSON object a line from its input and writes one a line to its output (`serve` in
    `worker_process`). It ends with this process, whichever way this process ends.

    Args:
        module: Name of a module whose `__main__` calls `serve`.
        num_workers: Most processes at a time.
        seconds: Limit of one request; the start of a worker does not count.
        memory_bytes: What a worker may take on top of what it has after its imports.
    """

    def __init__(self, module: str, *, num_workers: int, seconds: float, memory_bytes: int) -> None:
        self._module = module
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._slots: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(num_workers):
            self._slots.put(None)
        self._workers: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        # Linux ends a child with the *thread* that started it, so that thread has to stay.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="worker-starter")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply of a worker; waits for one that is free. Safe to call from many threads.

        Raises:
            WorkerTimeoutError: It took longer than the limit.
            WorkerDiedError: Two workers in a row ended before they replied, the second a fresh one.
            WorkerStartError: There is no worker to ask, through no fault of the request.
        """
        worker = self._slots.get()
        try:
            for _ in range(2):
                if worker is None:
                    worker = self._start()
                try:
                    return worker.ask(request, seconds=self._seconds)
                except BaseException as error:
                    self._end(worker)
                    worker = None
                    if not isinstance(error, WorkerDiedError):
                        raise
            raise WorkerDiedError("the worker ended before it had replied, twice")
        finally:
            self._slots.put(worker)

    def close(self) -> None:
        """Kills all workers; requests under way raise."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            self._end(worker)
        self._starter.shutdown()

    def _start(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool of workers is closed")
        worker = self._starter.submit(
            _Worker, self._module, seconds=self._seconds, memory_bytes=self._memory_bytes
        ).result()
        with self._lock:
            self._workers.add(worker)
            closed = self._closed
        if closed:
            self._end(worker)
            raise RuntimeError("the pool of workers is closed")
        return worker

    def _end(self, worker: _Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.kill()


class _Worker:
    """One process and the pipes to it."""

    def __init__(self, module: str, *, seconds: float, memory_bytes: int) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        # -P: a file of the working directory must not stand in for a module of the library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(os.getpid()), str(seconds), str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self._module = module
        self._is_ready = False
        self._rest = b""

    def ask(self, request: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        if not self._is_ready:
            try:
                self._read_line(_START_SECONDS)
            except (WorkerDiedError, WorkerTimeoutError) as error:
                raise WorkerStartError(
                    f"{self._module} did not start: {self._last_words()}"
                ) from error
            self._is_ready = True
        try:
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()
        except (OSError, ValueError) as error:
            raise WorkerDiedError(str(error)) from error
        try:
            return json.loads(self._read_line(seconds))
        except ValueError as error:
            raise WorkerDiedError(f"the worker wrote no JSON: {error}") from error

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout, self._errors):
            # What was still to be written went to a process that is gone.
            with contextlib.suppress(OSError):
                pipe.close()

    def _last_words(self) -> str:
        try:
            size = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, size - 500))
            return self._errors.read().decode(errors="replace").strip()
        except ValueError:
            return "the pool was closed"

    def _read_line(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(self._stdout, selectors.EVENT_READ)
            except ValueError as error:
                raise WorkerDiedError("the pool was closed") from error
            while b"\n" not in self._rest:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not selector.select(remaining):
                    raise WorkerTimeoutError(f"took longer than {seconds:g} s")
                read = os.read(self._stdout.fileno(), 1 << 16)
                if not read or len(self._rest) > _MAX_REPLY_BYTES:
                    raise WorkerDiedError("the worker ended before it had replied")
                self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line
