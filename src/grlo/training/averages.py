"""Means of per-token quantities over the micro-batches of a step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from torch import Tensor

from grlo.interfaces import Progress

Part = tuple[dict[str, float], dict[str, int], dict[str, float]]
"""Sums over tokens, numbers of tokens, and maxima, by name."""


class TokenAverages:
    """Means of per-token quantities over all micro-batches of a step, as far as it has come.

    Args:
        progress: Told of rows done.
        num_rows: Rows of all processes.
        num_processes: How many do as this one does, each with its share.
    """

    def __init__(self, progress: Progress, *, num_rows: int, num_processes: int = 1) -> None:
        self._progress, self._num_rows = progress, num_rows
        self._num_processes = num_processes
        self.largest: dict[str, float] = {}
        """Maxima over tokens, by name."""
        self._rows = self._tokens = 0
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self.mark()

    def mark(self) -> None:
        """Remembers what has been added up to here."""
        self._marked = (self._rows, self._tokens, dict(self._sums), dict(self._counts))

    def rewind(self) -> None:
        """Forgets what has been added since `mark`."""
        self._rows, self._tokens, sums, counts = self._marked
        self._sums, self._counts = defaultdict(float, sums), defaultdict(int, counts)

    def add(self, metrics_BT: Mapping[str, Tensor], mask_BT: Tensor) -> None:
        count = int(mask_BT.sum())
        for name, values_BT in metrics_BT.items():
            self._sums[name] += float(values_BT[mask_BT].sum())
            self._counts[name] += count
        self._rows += len(mask_BT)
        self._tokens += count
        done = min(self._rows * self._num_processes, self._num_rows)
        tokens = self._tokens * self._num_processes
        self._progress(done=done, total=self._num_rows, tokens=tokens)

    def add_largest(self, name: str, value: float) -> None:
        """Takes in a maximum over some tokens; doing them again does not change it."""
        self.largest[name] = max(value, self.largest.get(name, 0.0))

    def add_unread(self, metrics: Mapping[str, float], mask_BT: Tensor) -> None:
        """Rows whose tokens were not read, with what is known of each token all the same."""
        count = int(mask_BT.sum())
        for name, value in metrics.items():
            self._sums[name] += value * count
            self._counts[name] += count
        self._rows += len(mask_BT)

    def means(self) -> dict[str, float]:
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    def part(self) -> Part:
        """What this process has added up."""
        return dict(self._sums), dict(self._counts), dict(self.largest)

    def become_sum(self, parts: Iterable[Part]) -> None:
        """Takes the sum over the parts of all processes for its own."""
        self._sums, self._counts, self.largest = defaultdict(float), defaultdict(int), {}
        for sums, counts, largest in parts:
            for name in sums:
                self._sums[name] += sums[name]
                self._counts[name] += counts[name]
            for name, value in largest.items():
                self.add_largest(name, value)
