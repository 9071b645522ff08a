"""Models in shards by FSDP2: every rank keeps its part of each weight and borrows the rest.

Zhao et al. 2023 (arXiv 2304.11277), in the form of `torch.distributed.fsdp.fully_shard`. Each layer
is gathered when a pass comes to it and let go of behind it; what belongs to no layer (embeddings,
last norm, output head) for as long as `grlo.modeling.passes.whole_pass` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from transformers import PreTrainedModel

from grlo.errors import ModelError
from grlo.modeling.passes import RUN_PASS
from grlo.training.distributed.ranks import Ranks

Result = TypeVar("Result")


class CommonPasses:
    """Passes that all ranks have to make together, since each gathers weights from all.

    How many a rank needs depends on the lengths of its rows. Before each pass the ranks tell each
    other whether they have one left; while any has, those that have none make idle ones.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._is_idle = False

    def run(self, work: Callable[[], Result]) -> Result:
        """Does `work`, a pass of this rank's own or an idle one, with all others."""
        if not self._is_idle:
            self._ranks.any(True)
        return work()

    def finish(self, idle: Callable[[], object]) -> None:
        """Waits until no rank has a pass left, and makes an idle one for each that another has.

        Args:
            idle: Makes one pass through `run`, forward and, where the others', backward.
        """
        self._is_idle = True
        try:
            while self._ranks.any(False):
                idle()
        finally:
            self._is_idle = False


class Sharding:
    """Puts models in shards on all ranks.

    Args:
        ranks: Who takes part.
        offload: What waits in the CPU's memory; see `waits_on_cpu`.
    """

    def __init__(self, ranks: Ranks, *, offload: Collection[str] = ()) -> None:
        self.passes = CommonPasses(ranks)
        self._offload = offload
        self._mesh = init_device_mesh(torch.device(ranks.device).type, (ranks.size,))

    def shard(self, model: PreTrainedModel, name: str, *, dtype: torch.dtype) -> PreTrainedModel:
        """The model, its weights in shards on the devices of the ranks.

        Gradients are added up over ranks, in float32: losses are weighted before they are divided.

        Args:
            model: On the CPU, the same on all ranks.
            name: `policy`, `critic`, `reference` or `reward_model`.
            dtype: Type of matrix products, in which weights are gathered.
        """
        if not model._no_split_modules:
            raise ModelError(
                f"{type(model).__name__} does not say which of its modules are layers, so it "
                "cannot be sharded. Set training.sharding = 'ddp'."
            )
        options: dict[str, Any] = {
            "mesh": self._mesh,
            "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
            "offload_policy": (
                CPUOffloadPolicy() if waits_on_cpu(name, self._offload) else OffloadPolicy()
            ),
        }
        kinds = set(model._no_split_modules)
        # By their ancestors: a layer that computes in another way is one of them all the same.
        layers = [m for m in model.modules() if kinds & {c.__name__ for c in type(m).__mro__}]
        for layer in layers:
            fully_shard(layer, **options)
        # Its own weights are let go of too: after a pass without a backward pass they would stay,
        # and be stale after the optimizer's step.
        fully_shard(model, reshard_after_forward=True, **options)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                # Else the factor becomes an operation that gloo does not know.
                module.set_force_sum_reduction_for_comms(True)
        self._register_pass(model)
        return model

    def _register_pass(self, model: PreTrainedModel) -> None:
        passes = self.passes

        def run_whole_pass(self: nn.Module, work: Callable[[], Result]) -> Result:
            return work()

        setattr(model, RUN_PASS, MethodType(run_whole_pass, model))
        register_fsdp_forward_method(model, RUN_PASS)
        gathered = getattr(model, RUN_PASS)

        def run(work: Callable[[], Result]) -> Result:
            result = passes.run(lambda: gathered(work))
            if not torch.is_grad_enabled() and hasattr(model, "reset_iter_state"):
                # What is remembered of a pass for its backward pass, which never comes.
                model.reset_iter_state()  # pyright: ignore[reportCallIssue]
            return result

        setattr(model, RUN_PASS, run)


def waits_on_cpu(name: str, offload: Collection[str]) -> bool:
    """Whether the shards of a model are kept in the CPU's memory and copied for each pass.

    `critic`, `reference` and `reward_model` name their models. `optimizer` is all that is trained:
    FSDP keeps weights, gradients and states where the optimizer's step is done, which is there.
    """
    return name in offload or ("optimizer" in offload and name in ("policy", "critic"))
