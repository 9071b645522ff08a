"""The ledger adds up, for failed and repeated work too."""

from __future__ import annotations

import pytest

from grlo.ledger import Ledger, summarize
from grlo.types import LedgerEntry


def entry(phase="update", *, step=1, seconds=1.0, attempt=0, status="ok", tokens=0):
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
        cost.tokens, cost.flops = 7, 1e9
    [recorded] = ledger.drain()
    assert (recorded.step, recorded.phase, recorded.attempt) == (2, "generate", 3)
    assert (recorded.tokens, recorded.flops, recorded.status) == (7, 1e9, "ok")
    assert recorded.seconds > 0
    assert recorded.peak_memory_bytes > 2**20
    assert ledger.drain() == ()


def test_a_phase_that_raises_is_recorded_as_failed():
    ledger = Ledger(device="cpu", num_devices=1, attempt=0)
    with pytest.raises(ZeroDivisionError), ledger.phase("update", step=1):
        _ = 1 / 0
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
