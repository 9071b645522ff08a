"""What all tests share: one thread, real data when there is some, tiny random models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from grlo.templates import TEMPLATES

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real prompts and benchmarks; tests that need it skip without it."""
    path = os.environ.get("GRLO_DATA")
    if not path:
        pytest.skip("GRLO_DATA is not set: real data is not here")
    return Path(path)


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


def byte_chat_tokenizer() -> PreTrainedTokenizerFast:
    """256 bytes and ChatML's three special tokens, with a ChatML template."""
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATES["chatml"].text
    return tokenizer


CHAT_SHAPE = SHAPE | {"vocab_size": 259}


@pytest.fixture(scope="session")
def chat_policy_path(tmp_path_factory) -> Path:
    """A random causal language model with a tokenizer that renders conversations."""
    path = tmp_path_factory.mktemp("chat_policy")
    torch.manual_seed(2)
    Qwen3ForCausalLM(Qwen3Config(**CHAT_SHAPE)).save_pretrained(path)
    byte_chat_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def chat_reward_model_path(tmp_path_factory) -> Path:
    """A random reward model with the same tokenizer."""
    path = tmp_path_factory.mktemp("chat_reward_model")
    torch.manual_seed(3)
    config = Qwen3Config(**CHAT_SHAPE, num_labels=1, pad_token_id=256)
    Qwen3ForSequenceClassification(config).save_pretrained(path)
    byte_chat_tokenizer().save_pretrained(path)
    return path
