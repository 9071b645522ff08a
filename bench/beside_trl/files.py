"""Models and prompts of a comparison."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from beside_trl.cases import ASSETS, MEAN_LENGTH, SIZES, SPREAD
from grlo.engines.hf import HFEngine
from grlo.rollout import ChatRenderer
from grlo.types import Message, SamplingParams

END = 0
"""End-of-text token of the miniature's tokenizer."""
FIRST_ORDINARY = 3
"""Smaller ids are special tokens."""


def make_files(model: str, folder: Path, *, max_tokens: int) -> None:
    """Prompts, and for random models a policy and a reward model with the miniature's tokenizer.

    All answers of a random model run to the limit. With `-spread` so many of its tokens end an
    answer that the mean length is `MEAN_LENGTH` of the limit; lengths are then about geometric.
    """
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
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": hidden // 64,
        "head_dim": 32,
        "intermediate_size": hidden * 11 // 4,
        "tie_word_embeddings": True,
        "eos_token_id": END,
        "pad_token_id": END,
    }
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "base")
    torch.manual_seed(0)
    reward = Qwen3ForSequenceClassification(Qwen3Config(**shape, num_labels=1))
    torch.manual_seed(0)
    policy = Qwen3ForCausalLM(Qwen3Config(**shape))
    renderer = ChatRenderer(tokenizer)
    make_endless(policy, renderer.stop_ids)
    for name, built in (("reward", reward), ("policy", policy)):
        built.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    stops = [END]
    if model.endswith(SPREAD):
        prompts = [renderer.encode((Message("user", text),)) for text in texts[:128]]
        stops += choose_stops(policy, prompts, max_tokens=max_tokens, rng=rng)
    GenerationConfig(eos_token_id=stops, pad_token_id=END).save_pretrained(folder / "policy")


@torch.no_grad()
def make_endless(policy: Qwen3ForCausalLM, stop_ids: Sequence[int]) -> None:
    """Makes the tokens that end an answer too improbable to be drawn.

    One component of the hidden state is made positive for all tokens, and no layer may change it;
    in the output matrix, which is the embedding, those tokens stand far on the other side.
    """
    embedding = policy.get_input_embeddings().weight
    embedding[:, 0] = 5 * embedding.std()
    embedding[list(stop_ids), 0] = -100.0
    for layer in policy.model.layers:
        layer.self_attn.o_proj.weight[0] = 0.0
        layer.mlp.down_proj.weight[0] = 0.0


def choose_stops(
    policy: Qwen3ForCausalLM,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    rng: random.Random,
) -> list[int]:
    """Random ordinary tokens, as many as bring the mean length to its share of the limit.

    The length under a set of stops is where the first of them stands in an answer that was drawn
    without any: what a token is does not depend on whether later ones are drawn.
    """
    sampling = SamplingParams(max_tokens=max_tokens)
    drawn = HFEngine(policy).generate(prompts, sampling, seeds=range(len(prompts)))
    first = [
        {token: place for place, token in reversed(list(enumerate(answer.tokens, 1)))}
        for answer in drawn
    ]
    candidates = list(range(FIRST_ORDINARY, policy.config.vocab_size))
    rng.shuffle(candidates)
    lengths = [max_tokens] * len(drawn)
    for count, candidate in enumerate(candidates):
        if fmean(lengths) <= MEAN_LENGTH * max_tokens:
            return sorted(candidates[:count])
        lengths = [
            min(length, places.get(candidate, max_tokens))
            for length, places in zip(lengths, first, strict=True)
        ]
    return sorted(candidates)
