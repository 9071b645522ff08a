"""What torch's allocator hands out and takes back while something runs, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Allocations:
    """Bytes over those that were allocated before."""

    peak: int
    kept: int
    """Still allocated at the end."""


def allocations(work: Callable[[], object]) -> Allocations:
    """Runs `work`; what it returns is still allocated at the end."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    inner = profiler.profiler
    assert inner is not None
    assert inner.kineto_results is not None
    events = sorted(
        (event.start_ns(), event.nbytes())
        for event in inner.kineto_results.events()
        if event.name() == "[memory]"
    )
    now = peak = 0
    for _, num_bytes in events:
        now += num_bytes
        peak = max(peak, now)
    del result
    return Allocations(peak=peak, kept=now)
