"""Tiny random policies that answer, and prompts for them."""

from __future__ import annotations

import random
import shutil

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from grlo.types import SamplingParams

VOCAB = 300
CLASSES = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
}
SAMPLING = SamplingParams(max_tokens=20, num_samples=4, stop=(7, 8, 9, 10, 11))

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a compiler of C++"
)


def tiny(name: str = "qwen3", *, seed: int = 0) -> PreTrainedModel:
    config_class, model_class, extra = CLASSES[name]
    config = config_class(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        **extra,
    )
    torch.manual_seed(seed)
    model = model_class(config)
    for parameter in model.parameters():
        # Sharper distributions than those of a fresh model, so that mistakes show.
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    return model.eval()


def some_prompts(num: int = 9, *, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB) for _ in range(rng.choice([1, 2, 5, 9, 17]))] for _ in range(num)]
