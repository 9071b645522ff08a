"""Attention layers with faster rotary positions are the same functions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from grlo import packed
from grlo.rotary import FastAttention, turned, use_fast_rotary

CLASSES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True}),
    "llama3": (
        LlamaConfig,
        LlamaForCausalLM,
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "qwen3_moe": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
}
ROWS = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 7], [8, 9, 10, 11, 12, 13, 14, 15]]
PACKING = packed.pack(ROWS, shared=[0, 3, 0])


def model(kind: str) -> PreTrainedModel:
    config_class, model_class, options = CLASSES[kind]
    torch.manual_seed(0)
    config = config_class(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        **options,
    )
    built = model_class(config)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    built.set_attn_implementation(packed.ATTENTION)
    return built


def states_and_gradients(of: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor | None]]:
    states_ND = packed.packed_hidden_states(of.base_model, PACKING)
    of.zero_grad()
    (states_ND * torch.linspace(-1, 1, states_ND.shape[-1])).sum().backward()
    return states_ND.detach(), {name: p.grad for name, p in of.named_parameters()}


@pytest.mark.parametrize("kind", CLASSES)
def test_a_packed_model_has_its_own_states_and_gradients(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = model(kind)
    fast = use_fast_rotary(copy.deepcopy(plain))
    layers = [m for m in fast.modules() if isinstance(m, FastAttention)]
    assert len(layers) == 2
    assert isinstance(layers[0], type(plain.base_model.layers[0].self_attn))
    assert fast.state_dict().keys() == plain.state_dict().keys()
    expected, gradients = states_and_gradients(plain)
    # Nothing of it is transformers' own.
    monkeypatch.setattr(type(plain.base_model.layers[0].self_attn), "forward", None)
    states, own_gradients = states_and_gradients(fast)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        ours = own_gradients[name]
        torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_where_it_is_not_faster_layers_compute_as_before() -> None:
    plain = model("qwen3")
    fast = use_fast_rotary(copy.deepcopy(plain))
    tokens = torch.tensor([ROWS[0], ROWS[0][::-1]])
    assert torch.equal(fast(input_ids=tokens).logits, plain(input_ids=tokens).logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = [states_and_gradients(each)[0] for each in (fast, plain)]
    assert torch.equal(*states)
    states = [states_and_gradients(each.bfloat16())[0] for each in (fast, plain)]
    assert torch.equal(*states)


def test_angles_of_any_size_turn_forward_and_back() -> None:
    torch.manual_seed(0)
    x_BNHD, upstream = torch.randn(2, 5, 3, 8), torch.randn(2, 5, 3, 8)
    angles = torch.randn(2, 5, 4, dtype=torch.float64).mul(10).repeat(1, 1, 2)
    exact_x = x_BNHD.double().requires_grad_()
    exact, _ = apply_rotary_pos_emb(
        exact_x.transpose(1, 2), exact_x.transpose(1, 2), angles.cos(), angles.sin()
    )
    (exact.transpose(1, 2) * upstream).sum().backward()
    x_BNHD.requires_grad_()
    ours = turned(x_BNHD, angles.cos().float(), angles.sin().float())
    (ours * upstream).sum().backward()
    torch.testing.assert_close(ours.double(), exact.transpose(1, 2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x_BNHD.grad.double(), exact_x.grad, rtol=1e-5, atol=1e-6)
