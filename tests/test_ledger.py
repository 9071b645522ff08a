"""The ledger adds up, for failed and repeated work too."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import pytest

from grlo.ledger import Ledger, add_up, summarize, total_usage
from grlo.types import LedgerEntry, Usage, Work


def entry(
    phase: str = "update",
    *,
    step: int = 1,
    seconds: float = 1.0,
    attempt: int = 0,
    status: Literal["ok", "failed"] = "ok",
    tokens: int = 0,
) -> LedgerEntry:
    return LedgerEntry(
        step=step,
        phase=phase,
        seconds=seconds,
        num_devices=2,
        device="cpu",
        attempt=attempt,
        status=status,
        tokens=tokens,
    )


def test_a_phase_records_what_its_body_says_and_how_long_it_took():
    ledger = Ledger(device="cpu", num_devices=1, attempt=3)
    with ledger.phase("generate", step=2) as cost:
        cost.tokens = 7
        cost.add({"engine": Work(5, 1e9)})
        cost.add({"engine": Work(3, 1e9), "reward_model": Work(2, 0.5e9)})
    [recorded] = ledger.drain()
    assert (recorded.step, recorded.phase, recorded.attempt) == (2, "generate", 3)
    assert (recorded.tokens, recorded.flops, recorded.status) == (7, 2.5e9, "ok")
    assert recorded.flops_by == {"engine": 2e9, "reward_model": 0.5e9}
    assert recorded.tokens_by == {"engine": 8, "reward_model": 2}
    assert recorded.seconds > 0
    assert recorded.peak_memory_bytes > 2**20
    assert ledger.drain() == ()


def test_a_phase_that_raises_is_recorded_as_failed():
    ledger = Ledger(device="cpu", num_devices=1, attempt=0)
    with pytest.raises(ZeroDivisionError), ledger.phase("update", step=1):
        _ = 1 / 0
    assert [e.status for e in ledger.drain()] == ["failed"]


def test_memory_of_one_phase_is_not_charged_to_the_next():
    # In a process of its own: the peak is the whole process's.
    code = """
from pathlib import Path
from grlo.ledger import Ledger
ledger = Ledger(device="cpu", num_devices=1, attempt=0)
with ledger.phase("generate", step=1):
    block = bytearray(b"x" * (200 << 20))
del block
with ledger.phase("score", step=1):
    pass
print(*(entry.peak_memory_bytes for entry in ledger.drain()))
try:
    Path("/proc/self/clear_refs").write_text("5")
except OSError:
    print("refused")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    large, *rest = result.stdout.split()
    assert int(large) > 200 << 20, result.stderr
    if rest[1:] == ["refused"]:
        pytest.skip("this kernel does not let the peak be reset")
    assert int(rest[0]) < int(large) - (150 << 20)


class FakeCuda:
    """Records what the ledger asks of the device, in order."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.calls: list[str] = []
        self.is_broken = is_broken

    def get_device_name(self, device: str) -> str:
        return "Accelerator"

    def synchronize(self, device: str) -> None:
        self.calls.append("synchronize")
        if self.is_broken and "body" in self.calls:
            raise RuntimeError("an illegal memory access was encountered")

    def reset_peak_memory_stats(self, device: str) -> None:
        self.calls.append("reset")

    def max_memory_allocated(self, device: str) -> int:
        return 123


@pytest.fixture
def install_cuda(monkeypatch):
    def install(cuda: FakeCuda) -> FakeCuda:
        torch = ModuleType("torch")
        torch.cuda = cuda  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, "torch", torch)
        return cuda

    return install


def test_a_phase_on_a_gpu_waits_for_the_device_before_and_after(install_cuda):
    cuda = install_cuda(FakeCuda())
    ledger = Ledger(device="cuda:0", num_devices=1, attempt=0)
    with ledger.phase("update", step=1):
        cuda.calls.append("body")
    assert cuda.calls == ["synchronize", "reset", "body", "synchronize"]
    [recorded] = ledger.drain()
    assert (recorded.device, recorded.peak_memory_bytes) == ("Accelerator", 123)


def test_a_phase_whose_kernels_fail_late_is_recorded_as_failed(install_cuda):
    cuda = install_cuda(FakeCuda(is_broken=True))
    ledger = Ledger(device="cuda", num_devices=1, attempt=0)
    with pytest.raises(RuntimeError, match="illegal"), ledger.phase("update", step=1):
        cuda.calls.append("body")
    assert [e.status for e in ledger.drain()] == ["failed"]


def test_rows_add_up_and_failed_and_repeated_work_stand_apart():
    entries = [
        entry("load", step=0, seconds=5),
        entry("generate", seconds=3, tokens=10),
        entry("generate", step=2, seconds=4, tokens=20),
        entry("update", step=2, seconds=2, status="failed"),
        entry("load", step=0, seconds=6, attempt=1),
        entry("generate", step=2, seconds=7, tokens=20, attempt=1),
        entry("update", step=2, seconds=1, attempt=1),
    ]
    totals = {total.phase: total for total in summarize(entries)}
    assert {name: total.seconds for name, total in totals.items()} == {
        "load": 11,
        "generate": 10,
        "repeated": 4,
        "failed": 2,
        "update": 1,
    }
    assert totals["generate"].tokens == 30
    assert sum(t.device_hours for t in totals.values()) == pytest.approx(28 * 2 / 3600)
    assert sum(t.share for t in totals.values()) == pytest.approx(1)


def test_steps_that_a_resume_discarded_are_repeated_even_where_it_ended_before_reaching_them():
    entries = [
        # Steps 1 to 4, with a checkpoint after step 2.
        *(entry("update", step=step, seconds=10 * step) for step in (1, 2, 3, 4)),
        # Goes on from there, and fails in step 3.
        entry("load", step=0, seconds=1, attempt=1),
        entry("generate", step=3, seconds=5, attempt=1),
        entry("update", step=3, seconds=2, attempt=1, status="failed"),
        # Ends while loading: it has discarded nothing.
        entry("load", step=0, seconds=1, attempt=2),
    ]
    totals = {total.phase: total.seconds for total in summarize(entries)}
    assert totals == {"update": 10 + 20, "repeated": 30 + 40, "load": 2, "generate": 5, "failed": 2}


def test_what_remote_services_were_asked_is_recorded_with_the_phase_failed_or_not():
    ledger = Ledger(device="cpu", num_devices=1, attempt=0)
    with ledger.phase("score", step=1) as cost:
        cost.usage = Usage(requests=3, input_tokens=100, output_tokens=20, dollars=0.5)
    with suppress(OSError), ledger.phase("score", step=2) as cost:
        cost.usage = Usage(requests=1)
        raise OSError("gone")
    with ledger.phase("update", step=2):
        pass
    asked = [(e.requests, e.input_tokens, e.output_tokens, e.dollars) for e in ledger.drain()]
    assert asked == [(3, 100, 20, 0.5), (1, 0, 0, 0.0), (0, 0, 0, 0.0)]


def test_requests_and_dollars_add_up_over_phases_with_failed_and_repeated_work_apart():
    def asked(step: int, requests: int, *, attempt: int = 0, status: str = "ok") -> LedgerEntry:
        return replace(
            entry("score", step=step, attempt=attempt),
            status=status,
            requests=requests,
            input_tokens=10 * requests,
            output_tokens=requests,
            dollars=requests / 10,
        )

    entries = [
        entry("generate"),
        asked(1, 2),
        asked(2, 4),
        asked(2, 8, attempt=1),
        asked(3, 16, attempt=1, status="failed"),
    ]
    usages = {total.phase: total.usage for total in summarize(entries)}
    assert usages["generate"] == Usage()
    assert usages["score"] == Usage(10, 100, 10, pytest.approx(1.0))
    assert usages["repeated"] == Usage(4, 40, 4, pytest.approx(0.4))
    assert usages["failed"] == Usage(16, 160, 16, pytest.approx(1.6))
    assert total_usage(usages.values()) == Usage(30, 300, 30, pytest.approx(3.0))


def test_nothing_recorded_is_no_rows():
    assert summarize([]) == ()


def test_time_outside_of_phases_is_idle_where_it_is_asked_for(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def passes(seconds: float) -> None:
        clock[0] += seconds

    ledger = Ledger(device="cpu", num_devices=2, attempt=1, since=97.0)
    passes(1.0)
    with ledger.phase("load", step=0):
        passes(5.0)
    passes(0.5)
    load, idle = ledger.drain()
    assert (load.seconds, idle.phase, idle.seconds, idle.step) == (5.0, "idle", 4.5, 0)
    assert (idle.num_devices, idle.attempt, idle.status) == (2, 1, "ok")
    passes(2.0)
    with ledger.phase("update", step=3):
        passes(1.0)
    assert [(e.phase, e.step, e.seconds) for e in ledger.drain()] == [
        ("update", 3, 1.0),
        ("idle", 3, 2.0),
    ]
    passes(0.25)
    assert [(e.phase, e.step, e.seconds) for e in ledger.drain()] == [("idle", 3, 0.25)]


def test_what_ran_beside_other_phases_is_told_and_not_counted_twice(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    ledger = Ledger(device="cpu", num_devices=1, attempt=0, since=100.0)
    with ledger.phase("update", step=1):
        clock[0] += 8
    with ledger.phase("generate", step=1) as cost:
        clock[0] += 2
        cost.overlapped_seconds = 7.0
    clock[0] += 1
    entries = ledger.drain()
    found = {e.phase: (e.seconds, e.overlapped_seconds) for e in entries}
    assert found == {"update": (8.0, 0.0), "generate": (2.0, 7.0), "idle": (1.0, 0.0)}
    assert sum(e.seconds for e in entries) == clock[0] - 100
    totals = {total.phase: total for total in summarize(entries)}
    assert totals["generate"].overlapped_seconds == 7.0
    everything = add_up("total", list(totals.values()))
    assert (everything.seconds, everything.overlapped_seconds) == (11.0, 0.0)


def test_utilization_of_what_ran_beside_other_phases_is_that_of_all_its_time() -> None:
    entries = [
        replace(entry("update", seconds=8), flops=80.0),
        replace(entry("generate", seconds=2), flops=30.0, overlapped_seconds=3.0),
    ]
    totals = {t.phase: t for t in summarize(entries, peaks={0: 10.0})}
    # Two devices, each of which does 10 operations a second.
    assert totals["update"].utilization == pytest.approx(80 / (2 * 10 * 8))
    assert totals["generate"].utilization == pytest.approx(30 / (2 * 10 * (2 + 3)))
    everything = add_up("total", list(totals.values()))
    assert everything.utilization == pytest.approx(110 / (2 * 10 * 10))
    # As one of the runs that led to another.
    assert add_up("all", [everything]).utilization == everything.utilization


def test_without_a_beginning_no_time_is_idle() -> None:
    ledger = Ledger(device="cpu", num_devices=1, attempt=0)
    assert ledger.drain() == ()


def test_a_phase_may_have_begun_before_its_ledger(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    ledger = Ledger(device="cpu", num_devices=1, attempt=0, since=90.0)
    with ledger.phase("load", step=0, since=90.0):
        clock[0] += 5
    clock[0] += 1
    assert [(e.phase, e.seconds) for e in ledger.drain()] == [("load", 15.0), ("idle", 1.0)]


def test_operations_are_compared_with_the_peak_of_their_attempt() -> None:
    def working(flops: float, **options: Any) -> LedgerEntry:
        return replace(entry(**options), flops=flops)

    entries = [
        working(0.0, phase="load", step=0, seconds=5),
        working(100.0, seconds=10),
        working(60.0, step=2, seconds=2, attempt=1),
        working(90.0, step=3, seconds=3, attempt=1, status="failed"),
    ]
    totals = {t.phase: t for t in summarize(entries, peaks={0: 10.0, 1: 30.0})}
    # Two devices each.
    assert totals["update"].utilization == pytest.approx(160 / (2 * (10 * 10 + 2 * 30)))
    assert totals["load"].utilization is None
    assert totals["failed"].utilization is None
    everything = add_up("total", list(totals.values()))
    capacity = 2 * (15 * 10 + 5 * 30)
    assert everything.utilization == pytest.approx(160 / capacity)
    assert (everything.flops, everything.completed_flops) == (250, 160)


def test_without_the_peak_of_every_attempt_there_is_no_utilization() -> None:
    entries = [replace(entry(step=n + 1, attempt=n), flops=1.0) for n in (0, 1)]
    assert [t.utilization for t in summarize(entries, peaks={0: 10.0})] == [None]
    assert add_up("total", summarize(entries, peaks={0: 10.0})).utilization is None
    assert summarize(entries[:1])[0].utilization is None


def test_work_by_component_adds_up_over_phases() -> None:
    entries = [
        replace(entry(), flops_by={"policy": 2.0, "critic": 1.0}, tokens_by={"policy": 5}),
        replace(entry("annotate"), flops_by={"policy": 4.0}, tokens_by={"policy": 7, "critic": 1}),
    ]
    everything = add_up("total", summarize(entries))
    assert everything.flops_by == {"policy": 6.0, "critic": 1.0}
    assert everything.tokens_by == {"policy": 12, "critic": 1}


class NVMLError(Exception):
    """As pynvml has it."""


class FakeNvml(ModuleType):
    """A counter that the tests move."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.millijoules = 5_000_000
        self.refuses = ""
        self.asked_for: list[str] = []

    def _call(self, name: str) -> None:
        if name == self.refuses:
            raise NVMLError(name)

    def nvmlInit(self) -> None:  # noqa: N802
        self._call("nvmlInit")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self._call("nvmlDeviceGetHandleByUUID")
        self.asked_for.append(uuid)
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        self._call("nvmlDeviceGetTotalEnergyConsumption")
        assert handle == "handle"
        return self.millijoules


class FakeCudaWithUuid(FakeCuda):
    def get_device_properties(self, device: str) -> SimpleNamespace:
        return SimpleNamespace(uuid=f"1234-of-{device}")


@pytest.fixture
def nvml(monkeypatch, install_cuda) -> FakeNvml:
    install_cuda(FakeCudaWithUuid())
    module = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_energy_of_phases_and_of_the_time_between_adds_up_to_what_the_counter_moved(nvml) -> None:
    ledger = Ledger(device="cuda:1", num_devices=1, attempt=0, since=time.perf_counter())
    nvml.millijoules += 500
    with ledger.phase("update", step=1):
        nvml.millijoules += 7_000
    nvml.millijoules += 250
    update, idle = ledger.drain()
    assert nvml.asked_for == ["GPU-1234-of-cuda:1"], "torch's index is not NVML's"
    assert (update.energy_joules, idle.energy_joules) == (7.0, 0.75)
    nvml.millijoules += 125
    with suppress(OSError), ledger.phase("update", step=2):
        nvml.millijoules += 1_000
        raise OSError("gone")
    failed, idle = ledger.drain()
    assert (failed.energy_joules, idle.energy_joules) == (1.0, 0.125)
    totals = {t.phase: t.energy_joules for t in summarize([update, failed, idle])}
    assert totals == {"update": 7.0, "failed": 1.0, "idle": 0.125}


def test_energy_of_several_devices_is_that_of_all_and_unknown_where_one_does_not_tell(nvml) -> None:
    ledger = Ledger(
        device="cuda:0", num_devices=2, attempt=0, since=0.0, energy_of=["cuda:0", "cuda:1"]
    )
    with ledger.phase("update", step=1):
        nvml.millijoules += 7_000  # Of each: they share the counter of this test.
    assert nvml.asked_for == ["GPU-1234-of-cuda:0", "GPU-1234-of-cuda:1"]
    assert ledger.drain()[0].energy_joules == 14.0
    silent = Ledger(device="cuda:0", num_devices=2, attempt=0, energy_of=["cuda:0", "cpu"])
    with silent.phase("update", step=1):
        nvml.millijoules += 7_000
    assert silent.drain()[0].energy_joules is None


@pytest.mark.parametrize(
    "call", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"]
)
def test_a_refused_call_leaves_the_energy_unknown_and_the_run_alone(nvml, call: str) -> None:
    nvml.refuses = call
    ledger = Ledger(device="cuda", num_devices=1, attempt=0, since=time.perf_counter())
    with ledger.phase("update", step=1):
        nvml.millijoules += 7_000
    assert [e.energy_joules for e in ledger.drain()] == [None, None]


def test_a_counter_that_stops_answering_leaves_that_phase_unknown(nvml) -> None:
    ledger = Ledger(device="cuda", num_devices=1, attempt=0, since=time.perf_counter())
    with ledger.phase("update", step=1):
        nvml.refuses = "nvmlDeviceGetTotalEnergyConsumption"
    nvml.refuses = ""
    entries = ledger.drain()
    assert [e.energy_joules for e in entries] == [None, None]
    with ledger.phase("update", step=2):
        nvml.millijoules += 2_000
    known = ledger.drain()
    assert known[0].energy_joules == 2.0
    assert {t.phase: t.energy_joules for t in summarize([*entries, *known])}["update"] is None


def test_without_the_package_or_without_a_gpu_there_is_no_energy(monkeypatch, install_cuda) -> None:
    install_cuda(FakeCudaWithUuid())
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for device in ("cuda", "cpu"):
        ledger = Ledger(device=device, num_devices=1, attempt=0, since=time.perf_counter())
        with ledger.phase("update", step=1):
            pass
        assert [e.energy_joules for e in ledger.drain()] == [None, None]
