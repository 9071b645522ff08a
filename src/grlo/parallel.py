"""The same work on many items, by several processes, in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_work: Callable[[Sequence[Any]], Sequence[Any]]


def map_batches(
    work: Callable[[Sequence[Item]], Sequence[Result]],
    items: Iterable[Item],
    *,
    batch: int,
    processes: int = 0,
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in the order of the items; few of them are in memory at once.

    Args:
        work: From some items to as many results. With several processes it is pickled once for
            each, as are items and results.
        items: Read by this process alone, as results are taken.
        batch: Items that are handed on together.
        processes: 1 works in this process; 0 takes one for each core.

    Raises:
        Exception: What `work` raises.
    """
    processes = processes or os.cpu_count() or 1
    source = iter(items)
    batches = iter(lambda: list(islice(source, batch)), [])
    if processes == 1:
        for own in batches:
            yield from zip(own, work(own), strict=True)
        return
    # Started anew, not forked: a progress bar has threads, which do not survive a fork.
    with ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=_start, initargs=(work,)
    ) as pool:
        waiting: deque[tuple[list[Item], Future[Sequence[Result]]]] = deque()
        for own in batches:
            waiting.append((own, pool.submit(_run, own)))
            if len(waiting) > 2 * processes:
                first, future = waiting.popleft()
                yield from zip(first, future.result(), strict=True)
        for own, future in waiting:
            yield from zip(own, future.result(), strict=True)


def _start(work: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
    global _work
    _work = work


def _run(items: Sequence[Any]) -> Sequence[Any]:
    return _work(items)
