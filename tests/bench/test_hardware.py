"""The table of which hardware fits which model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "bench" / "hardware.py"


@pytest.fixture(scope="module")
def hardware() -> Any:
    spec = importlib.util.spec_from_file_location("hardware", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_more_memory_and_more_devices_never_hold_less(hardware: Any) -> None:
    for way in hardware.WAYS:
        for shape in hardware.POLICIES.values():
            cells = [
                hardware.planned(way, shape, num_devices=count, gigabytes=size).fits
                for count, size in [(1, 24), (1, 80), (1, 141), (8, 141)]
            ]
            assert cells == sorted(cells)


def test_cells_say_how_models_are_divided_and_what_waits(hardware: Any) -> None:
    policies = hardware.POLICIES
    ppo = "PPO, all weights"
    small = hardware.planned(ppo, policies["Qwen3-0.6B"], num_devices=1, gigabytes=141)
    assert hardware.cell(small) == f"{small.peak_bytes / 1e9:.0f} GB"
    large = hardware.planned(ppo, policies["Qwen3-8B"], num_devices=8, gigabytes=141)
    assert hardware.cell(large).endswith("; fsdp")
    tight = hardware.planned(ppo, policies["Qwen3-4B"], num_devices=1, gigabytes=141)
    assert "waiting: RM" in hardware.cell(tight)
    never = hardware.planned(ppo, policies["Qwen3-32B"], num_devices=1, gigabytes=80)
    assert hardware.cell(never) == "no"
