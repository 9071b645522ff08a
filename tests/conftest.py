"""What all tests share: one thread, and the folder of real data when there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real prompts and benchmarks; tests that need it skip without it."""
    path = os.environ.get("GRLO_DATA")
    if not path:
        pytest.skip("GRLO_DATA is not set: real data is not here")
    return Path(path)
