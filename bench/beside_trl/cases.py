"""What is compared: models, prompts, group size, lengths, threads."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grlo.nano

ASSETS = Path(grlo.nano.__file__).parent / "assets"
SPREAD = "-spread"
MEAN_LENGTH = 0.4
"""Mean length of answers of the `-spread` models, as a share of the limit."""

# Hidden size, layers, vocabulary.
SIZES = {"0.9M": (128, 4, 1024), "10M": (320, 8, 4096)}
GRADIENT_LIMIT = 1e-4
"""Of the relative difference of gradients; float32 sums in another order differ by about 1e-6."""

MODELS = ("nano", *SIZES, *(f"{size}{SPREAD}" for size in SIZES))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement of one trainer."""

    model: str
    """Of `MODELS`."""
    folder: str
    """Where `make_files` has put the models and prompts."""
    num_prompts: int = 64
    num_samples: int = 8
    max_tokens: int = 128
    beta: float = 0.0
    """Coefficient of the KL term against the initial policy (k3, in the loss)."""
    threads: int = 1
    warmup_steps: int = 1
    """Steps that are not counted."""
    steps: int = 1
    trl_rows: int = 64
    """Rows of TRL's micro-batch."""
    learning_rate: float = 1e-6

    @property
    def num_rows(self) -> int:
        return self.num_prompts * self.num_samples

    @property
    def policy(self) -> Path:
        return ASSETS / "base" if self.model == "nano" else Path(self.folder) / "policy"

    @property
    def reward(self) -> Path:
        return ASSETS / "reward_model" if self.model == "nano" else Path(self.folder) / "reward"

    @property
    def prompts(self) -> Path:
        return Path(self.folder) / "prompts.jsonl"

    def texts(self) -> list[str]:
        lines = self.prompts.read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["prompt"] for line in lines]


def make_files(model: str, folder: Path, *, max_tokens: int) -> None:
    """Prompts, and for random models a policy and a reward model with the miniature's tokenizer.

    Nearly every answer of a random model runs to the limit. With `-spread` so many of its tokens
    end an answer that the mean length is `MEAN_LENGTH` of the limit.
    """
    import torch
    from transformers import (
        AutoTokenizer,
        GenerationConfig,
        Qwen3Config,
        Qwen3ForCausalLM,
        Qwen3ForSequenceClassification,
    )

    rng = random.Random(0)
    if model == "nano":
        stored = (ASSETS / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["prompt"][0]["content"] for line in stored]
    else:
        words = [f"{a}{b}" for a in ("sun", "moon", "sea", "hill") for b in ("light", "rise")]
        texts = [f"Tell me about the {' '.join(rng.sample(words, 6))}." for _ in range(256)]
    rows = "".join(json.dumps({"prompt": text}) + "\n" for text in texts)
    (folder / "prompts.jsonl").write_text(rows, encoding="utf-8")
    if model == "nano":
        return
    hidden, layers, vocabulary = SIZES[model.removesuffix(SPREAD)]
    shape: Mapping[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": hidden // 64,
        "head_dim": 32,
        "intermediate_size": hidden * 11 // 4,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "base")
    for name, kind, extra in (
        ("policy", Qwen3ForCausalLM, {}),
        ("reward", Qwen3ForSequenceClassification, {"num_labels": 1}),
    ):
        torch.manual_seed(0)
        kind(Qwen3Config(**shape, **extra)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    stops = [0]
    if model.endswith(SPREAD):
        share = stop_share(MEAN_LENGTH * max_tokens, limit=max_tokens)
        stops += sorted(rng.sample(range(3, vocabulary), round(share * vocabulary) - 1))
    GenerationConfig(eos_token_id=stops, pad_token_id=0).save_pretrained(folder / "policy")


def stop_share(mean: float, *, limit: int) -> float:
    """Probability p of a stop token that gives answers cut at `limit` a mean length.

    Lengths are geometric, the stop token counted: their mean is (1 - (1 - p)^limit) / p.
    """
    low, high = 1e-6, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if (1 - (1 - middle) ** limit) / middle > mean:
            low = middle
        else:
            high = middle
    return (low + high) / 2
