"""Energy of an accelerator, read from the counter that its driver keeps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def energy_reader(device: str) -> Callable[[], float | None]:
    """What reads the energy that a device has taken since its driver was loaded, in joules.

    NVML tells it for NVIDIA's GPUs from Volta on; the extra `energy` brings its bindings. A part of
    a GPU (MIG) has no counter. Whatever is missing or refused, the reader gives None: a run goes on
    without.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, ...
    """
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return lambda: None
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
        # NVML counts all GPUs of the machine, torch those that CUDA_VISIBLE_DEVICES shows, and not
        # always in the same order: the UUID is the same.
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
    except Exception:  # NVML's own error class is in a package that may be missing.
        return lambda: None
    return lambda: _joules(pynvml, handle)


def _joules(nvml: Any, handle: object) -> float | None:
    try:
        return nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000  # Millijoules.
    except nvml.NVMLError:
        return None
