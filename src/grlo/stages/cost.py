"""`grlo cost`: what a run has cost, by phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from grlo.errors import CheckpointError, RecipeError
from grlo.ledger import PhaseTotal, add_up, summarize
from grlo.reporting.costs import MFU, known_columns, recorded_prices
from grlo.reporting.tables import duration, make_table, percent
from grlo.rundir import RunDir, evaluation_ledger
from grlo.settings import PriceSettings
from grlo.types import LedgerEntry

_FRUITLESS = ("failed", "repeated")
"""Rows of work that the run does not rest on; they come last."""


def cost(run_dir: Path, *, price: float | None = None) -> None:
    """Prints device-hours, tokens, FLOPs and memory by phase; rows add up to the total.

    Of an evaluation it prints them by benchmark.

    Further tables have energy and money by phase, tokens and FLOPs by component, requests to remote
    models, and the runs that led to the one that this started from, each where there is any.

    Args:
        run_dir: A run, or the folder of an evaluation.
        price: Of a device-hour, in place of the recipe's.

    Raises:
        CheckpointError: The folder holds no run, or one that has cost nothing yet.
        RecipeError: The price is none.
    """
    if not RunDir(run_dir).recipe_file.is_file() and (found := evaluation_ledger(run_dir)):
        _show_evaluation(run_dir, found, _with_price(PriceSettings(), price))
        return
    run = RunDir.existing(run_dir)
    entries = run.ledger()
    if not entries:
        raise CheckpointError(f"{run_dir} has no ledger entries yet: no phase has ended.")
    prices = _with_price(recorded_prices(run.record()), price)
    totals = sorted(
        summarize(entries, peaks=run.peaks()),
        key=lambda total: (total.phase in _FRUITLESS, -total.device_hours),
    )
    devices = ", ".join(sorted({f"{e.num_devices} x {e.device}" for e in entries}))
    attempts = len({entry.attempt for entry in entries})
    everything = add_up("total", totals)
    console = Console()
    console.print(
        make_table(
            ["phase", "time", "device-h", "%", "tokens", "tok/s", "FLOPs", MFU],
            [_row(total) for total in [*totals, everything]],
            title=f"{run_dir}: {devices}, {attempts} start{'s' if attempts > 1 else ''}",
        )
    )
    console.print(
        "failed: phases that ended in an error. repeated: work that a resume did again. FLOPs are "
        "estimates from shapes and lengths of what the models take, without what gradient "
        "checkpointing computes again. MFU: what completed phases took of what the devices could "
        "have done in that time, by the peak measured when the run began."
    )
    if ahead := sum(total.overlapped_seconds for total in totals):
        console.print(
            f"{duration(ahead)} of drawing answers ahead passed beside other phases and stand in "
            "their time; tok/s and MFU of generate count them."
        )
    further = {"GiB": _memory} | known_columns(totals, prices)
    further.pop(MFU, None)
    rows = [
        [total.phase, *(column(total) for column in further.values())]
        for total in [*totals, everything]
    ]
    console.print(make_table(["phase", *further], rows, title="memory, energy and money"))
    energy = " Wh: of whole devices, by their own counters." if "Wh" in further else ""
    console.print(f"GiB: peak of memory per process.{energy} {_money_note(prices)}")
    if everything.flops_by:
        console.print(
            make_table(
                ["component", "tokens", "FLOPs", "% of FLOPs"],
                [*_component_rows(everything)],
                title="by component",
            )
        )
        console.print(
            "engine: generation. tokens: those that went through the model, a prompt once where "
            "its samples share it."
        )
    if everything.usage.requests:
        console.print(
            make_table(
                ["phase", "requests", "input tokens", "output tokens", "dollars"],
                [_remote_row(total) for total in [*totals, everything] if total.usage.requests],
                title="asked of remote models",
            )
        )
        console.print(
            "requests: failed and repeated ones included; replies from a cache cost nothing. "
            "dollars: at the prices of the endpoint's settings; - without prices."
        )
    stages = [add_up(name, summarize(stage)) for name, stage in run.earlier_ledger().items()]
    if stages:
        stages.append(replace(everything, phase=str(run_dir)))
        further = known_columns(stages, prices)
        stages.append(add_up("total", stages))
        console.print(
            make_table(
                ["run", "time", "device-h", "FLOPs", "dollars", *further],
                [[*_stage_row(s), *(column(s) for column in further.values())] for s in stages],
                title="all runs that led here",
            )
        )
        console.print("Of earlier runs, what they did up to the checkpoint that was gone on from.")


def _show_evaluation(
    folder: Path, found: Mapping[str, Sequence[LedgerEntry]], prices: PriceSettings
) -> None:
    totals = [add_up(name, summarize(entries)) for name, entries in found.items()]
    further = known_columns(totals, prices)
    totals.append(add_up("total", totals))
    rows = [
        [*_stage_row(t), f"{t.tokens:,}", *(column(t) for column in further.values())]
        for t in totals
    ]
    columns = ["benchmark", "time", "device-h", "FLOPs", "dollars", "tokens", *further]
    Console().print(make_table(columns, rows, title=f"{folder}: drawing and grading answers"))


def _with_price(prices: PriceSettings, price: float | None) -> PriceSettings:
    if price is None:
        return prices
    try:
        return replace(prices, device_hour=price)
    except ValueError as error:
        raise RecipeError(f"--price {price}: {error}.") from error


def _money_note(prices: PriceSettings) -> str:
    if not prices.device_hour:
        return "No price of a device-hour is known (`--price`, or prices.device_hour)."
    remote = "with" if prices.currency == "USD" else "without"
    return (
        f"{prices.currency}: device-hours at {prices.device_hour:,.6g} each, {remote} the dollars "
        "of remote models."
    )


def _component_rows(everything: PhaseTotal) -> Iterator[list[str]]:
    """Rows that add up to the FLOPs of the total."""
    flops, tokens = dict(everything.flops_by), everything.tokens_by
    rest = everything.flops - sum(flops.values())
    if rest > 1e-6 * everything.flops:
        flops["not recorded"] = rest  # By a version that knew no components.
    for name, count in sorted(flops.items(), key=lambda item: -item[1]):
        share = percent(count / everything.flops if everything.flops else None)
        yield [name, _short(tokens[name]) if name in tokens else "-", f"{count:.2e}", share]


def _stage_row(total: PhaseTotal) -> list[str]:
    return [
        Path(total.phase).name,
        duration(total.seconds),
        f"{total.device_hours:.4f}",
        f"{total.flops:.2e}",
        f"{total.usage.dollars:,.4f}" if total.usage.dollars else "-",
    ]


def _row(total: PhaseTotal) -> list[str]:
    is_one_phase = total.phase not in ("total", *_FRUITLESS)
    took = total.seconds + total.overlapped_seconds
    has_speed = is_one_phase and total.tokens and took
    return [
        total.phase,
        duration(total.seconds),
        f"{total.device_hours:.4f}",
        percent(total.share),
        _short(total.tokens) if total.tokens else "-",
        _short(total.tokens / took) if has_speed else "-",
        f"{total.flops:.2e}" if total.flops else "-",
        percent(total.utilization),
    ]


def _memory(total: PhaseTotal) -> str:
    return f"{total.peak_memory_bytes / 2**30:.2f}"


def _remote_row(total: PhaseTotal) -> list[str]:
    usage = total.usage
    return [
        total.phase,
        f"{usage.requests:,}",
        f"{usage.input_tokens:,}",
        f"{usage.output_tokens:,}",
        f"{usage.dollars:,.4f}" if usage.dollars else "-",
    ]


def _short(count: float) -> str:
    """A count in three significant digits: 940, 5.05K, 171K, 1.2M."""
    for unit in ("", "K", "M", "G"):
        if count < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}T"
