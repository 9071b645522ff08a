"""The ledger: seconds, tokens, operations, memory, energy and requests of every phase of a run."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grlo.energy import energy_reader
from grlo.types import LedgerEntry, Usage, Work


@dataclass
class PhaseCost:
    """Filled in while a phase runs."""

    tokens: int = 0
    usage: Usage = field(default_factory=Usage)
    """What the phase asked of remote services."""
    work: dict[str, Work] = field(default_factory=dict)
    """By component."""
    overlapped_seconds: float = 0.0
    """What of the phase had passed beside others before its body was entered."""

    def add(self, work: Mapping[str, Work]) -> None:
        """Takes in what components have done."""
        for name, done in work.items():
            before = self.work.get(name, Work())
            self.work[name] = Work(before.tokens + done.tokens, before.flops + done.flops)


class Ledger:
    """Times phases. A phase that fails is recorded as well.

    Peak memory is what was allocated on a GPU, and the resident set of the process on a CPU: within
    the phase on Linux, since the start of the process where the kernel does not let it be reset.
    Energy is that of the whole device, whoever uses it. Its counter moves about ten times a second:
    sums over many phases are exact, single short ones are not.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, ...
        num_devices: How many the run occupies.
        attempt: 0 for the first start of the run, one more for every resume.
        since: Moment of `time.perf_counter` from which on what passes outside of phases is kept as
            the phase `idle`, so that entries add up to the wall time; None keeps phases only.
        energy_of: Devices whose energy is read, where that is not `device` alone.
    """

    def __init__(
        self,
        *,
        device: str,
        num_devices: int,
        attempt: int,
        since: float | None = None,
        energy_of: Sequence[str] = (),
    ) -> None:
        self._device = device
        self._name = _device_name(device)
        self._num_devices = num_devices
        self._attempt = attempt
        self._entries: list[LedgerEntry] = []
        self._accounted = since
        readers = [energy_reader(name) for name in energy_of or (device,)]
        self._read_energy = lambda: _sum_known(read() for read in readers)
        self._energy_accounted = self._read_energy()
        self._step = 0

    @contextmanager
    def phase(self, name: str, *, step: int, since: float | None = None) -> Iterator[PhaseCost]:
        """Times the body; on a GPU it waits for the device first and last.

        Args:
            name: See `LedgerEntry`.
            step: Of the run; 0 before the first.
            since: Moment of `time.perf_counter` at which the phase began, where that was earlier.
        """
        cost = PhaseCost()
        _synchronize(self._device)
        _reset_peak(self._device)
        start = time.perf_counter() if since is None else since
        energy = self._read_energy()
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
                    flops=math.fsum(work.flops for work in cost.work.values()),
                    peak_memory_bytes=_peak_bytes(self._device),
                    attempt=self._attempt,
                    status=status,
                    requests=cost.usage.requests,
                    input_tokens=cost.usage.input_tokens,
                    output_tokens=cost.usage.output_tokens,
                    dollars=cost.usage.dollars,
                    flops_by={name: work.flops for name, work in cost.work.items()},
                    tokens_by={name: work.tokens for name, work in cost.work.items()},
                    energy_joules=_spent(energy, self._read_energy()),
                    overlapped_seconds=cost.overlapped_seconds,
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
            energy = self._read_energy()
            spent = _spent(self._energy_accounted, energy)
            self._energy_accounted = energy
            entries.append(
                LedgerEntry(
                    step=self._step,
                    phase="idle",
                    seconds=max(0.0, idle),
                    num_devices=self._num_devices,
                    device=self._name,
                    attempt=self._attempt,
                    energy_joules=_spent(_sum_known(e.energy_joules for e in entries), spent),
                )
            )
        return tuple(entries)


@dataclass(frozen=True)
class PhaseTotal:
    """Sum of the entries of one phase."""

    phase: str
    seconds: float
    overlapped_seconds: float
    """Further ones, beside other phases and in their rows; 0 for phases taken together."""
    device_hours: float
    share: float
    """Of all device-hours of the run."""
    tokens: int
    flops: float
    peak_memory_bytes: int
    usage: Usage
    """Of remote services."""
    flops_by: Mapping[str, float]
    tokens_by: Mapping[str, int]
    energy_joules: float | None
    """None where that of a part is unknown."""
    capacity: float | None
    """Operations that the devices could have done in this time, overlapped seconds included; None
    where that is unknown."""
    overlapped_capacity: float | None
    """Those of them in overlapped seconds."""
    completed_flops: float
    """Without those of phases that failed: nobody knows how far they came."""

    @property
    def utilization(self) -> float | None:
        """Model FLOPs utilisation (PaLM, Chowdhery et al. 2022, appendix B): the operations that
        the models take over those that the devices could have done, as a share. What gradient
        checkpointing computes again is not counted. None without operations or a known peak."""
        if not self.capacity or not self.completed_flops:
            return None
        return self.completed_flops / self.capacity


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Sum of what was asked of remote services."""
    total = list(usages)
    return Usage(
        requests=sum(usage.requests for usage in total),
        input_tokens=sum(usage.input_tokens for usage in total),
        output_tokens=sum(usage.output_tokens for usage in total),
        dollars=math.fsum(usage.dollars for usage in total),
    )


def summarize(
    entries: Sequence[LedgerEntry], *, peaks: Mapping[int, float] | None = None
) -> tuple[PhaseTotal, ...]:
    """Totals by phase; failed work and work that a resume did again are phases of their own.

    The device-hours of all rows add up to those of all entries.

    Args:
        entries: Of a run.
        peaks: Attempt -> operations that one device was measured to do in a second.
    """
    known = peaks or {}
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
            overlapped_seconds=sum(entry.overlapped_seconds for entry in group),
            device_hours=(hours := sum(e.seconds * e.num_devices for e in group)) / 3600,
            share=hours / total if total else 0.0,
            tokens=sum(entry.tokens for entry in group),
            flops=sum(entry.flops for entry in group),
            peak_memory_bytes=max(entry.peak_memory_bytes for entry in group),
            usage=total_usage(
                Usage(e.requests, e.input_tokens, e.output_tokens, e.dollars) for e in group
            ),
            flops_by=_add_up(entry.flops_by for entry in group),
            tokens_by=_add_up(entry.tokens_by for entry in group),
            energy_joules=_sum_known(entry.energy_joules for entry in group),
            capacity=_capacity(group, known, lambda e: e.seconds + e.overlapped_seconds),
            overlapped_capacity=_capacity(group, known, lambda e: e.overlapped_seconds),
            completed_flops=sum(entry.flops for entry in group if entry.status == "ok"),
        )
        for name, group in rows.items()
    )


def add_up(name: str, totals: Sequence[PhaseTotal]) -> PhaseTotal:
    """All of them as one, under a name of its own."""
    capacity = _sum_known(total.capacity for total in totals)
    overlapped = _sum_known(total.overlapped_capacity for total in totals)
    return PhaseTotal(
        phase=name,
        seconds=sum(total.seconds for total in totals),
        overlapped_seconds=0.0,
        device_hours=sum(total.device_hours for total in totals),
        share=sum(total.share for total in totals),
        tokens=sum(total.tokens for total in totals),
        flops=sum(total.flops for total in totals),
        peak_memory_bytes=max(total.peak_memory_bytes for total in totals),
        usage=total_usage(total.usage for total in totals),
        flops_by=_add_up(total.flops_by for total in totals),
        tokens_by=_add_up(total.tokens_by for total in totals),
        energy_joules=_sum_known(total.energy_joules for total in totals),
        capacity=None if capacity is None or overlapped is None else capacity - overlapped,
        overlapped_capacity=0.0,
        completed_flops=sum(total.completed_flops for total in totals),
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


def _capacity(
    entries: Iterable[LedgerEntry],
    peaks: Mapping[int, float],
    seconds: Callable[[LedgerEntry], float],
) -> float | None:
    """Operations that the devices could have done in the given seconds of each entry."""
    return _sum_known(
        seconds(entry) * entry.num_devices * peaks[entry.attempt]
        if entry.attempt in peaks
        else None
        for entry in entries
    )


def _add_up(mappings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums by name."""
    total: Counter[str] = Counter()
    for mapping in mappings:
        total.update(mapping)
    return dict(total)


def _sum_known(values: Iterable[float | None]) -> float | None:
    """The sum; None where a part is unknown."""
    found = list(values)
    known = [value for value in found if value is not None]
    return math.fsum(known) if len(known) == len(found) else None


def _spent(before: float | None, after: float | None) -> float | None:
    """The difference of two readings; None where one is missing."""
    return None if before is None or after is None else max(0.0, after - before)


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
