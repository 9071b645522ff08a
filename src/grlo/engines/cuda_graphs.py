"""CUDA graphs of decode steps.

A step of decoding launches thousands of small kernels, which takes longer than they run. A graph
has them launched by one call; it reads and writes the memory that it was recorded with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable

import torch


class Graphs:
    """Does the work of a name as it is the first time, records it the second, and replays it then.

    The first time libraries choose algorithms and memory, which cannot be recorded. Graphs share
    what memory they need in between, and hold it as long as this lives.
    """

    def __init__(self) -> None:
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._met: set[Hashable] = set()
        self._pool = torch.cuda.graph_pool_handle()
        self._records = True

    def __call__(self, name: Hashable, work: Callable[[], None]) -> None:
        """Does the work, one way or another.

        Args:
            name: Work of equal names touches the same memory in the same way.
            work: Touches tensors on the current device, and waits for nothing on it.
        """
        if name in self._met and name not in self._graphs and self._records:
            self._record(name, work)
        self._met.add(name)
        if name in self._graphs:
            self._graphs[name].replay()
        else:
            work()

    def _record(self, name: Hashable, work: Callable[[], None]) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, such as a learner's, may allocate memory meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._records = False
            print(
                f"decoding goes on without CUDA graphs, for this model cannot be recorded: {error}",
                file=sys.stderr,
            )
        else:
            self._graphs[name] = graph
