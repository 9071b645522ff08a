"""How a learner's work is divided among the processes of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from grlo.batch import TokenBatch
from grlo.errors import NonFiniteError
from grlo.training.distributed.fsdp import Sharding
from grlo.training.distributed.ranks import Ranks
from grlo.training.distributed.shares import balanced_share
from grlo.training.undivided import Undivided
from grlo.work_sizes import GRADIENT_BUCKET_ELEMENTS


class Divided(Undivided):
    """A learner's work, each mini-batch's rows spread over the ranks of a run.

    Weights of the loss are those of the whole mini-batch, so that gradients are sums over rows and
    thus over ranks: FSDP2 adds them up in each backward pass, and for replicated weights they are
    added once an update, after the last micro-batch. (torch's DistributedDataParallel would do that
    in calls of `forward`, which our passes are not.)

    Args:
        ranks: Who takes part.
        sharding: Divides the weights too; None replicates them.
    """

    def __init__(self, ranks: Ranks, *, sharding: Sharding | None) -> None:
        self.rank, self.size = ranks.rank, ranks.size
        self.is_sharded = sharding is not None
        self._ranks, self._sharding = ranks, sharding
        self._failure: NonFiniteError | None = None

    def load_device(self, device: str) -> str:
        # A shard at a time goes to the device from there.
        return device if self._sharding is None else "cpu"

    def place(self, model: Any, name: str, *, dtype: torch.dtype) -> Any:
        if self._sharding is None or not isinstance(model, PreTrainedModel):
            return model
        return self._sharding.shard(model, name, dtype=dtype)

    def rows(self, batch: TokenBatch, rows: Tensor) -> Tensor:
        places = balanced_share(
            batch.groups_B[rows].tolist(),
            batch.lengths_B[rows].tolist(),
            rank=self.rank,
            size=self.size,
        )
        return rows[torch.tensor(places, dtype=torch.int64)]

    def finish(self, idle: Callable[[], object]) -> None:
        if self._sharding is not None:
            self._sharding.passes.finish(idle)

    def total(self, values_BT: Tensor) -> Tensor:
        return self._ranks.add_up(values_BT)

    def sum_gradients(self, model: nn.Module) -> None:
        parameters = [
            parameter
            for parameter in model.parameters()
            if parameter.requires_grad and not isinstance(parameter, DTensor)
        ]
        if not parameters:
            return
        # A rank without rows has no gradients. One that nobody has stays away, as in one process.
        has_gradient = torch.tensor([int(p.grad is not None) for p in parameters])
        self._ranks.add_up(has_gradient)
        gradients = []
        for parameter, count in zip(parameters, has_gradient.tolist(), strict=True):
            if count:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = _flatten_dense_tensors(bucket)
            dist.all_reduce(flat)
            for gradient, summed in zip(
                bucket, _unflatten_dense_tensors(flat, bucket), strict=True
            ):
                gradient.copy_(summed)

    def gather(self, value: Any) -> list[Any]:
        return self._ranks.gather_everywhere(value)

    def note(self, error: NonFiniteError) -> None:
        # The others are in the same pass and wait for its end here.
        self._failure = self._failure or error

    def agree(self) -> None:
        failures = self.gather(None if self._failure is None else str(self._failure))
        self._failure = None
        if found := [failure for failure in failures if failure is not None]:
            raise NonFiniteError(found[0])


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors in order, cut by type and by `GRADIENT_BUCKET_ELEMENTS`."""
    buckets: list[list[Tensor]] = []
    size = 0
    for tensor in tensors:
        fits = size + tensor.numel() <= GRADIENT_BUCKET_ELEMENTS
        if buckets and fits and buckets[-1][0].dtype == tensor.dtype:
            buckets[-1].append(tensor)
            size += tensor.numel()
        else:
            buckets.append([tensor])
            size = tensor.numel()
    return buckets
