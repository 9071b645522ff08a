"""`grlo cost`: a table that adds up and that can be read on a narrow screen."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from grlo.errors import CheckpointError, RecipeError
from grlo.rundir import RunDir, append_jsonl
from grlo.stages.cost import cost
from grlo.types import LedgerEntry

HOUR = 3600.0


def entry(phase: str, *, step: int, hours: float, attempt: int = 0, status: str = "ok"):
    return LedgerEntry(
        step=step,
        phase=phase,
        seconds=hours * HOUR,
        num_devices=8,
        device="H100",
        tokens=123_456_789,
        flops=1.5e19,
        peak_memory_bytes=3 << 30,
        attempt=attempt,
        status=status,  # pyright: ignore[reportArgumentType]
    )


def write_run(
    path: Path,
    entries: Iterable[LedgerEntry],
    *,
    prices: dict[str, object] | None = None,
    peaks: Sequence[float] = (),
) -> Path:
    recipe = {"prices": prices} if prices else {}
    with RunDir.create_or_open(path, recipe=recipe, prompt_hash="") as run:
        run.append_ledger(entries)
        for attempt, peak in enumerate(peaks):
            run.append_environment(attempt, {"peak_flops": peak})
    return path


def rows_of(text: str) -> dict[str, list[str]]:
    """Phase -> its cells, for the lines of the table."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if len(cells) == 8}


def test_attempts_add_up_with_failed_and_repeated_work_apart_on_80_columns(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    run = write_run(
        tmp_path / "run",
        [
            entry("generate", step=1, hours=20.5),
            entry("update", step=1, hours=10.25),
            entry("generate", step=2, hours=3),
            entry("update", step=2, hours=1, status="failed"),
            entry("load", step=0, hours=0.25, attempt=1),
            entry("generate", step=2, hours=4, attempt=1),
        ],
    )
    cost(run)
    out = capsys.readouterr().out
    assert "8 x H100, 2 starts" in " ".join(out.split()), "the title may be wrapped"
    assert "…" not in out, "a number that is cut is no number"
    rows = rows_of(out)
    del rows["phase"]
    totals = rows.pop("total")
    total = float(totals[1])
    memory = [line.split() for line in out.splitlines() if line.strip().startswith("total")]
    assert memory[1] == ["total", "3.00"], "memory is a peak: phases share it and do not add up"
    hours = {phase: float(cells[1]) for phase, cells in rows.items()}
    assert hours == {"generate": 196, "update": 82, "load": 2, "repeated": 24, "failed": 8}
    assert total == sum(hours.values()) == 39 * 8
    assert list(rows)[-2:] == ["repeated", "failed"]
    assert rows["generate"][3:5] == ["247M", f"{246_913_578 / (24.5 * HOUR) / 1e3:.3g}K"]
    assert rows["generate"][-2:] == ["3.00e+19", "-"], "no peak was measured"
    shares = [float(cells[2]) for cells in rows.values()]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))


def table(text: str, title: str) -> dict[str, list[str]]:
    """First cell -> the others, for the lines of the table with that title."""
    rows: dict[str, list[str]] = {}
    for line in text.partition(title)[2].splitlines()[1:]:
        if rows and not line.strip():
            break
        first, *others = re.split(r"\s{2,}", line.strip())
        if first and "\u2500" not in first:
            rows[first] = others
    return rows


def test_utilization_is_that_of_the_measured_peaks(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    entries = [
        entry("generate", step=1, hours=10),
        entry("update", step=2, hours=1, attempt=1),
        entry("update", step=3, hours=1, attempt=1, status="failed"),
        replace(entry("idle", step=3, hours=1, attempt=1), flops=0.0),
    ]
    # 1.5e19 in ten hours on eight devices that do so much in five, and so on.
    slow, fast = 1.5e19 / (8 * 5 * HOUR), 1.5e19 / (8 * 0.25 * HOUR)
    cost(write_run(tmp_path / "run", entries, peaks=[slow, fast]))
    shares = {phase: cells[-1] for phase, cells in rows_of(capsys.readouterr().out).items()}
    total = 2 * 1.5e19 / (8 * HOUR * (10 * slow + 3 * fast))
    assert shares == {
        "phase": "MFU, %",
        "generate": "50.0",
        "update": "25.0",
        "idle": "-",
        "failed": "-",
        "total": f"{100 * total:.1f}",
    }


def test_drawing_beside_the_update_counts_in_its_speed_and_not_in_the_time(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    entries = [
        entry("update", step=1, hours=10),
        replace(entry("generate", step=1, hours=1), overlapped_seconds=9 * HOUR),
    ]
    cost(write_run(tmp_path / "run", entries, peaks=[1.5e19 / (8 * 5 * HOUR)]))
    out = capsys.readouterr().out
    rows = rows_of(out)
    assert rows["generate"][1] == "8.0000"
    assert rows["generate"][4] == f"{123_456_789 / (10 * HOUR) / 1e3:.3g}K"
    assert rows["generate"][-1] == "50.0"
    assert rows["total"][1] == "88.0000"
    assert rows["total"][-1] == f"{100 * 2 * 5 / 11:.1f}"
    assert "9 h 00 min of drawing answers ahead" in " ".join(out.split())


def test_money_is_device_hours_at_their_price_and_the_dollars_of_remote_services(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    entries = [
        entry("generate", step=1, hours=2),
        replace(entry("score", step=1, hours=1), requests=3, dollars=0.25),
        entry("evaluate", step=1, hours=0.5),
        entry("generate", step=2, hours=1, status="failed"),
    ]
    run = write_run(tmp_path / "run", entries, prices={"device_hour": 3.0, "currency": "USD"})
    cost(run)
    out = capsys.readouterr().out
    assert table(out, "energy and money") == {
        "phase": ["GiB", "USD"],
        "generate": ["3.00", "48.0000"],
        "score": ["3.00", "24.2500"],
        "evaluate": ["3.00", "12.0000"],
        "failed": ["3.00", "24.0000"],
        "total": ["3.00", "108.2500"],
    }
    assert "device-hours at 3 each, with the dollars" in " ".join(out.split())
    cost(run, price=0.5)
    assert table(capsys.readouterr().out, "energy and money")["total"] == ["3.00", "18.2500"]
    cost(run, price=0.0)
    assert "USD" not in capsys.readouterr().out
    for price in (-1.0, math.inf, math.nan):
        with pytest.raises(RecipeError, match="--price"):
            cost(run, price=price)


def test_dollars_are_not_added_to_another_currency(tmp_path, capsys):
    entries = [replace(entry("score", step=1, hours=1), requests=3, dollars=0.25)]
    prices: dict[str, object] = {"device_hour": 3.0, "currency": "EUR"}
    cost(write_run(tmp_path / "run", entries, prices=prices))
    out = capsys.readouterr().out
    assert table(out, "energy and money")["total"] == ["3.00", "24.0000"]
    assert "without the dollars" in " ".join(out.split())


def test_energy_is_shown_where_the_devices_told_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    entries = [
        replace(entry("generate", step=1, hours=2), energy_joules=3600.0 * 700),
        replace(entry("update", step=1, hours=1), energy_joules=3600.0 * 1350.5),
    ]
    cost(write_run(tmp_path / "run", entries))
    assert table(capsys.readouterr().out, "energy and money") == {
        "phase": ["GiB", "Wh"],
        "generate": ["3.00", "700.00"],
        "update": ["3.00", "1,350.50"],
        "total": ["3.00", "2,050.50"],
    }
    unknown = [*entries, entry("update", step=2, hours=1)]
    cost(write_run(tmp_path / "mixed", unknown))
    rows = table(capsys.readouterr().out, "energy and money")
    assert [rows[name][1] for name in ("generate", "update", "total")] == ["700.00", "-", "-"]


def test_work_is_shown_by_component_and_adds_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    own = {"flops_by": {"policy": 0.9e19, "critic": 0.6e19}, "tokens_by": {"policy": 5_000}}
    entries = [replace(entry("update", step=1, hours=1), **own), entry("update", step=2, hours=1)]
    run = write_run(tmp_path / "run", entries)
    cost(run)
    # The second entry is of a version that knew no components.
    assert table(capsys.readouterr().out, "by component") == {
        "component": ["tokens", "FLOPs", "% of FLOPs"],
        "not recorded": ["-", "1.50e+19", "50.0"],
        "policy": ["5K", "9.00e+18", "30.0"],
        "critic": ["-", "6.00e+18", "20.0"],
    }
    cost(write_run(tmp_path / "old", entries[1:]))
    assert "by component" not in capsys.readouterr().out


def test_tokens_in_no_time_have_no_speed(tmp_path, capsys):
    cost(write_run(tmp_path / "run", [entry("score", step=1, hours=0)]))
    score = rows_of(capsys.readouterr().out)["score"]
    assert score[2:5] == ["0.0", "123M", "-"]


def test_a_run_that_is_being_written_can_be_read(tmp_path, capsys):
    path = tmp_path / "run"
    with RunDir.create_or_open(path, recipe={}, prompt_hash="") as run:
        with pytest.raises(CheckpointError, match="no phase has ended"):
            cost(path)
        run.append_ledger([entry("generate", step=1, hours=1)])
        with run.ledger_file.open("a") as file:
            file.write('{"step": 1, "phase": "upd')
        cost(path)
    assert rows_of(capsys.readouterr().out)["total"][1] == "8.0000"


def test_requests_tokens_and_dollars_have_a_table_where_there_are_any(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")

    def asked(step: int, requests: int, *, status: str = "ok", dollars: float) -> LedgerEntry:
        return replace(
            entry("score", step=step, hours=1, status=status),
            requests=requests,
            input_tokens=1_000_000_000 * requests,
            output_tokens=1_000 * requests,
            dollars=dollars,
        )

    first = [entry("generate", step=1, hours=1), asked(1, 5, dollars=1.25)]
    cost(write_run(tmp_path / "run", [*first, asked(2, 2, dollars=0.0, status="failed")]))
    out = capsys.readouterr().out
    assert "\u2026" not in out
    table = out.partition("asked of remote models")[2].splitlines()
    rows = [re.split(r"\s{2,}", line.strip()) for line in table]
    assert [cells for cells in rows if len(cells) == 5] == [
        ["phase", "requests", "input tokens", "output tokens", "dollars"],
        ["score", "5", "5,000,000,000", "5,000", "1.2500"],
        ["failed", "2", "2,000,000,000", "2,000", "-"],
        ["total", "7", "7,000,000,000", "7,000", "1.2500"],
    ]
    cost(write_run(tmp_path / "alone", [entry("generate", step=1, hours=1)]))
    assert "remote" not in capsys.readouterr().out


def test_a_ledger_from_before_requests_and_components_were_counted_is_read(tmp_path, capsys):
    run = write_run(tmp_path / "run", [entry("generate", step=1, hours=1)])
    file = RunDir(run).ledger_file
    row = json.loads(file.read_text())
    later = ("requests", "input_tokens", "output_tokens", "dollars", "flops_by", "tokens_by")
    for name in (*later, "energy_joules"):
        del row[name]
    file.write_text(json.dumps(row) + "\n")
    assert RunDir(run).ledger() == [entry("generate", step=1, hours=1)]
    cost(run)
    assert rows_of(capsys.readouterr().out)["total"][1] == "8.0000"


def test_runs_that_led_to_the_start_are_added(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    first = write_run(
        tmp_path / "first",
        [
            entry("generate", step=1, hours=2),
            entry("update", step=2, hours=1),
            entry("update", step=3, hours=7),
        ],
    )
    (first / "checkpoints" / "step_000002").mkdir(parents=True)
    with RunDir.create_or_open(tmp_path / "second", recipe={}, prompt_hash="") as run:
        run.record_origin(str(first / "checkpoints" / "step_000002"))
        run.append_ledger([entry("generate", step=1, hours=0.5)])
    cost(tmp_path / "second")
    lines = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    hours = {cells[0]: float(cells[2]) for cells in lines if len(cells) == 5 and cells[0] != "run"}
    assert hours == {"first": 8 * 3, "second": 8 * 0.5, "total": 8 * 3.5}


def test_of_an_evaluation_the_cost_is_shown_by_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = LedgerEntry(
        step=0, phase="evaluate", seconds=1800, num_devices=2, device="cpu", tokens=5, dollars=1.5
    )
    rows = [{"benchmark": name, **asdict(entry)} for name in ("math500", "gsm8k", "gsm8k")]
    append_jsonl(tmp_path / "ledger.jsonl", rows)
    cost(tmp_path, price=3.0)
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    assert "1.0000" in lines["math500"]
    assert "2.0000" in lines["gsm8k"]
    assert "3.0000" in lines["total"]
    assert "4.5000" in lines["total"]
    assert "13.5000" in lines["total"], "three device-hours at 3, and 4.5 dollars"
