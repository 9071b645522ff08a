"""The ledger: seconds, tokens, operations, memory and requests of every phase of every step."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grlo.types import LedgerEntry, Usage


@dataclass
class PhaseCost:
    """Filled in while a phase runs."""

    tokens: int = 0
    flops: float = 0.0
    usage: Usage = field(default_factory=Usage)
    """What the phase asked of remote services."""


class Ledger:
    """Times phases. A phase that fails is recorded as well.

    Peak memory is what was allocated on a GPU, and the resident set of the process on a CPU: within
    the phase on Linux, since the start of the process where the kernel does not let it be reset.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, ...
        num_devices: How many the run occupies.
        attempt: 0 for the first start of the run, one more for every resume.
        since: Moment of `time.perf_counter` from which on what passes outside of phases is kept as
            the phase `idle`, so that entries add up to the wall time; None keeps phases only.
    """

    def __init__(
        self, *, device: str, num_devices: int, attempt: int, since: float | None = None
    ) -> None:
        self._device = device
        self._name = _device_name(device)
        self._num_devices = num_devices
        self._attempt = attempt
        self._entries: list[LedgerEntry] = []
        self._accounted = since
        self._step = 0

    @contextmanager
    def phase(self, name: str, *, step: int) -> Iterator[PhaseCost]:
        """Times the body; on a GPU it waits for the device first and last."""
        cost = PhaseCost()
        _synchronize(self._device)
        _reset_peak(self._device)
        start = time.perf_counter()
        status = "failed"
        try:
            yield cost
            _synchronize(self._device)  # Not after a failure: the device may never answer.
            status = "ok"
        finally:
            self._entries.append(
                LedgerEntry(
                    step=step,
                    phase=name,
                    seconds=time.perf_counter() - start,
                    num_devices=self._num_devices,
                    device=self._name,
                    tokens=cost.tokens,
                    flops=cost.flops,
                    peak_memory_bytes=_peak_bytes(self._device),
                    attempt=self._attempt,
                    status=status,
                    requests=cost.usage.requests,
                    input_tokens=cost.usage.input_tokens,
                    output_tokens=cost.usage.output_tokens,
                    dollars=cost.usage.dollars,
                )
            )

    def drain(self) -> tuple[LedgerEntry, ...]:
        """The entries since the last call, with `idle` for the time in which no phase ran."""
        entries, self._entries = self._entries, []
        self._step = max((entry.step for entry in entries), default=self._step)
        if self._accounted is not None:
            now = time.perf_counter()
            idle = now - self._accounted - sum(entry.seconds for entry in entries)
            self._accounted = now
            entries.append(
                LedgerEntry(
                    step=self._step,
                    phase="idle",
                    seconds=max(0.0, idle),
                    num_devices=self._num_devices,
                    device=self._name,
                    tokens=0,
                    flops=0.0,
                    peak_memory_bytes=0,
                    attempt=self._attempt,
                    status="ok",
                )
            )
        return tuple(entries)


@dataclass(frozen=True)
class PhaseTotal:
    """Sum of the entries of one phase."""

    phase: str
    seconds: float
    device_hours: float
    share: float
    """Of all device-hours of the run."""
    tokens: int
    flops: float
    peak_memory_bytes: int
    usage: Usage
    """Of remote services."""


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Sum of what was asked of remote services."""
    total = list(usages)
    return Usage(
        requests=sum(usage.requests for usage in total),
        input_tokens=sum(usage.input_tokens for usage in total),
        output_tokens=sum(usage.output_tokens for usage in total),
        dollars=math.fsum(usage.dollars for usage in total),
    )


def summarize(entries: Sequence[LedgerEntry]) -> tuple[PhaseTotal, ...]:
    """Totals by phase; failed work and work that a resume did again are phases of their own.

    The device-hours of all rows add up to those of all entries.
    """
    first_steps = _first_steps(entries)
    rows: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        is_repeated = any(
            attempt > entry.attempt and first <= entry.step
            for attempt, first in first_steps.items()
        )
        name = "failed" if entry.status == "failed" else "repeated" if is_repeated else entry.phase
        rows.setdefault(name, []).append(entry)
    total = sum(entry.seconds * entry.num_devices for entry in entries)
    return tuple(
        PhaseTotal(
            phase=name,
            seconds=sum(entry.seconds for entry in group),
            device_hours=(hours := sum(e.seconds * e.num_devices for e in group)) / 3600,
            share=hours / total if total else 0.0,
            tokens=sum(entry.tokens for entry in group),
            flops=sum(entry.flops for entry in group),
            peak_memory_bytes=max(entry.peak_memory_bytes for entry in group),
            usage=total_usage(
                Usage(e.requests, e.input_tokens, e.output_tokens, e.dollars) for e in group
            ),
        )
        for name, group in rows.items()
    )


def _first_steps(entries: Sequence[LedgerEntry]) -> dict[int, int]:
    """Attempt -> the step it began with; none for one that ended before its first step.

    An attempt goes on from a checkpoint and does again whatever earlier ones did after it, also the
    steps that it never reached itself.
    """
    first: dict[int, int] = {}
    for entry in entries:
        if entry.step > 0:  # Step 0 is the loading of models, which every attempt needs.
            first[entry.attempt] = min(entry.step, first.get(entry.attempt, entry.step))
    return first


def _cuda(device: str) -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and device.startswith("cuda") else None


def _device_name(device: str) -> str:
    cuda = _cuda(device)
    return cuda.get_device_name(device) if cuda else device


def _synchronize(device: str) -> None:
    if cuda := _cuda(device):
        cuda.synchronize(device)


def _reset_peak(device: str) -> None:
    if cuda := _cuda(device):
        cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # Where it is refused, the peak is that of the process so far.
        Path("/proc/self/clear_refs").write_text("5")  # Resets VmHWM; see proc(5).


def _peak_bytes(device: str) -> int:
    if cuda := _cuda(device):
        return cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
