"""Tiny random models in real shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="session")
def policy_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**SHAPE)).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def reward_model_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reward_model")
    torch.manual_seed(1)
    config = Qwen3Config(**SHAPE, num_labels=1, pad_token_id=0)
    Qwen3ForSequenceClassification(config).save_pretrained(path)
    return path
