"""The same work on many items, by several processes, in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

from grlo.ray_cluster import RayCluster, RayWorkers

Item = TypeVar("Item")
Result = TypeVar("Result")

_work: Callable[[Sequence[Any]], Sequence[Any]]


def map_batches(
    work: Callable[[Sequence[Item]], Sequence[Result]],
    items: Iterable[Item],
    *,
    batch: int,
    processes: int = 0,
    cluster: RayCluster | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in the order of the items; few of them are in memory at once.

    Args:
        work: From some items to as many results. With several processes it is pickled once for
            each, as are items and results.
        items: Read by this process alone, as results are taken.
        batch: Items that are handed on together.
        processes: 1 works in this process; 0 takes one for each core.
        cluster: The processes are those of a Ray cluster instead.

    Raises:
        Exception: What `work` raises.
        ClusterError: See `grlo.ray_cluster`.
    """
    source = iter(items)
    batches = iter(lambda: list(islice(source, batch)), [])
    if cluster is not None:
        workers = RayWorkers(partial(_same, work), cluster=cluster)
        try:
            with ThreadPoolExecutor(workers.num_workers) as pool:
                yield from _in_order(
                    batches,
                    lambda own: pool.submit(workers.call, "__call__", own),
                    ahead=2 * workers.num_workers,
                )
        finally:
            workers.close()
        return
    processes = processes or os.cpu_count() or 1
    if processes == 1:
        for own in batches:
            yield from zip(own, work(own), strict=True)
        return
    # Started anew, not forked: a progress bar has threads, which do not survive a fork.
    with ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=_start, initargs=(work,)
    ) as pool:
        yield from _in_order(batches, lambda own: pool.submit(_run, own), ahead=2 * processes)


def _in_order(
    batches: Iterable[list[Item]],
    submit: Callable[[list[Item]], Future[Sequence[Result]]],
    *,
    ahead: int,
) -> Iterator[tuple[Item, Result]]:
    """Items with their results, of at most `ahead` batches more than have been taken."""
    waiting: deque[tuple[list[Item], Future[Sequence[Result]]]] = deque()
    for own in batches:
        waiting.append((own, submit(own)))
        if len(waiting) > ahead:
            first, future = waiting.popleft()
            yield from zip(first, future.result(), strict=True)
    for own, future in waiting:
        yield from zip(own, future.result(), strict=True)


def _same(work: Callable[[Sequence[Item]], Sequence[Result]]) -> Callable[..., Sequence[Result]]:
    return work


def _start(work: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
    global _work
    _work = work


def _run(items: Sequence[Any]) -> Sequence[Any]:
    return _work(items)
