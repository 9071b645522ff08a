"""Processor seconds of a GRPO step: this package beside TRL's GRPOTrainer.

    pip install -c constraints.txt '.[bench]' && python bench/trl_step.py

Both start from the same checkpoints and take steps of 64 prompts x 8 samples of up to 128 tokens,
scored by the same reward model, one update a step, in float32. Every measurement is a process of
its own that takes a step of warm-up first; the two take turns, and ratios are of neighbours. First
the gradients of both are compared on one fixed batch (`beside_trl/agreement.py`).

Models: the embedded miniature, whose answers end by themselves, and random ones of 0.9M and 10M
parameters. All answers of these run to the limit; with `-spread` lengths are those of a
base model, geometric with a mean of 40 % of the limit.

Beside each figure stands its share of the floor: the operations that the task needs over the best
rate of matrix products in that process (`beside_trl/floor.py`). `--profile` says of what kinds of
operators the time of ours consists.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from beside_trl.cases import GRADIENT_LIMIT, MEAN_LENGTH, MODELS, SPREAD, Case
from beside_trl.launch import run

PHASES = ("generation", "scoring", "training", "total")

Found = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["0.9M", "0.9M-spread"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--beta", nargs="+", type=float, default=[0.0, 0.04])
    parser.add_argument("--prompts", type=int, default=64, help="of a step")
    parser.add_argument("--samples", type=int, default=8, help="of a prompt")
    parser.add_argument("--max-tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--steps", type=int, default=1, help="counted steps of a measurement")
    parser.add_argument("--repeats", type=int, default=1, help="measurements of each trainer")
    parser.add_argument("--trl-rows", type=int, default=64, help="rows of TRL's micro-batch")
    parser.add_argument("--profile", action="store_true", help="where the time of ours goes")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    options = parser.parse_args()
    found: Found = {"options": {k: str(v) for k, v in vars(options).items()}, "cases": []}
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            case = Case(
                model=model,
                folder=folder,
                num_prompts=options.prompts,
                num_samples=options.samples,
                max_tokens=options.max_tokens,
                steps=options.steps,
                trl_rows=options.trl_rows,
            )
            (found["environment"],) = run("prepare", [case])
            for beta in options.beta:
                # Agreement first: a ratio of unequal things would say nothing.
                checked = agree(replace(case, beta=beta))
                for threads in options.threads:
                    told = compare(
                        replace(case, beta=beta, threads=threads),
                        repeats=options.repeats,
                        profile=options.profile,
                    )
                    found["cases"].append(told | {"agreement": checked})
                    if options.json:
                        options.json.parent.mkdir(parents=True, exist_ok=True)
                        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print_summary(found["cases"])


def print_summary(cases: Sequence[Found]) -> None:
    """One line a case."""
    print("\nTRL / ours, end to end: processor seconds of a step, and of a drawn token")
    for told in cases:
        name = f"{told['model']}, beta {told['beta']:g}, {told['threads']} thread(s)"
        shape = f"{told['prompts']} x {told['samples']} x {told['max_tokens']}"
        summary = told["summary"]["cpu"]
        print(
            f"{name:36} {shape:14} {spread(summary['total']['ratio']):20} "
            f"{spread(summary['per token']['ratio'])}"
        )


def agree(case: Case) -> Found:
    """Compares gradients on a small batch of the case; ends the program where they differ."""
    small = replace(case, num_prompts=8, num_samples=4, max_tokens=min(64, case.max_tokens))
    (found,) = run("agreement", [small])
    for loss_type, result in found.items():
        print(
            f"gradients {case.model} beta {case.beta:g}, TRL's {loss_type} and "
            f"{result['reduction']}: difference {result['overall']:.1e} of the norm, "
            f"{result['largest']:.1e} at most in a weight",
            flush=True,
        )
        if not result["largest"] < GRADIENT_LIMIT:
            raise SystemExit(
                f"gradients differ by more than {GRADIENT_LIMIT:g}: nothing to compare"
            )
    return found


def compare(case: Case, *, repeats: int, profile: bool) -> Found:
    """Measures both trainers by turns and prints the table of a case."""
    runs: dict[str, list[Found]] = {"ours": [], "trl": []}
    for repeat in range(repeats):
        for side in ("ours", "trl") if repeat % 2 == 0 else ("trl", "ours"):
            runs[side] += run(side, [case])
    told: Found = {
        "model": case.model,
        "beta": case.beta,
        "threads": case.threads,
        "prompts": case.num_prompts,
        "samples": case.num_samples,
        "max_tokens": case.max_tokens,
        "runs": runs,
    }
    told["summary"] = {
        clock: summarize(runs["ours"], runs["trl"], clock=clock)
        for clock in (["cpu"] if case.threads == 1 else ["cpu", "wall"])
    }
    print_case(case, told)
    if profile:
        (told["profile"],) = run("profile", [case])
        print_profile(told["profile"])
    return told


def summarize(ours: Sequence[Found], trl: Sequence[Found], *, clock: str) -> Found:
    """Medians of each phase, and the ratio of each pair of neighbours.

    The two draw other answers, so `per token` compares what a drawn token costs.
    """
    found: Found = {}
    for phase in PHASES:
        rows = {
            side: [run["seconds"][clock][phase] for run in runs]
            for side, runs in (("ours", ours), ("trl", trl))
        }
        pairs = [theirs / mine for mine, theirs in zip(rows["ours"], rows["trl"], strict=True)]
        found[phase] = {
            "ours": median(rows["ours"]),
            "trl": median(rows["trl"]),
            "ratio": [median(pairs), min(pairs), max(pairs)],
            "floor": {side: floor_of(runs, phase) for side, runs in (("ours", ours), ("trl", trl))},
        }
    pairs = [
        (theirs["seconds"][clock]["total"] / theirs["tokens"])
        / (mine["seconds"][clock]["total"] / mine["tokens"])
        for mine, theirs in zip(ours, trl, strict=True)
    ]
    found["per token"] = {
        "ours": median(run["tokens"] / run["seconds"][clock]["total"] for run in ours),
        "trl": median(run["tokens"] / run["seconds"][clock]["total"] for run in trl),
        "ratio": [median(pairs), min(pairs), max(pairs)],
    }
    return found


def floor_of(runs: Sequence[Found], phase: str) -> float:
    """Processor seconds that the operations take at the best rate of any run."""
    rate = max(rate for run in runs for rate in run["matrix_rates"].values())
    return median(run["flops"][phase] for run in runs) / rate


def print_case(case: Case, told: Found) -> None:
    runs = told["runs"]
    lengths = {side: median(run["mean_length"] for run in runs[side]) for side in runs}
    print(
        f"\n{case.model}, beta {case.beta:g}, {case.threads} thread(s), {case.num_prompts} x "
        f"{case.num_samples} x {case.max_tokens}; mean length ours {lengths['ours']:.1f}, TRL "
        f"{lengths['trl']:.1f}"
    )
    if case.model.endswith(SPREAD):
        wanted = MEAN_LENGTH * case.max_tokens
        if abs(lengths["ours"] / wanted - 1) > 0.1:
            print(f"  note: the mean length should be near {wanted:.0f}")
    for clock, summary in told["summary"].items():
        print(
            f"  {clock + ' seconds':12} {'ours':>8} {'TRL':>8}  {'TRL / ours (spread)':22}"
            f"{'floor':>7} {'ours':>6} {'TRL':>6} of the floor's rate"
        )
        for phase in PHASES:
            row = summary[phase]
            floor = row["floor"]
            shares = ""
            if clock == "cpu":
                shares = (
                    f"{floor['ours']:7.2f} {floor['ours'] / row['ours']:6.0%} "
                    f"{floor['trl'] / row['trl']:6.0%}"
                )
            times = f"{row['ours']:8.2f} {row['trl']:8.2f}"
            print(f"  {phase:12} {times}  {spread(row['ratio']):22}{shares}")
        row = summary["per token"]
        print(
            f"  {'tokens/s':12} {row['ours']:8.0f} {row['trl']:8.0f}  {spread(row['ratio'])}",
            flush=True,
        )
    peaks = {side: max(run["peak_rss_bytes"] for run in runs[side]) / 2**30 for side in runs}
    rates = {
        side: max(max(run["matrix_rates"].values()) for run in runs[side]) / 1e9 for side in runs
    }
    (best, *_) = runs["ours"][0]["matrix_rates"]
    print(
        f"  peak memory of the process: ours {peaks['ours']:.2f}, TRL {peaks['trl']:.2f} GiB; "
        f"products: {rates['ours']:.0f} and {rates['trl']:.0f} GFLOP per CPU-second ({best})"
    )


def spread(ratio: Sequence[float]) -> str:
    middle, low, high = ratio
    return f"{middle:5.2f} ({low:.2f}-{high:.2f})"


def print_profile(phases: dict[str, dict[str, float]]) -> None:
    print("  time of ours by kind of operator:")
    for phase, shares in phases.items():
        told = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
        print(f"    {phase:11} {told}")


if __name__ == "__main__":
    main()
