"""The processes of a run, and what they say to each other."""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from grlo.errors import LostRankError, RecipeError

PATIENCE = timedelta(days=7)
"""How long a message is waited for: the leader may be asking a judge. A process that has died is
noticed at once, by its closed connection."""
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""How long ranks may be apart within one piece of common work."""

LEADER_FILE = "GRLO_LEADER_FILE"
"""Environment variable: where the leader writes its process id, for who has started it."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of a run."""

    device: str
    """`cpu`, or the GPU of this process."""
    rank: int = 0
    size: int = 1
    messages: Any = None
    """A gloo group for what is not computed with: commands, batches, completions."""
    endings: list[Callable[[], None]] = field(default_factory=list)
    """Called when the common work is done, before the groups are taken down."""

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    @property
    def is_group(self) -> bool:
        """Whether torch.distributed is in use."""
        return self.messages is not None

    def facts(self) -> dict[str, object]:
        """For a run's record."""
        return {"ranks": self.size, "backend": dist.get_backend()}

    def send(self, message: object) -> None:
        """Gives a message of the leader to all others."""
        if self.is_group:
            dist.broadcast_object_list([message], src=0, group=self.messages)

    def receive(self) -> Any:
        """The leader's next message."""
        box: list[Any] = [None]
        dist.broadcast_object_list(box, src=0, group=self.messages)
        return box[0]

    def gather(self, value: object) -> list[Any]:
        """The values of all ranks, in order, on the leader; nothing elsewhere."""
        if not self.is_group:
            return [value]
        values = [None] * self.size if self.is_leader else None
        dist.gather_object(value, values, dst=0, group=self.messages)
        return values or []

    def gather_everywhere(self, value: object) -> list[Any]:
        """The values of all ranks, in order, on every rank."""
        if not self.is_group:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.messages)
        return values

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replaces a tensor of the CPU by its sum over all ranks."""
        if self.is_group:
            dist.all_reduce(tensor, group=self.messages)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return bool(self.add_up(torch.tensor(int(flag))).item())


def num_launched() -> int:
    """How many processes torchrun, or what does as it does, has started for the run; 1 without."""
    if not {"RANK", "LOCAL_RANK", "MASTER_ADDR", "WORLD_SIZE"} <= set(os.environ):
        return 1
    return int(os.environ["WORLD_SIZE"])


def is_follower() -> bool:
    """Whether another process leads the run that this one was started for."""
    return num_launched() > 1 and os.environ["RANK"] != "0"


@contextmanager
def connected(device: str) -> Iterator[Ranks]:
    """The ranks of this run, joined while the body runs; a single process joins nothing.

    Args:
        device: `cpu` or `cuda`: each process then has the GPU of its local rank.

    Raises:
        RecipeError: The recipe names one certain GPU for several processes.
        LostRankError: Another process has ended while this one needed it.
    """
    if num_launched() == 1:
        yield Ranks(device)
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if device not in ("cpu", "cuda"):
        raise RecipeError(
            f"training.device: {device!r} is one GPU, and there are {num_launched()} processes, "
            "each of which needs its own. Set it to 'auto' or 'cuda'."
        )
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise RecipeError(
                f"process {local_rank + 1} of this machine has no GPU: there are "
                f"{torch.cuda.device_count()}. Start at most so many."
            )
        torch.cuda.set_device(local_rank)
        device = f"cuda:{local_rank}"
    if rank:  # The leader alone answers an interrupt, whoever else is told.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    elif file := os.environ.get(LEADER_FILE):
        Path(file).write_text(str(os.getpid()))
    with _leaving_after_failure(), _explained():
        dist.init_process_group(
            "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=COLLECTIVE_TIMEOUT
        )
        messages = dist.new_group(backend="gloo", timeout=PATIENCE)
        ranks = Ranks(device, rank, dist.get_world_size(), messages)
        yield ranks
        # Not after a failure: it would wait for those that are gone.
        for end in ranks.endings:
            end()
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _leaving_after_failure() -> Iterator[None]:
    """Has the interpreter end the process, after a failure, before groups of ranks are taken down:
    that may wait for work that others will never finish, and they for this one to be gone."""
    status: list[int] = []

    def leave() -> None:
        if status:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status[0])

    atexit.register(leave)  # Before those of parts of the run, so that it comes after them.
    try:
        yield
    except BaseException as error:
        status.append(getattr(error, "exit_status", 1))
        raise


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain ones; those of NCCL have a class of their own.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        # Without the place in the library's source, and its advice.
        what = re.sub(r"^\[[^]]*\] ", "", str(error).partition("\n")[0]).partition(". ")[0]
        raise LostRankError(
            f"another process of this run has ended ({what}); what it said is the reason. The "
            "newest checkpoint is intact; the same command resumes."
        ) from error
