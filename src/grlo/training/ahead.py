"""What the trainer needs to draw a step ahead: a second thread, and answers from a checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from grlo.interfaces import Progress, Renderer, silent
from grlo.rollout import to_rollouts
from grlo.types import Completion, Prompt, Rollout

Result = TypeVar("Result")


class Beside(Generic[Result]):
    """A piece of work that runs, or has run, in a thread of its own."""

    def __init__(self, work: Callable[[Progress], Result]) -> None:
        self._work = work
        self._future: Future[Result]
        self._is_unwanted = threading.Event()
        self._progress: Progress = silent
        self._started = self._ended = 0.0
        self.overlapped_seconds = 0.0
        """Seconds that it took before somebody waited for it; there after `result`."""

    def run(self) -> Result:
        """Does the work and takes the time."""
        self._started = time.perf_counter()
        try:
            return self._work(self._report)
        finally:
            self._ended = time.perf_counter()

    def start(self, pool: ThreadPoolExecutor) -> None:
        self._future = pool.submit(self.run)

    def result(self, *, progress: Progress = silent) -> Result:
        """Waits for the end of the work, and raises what it raised.

        Args:
            progress: Told of the work while it is waited for.
        """
        waiting_since = time.perf_counter()
        self._progress = progress
        result = self._future.result()
        self.overlapped_seconds = min(waiting_since, self._ended) - self._started
        return result

    def abandon(self) -> None:
        """Ends the work when it reports next."""
        self._is_unwanted.set()

    def _report(self, *, done: int, total: int, tokens: int) -> None:
        if self._is_unwanted.is_set():
            raise _UnwantedError
        self._progress(done=done, total=total, tokens=tokens)


class _UnwantedError(Exception):
    """Ends work whose result nobody will ask for."""


@contextmanager
def beside(work: Callable[[Progress], Result]) -> Iterator[Beside[Result]]:
    """Runs `work` in a second thread while the body runs; the body asks for its result.

    Args:
        work: Is given a progress to report to. Where the body fails, that ends it.
    """
    second = Beside(work)
    with ThreadPoolExecutor(max_workers=1) as pool:
        second.start(pool)
        try:
            yield second
        except BaseException:
            second.abandon()
            raise


def restored(
    rows: Sequence[Mapping[str, Any]], prompts: Sequence[Prompt], *, renderer: Renderer
) -> list[Rollout]:
    """Rollouts whose completions were kept in a checkpoint.

    Args:
        rows: Completions as JSON has them, equally many of each prompt; none are no rollouts.
        prompts: What was answered.
        renderer: Of the policy.
    """
    completions = [
        Completion(tuple(row["tokens"]), tuple(row["logprobs"]), row["finish_reason"])
        for row in rows
    ]
    encoded = [renderer.encode(prompt.messages) for prompt in prompts] if rows else []
    return to_rollouts(prompts, encoded, completions, renderer=renderer)
