"""Faster layers are the same functions."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from grlo.modeling.layers import FastRMSNorm, use_fast_layers

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
}


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
@pytest.mark.parametrize("shape", [(5, 16), (2, 3, 4, 16), (1, 16), (0, 16)])
def test_values_and_gradients_are_those_of_float64(kind, shape) -> None:
    torch.manual_seed(0)
    plain = kind(16, eps=1e-3)
    torch.nn.init.normal_(plain.weight)
    fast = use_fast_layers(torch.nn.Sequential(copy.deepcopy(plain)))[0]
    assert isinstance(fast, FastRMSNorm)
    assert isinstance(fast, kind), "who asks for the own class finds it"
    x, upstream = 0.05 * torch.randn(shape), torch.randn(shape)
    # transformers' own computes in float32 whatever it is given: the formula itself in float64.
    exact_weight = plain.weight.detach().double().requires_grad_()
    exact_x = x.double().requires_grad_()
    root = (exact_x.pow(2).mean(-1, keepdim=True) + 1e-3).sqrt()
    (exact_weight * exact_x / root * upstream).sum().backward()
    x = x.requires_grad_()
    (fast(x) * upstream).sum().backward()
    results = [(x.grad, exact_x.grad), (fast.weight.grad, exact_weight.grad)]
    results.append((fast(x), plain(x)))
    with torch.no_grad():
        assert torch.equal(fast(x), results[-1][0])
    for ours, theirs in results:
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_computed_as_before() -> None:
    plain = Qwen3RMSNorm(16).bfloat16()
    fast = use_fast_layers(torch.nn.Sequential(copy.deepcopy(plain)))[0]
    x = torch.randn(3, 16, dtype=torch.bfloat16)
    assert torch.equal(fast(x), plain(x))
    assert fast(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "model",
    [
        lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
        lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    ],
    ids=["qwen3", "llama"],
)
def test_a_model_has_its_own_logits_gradients_and_names(model) -> None:
    torch.manual_seed(0)
    plain = model()
    fast = use_fast_layers(copy.deepcopy(plain))
    assert sum(isinstance(m, FastRMSNorm) for m in fast.modules()) >= 5
    assert fast.state_dict().keys() == plain.state_dict().keys()
    tokens = torch.randint(0, 64, (3, 9))
    for each in (plain, fast):
        each(input_ids=tokens, labels=tokens).loss.backward()
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    use_fast_layers(fast)
    assert type(fast.model.norm).__name__.count("Fast") == 1, "twice is once"
