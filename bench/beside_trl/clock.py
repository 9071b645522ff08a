"""Seconds by phase."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class PhaseClock:
    """Processor and wall seconds by phase; what no phase claims is `training`."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begins the stretch that is counted."""
        self.cpu: dict[str, float] = defaultdict(float)
        self.wall: dict[str, float] = defaultdict(float)
        self.begin = self.end = (time.process_time(), time.perf_counter())

    def stop(self) -> None:
        """Ends it; may be called again."""
        self.end = (time.process_time(), time.perf_counter())

    def timed(self, phase: str, function: Callable[P, R]) -> Callable[P, R]:
        """The function, with its seconds added to a phase."""

        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            cpu, wall = time.process_time(), time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.cpu[phase] += time.process_time() - cpu
                self.wall[phase] += time.perf_counter() - wall

        return wrapper

    def seconds(self, num_steps: int) -> dict[str, dict[str, float]]:
        """Per step: `cpu` and `wall` of each phase and in all."""
        totals = [end - begin for end, begin in zip(self.end, self.begin, strict=True)]
        found: dict[str, dict[str, float]] = {}
        for name, phases, total in zip(("cpu", "wall"), (self.cpu, self.wall), totals, strict=True):
            known = {phase: phases[phase] / num_steps for phase in ("generation", "scoring")}
            rest = total / num_steps - sum(known.values())
            found[name] = {**known, "training": rest, "total": total / num_steps}
        return found
