"""Shapes, parameters and operations against models that transformers builds without memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

import known_models
from grlo.errors import ModelError
from grlo.model_shape import forward_flops, lora_parameters, read_shape, shape_from_config
from grlo.settings import LoraSettings

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "llama-tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama-biases": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**SMALL, head_dim=8),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=16),
    "qwen3-biases": Qwen3Config(**SMALL, head_dim=16, attention_bias=True),
    "qwen3-moe": Qwen3MoeConfig(
        **SMALL, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12
    ),
    "Qwen3-4B": known_models.QWEN3_4B,
    "Llama-3.1-8B": known_models.LLAMA_8B,
}


def saved_config(config: PreTrainedConfig, tmp_path: Path) -> dict[str, Any]:
    config.save_pretrained(tmp_path)
    return json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_counts_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    shape = shape_from_config(saved_config(config, tmp_path))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("num_labels", [1, 2, 5])
def test_classifiers_are_counted_with_their_own_head(num_labels: int, tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL, num_labels=num_labels, tie_word_embeddings=True)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    config.architectures = ["LlamaForSequenceClassification"]
    shape = shape_from_config(saved_config(config, tmp_path))
    assert shape.num_labels == num_labels
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())


def test_published_sizes_are_reproduced(tmp_path: Path) -> None:
    """Sizes as the model cards state them."""
    qwen = shape_from_config(saved_config(CONFIGS["Qwen3-4B"], tmp_path))
    llama = shape_from_config(saved_config(CONFIGS["Llama-3.1-8B"], tmp_path))
    assert qwen.num_parameters / 1e9 == pytest.approx(4.0, abs=0.05)
    assert qwen.active_parameters / 1e9 == pytest.approx(3.6, abs=0.05)
    assert llama.num_parameters / 1e9 == pytest.approx(8.03, abs=0.005)


def test_flops_are_those_that_torch_counts() -> None:
    """Matrix products of a real forward pass, counted by torch with the full attention matrix."""
    from torch.utils.flop_counter import FlopCounterMode

    config = Qwen3Config(**SMALL, head_dim=16)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    shape = shape_from_config(config.to_dict())
    num_tokens = 11
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, num_tokens, dtype=torch.int64), use_cache=False)
    per_key = 4 * shape.num_layers * shape.num_heads * shape.head_dim
    ours = forward_flops(shape, num_tokens=num_tokens)
    not_causal = per_key * (num_tokens**2 - num_tokens * (num_tokens + 1) // 2)
    # The rotary frequencies are an outer product that the estimate leaves out.
    rotary = counter.get_total_flops() - (ours + not_causal)
    assert 0 <= rotary <= 2 * num_tokens * shape.head_dim


def test_a_cached_prefix_and_the_rest_cost_as_much_as_the_whole() -> None:
    shape = shape_from_config(CONFIGS["qwen3"].to_dict())
    whole = forward_flops(shape, num_tokens=30, num_outputs=30)
    prefix = forward_flops(shape, num_tokens=12, num_outputs=12)
    rest = forward_flops(shape, num_tokens=18, num_cached=12)
    assert whole == prefix + rest
    without_head = forward_flops(shape, num_tokens=30, num_outputs=0)
    assert whole - without_head == 2 * 30 * 97 * 24


def test_adapters_are_counted_as_peft_makes_them() -> None:
    peft = pytest.importorskip("peft")
    config = Qwen3Config(**SMALL, head_dim=16)
    for names in ("all-linear", ("q_proj", "down_proj")):
        lora = LoraSettings(rank=4, target_modules=names)
        targets = names if isinstance(names, str) else list(names)
        model = peft.get_peft_model(
            AutoModelForCausalLM.from_config(config),
            peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"),
        )
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert lora_parameters(shape_from_config(config.to_dict()), lora) == trainable


def test_a_folder_without_a_usable_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: cannot be read"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(ModelError, match="has no vocab_size, num_hidden_layers"):
        read_shape(tmp_path)
