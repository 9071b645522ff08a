"""One GPU in each phase of a step, and what the published schedule would take on it.

    PYTHONPATH=src python bench/gpu.py --json gpu.json           # about 10 minutes on an H200
    PYTHONPATH=src python bench/gpu.py --tiny --device cpu       # every section in small, anywhere

Random models in the shapes of Qwen3-4B (policy) and Llama-3.1-8B (reward model). Sections:

- ceilings: bandwidth of a copy, FLOP per second of bfloat16 products
- generation: steps of decoding at several lengths, and answers of unlike lengths, by the reference
  engine (with and without CUDA graphs) and by transformers
- scoring: the reward model, in this package's batches and in plain ones
- learning: annotation and update, with and without packing, shared prompts and gradient
  checkpointing, and by transformers alone; weights to the engine
- published: the published recipe's models together, in every phase of a step, and what the memory
  plan estimates
- sharding: a learner of a billion weights, whole and in the shards of FSDP2, on the same GPU
- vllm: generation by vLLM, where it is installed

Every section is a process of its own with a time limit: it leaves no memory behind, and what it
has measured stays if it runs out of memory or time. Needs torch and transformers only. MFU counts
the operations that the models take (`grlo.training.flops`) against the measured peak. The exit
status is 1 if a section failed in another way than by want of memory or time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from one_gpu.projection import Schedule, project, step_floor

# Module, function and most seconds of each section, in order.
SECTIONS = {
    "ceilings": ("ceilings", "run", 60),
    "generation": ("generation", "run", 170),
    "scoring": ("scoring", "run", 110),
    "learning": ("learning", "run", 200),
    "published": ("published", "run", 150),
    "sharding": ("sharding", "run", 90),
    "vllm": ("generation", "run_vllm", 180),
}
RESPONSE_LENGTHS = (512, 1500, 3072)
CHECKPOINT_BYTES = 12e9
"""Room that the policy's checkpoint needs."""

FAILURES = ("error", "out_of_memory", "out_of_time", "skipped")

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes and few tokens")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=9.5, help="for all sections together")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options)
        return
    deadline = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(dir=roomy_folder(tiny=options.tiny)) as folder:
        rows: list[Row] = []
        for section in options.sections:
            rows += run_section(section, options, Path(folder), deadline)
        found = summarize(options, rows)
    print_ratios(rows)
    print_fit(rows)
    print_projection(found)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if any("error" in row for row in rows):
        raise SystemExit(1)


def run_section(
    section: str, options: argparse.Namespace, folder: Path, deadline: float
) -> list[Row]:
    """Runs a section in a process of its own; its rows, whatever became of it."""
    limit = min(SECTIONS[section][2], deadline - time.monotonic())
    if limit <= 0:
        return [{"section": section, "name": section, "skipped": "no time left"}]
    print(f"{section} (at most {limit:.0f} s)", flush=True)
    command = [sys.executable, __file__, "--part", section, "--folder", str(folder)]
    command += ["--device", options.device, *(["--tiny"] if options.tiny else [])]
    start = time.monotonic()
    end: Row = {"section": section, "name": section}
    try:
        code = subprocess.run(command, timeout=limit, env=environment(section)).returncode
        if code:
            end["error"] = f"exit status {code}"
    except subprocess.TimeoutExpired:
        end["out_of_time"] = f"ended after {limit:.0f} s; what it had measured is kept"
    end["section_seconds"] = time.monotonic() - start
    path = folder / f"{section}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    outcome = end.get("error") or end.get("out_of_time") or "done"
    print(f"  {outcome} ({end['section_seconds']:.0f} s)", flush=True)
    return [*map(json.loads, lines), end]


def environment(section: str) -> dict[str, str]:
    """Variants of the learner ask for other sizes each; vLLM sees to its memory itself."""
    own = {} if section == "vllm" else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    return own | os.environ


def run_part(options: argparse.Namespace) -> None:
    """A section, in its own process."""
    from one_gpu.record import Record
    from one_gpu.setup import Setup

    module, function, _ = SECTIONS[options.part]
    setup = Setup(device=options.device, tiny=options.tiny, folder=options.folder)
    record = Record(options.part, Path(options.folder) / f"{options.part}.jsonl", options.device)
    getattr(importlib.import_module(f"one_gpu.{module}"), function)(setup, record)


def roomy_folder(*, tiny: bool) -> str | None:
    """Memory for the checkpoint where there is enough of it, else the usual place."""
    memory = Path("/dev/shm")
    if tiny or not memory.is_dir():
        return None
    status = os.statvfs(memory)
    return str(memory) if status.f_bavail * status.f_frsize > CHECKPOINT_BYTES else None


def summarize(options: argparse.Namespace, rows: Sequence[Row]) -> Row:
    """Everything that was measured, MFU included, and the projection."""
    import torch
    import transformers
    from one_gpu.setup import Setup

    setup = Setup(device=options.device, tiny=options.tiny, folder="")
    ceilings = {row["name"]: row for row in rows if row["section"] == "ceilings"}
    peak = ceilings.get("bf16 product", {}).get("flop_per_second")
    bandwidth = ceilings.get("copy bandwidth", {}).get("bytes_per_second")
    for row in rows:
        if peak and "flops" in row:
            row["mfu"] = row["flops"] / row["seconds"] / peak
        if peak and bandwidth and row.get("step_seconds", 0) > 0:
            floor = step_floor(
                setup.shape("policy"),
                num_rows=row["rows"],
                context=row["context"],
                bandwidth=bandwidth,
                peak=peak,
            )
            row["share_of_floor_rate"] = floor / row["step_seconds"]
    schedule = Schedule(
        policy=setup.shape("policy"),
        critic=setup.shape("critic"),
        reward=setup.shape("reward"),
        prompt_tokens=setup.prompt_tokens,
    )
    # The parent leaves the device alone until all sections are done.
    on_gpu = options.device.startswith("cuda") and torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name(options.device) if on_gpu else options.device,
        "tiny": options.tiny,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "rows": list(rows),
        "prompt_tokens": setup.prompt_tokens,
        "device_hours": {
            str(length): project(schedule, rows, length=length) for length in RESPONSE_LENGTHS
        },
    }


BESIDE = (
    ("engine, spread lengths", "transformers, spread lengths"),
    ("engine, CUDA graphs, spread lengths", "engine, spread lengths"),
    ("engine, spread lengths", "engine, masked columns, spread lengths"),
    ("vllm, spread lengths", "engine, spread lengths"),
    ("sorted batches of 32,768 tokens", "transformers, batches of 8 as they come"),
    ("eight samples a prompt", "transformers, eight samples a prompt"),
    ("packed, checkpointing", "transformers, alone"),
    ("groups: prompts shared", "transformers, groups"),
    ("packed, checkpointing", "padded, checkpointing"),
    (
        "packed, no checkpointing, micro-batch 4,096",
        "packed, checkpointing, micro-batch 4,096",
    ),
    ("groups: prompts shared", "groups: prompts not shared"),
    ("packed, checkpointing", "packed, attention in a padded grid"),
    ("groups: prompts shared", "groups: attention in a padded grid"),
    ("compiled, checkpointing", "packed, checkpointing"),
    (
        "compiled, no checkpointing, micro-batch 4,096",
        "packed, no checkpointing, micro-batch 4,096",
    ),
    ("groups: compiled", "groups: prompts shared"),
    ("compiled, sorted batches of 32,768 tokens", "sorted batches of 32,768 tokens"),
    ("1B, FSDP2, annotate", "1B, no sharding, annotate"),
    ("1B, FSDP2, update", "1B, no sharding, update"),
)


def print_ratios(rows: Sequence[Row]) -> None:
    """Tokens per second, share of the peak and memory; then one way beside another."""
    print(f"\n{'':54}{'tokens/s':>10} {'share':>6} {'peak GiB':>9}")
    for row in rows:
        if "tokens_per_second" in row:
            share = row.get("mfu", row.get("share_of_floor_rate"))
            told = f"{'':6}" if share is None else f"{share:6.1%}"
            rows_of = f" ({row['rows']} rows)" if "step_seconds" in row else ""
            name = f"{row['name']}{rows_of}"
            print(f"{name:54}{row['tokens_per_second']:10.0f} {told} {row['peak_gib']:9.1f}")
        elif reason := next((row[key] for key in FAILURES if key in row), None):
            print(f"{row['name']:54} {reason}")
    print("share: MFU; for steps of decoding, speed to that at the ceilings")
    print("\nspeed of one way to that of another, of as many rows")
    for one, other in BESIDE:
        for row in rows:
            if row["name"] != one or "tokens_per_second" not in row:
                continue
            for beside in rows:
                if beside["name"] == other and beside.get("rows") == row["rows"]:
                    ratio = row["tokens_per_second"] / beside["tokens_per_second"]
                    print(f"{ratio:6.2f}  {one} : {other} ({row['rows']} rows)")


def print_fit(rows: Sequence[Row]) -> None:
    """Whether the published recipe's models are on one device together."""
    print("\nthe published recipe's models together, GiB")
    for row in rows:
        if row["section"] != "published":
            continue
        if "device_gib" in row:
            away = ", ".join(row["offload"]) or "nothing"
            print(
                f"planned for {row['device_gib']:.0f}: micro-batches of "
                f"{row['micro_batch_tokens']:,} tokens, {away} in the CPU's memory, at most "
                f"{row['estimated_gib']:.0f}{'' if row['fits'] else ': TOO MUCH'}"
            )
        elif "peak_gib" in row:
            print(f"{row['name']:54} {row['peak_gib']:.0f}, estimated {row['estimated_gib']:.0f}")
        elif reason := next((row[key] for key in FAILURES if key in row), None):
            print(f"{row['name']:54} {reason}")


def print_projection(found: Row) -> None:
    lengths = list(found["device_hours"])
    print(
        f"\ndevice-hours of 61,440 responses (60 steps) on {found['device']}, prompts of "
        f"{found['prompt_tokens']} tokens{', TINY SHAPES' if found['tiny'] else ''}"
    )
    print(f"{'answers of':18}" + "".join(f"{length:>12}" for length in lengths))
    for phase in found["device_hours"][lengths[0]]:
        values = [found["device_hours"][length][phase] for length in lengths]
        told = "".join(f"{'-' if value is None else f'{value:.3g}':>12}" for value in values)
        print(f"{phase:18}{told}")
    print("'-' was not measured")


if __name__ == "__main__":
    main()
