"""What a run needs of this machine: packages, devices, its disk and a folder of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from grlo.errors import CheckpointError
from grlo.memory.estimates import MemoryItem, estimate_memory
from grlo.model_shape import ModelShape
from grlo.prompts.sources import listed
from grlo.recipe import differences, load_dumped
from grlo.rundir import RunDir
from grlo.settings import Recipe
from grlo.stages.check_findings import Findings, size
from grlo.trackers import TRACKERS


def check_software(recipe: Recipe, findings: Findings, *, num_devices: int) -> None:
    """Optional packages and devices that the recipe asks for."""
    for name in recipe.trackers.names:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            findings.problems.append(f"trackers.names: unknown {name!r}; expected any of {known}.")
        elif importlib.util.find_spec(name) is None:
            findings.problems.append(
                f"trackers.names: {name} is not installed. Install it with: "
                f"pip install 'grlo[{name}]'"
            )
    needs_lora = recipe.policy.lora is not None or recipe.critic.lora is not None
    if needs_lora and importlib.util.find_spec("peft") is None:
        findings.problems.append(
            "policy.lora: peft is not installed. Install it with: pip install 'grlo[lora]'"
        )
    optimizers = {recipe.optimizer.name, recipe.critic.optimizer.name}
    if "adamw_8bit" in optimizers and importlib.util.find_spec("bitsandbytes") is None:
        findings.problems.append(
            "optimizer.name: bitsandbytes is not installed. Install it with: "
            "pip install 'grlo[lowbit]'"
        )
    check_training = getattr(recipe.engine, "check_training", None)
    if check_training is not None:
        with findings.collect():
            # Engines of the user's own may know of one device only.
            check_training(**({"num_ranks": num_devices} if num_devices > 1 else {}))
    _check_device(recipe.training.device, findings, key="training.device")
    _check_count(recipe.training.device, num_devices, findings)
    if isinstance(own := getattr(recipe.engine, "device", None), str):
        _check_device(own, findings, key="engine.device")


def has_device(device: str) -> bool:
    """Whether a device of `training.device` is on this machine."""
    import torch

    index = device.partition(":")[2] or "0"
    is_gpu = index.isdigit() and int(index) < torch.cuda.device_count()
    return device in ("auto", "cpu") or is_gpu


def _check_count(device: str, num_devices: int, findings: Findings) -> None:
    """Whether there are as many GPUs as the run is to have; processes on a CPU need none."""
    import torch

    from grlo.stages.runs import choose_device

    num_here = torch.cuda.device_count()
    if num_devices > 1 and choose_device(device) != "cpu" and num_devices > num_here:
        findings.absent(f"--devices {num_devices}: this machine has {num_here} GPUs")


def _check_device(device: str, findings: Findings, *, key: str) -> None:
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        findings.problems.append(f"{key}: found {device!r}, expected auto, cpu, cuda or cuda:N.")
        return
    kind, _, index = device.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        findings.absent(f"{key}: {device!r} is not on this machine")


def check_disk(
    run_dir: Path,
    recipe: Recipe,
    policy: ModelShape,
    critic: ModelShape | None,
    findings: Findings,
) -> None:
    """Whether the run directory can be written, and its disk holds the checkpoints to be kept."""
    existing = run_dir
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        findings.problems.append(f"--run {run_dir}: {existing} is not a folder that can be written")
        return
    items = estimate_memory(recipe, policy=policy, critic=critic)
    checkpoint = sum(_stored_bytes(item) for item in items)
    count = recipe.checkpoint.keep_last + recipe.checkpoint.keep_best + 1
    needed, free = count * checkpoint, shutil.disk_usage(existing).free
    print(f"disk: {count} checkpoints of {size(checkpoint)}, {size(free)} free")
    if needed > free:
        findings.problems.append(
            f"--run {run_dir}: {count} checkpoints (checkpoint.keep_last, the best, and the one "
            f"being written) take {size(needed)}, but {size(free)} are free. Keep fewer, or use "
            "another disk."
        )


def _stored_bytes(item: MemoryItem) -> int:
    """Weights of policy and critic and the optimizers' state are what a checkpoint holds."""
    is_stored = item.component.endswith(" weights") or " optimizer (" in item.component
    return item.num_bytes if is_stored else 0


def check_run(run_dir: Path, recipe: Recipe, findings: Findings) -> None:
    """A run that is there already is resumed, by the recipe that it was started with."""
    file = RunDir(run_dir).recipe_file
    if not file.is_file():
        if run_dir.is_dir() and any(run_dir.iterdir()):
            findings.problems.append(
                f"--run {run_dir} holds something that is no run. Choose a new or empty folder."
            )
        return
    with findings.collect():
        try:
            stored = load_dumped(json.loads(file.read_text(encoding="utf-8"))["recipe"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is not the recipe of a run: {error!r}") from error
        # What a run may go on without.
        training = replace(stored.training, sharding=recipe.training.sharding)
        stored = replace(stored, prices=recipe.prices, training=training)
        changes = differences(stored, recipe)
        if changes:
            raise CheckpointError(
                f"--run {run_dir} holds a run of another recipe; choose another folder, or undo:\n"
                + listed(changes)
            )
        print(f"{run_dir} holds a run of this recipe, which will be resumed")
