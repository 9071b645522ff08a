"""Timing with peak memory, written down at once: what a kill leaves is what was measured."""

from __future__ import annotations

import contextlib
import gc
import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Record:
    """The measurements of a section, one JSON object a line."""

    section: str
    path: Path
    device: str

    def add(self, name: str, **values: Any) -> None:
        """Writes a measurement down and shows it."""
        row = {"section": self.section, "name": name, **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        told = ", ".join(f"{key} {shown(value)}" for key, value in values.items())
        print(f"  {self.section:10} {name:42} {told}", flush=True)

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Goes on after a failure, which becomes a row of its own, with the memory given back."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            # The frames of the failure hold tensors.
            traceback.clear_frames(error.__traceback__)
            self.add(name, out_of_memory=str(error).partition(".")[0])
        except Exception as error:
            traceback.print_exc()
            traceback.clear_frames(error.__traceback__)
            self.add(name, error=f"{type(error).__name__}: {error}"[:400])
        finally:
            self.release()

    def seconds(self, work: Callable[[], object]) -> tuple[float, float]:
        """Wall seconds of a call and the peak of allocated memory in GiB (0 on a CPU)."""
        is_cuda = torch.device(self.device).type == "cuda"
        if is_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        work()
        if is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return seconds, torch.cuda.max_memory_allocated() / 2**30 if is_cuda else 0.0

    def release(self) -> None:
        """Gives unused memory back to the device."""
        gc.collect()
        if torch.device(self.device).type == "cuda":
            torch.cuda.empty_cache()


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
