"""A tiny random policy and reward model with tokenizers, as folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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

SHAPE = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    # Weights large enough for answers that depend on what was said.
    "initializer_range": 0.5,
}


def byte_tokenizer(
    *, template: str | None = "chatml", eos: str | None = "<|endoftext|>"
) -> PreTrainedTokenizerFast:
    """256 bytes and the special tokens of ChatML."""
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=eos)
    tokenizer.chat_template = TEMPLATES[template].text if template else None
    return tokenizer


ModelMaker = Callable[..., Path]


@pytest.fixture
def make_model(tmp_path: Path) -> ModelMaker:
    """Writes a model folder: `make_model(name, num_labels=0, template=..., eos=..., **shape)`."""

    def make(
        name: str,
        *,
        num_labels: int = 0,
        template: str | None = "chatml",
        eos: str | None = "<|endoftext|>",
        **shape: Any,
    ) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / name
        config = Qwen3Config(**(SHAPE | shape))
        if num_labels:
            config.num_labels = num_labels
            config.pad_token_id = 256
            Qwen3ForSequenceClassification(config).save_pretrained(folder)
        else:
            Qwen3ForCausalLM(config).save_pretrained(folder)
        byte_tokenizer(template=template, eos=eos).save_pretrained(folder)
        return folder

    return make
