"""`grlo build-nano`: the miniature's checkpoints and files from nothing.

Tokenizer, base model, preference pairs, reward model and training prompts are ordinary Hugging Face
checkpoints and JSONL files. The package ships what seed 0 gives.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from grlo import packed
from grlo.nano.world import (
    END,
    TURN,
    TURN_END,
    corpus,
    preference_pairs,
    problems,
    training_prompts,
)
from grlo.progress import progress_bar
from grlo.rundir import write_atomic
from grlo.seeding import derive_seed
from grlo.templates import TEMPLATES
from grlo.training.preferences import RewardModelTraining, train_reward_model
from grlo.types import PreferencePair, Prompt

NUM_PAIRS = 6000
NUM_PROMPTS = 400
VOCAB_SIZE = 768
_TOKENS_PER_BATCH = 4096
_LEARNING_RATE = 2e-3


def build(out: Path, *, seed: int, num_tokens: int) -> dict[str, object]:
    """Builds everything into a folder and returns its manifest.

    Args:
        out: Folder for `base`, `reward_model`, the prompt files, `pairs.jsonl`, `manifest.json`.
        seed: Of corpus, weights, pairs and prompts.
        num_tokens: Corpus tokens to train the base model on.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(seed)
    base, loss = pretrain(tokenizer, seed=seed, num_tokens=num_tokens)
    base.to(torch.bfloat16).save_pretrained(out / "base")  # pyright: ignore[reportArgumentType]
    tokenizer.save_pretrained(out / "base")
    pairs = preference_pairs(seed, NUM_PAIRS)
    for name, text in prompt_files(seed).items():
        write_atomic(out / f"{name}.jsonl", text)
    write_atomic(out / "pairs.jsonl", pairs_jsonl(pairs))
    with progress_bar("reward model") as progress:
        accuracy = train_reward_model(
            RewardModelTraining(
                model=str(out / "base"),
                steps=200,
                pairs_per_batch=32,
                learning_rate=1e-3,
                seed=seed,
                max_tokens=512,
                save_dtype="bfloat16",
            ),
            pairs,
            out=out / "reward_model",
            progress=progress,
        )
    manifest = {
        "command": f"grlo build-nano --out DIR --seed {seed} --tokens {num_tokens}",
        "sha256": data_hashes(seed),
        "base": {"final_loss": round(loss, 4)},
        "reward_model": {key: round(value, 4) for key, value in accuracy.items()},
    }
    write_atomic(out / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def data_hashes(seed: int) -> dict[str, str]:
    """SHA-256 of what the generator writes: the first 2,000 documents, pairs and prompts."""
    documents = "".join(itertools.islice(corpus(seed), 2000))
    texts = {
        "corpus": documents,
        "pairs": pairs_jsonl(preference_pairs(seed, NUM_PAIRS)),
        **prompt_files(seed),
    }
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, on the first documents of the corpus."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END, TURN, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(itertools.islice(corpus(seed), 6000), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)
    tokenizer.chat_template = TEMPLATES["chatml"].text
    return tokenizer


def model_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """About 650,000 parameters in the shape of Qwen3."""
    end_id = tokenizer.get_vocab()[END]
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        # Real prompt files are run through these checkpoints too.
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        eos_token_id=end_id,
        pad_token_id=end_id,
        bos_token_id=None,
    )


def pretrain(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, num_tokens: int
) -> tuple[Qwen3ForCausalLM, float]:
    """Next-token prediction on the corpus, each document on its own.

    Returns:
        The model in float32 and its mean loss over the last 50 batches, in nats.
    """
    torch.manual_seed(derive_seed(seed, "base"))
    config = model_config(tokenizer)
    config._attn_implementation = packed.ATTENTION
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    losses: list[float] = []
    done = 0
    with progress_bar("base model") as progress:
        for documents in _batches(tokenizer, seed):
            rate = _LEARNING_RATE * _schedule(len(losses), done / num_tokens)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = _next_token_loss(model, documents)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            done += sum(map(len, documents))
            progress(done=min(done, num_tokens), total=num_tokens, tokens=done)
            if done >= num_tokens:
                break
    return model, sum(losses[-50:]) / len(losses[-50:])


def _schedule(step: int, fraction: float) -> float:
    """Warm-up over 50 steps, then a cosine down to a twentieth."""
    return min(1.0, (step + 1) / 50) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * fraction)))


def _batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[list[int]]]:
    documents = corpus(seed)
    while True:
        batch: list[list[int]] = []
        while sum(map(len, batch)) < _TOKENS_PER_BATCH:
            batch += tokenizer(list(itertools.islice(documents, 16)))["input_ids"]
        yield sorted(batch, key=len)


def _next_token_loss(model: Qwen3ForCausalLM, documents: Sequence[Sequence[int]]) -> torch.Tensor:
    packing = packed.pack(documents, shared=[0] * len(documents))
    hidden_ND = packed.packed_hidden_states(model.model, packing)
    targets_N = packing.tokens_N.roll(-1)
    # The last token of a document predicts nothing: the next one starts at position 0.
    targets_N[packing.positions_N.roll(-1) == 0] = -100
    return cross_entropy(model.lm_head(hidden_ND).float(), targets_N)


def prompt_files(seed: int) -> dict[str, str]:
    """Text of the prompt files by name: open-ended chat to train on, mathematics with its results
    to train on, and chat of the development split with its facts, to watch training by."""
    return {
        "prompts": prompts_jsonl(training_prompts(seed, NUM_PROMPTS)),
        "math_prompts": prompts_jsonl(problems("math", split="train", count=NUM_PROMPTS)),
        "chat_dev_prompts": prompts_jsonl(problems("chat", split="dev", count=300), split="dev"),
    }


def prompts_jsonl(prompts: Sequence[Prompt], *, split: str = "train") -> str:
    """Prompts in the row form that verl reads."""
    rows = [
        {
            "data_source": "grlo/nano",
            "prompt": [asdict(message) for message in prompt.messages],
            "ability": prompt.domain,
            "reward_model": {"style": prompt.style, "ground_truth": prompt.reference or ""},
            "extra_info": {"split": split, "index": index, **prompt.meta},
        }
        for index, prompt in enumerate(prompts)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def pairs_jsonl(pairs: Sequence[PreferencePair]) -> str:
    """Preference pairs as `messages, chosen, rejected` rows."""
    rows = [
        {
            "messages": [asdict(message) for message in pair.messages],
            "chosen": pair.chosen,
            "rejected": pair.rejected,
        }
        for pair in pairs
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)
