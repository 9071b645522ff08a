"""`grlo build-nano`: the miniature's checkpoints and files from nothing.

Tokenizer, base model, preference pairs, reward model and training prompts are ordinary Hugging Face
checkpoints and JSONL files. The package ships what seed 0 gives.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from grlo.errors import DataError
from grlo.modeling import packed
from grlo.nano.tasks import Domain
from grlo.nano.world import (
    END,
    TURN,
    TURN_END,
    corpus,
    demonstrations,
    preference_pairs,
    problems,
    training_prompts,
)
from grlo.progress import progress_bar
from grlo.rundir import write_atomic
from grlo.seeding import derive_seed
from grlo.templates import TEMPLATES
from grlo.training.preferences import RewardModelTraining, train_reward_model
from grlo.types import Demonstration, PreferencePair, Prompt

NUM_PAIRS = 6000
NUM_PROMPTS = 400
"""Of mathematics."""
VOCAB_SIZE = 768
_TOKENS_PER_BATCH = 4096
_LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class World:
    """Which world, and what is made of it; the package ships the default."""

    seed: int = 0
    """Of corpus, weights, pairs and prompts."""
    num_tokens: int = 6_000_000
    """Corpus tokens that the base model is trained on."""
    mixed: bool = True
    """Whether a document may hold tasks of several domains."""
    reward_domains: tuple[Domain, ...] = ("chat",)
    """Of the pairs that the reward model is trained on."""
    num_prompts: int = 400

    def __post_init__(self) -> None:
        if unknown := [d for d in self.reward_domains if d not in ("chat", "math")]:
            raise DataError(f"no pairs of {', '.join(unknown)}; expected chat, math or both.")


def build(out: Path, world: World, *, base: Path | None = None) -> dict[str, object]:
    """Builds everything into a folder and returns its manifest.

    Args:
        out: Folder for `base`, `reward_model`, the prompt files, `pairs.jsonl`, `manifest.json`.
        world: What is built.
        base: Folder with a model and its tokenizer to take as the base instead of training one.
    """
    out.mkdir(parents=True, exist_ok=True)
    loss = None
    if base is None:
        tokenizer = train_tokenizer(world)
        model, loss = pretrain(tokenizer, world)
        model.to(torch.bfloat16).save_pretrained(out / "base")  # pyright: ignore[reportArgumentType]
        tokenizer.save_pretrained(out / "base")
    else:
        shutil.copytree(base, out / "base", dirs_exist_ok=True)
    pairs = preference_pairs(world.seed, NUM_PAIRS, domains=world.reward_domains)
    for name, text in prompt_files(world).items():
        write_atomic(out / f"{name}.jsonl", text)
    write_atomic(out / "pairs.jsonl", pairs_jsonl(pairs))
    with progress_bar("reward model") as progress:
        accuracy = train_reward_model(
            RewardModelTraining(
                model=str(out / "base"),
                steps=200,
                pairs_per_batch=32,
                learning_rate=1e-3,
                seed=world.seed,
                max_tokens=512,
                save_dtype="bfloat16",
            ),
            pairs,
            out=out / "reward_model",
            progress=progress,
        )
    manifest = {
        "command": _command(world),
        "sha256": data_hashes(world),
        "base": {"final_loss": round(loss, 4)} if loss is not None else {"taken_from": str(base)},
        "reward_model": {key: round(value, 4) for key, value in accuracy.items()},
    }
    write_atomic(out / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def _command(world: World) -> str:
    words = f"grlo build-nano --out DIR --seed {world.seed} --tokens {world.num_tokens}"
    words += "" if world.mixed else " --separate-domains"
    if world.reward_domains != ("chat",):
        words += f" --reward-domains {','.join(world.reward_domains)}"
    return words + (f" --prompts {world.num_prompts}" if world.num_prompts != 400 else "")


def data_hashes(world: World) -> dict[str, str]:
    """SHA-256 of what the generator writes: the first 2,000 documents, pairs and prompts."""
    documents = "".join(itertools.islice(corpus(world.seed, mixed=world.mixed), 2000))
    pairs = preference_pairs(world.seed, NUM_PAIRS, domains=world.reward_domains)
    texts = {"corpus": documents, "pairs": pairs_jsonl(pairs), **prompt_files(world)}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def train_tokenizer(world: World) -> PreTrainedTokenizerFast:
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
    documents = itertools.islice(corpus(world.seed, mixed=world.mixed), 6000)
    backend.train_from_iterator(documents, trainer)
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


def pretrain(tokenizer: PreTrainedTokenizerFast, world: World) -> tuple[Qwen3ForCausalLM, float]:
    """Next-token prediction on the corpus, each document on its own.

    Returns:
        The model in float32 and its mean loss over the last 50 batches, in nats.
    """
    torch.manual_seed(derive_seed(world.seed, "base"))
    config = model_config(tokenizer)
    config._attn_implementation = packed.ATTENTION
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    losses: list[float] = []
    done = 0
    with progress_bar("base model") as progress:
        for documents in _batches(tokenizer, world):
            rate = _LEARNING_RATE * _schedule(len(losses), done / world.num_tokens)
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
            progress(done=min(done, world.num_tokens), total=world.num_tokens, tokens=done)
            if done >= world.num_tokens:
                break
    return model, sum(losses[-50:]) / len(losses[-50:])


def _schedule(step: int, fraction: float) -> float:
    """Warm-up over 50 steps, then a cosine down to a twentieth."""
    return min(1.0, (step + 1) / 50) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * fraction)))


def _batches(tokenizer: PreTrainedTokenizerFast, world: World) -> Iterator[list[list[int]]]:
    documents = corpus(world.seed, mixed=world.mixed)
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


def prompt_files(world: World) -> dict[str, str]:
    """Text of the files by name: open-ended chat to train on and the same with right answers,
    mathematics with its results to train on, and chat of the development split with its facts, to
    watch training by."""
    return {
        "prompts": prompts_jsonl(training_prompts(world.seed, world.num_prompts)),
        "chat_demonstrations": demonstrations_jsonl(demonstrations(world.seed, world.num_prompts)),
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


def demonstrations_jsonl(rows: Sequence[Demonstration]) -> str:
    """Demonstrations as `prompt, response` rows."""
    tables = [
        {"prompt": [asdict(message) for message in row.messages], "response": row.response}
        for row in rows
    ]
    return "".join(json.dumps(table) + "\n" for table in tables)


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
