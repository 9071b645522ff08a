"""What the stages that train have in common: going on where a run stopped, and stopping it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from grlo.errors import CheckpointError
from grlo.estimates import ModelShape, shape_from_config
from grlo.rundir import RunDir
from grlo.training import checkpoint
from grlo.training.models import plain_model


def choose_device(name: str) -> str:
    """`auto` is `cuda` when there is one, else `cpu`; other names stay as they are."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def newest_checkpoint(run: RunDir) -> tuple[int, Path | None, dict[str, Any]]:
    """Step, folder and state of the newest checkpoint, verified; (0, None, {}) for a new run."""
    paths = run.checkpoints()
    if not paths:
        return 0, None, {}
    state = checkpoint.read_state(paths[-1])
    step = state["step"]
    if not isinstance(step, int) or paths[-1] != run.checkpoint(step):
        raise CheckpointError(f"{paths[-1]} says that it is step {step!r}; it was moved or edited.")
    return step, paths[-1], state


@dataclass
class StopRequest:
    """Whether somebody wants the run to stop."""

    stop: bool = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """First Ctrl-C (or SIGTERM): finish the step, save, leave. Second: leave at once."""
    request = StopRequest()

    def handle(number: int, frame: object) -> None:
        if request.stop:
            raise KeyboardInterrupt
        request.stop = True
        print("\nfinishing this step, then saving and stopping; Ctrl-C again stops at once")

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def model_shape(model: PreTrainedModel) -> ModelShape:
    """Sizes of a model that is in memory."""
    return shape_from_config(plain_model(model).config.to_dict())
