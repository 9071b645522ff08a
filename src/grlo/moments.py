"""Running mean and standard deviation, kept in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class RunningMoments:
    """Mean and variance of all values seen so far (Welford 1962, Technometrics 4(3))."""

    count: int = 0
    mean: float = 0.0
    sum_of_squares: float = 0.0
    """Sum of squared deviations from the mean."""

    def update(self, values: Iterable[float]) -> None:
        """Takes in further values."""
        for value in values:
            self.count += 1
            deviation = value - self.mean
            self.mean += deviation / self.count
            self.sum_of_squares += deviation * (value - self.mean)

    @property
    def std(self) -> float:
        """Population standard deviation; 1 while there is no spread to measure."""
        if self.count == 0 or self.sum_of_squares == 0:
            return 1.0
        return math.sqrt(self.sum_of_squares / self.count)

    def standardized(self, value: float) -> float:
        """`(value - mean) / std`."""
        return (value - self.mean) / self.std
