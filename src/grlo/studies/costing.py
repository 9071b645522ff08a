"""What the arms of a study have cost, from their ledgers."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from grlo.ledger import summarize
from grlo.studies.findings import ArmCost, Match
from grlo.studies.results import ArmRun
from grlo.training.budget import TRAINING_PHASES
from grlo.types import LedgerEntry


def arm_cost(runs: Sequence[ArmRun], *, prices: Mapping[str, float]) -> ArmCost | None:
    """Mean over seeds of what an arm has cost, earlier stages included; None without training.

    Args:
        runs: Of the arm.
        prices: Device -> price of an hour.
    """
    trained = [run for run in runs if run.record]
    if not trained:
        return None
    of_seeds = [_entries(run) for run in trained]
    charged = [
        [e for e in entries if e.phase in TRAINING_PHASES and e.status == "ok"]
        for entries in of_seeds
    ]

    def mean(name: str) -> float:
        return statistics.fmean(run.spent[name] for run in trained)

    energies = [_energy(entries) for entries in charged]
    moneys = [_money(entries, prices) for entries in charged]
    return ArmCost(
        device_hours=mean("device_hours"),
        flops=mean("flops"),
        generated_tokens=mean("generated_tokens"),
        trained_tokens=mean("trained_tokens"),
        prompts=mean("prompts"),
        distinct_prompts=statistics.fmean(run.num_different for run in trained),
        other_hours=_mean_of([_uncharged(run) for run in trained]),
        phases=_mean_of([_by_phase(entries) for entries in charged]),
        components=_mean_of([_by_component(entries) for entries in charged]),
        money=None if None in moneys else statistics.fmean(m for m in moneys if m is not None),
        energy_joules=None
        if None in energies
        else statistics.fmean(e for e in energies if e is not None),
        utilisation=_utilisation(trained, charged),
        peak_memory_bytes=max(e.peak_memory_bytes for entries in of_seeds for e in entries),
        devices=tuple(
            sorted({f"{e.num_devices} x {e.device}" for entries in charged for e in entries})
        ),
    )


def match(runs: Sequence[ArmRun]) -> Match | None:
    """How near the arm came to its budget; None for one without."""
    found = [run.facts for run in runs if "budget" in run.facts]
    if not found:
        return None
    gaps = [facts["spent"] / facts["budget"] - 1 for facts in found]
    return Match(
        by=found[0]["by"],
        budget=statistics.fmean(facts["budget"] for facts in found),
        spent=statistics.fmean(facts["spent"] for facts in found),
        largest_difference=max(gaps, key=abs),
    )


def charged_hours(ledger: Sequence[LedgerEntry]) -> dict[int, float]:
    """Step -> device-hours of training up to its end; the last attempt at a step counts."""
    last = {entry.step: entry.attempt for entry in ledger}
    found: dict[int, float] = {}
    total = 0.0
    for step in sorted(last):
        total += sum(
            entry.seconds * entry.num_devices / 3600
            for entry in ledger
            if entry.step == step
            and entry.attempt == last[step]
            and entry.phase in TRAINING_PHASES
            and entry.status == "ok"
        )
        found[step] = total
    return found


def _entries(run: ArmRun) -> list[LedgerEntry]:
    return [*(entry for stage in run.earlier for entry in stage), *run.ledger]


def _uncharged(run: ArmRun) -> dict[str, float]:
    hours: dict[str, float] = defaultdict(float)
    for stage in (*run.earlier, run.ledger):
        for total in summarize(stage):
            if total.phase not in TRAINING_PHASES:
                hours[total.phase] += total.device_hours
    hours["benchmarks"] = sum(e.seconds * e.num_devices for e in run.evaluation) / 3600
    return dict(hours)


def _by_phase(entries: Sequence[LedgerEntry]) -> dict[str, float]:
    hours: dict[str, float] = defaultdict(float)
    for entry in entries:
        hours[entry.phase] += entry.seconds * entry.num_devices / 3600
    return dict(hours)


def _by_component(entries: Sequence[LedgerEntry]) -> dict[str, float]:
    flops: dict[str, float] = defaultdict(float)
    for entry in entries:
        for name, own in entry.flops_by.items():
            flops[name] += own
    return dict(flops)


def _mean_of(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: statistics.fmean(table.get(name, 0.0) for table in tables) for name in names}


def _money(entries: Sequence[LedgerEntry], prices: Mapping[str, float]) -> float | None:
    if any(entry.device not in prices for entry in entries):
        return None
    return sum(
        entry.seconds * entry.num_devices / 3600 * prices[entry.device] + entry.dollars
        for entry in entries
    )


def _energy(entries: Sequence[LedgerEntry]) -> float | None:
    known = [entry.energy_joules for entry in entries if entry.energy_joules is not None]
    return sum(known) if entries and len(known) == len(entries) else None


def _utilisation(runs: Sequence[ArmRun], charged: Sequence[Sequence[LedgerEntry]]) -> float | None:
    shares = []
    for run, entries in zip(runs, charged, strict=True):
        seconds = sum(entry.seconds * entry.num_devices for entry in entries)
        if run.peak_flops is None or not seconds:
            return None
        shares.append(sum(entry.flops for entry in entries) / seconds / run.peak_flops)
    return statistics.fmean(shares)
