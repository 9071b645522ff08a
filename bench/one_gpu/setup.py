"""Shapes, random models and lengths that the sections share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from grlo.model_shape import ModelShape, shape_from_config
from grlo.modeling.compiled_layers import compile_layers

POLICY = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
"""Qwen3-4B."""
REWARD = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
"""Llama-3.1-8B, as which Skywork-Reward-V2 comes."""
BILLION = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}
"""Llama-3.2-1B."""
TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
}


@dataclass(frozen=True)
class Setup:
    """What a section is told."""

    device: str
    tiny: bool
    folder: str
    """For the checkpoint that learner and vLLM load."""
    policy_kind: Literal["policy", "billion"] = "policy"
    """Which model stands where the policy does."""

    @property
    def is_cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"

    @property
    def prompt_tokens(self) -> int:
        """Of the open-ended prompts of the published schedule."""
        return 8 if self.tiny else 128

    @property
    def longest_prompt(self) -> int:
        """Tokens that a prompt of the published schedule may have."""
        return 16 if self.tiny else 1024

    @property
    def limit(self) -> int:
        """Most tokens of an answer (`sampling.max_tokens` of the recipe)."""
        return 48 if self.tiny else 3072

    def shape(self, which: str) -> ModelShape:
        """Of `policy`, `reward`, or the policy with one output (`critic`)."""
        config = self._config("reward" if which == "reward" else "policy").to_dict()
        heads = {"policy": "ForCausalLM"}.get(which, "ForSequenceClassification")
        return shape_from_config(config | {"architectures": [heads], "id2label": {"0": "score"}})

    def policy(self, dtype: torch.dtype) -> PreTrainedModel:
        """A language model with random weights on the device."""
        return self._build(AutoModelForCausalLM, "policy", dtype)

    def reward(self, dtype: torch.dtype) -> PreTrainedModel:
        """A sequence classifier with one label and random weights on the device."""
        return self._build(AutoModelForSequenceClassification, "reward", dtype)

    def checkpoint(self) -> str:
        """Folder with the policy; written by the first section that asks, in bfloat16."""
        path = Path(self.folder) / self.policy_kind
        if not path.exists():
            partial = path.with_name("partial")
            shutil.rmtree(partial, ignore_errors=True)
            model = self.policy(torch.bfloat16)
            model.save_pretrained(partial)
            partial.rename(path)
            del model
            if self.is_cuda:
                torch.cuda.empty_cache()
        return str(path)

    def tokens(self, count: int, *, seed: int) -> tuple[int, ...]:
        """Random token ids."""
        generator = torch.Generator().manual_seed(seed)
        vocab_size = min(self._sizes("policy")["vocab_size"], self._sizes("reward")["vocab_size"])
        return tuple(torch.randint(10, vocab_size, (count,), generator=generator).tolist())

    def spread_lengths(self, count: int) -> list[int]:
        """Lengths of answers as a base model's are: geometric, cut at the limit, the mean near 40 %
        of it; evenly spaced quantiles, so that few already have the mean."""
        stay = 1 - 1 / (0.45 * self.limit)
        quantiles = (torch.arange(count) + 0.5) / count
        lengths = (quantiles.log() / torch.tensor(stay).log()).ceil().clamp(1, self.limit)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        return [int(length) for length in lengths[order]]

    def _sizes(self, which: str) -> dict[str, Any]:
        sizes: dict[str, Any] = REWARD
        if which == "policy":
            sizes = POLICY if self.policy_kind == "policy" else BILLION
        return sizes | TINY if self.tiny else sizes

    def _config(self, which: str) -> PretrainedConfig:
        sizes = dict(self._sizes(which))
        return AutoConfig.for_model(sizes.pop("model_type"), **sizes)

    def _build(self, kind: Any, which: str, dtype: torch.dtype) -> PreTrainedModel:
        torch.manual_seed(0)
        config = self._config(which)
        if kind is AutoModelForSequenceClassification:
            config.num_labels = 1
        with torch.device(self.device):
            return kind.from_config(config, dtype=dtype).eval()


def padded(rows: Sequence[Sequence[int]], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and attention mask [B, T], padded on the right."""
    tokens_BT = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask_BT = torch.zeros_like(tokens_BT)
    for b, row in enumerate(rows):
        tokens_BT[b, : len(row)] = torch.tensor(row)
        mask_BT[b, : len(row)] = 1
    return tokens_BT.to(device), mask_BT.to(device)


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """The model's layers compiled within the block, and as they were after it."""
    kinds = [(module, type(module)) for module in model.modules()]
    compile_layers(model)
    try:
        yield
    finally:
        for module, kind in kinds:
            module.__class__ = kind
