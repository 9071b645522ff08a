"""Models whose weights may lie in shards, one on each of several processes: passes and copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from grlo.modeling.adapters import merged_weights, plain_model
from grlo.modeling.layers import use_fast_layers

Result = TypeVar("Result")

RUN_PASS = "run_whole_pass"
"""Attribute of a sharded model (`grlo.training.distributed.fsdp`): runs a function while the
weights that belong to no layer are whole."""


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds a part of the weights only."""
    return hasattr(plain_model(model), RUN_PASS)


def whole_pass(model: nn.Module, work: Callable[[], Result]) -> Result:
    """Does `work`, all of a forward pass from tokens to what is kept, and returns what it gives.

    Our passes are no calls of `forward`: the trunk is followed by an output head that reads the
    head's weight itself. With a sharded model all of that has to happen where embeddings, last norm
    and head are whole, and the backward pass is to begin by making them so again. With any other
    model this is a call of `work`.

    Args:
        model: What the pass reads.
        work: Returns a tensor or a tuple of tensors.
    """
    run = getattr(plain_model(model), RUN_PASS, None)
    return work() if run is None else run(work)


@torch.no_grad()
def whole_copy(model: PreTrainedModel, *, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """A sharded causal language model as one of its own on every process; all have to call this."""
    config = copy.deepcopy(model.config)
    with torch.device("meta"):
        whole: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=config._attn_implementation
        )
    whole.to_empty(device=device)
    whole.tie_weights()
    # Those that no checkpoint has, such as the frequencies of rotary positions.
    buffers = dict(model.named_buffers())
    for name, buffer in whole.named_buffers():
        buffer.copy_(buffers[name])
    weights = dict(whole.state_dict())
    for name, tensor in merged_weights(model):
        weights[name].copy_(tensor)
    return use_fast_layers(whole)
