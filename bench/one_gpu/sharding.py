"""What FSDP2 costs where there is nothing to share: a model of a billion weights on one device.

The same learner with whole weights and with `training.sharding = "fsdp"` in a group of one, whose
shards are everything: gathering copies instead of fetching, so that what is left is its overhead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist

from grlo.batch import TrainBatch
from grlo.training.distributed.fsdp import Sharding
from grlo.training.distributed.ranks import Ranks
from grlo.training.distributed.sharing import Divided
from grlo.training.learner import Learner
from grlo.training.undivided import Undivided
from grlo.types import Rollout
from one_gpu.learning import answers, credited, plain, recipe
from one_gpu.record import Record
from one_gpu.setup import Setup

TIMES = 3
"""Updates that are timed; the fastest counts."""


def run(setup: Setup, record: Record) -> None:
    """Annotation and update, without sharding and with it, of the same rows."""
    setup = replace(setup, policy_kind="billion")
    rollouts = answers(setup, 8 if setup.tiny else 32, samples=1, prompt_tokens=setup.prompt_tokens)
    with record.attempt("1B, no sharding"):
        measure(setup, record, "no sharding", lambda: None, rollouts=rollouts)
    with record.attempt("1B, FSDP2"), group_of_one(setup.device) as ranks:
        measure(
            setup,
            record,
            "FSDP2",
            lambda: Divided(ranks, sharding=Sharding(ranks)),
            rollouts=rollouts,
        )


def measure(
    setup: Setup,
    record: Record,
    name: str,
    division: Callable[[], Undivided | None],
    *,
    rollouts: Sequence[Rollout],
) -> None:
    learner = Learner(recipe(setup), device=setup.device, division=division())
    batch: TrainBatch = credited(learner, rollouts)
    tokens = int(batch.lengths_B.sum())
    works: dict[str, Callable[[], object]] = {
        "annotate": lambda: learner.annotate(plain(batch), step=1, score_std=1.0),
        "update": lambda: learner.update(batch, step=1),
    }
    for work_name, work in works.items():
        work()
        seconds, peaks = zip(*(record.seconds(work) for _ in range(TIMES)), strict=True)
        record.add(
            f"1B, {name}, {work_name}",
            rows=len(batch.lengths_B),
            tokens=tokens,
            seconds=min(seconds),
            tokens_per_second=tokens / min(seconds),
            peak_gib=max(peaks),
        )


@contextmanager
def group_of_one(device: str) -> Iterator[Ranks]:
    """A process group of this process alone."""
    kind = torch.device(device).type
    backend = "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    try:
        yield Ranks(device, messages=dist.new_group(backend="gloo"))
    finally:
        dist.destroy_process_group()
