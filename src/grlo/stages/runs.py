"""What the stages that train have in common: going on where a run stopped, and stopping it."""

from __future__ import annotations

import platform
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from grlo.errors import CheckpointError, LostRankError
from grlo.model_shape import ModelShape, shape_from_config
from grlo.modeling.adapters import class_name, plain_model
from grlo.peak import measure_peak
from grlo.prompts.manifests import data_records, in_words
from grlo.rewards import single_rewards
from grlo.rollout import ChatRenderer, check_compatible
from grlo.rundir import RunDir
from grlo.settings import Dtype, ModelSettings
from grlo.training import checkpoint
from grlo.training.models import DTYPES


def choose_device(name: str) -> str:
    """`auto` is `cuda` when there is one, else `cpu`; other names stay as they are."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def open_policy(policy: ModelSettings, *, num_threads: int) -> ChatRenderer:
    """Sets the number of threads and makes the policy's renderer; no weights are loaded.

    Raises:
        ModelError: There is no such model, or its tokenizer does not fit it.
    """
    disable_progress_bar()  # Ours says what is being loaded.
    if num_threads:
        torch.set_num_threads(num_threads)
    renderer = ChatRenderer.from_pretrained(
        policy.model, revision=policy.revision, template=policy.template
    )
    config = AutoConfig.from_pretrained(policy.model, revision=policy.revision)
    check_compatible(renderer.max_token_id, vocab_size=config.get_text_config().vocab_size)
    return renderer


def begin(run: RunDir, *, start: int, num_steps: int, model: str) -> int:
    """Says where a run goes on and forgets what lies behind that; a new run keeps its origin.

    Returns:
        Number of this start, 0 for the first.
    """
    if start:
        print(f"resuming {run.path} after step {start} of {num_steps}")
    else:
        run.record_origin(model)
    run.truncate_after(start)
    return run.next_attempt()


def record_data(sources: Sequence[str]) -> list[dict[str, Any]]:
    """What is recorded of the files that a run draws from; files that were changed are named."""
    records = data_records(sources)
    for record in records:
        print(in_words(record))
    return records


def machine(device: str, *, dtype: Dtype) -> dict[str, object]:
    """What a run's record says of the machine; measures its peak in the type of matrix products."""
    return {
        "device": device,
        "host": platform.node(),
        "platform": platform.platform(),
        "peak_flops": _peak(device, dtype, num_threads=torch.get_num_threads()),
        "peak_dtype": dtype,
    }


@cache
def _peak(device: str, dtype: Dtype, *, num_threads: int) -> float:
    """Measured once, where a process makes several runs."""
    return measure_peak(device, DTYPES[dtype])


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
def stop_requests(*, is_alone: bool = True) -> Iterator[StopRequest]:
    """First Ctrl-C (or SIGTERM): finish the step, save, leave. Second: leave at once.

    Args:
        is_alone: No other process takes part. Else SIGTERM, which launchers send when one of them
            has ended, is no request: the step could never be finished.

    Raises:
        LostRankError: SIGTERM, and this process is not alone.
    """
    request = StopRequest()

    def handle(number: int, frame: object) -> None:
        if number == signal.SIGTERM and not is_alone:
            raise LostRankError(
                "ended by SIGTERM, as all processes of a run are when one of them has ended. The "
                "newest checkpoint is intact; the same command resumes."
            )
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
    plain = plain_model(model)
    # A configuration names the class that was saved, which may have another head.
    return shape_from_config(plain.config.to_dict() | {"architectures": [class_name(plain)]})


def reward_shapes(reward: object) -> tuple[tuple[ModelShape, frozenset[str]], ...]:
    """Sizes of the reward models in the settings of a reward, each with the styles it scores."""
    return tuple(
        (shape_from_config(AutoConfig.from_pretrained(model).to_dict()), frozenset(part.styles))
        for part in single_rewards(reward)
        if isinstance(model := getattr(part.settings, "model", None), str)
    )


def num_adapter_weights(model: nn.Module) -> int | None:
    """Weights of the adapters that are trained; None where the model itself is."""
    if plain_model(model) is model:
        return None
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
