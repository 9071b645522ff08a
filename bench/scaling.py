"""How cost grows with response length, group size, batch and model, beside TRL and the arithmetic.

    python bench/scaling.py [--full]

Every row is one GRPO step of both trainers on random models whose answers run to the limit, in
float32 on one thread (`trl_step.py` says how they are made equal). A trainer takes all steps of a
model in one process, after one of warm-up. `--full` adds batches of 64 prompts.

Along each axis the arithmetic says how tokens per CPU-second should change: inversely to the
operations per drawn token (`beside_trl/floor.py`). Marked are rows in which ours is slower than
TRL (`SLOWER`), and rows in which ours falls short of what the row before it on the same axis
predicts by more than the margin (`FALLS`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from beside_trl.cases import Case
from beside_trl.launch import run

Cell = tuple[str, int, int, int]
"""Model, prompts, samples, length of answers."""

LENGTHS, GROUPS, BATCHES = (32, 64, 128, 256), (2, 8, 16), (8, 64)
BASE: Cell = ("0.9M", 8, 8, 128)

Found = dict[str, Any]


def grid(*, full: bool) -> list[Cell]:
    """All lengths by all groups of the small model; single axes of the rest."""
    cells = [("0.9M", 8, group, length) for length in LENGTHS for group in GROUPS]
    cells += [("10M", 8, 8, length) for length in (LENGTHS if full else (32, 128))]
    if full:
        cells += [("0.9M", 64, 8, length) for length in LENGTHS]
        cells += [("0.9M", 64, group, 128) for group in GROUPS]
        cells += [("10M", 8, group, 128) for group in GROUPS]
        cells += [("10M", 64, 8, 32)]
    else:
        cells += [("0.9M", 64, 8, 32)]
    return list(dict.fromkeys(cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="about 15 minutes on a core at rest")
    parser.add_argument("--margin", type=float, default=0.15)
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    options = parser.parse_args()
    cells = grid(full=options.full)
    found = measure(cells)
    notes = {
        cell: [
            *(["SLOWER"] if found["trl"][cell]["cpu"] < found["ours"][cell]["cpu"] else []),
            *falls(cell, found["ours"], margin=options.margin),
        ]
        for cell in cells
    }
    print_table(found, notes)
    bad = sum(map(bool, notes.values()))
    print(f"{bad} of {len(cells)} rows marked; margin {options.margin:.0%}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                **dict(zip(("model", "prompts", "samples", "length"), cell, strict=True)),
                "ours": found["ours"][cell],
                "trl": found["trl"][cell],
                "marks": notes[cell],
            }
            for cell in cells
        ]
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def measure(cells: Sequence[Cell]) -> dict[str, dict[Cell, Found]]:
    """CPU-seconds, tokens and operations of a step, for `ours` and `trl`."""
    found: dict[str, dict[Cell, Found]] = {"ours": {}, "trl": {}}
    for model in dict.fromkeys(cell[0] for cell in cells):
        with tempfile.TemporaryDirectory() as folder:
            warm = Case(
                model=model,
                folder=folder,
                num_prompts=8,
                num_samples=2,
                max_tokens=32,
                warmup_steps=0,
                steps=1,
            )
            run("prepare", [warm])
            chosen = [cell for cell in cells if cell[0] == model]
            cases = [
                replace(warm, num_prompts=prompts, num_samples=group, max_tokens=length)
                for _, prompts, group, length in chosen
            ]
            for side in found:
                _, *runs = run(side, [warm, *cases])
                for cell, told in zip(chosen, runs, strict=True):
                    seconds = told["seconds"]["cpu"]
                    found[side][cell] = {
                        "cpu": seconds["total"],
                        "phases": seconds,
                        "tokens": told["tokens"],
                        "flops": told["flops"]["total"],
                        "rate": max(told["matrix_rates"].values()),
                    }
    return found


def speed(told: Mapping[str, float]) -> float:
    return told["tokens"] / told["cpu"]


def predicted(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Tokens per second by the operations per token, from another cell's speed."""
    work_before, work_now = (told["flops"] / told["tokens"] for told in (before, now))
    return speed(before) * work_before / work_now


def falls(cell: Cell, found: Mapping[Cell, Found], *, margin: float) -> list[str]:
    """`FALLS` with the axis, where the next smaller cell of that axis promised more."""
    marks = []
    for place, axis in enumerate(("model", "prompts", "samples", "length")):
        line = [
            other
            for other in found
            if all(other[i] == cell[i] for i in range(len(cell)) if i != place)
        ]
        line.sort(key=lambda other: found[other]["flops"])
        for before, now in pairwise(line):
            if now == cell and speed(found[now]) < (1 - margin) * predicted(
                found[before], found[now]
            ):
                marks.append(f"FALLS with {axis}")
    return marks


def print_table(
    found: Mapping[str, Mapping[Cell, Found]], notes: Mapping[Cell, Sequence[str]]
) -> None:
    print(
        "model prompts samples length   ours s    TRL s  ratio  ours tok/s  TRL tok/s"
        "  by arithmetic  of floor's rate"
    )
    first: dict[str, Found] = {side: cells[BASE] for side, cells in found.items()}
    for cell, marks in notes.items():
        ours, trl = found["ours"][cell], found["trl"][cell]
        model, prompts, samples, length = cell
        share = ours["flops"] / ours["rate"] / ours["cpu"]
        print(
            f"{model:5} {prompts:7} {samples:7} {length:6} {ours['cpu']:8.2f} {trl['cpu']:8.2f} "
            f"{trl['cpu'] / ours['cpu']:6.2f} {speed(ours):11.0f} {speed(trl):10.0f} "
            f"{predicted(first['ours'], ours):14.0f} {share:16.0%}"
            f"  {', '.join(marks)}"
        )
    print(f"by arithmetic: from the speed of ours at {BASE}")


if __name__ == "__main__":
    main()
