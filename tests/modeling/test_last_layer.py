"""A last layer that is computed for the tokens that are read, against the whole of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    GemmaConfig,
    GemmaForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from grlo.modeling import packed
from grlo.modeling.last_layer import read_few_tokens, reads_few_tokens
from grlo.sequence_scores import forward_scores

CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForSequenceClassification),
    "mistral": (MistralConfig, MistralForSequenceClassification),
    "qwen2": (Qwen2Config, Qwen2ForSequenceClassification),
    "qwen3": (Qwen3Config, Qwen3ForSequenceClassification),
    "gemma": (GemmaConfig, GemmaForSequenceClassification),
}
ROWS = [(1, 2, 3, 4, 5, 6), (1, 2, 3, 7), (1, 2, 3, 7, 8, 9, 10), (11, 12)]


def scorer(kind: str) -> PreTrainedModel:
    config_class, model_class = CLASSES[kind]
    torch.manual_seed(0)
    config = config_class(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        num_labels=1,
        pad_token_id=0,
        sliding_window=None,
    )
    model = model_class(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    model.set_attn_implementation(packed.ATTENTION)
    return model.eval()


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_scores_and_gradients_are_those_of_the_whole_layer(kind: str) -> None:
    model = scorer(kind)
    whole = forward_scores(model, ROWS)
    whole.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}  # type: ignore[union-attr]
    model.zero_grad()
    assert reads_few_tokens(read_few_tokens(model))
    few = forward_scores(model, ROWS)
    torch.testing.assert_close(few, whole, atol=1e-5, rtol=1e-5)
    few.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-4, rtol=1e-4)


def test_the_last_layers_network_sees_only_tokens_that_are_read() -> None:
    model = read_few_tokens(scorer("qwen3"))
    seen: list[int] = []
    for layer in model.base_model.layers:  # type: ignore[union-attr]
        layer.mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    forward_scores(model, ROWS)
    # Six, one, three and two tokens of their own.
    assert seen == [6 + 1 + 3 + 2, len(ROWS)]


def test_a_model_that_is_asked_for_all_tokens_computes_them() -> None:
    model = scorer("llama")
    packing = packed.pack(ROWS, shared=[0, 3, 4, 0])
    whole = packed.packed_hidden_states(model.base_model, packing)
    changed = packed.packed_hidden_states(read_few_tokens(model).base_model, packing)
    assert torch.equal(changed, whole)


def test_layers_of_other_kinds_stay_as_they_are() -> None:
    model = scorer("gemma")
    before = forward_scores(model, ROWS)
    assert not reads_few_tokens(read_few_tokens(model))
    assert torch.equal(forward_scores(model, ROWS), before)
