"""Activations against what torch's allocator hands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from allocations import allocations
from grlo.memory.activations import backward_bytes, forward_bytes, saved_bytes
from grlo.model_shape import shape_from_config
from grlo.modeling import attention_parts, packed, shared_prefix_attention
from grlo.modeling.attention_parts import Part
from grlo.modeling.flash_kernels import Attended, States
from grlo.settings import ModelSettings
from grlo.training.models import DTYPES, recompute_activations

WIDE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
DECODERS = {
    "qwen3": Qwen3Config(**WIDE, head_dim=16),
    "qwen3-narrow-mlp": Qwen3Config(**(WIDE | {"intermediate_size": 96}), head_dim=16),
    "llama": LlamaConfig(**WIDE),
    "llama-all-heads": LlamaConfig(**(WIDE | {"num_key_value_heads": 8, "hidden_size": 96})),
}
DTYPE_PAIRS = [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")]


def autocast(dtypes: Sequence[str]) -> torch.autocast:
    """As `grlo.training.models` has it around a trunk."""
    return torch.autocast(
        "cpu", dtype=DTYPES[dtypes[1]], enabled=dtypes[0] != dtypes[1], cache_enabled=False
    )


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("attention", ["packed", "sdpa"])
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS)
@pytest.mark.parametrize("checkpointing", [False, True, "selective"])
def test_activations_are_what_the_allocator_hands_out(
    name: str, attention: Any, dtypes: Any, checkpointing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a forward pass keeps within 5 %, its peaks within 15 %.

    With attention in a grid: what a CPU does in float32 takes less (the test below).
    """
    monkeypatch.setattr(shared_prefix_attention, "kernel_for", lambda query: None)
    settings = ModelSettings(
        model="x",
        param_dtype=dtypes[0],
        compute_dtype=dtypes[1],
        attention=attention,
        gradient_checkpointing=checkpointing,
    )
    model = AutoModelForCausalLM.from_config(
        DECODERS[name],
        dtype=DTYPES[settings.param_dtype],
        attn_implementation=packed.ATTENTION if attention == "packed" else attention,
    )
    recompute_activations(model, settings)
    model.train()
    trunk = model.base_model
    rows = torch.randint(0, 97, (8, 100))
    packing = packed.pack(list(rows), shared=[0] + [30] * 7)
    sizes = {"num_tokens": 8 * 100, "num_cells": 8 * 100}
    if attention == "packed":
        sizes["num_tokens"] = len(packing.tokens_N)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def forward() -> torch.Tensor:
        with autocast(dtypes):
            if attention == "packed":
                return packed.packed_hidden_states(trunk, packing)
            return trunk(input_ids=rows, use_cache=False).last_hidden_state

    @torch.no_grad()
    def annotate() -> torch.Tensor:
        return forward()

    shape = shape_from_config(model.config.to_dict())
    copies = 0
    if dtypes[0] != dtypes[1] and not checkpointing:  # The graph keeps them with the activations.
        linear = [m.weight for m in trunk.modules() if isinstance(m, torch.nn.Linear)]
        copies = sum(2 * weight.numel() for weight in linear)
    kept = allocations(forward).kept
    assert saved_bytes(shape, settings, **sizes) + copies == pytest.approx(kept, rel=0.05)
    peak = allocations(lambda: forward().float().sum().backward()).peak
    assert backward_bytes(shape, settings, **sizes) == pytest.approx(peak, rel=0.15)
    peak = allocations(annotate).peak
    assert forward_bytes(shape, settings, **sizes) == pytest.approx(peak, rel=0.15)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("checkpointing", [False, True, "selective"])
def test_attention_without_a_grid_takes_hardly_more(name: str, checkpointing: Any) -> None:
    settings = ModelSettings(
        model="x",
        compute_dtype="float32",
        attention="packed",
        gradient_checkpointing=checkpointing,
    )
    model = AutoModelForCausalLM.from_config(
        DECODERS[name], dtype=torch.float32, attn_implementation=packed.ATTENTION
    )
    recompute_activations(model, settings)
    model.train()
    rows = torch.randint(0, 97, (8, 100))
    packing = packed.pack(list(rows), shared=[0] + [30] * 7)
    sizes = {"num_tokens": len(packing.tokens_N), "num_cells": 8 * 100}
    shape = shape_from_config(model.config.to_dict())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def forward() -> torch.Tensor:
        return packed.packed_hidden_states(model.base_model, packing)

    # Outputs and normalizers of both parts count where heads are as narrow as these.
    assert allocations(forward).kept <= 1.15 * saved_bytes(shape, settings, **sizes)
    peak = allocations(lambda: forward().sum().backward()).peak
    assert peak <= 1.15 * backward_bytes(shape, settings, **sizes)
    peak = allocations(torch.no_grad()(forward)).peak
    assert peak <= 1.3 * forward_bytes(shape, settings, **sizes)


class Room:
    """What the kernel of a GPU asks the allocator for; nothing is computed."""

    def forward(self, states: States, part: Part, scale: float) -> Attended:
        query = states[0]
        return torch.empty_like(query), torch.empty(query.shape[:3])

    def backward(
        self, upstream: torch.Tensor, states: States, whole: Attended, part: Part, scale: float
    ) -> States:
        """As FlashAttention-2 does: a float32 sum of the queries' gradients, rows filled up to
        blocks of 128, and gradients of keys and values for every head of queries."""
        query, key, value = states
        assert part.queries.bounds is not None
        size = query.shape[1] + 128 * (len(part.queries.bounds.starts_S) - 1)
        work = [torch.empty(size, *query.shape[2:]), torch.empty(size, query.shape[2])]
        if key.shape[2] != query.shape[2]:
            expanded = *key.shape[:2], query.shape[2], key.shape[3]
            work += [torch.empty(expanded, dtype=key.dtype) for _ in range(2)]
        found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        del work
        return found


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS[1:])
@pytest.mark.parametrize("num_shared", [0, 100])
@pytest.mark.parametrize("checkpointing", [False, True, "selective"])
def test_rows_end_to_end_take_what_their_tokens_take(
    name: str,
    dtypes: Any,
    num_shared: int,
    checkpointing: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, where no row is padded, up to what the kernel's blocks take.

    Forward passes over shared prompts are left out: a CPU converts what a GPU does not.
    """
    kernel = Room()
    monkeypatch.setattr(shared_prefix_attention, "kernel_for", lambda query: kernel)
    settings = ModelSettings(
        model="x",
        param_dtype=dtypes[0],
        compute_dtype=dtypes[1],
        attention="packed",
        gradient_checkpointing=checkpointing,
    )
    model = AutoModelForCausalLM.from_config(
        DECODERS[name], dtype=DTYPES[dtypes[0]], attn_implementation=packed.ATTENTION
    )
    recompute_activations(model, settings)
    model.train()
    rows = torch.randint(0, 97, (4, 400))
    shared = [0] + [num_shared] * 3
    packing = packed.pack(list(rows), shared=shared)
    division = attention_parts.end_to_end([400] * 4, shared, packing.index_BT, device="cpu")
    packing = replace(packing, division=division)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def forward() -> torch.Tensor:
        with autocast(dtypes):
            return packed.packed_hidden_states(model.base_model, packing)

    num_tokens = len(packing.tokens_N)
    sizes = {"num_tokens": num_tokens, "num_cells": num_tokens}
    shape = shape_from_config(model.config.to_dict())
    copies = 0
    if dtypes[0] != dtypes[1] and not checkpointing:
        linear = [m for m in model.base_model.modules() if isinstance(m, torch.nn.Linear)]
        copies = sum(2 * module.weight.numel() for module in linear)
    kept = allocations(forward).kept / (saved_bytes(shape, settings, **sizes) + copies)
    assert 0.8 < kept < 1.02
    peak = allocations(lambda: forward().float().sum().backward()).peak
    assert 0.85 < peak / backward_bytes(shape, settings, **sizes) < 1.2
    if not num_shared:
        peak = allocations(torch.no_grad()(forward)).peak
        assert 0.85 < peak / forward_bytes(shape, settings, **sizes) < 1.15
