"""CPU-seconds of a GRPO step: this package beside TRL's GRPOTrainer, in one run.

Both start from the same checkpoints and take steps of 64 prompts x 8 samples of up to 128 tokens,
scored by the same reward model, with one update per step, in float32 on one thread:

    pip install -c constraints.txt '.[bench]' && python bench/trl_step.py

Models: the embedded miniature, whose answers end by themselves, and random ones of 0.9M and 10M
parameters. Nearly every answer of these runs to the limit; with `-spread` about every fiftieth
token is a stop token, which gives lengths like those of real answers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    TrainerCallback,
)
from transformers.utils.logging import disable_progress_bar
from trl import GRPOConfig, GRPOTrainer

import grlo.nano
from grlo.recipe import load_recipe
from grlo.rollout import ChatRenderer
from grlo.stages.train import build_trainer, load_prompts

NUM_PROMPTS, NUM_SAMPLES, MAX_TOKENS = 64, 8, 128
ASSETS = Path(grlo.nano.__file__).parent / "assets"
SIZES = {"0.9M": (128, 4, 1024), "10M": (320, 8, 4096)}
SPREAD = "-spread"

Seconds = dict[str, float]


def random_models(size: str, folder: Path) -> tuple[Path, Path]:
    """A policy and a reward model with random weights and the miniature's tokenizer."""
    hidden, layers, vocabulary = SIZES[size.removesuffix(SPREAD)]
    shape = {
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
    stops = [0, *(range(3, vocabulary, 50) if size.endswith(SPREAD) else [])]
    GenerationConfig(eos_token_id=stops, pad_token_id=0).save_pretrained(folder / "policy")
    return folder / "policy", folder / "reward"


def timed(seconds: Seconds, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its processor seconds added to a phase."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[phase] += time.process_time() - start

    return wrapper


def ours(policy: Path, reward: Path, prompts: Path, num_steps: int) -> Seconds:
    """Mean processor seconds per step by phase, after one step of warm-up."""
    folder = prompts.parent
    (folder / "recipe.toml").write_text(
        f"""
[policy]
model = "{policy}"
compute_dtype = "float32"
gradient_checkpointing = false
[prompts]
sources = ["{prompts}"]
[sampling]
prompts_per_step = {NUM_PROMPTS}
samples_per_prompt = {NUM_SAMPLES}
max_tokens = {MAX_TOKENS}
[reward]
name = "reward_model"
model = "{reward}"
[algorithm]
name = "grpo"
[training]
steps = {num_steps + 1}
num_minibatches = 1
micro_batch_tokens = 4096
device = "cpu"
"""
    )
    recipe = load_recipe([folder / "recipe.toml"])
    renderer = ChatRenderer.from_pretrained(str(policy))
    trainer = build_trainer(
        recipe, renderer=renderer, prompts=load_prompts(recipe, renderer), device="cpu"
    )
    seconds: Seconds = defaultdict(float)
    trainer.engine.generate = timed(seconds, "generation", trainer.engine.generate)
    trainer.reward.score = timed(seconds, "scoring", trainer.reward.score)
    start = 0.0
    for result in trainer.steps(start=1, stop=num_steps + 1):
        if result.step == 1:
            seconds.clear()
            start = time.process_time()
        else:
            seconds["tokens"] += result.metrics["tokens/generated"]
    return finish(seconds, time.process_time() - start, num_steps)


def trl(policy: Path, reward: Path, prompts: Path, num_steps: int) -> Seconds:
    """The same of TRL: what is neither generation nor scoring counts as training."""
    rows = [json.loads(line)["prompt"] for line in prompts.read_text().splitlines()]
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": row}]} for row in rows])
    seconds: Seconds = defaultdict(float)
    clock = {"start": 0.0, "stop": 0.0}

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                seconds.clear()
                clock["start"] = time.process_time()
            clock["stop"] = time.process_time()

    tokenizer = AutoTokenizer.from_pretrained(policy)
    stop_ids = list(ChatRenderer.from_pretrained(str(policy)).stop_ids)
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32),
        reward_funcs=str(reward),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[Clock()],
        args=GRPOConfig(
            output_dir=str(prompts.parent / "trl"),
            per_device_train_batch_size=64,
            gradient_accumulation_steps=NUM_PROMPTS * NUM_SAMPLES // 64,
            num_generations=NUM_SAMPLES,
            max_completion_length=MAX_TOKENS,
            max_steps=num_steps + 1,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            beta=0.0,
            temperature=1.0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            logging_steps=10**9,
            disable_tqdm=True,
            generation_kwargs={"eos_token_id": stop_ids},
        ),
    )
    trainer._generate = timed(seconds, "generation", trainer._generate)
    trainer._calculate_rewards = timed(seconds, "scoring", trainer._calculate_rewards)
    original = trainer._generate_and_score_completions

    def counted(inputs: Any) -> Any:
        output = original(inputs)
        seconds["tokens"] += float(output["completion_mask"].sum())
        return output

    trainer._generate_and_score_completions = counted
    trainer.train()
    return finish(seconds, clock["stop"] - clock["start"], num_steps)


def finish(seconds: Seconds, total: float, num_steps: int) -> Seconds:
    per_step = {name: value / num_steps for name, value in seconds.items()}
    per_step["total"] = total / num_steps
    per_step["training"] = per_step["total"] - per_step["generation"] - per_step["scoring"]
    return per_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3, help="counted steps of each")
    parser.add_argument("--models", nargs="+", default=["nano", "0.9M", "10M", "10M-spread"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    rng = random.Random(0)
    words = [f"{a}{b}" for a in ("sun", "moon", "sea", "hill") for b in ("light", "rise", "side")]
    print(f"{'model':10} {'phase':11} {'ours':>9} {'TRL':>9} {'TRL/ours':>9}   CPU-s per step")
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            prompts = folder / "prompts.jsonl"
            if name == "nano":
                policy, reward = ASSETS / "base", ASSETS / "reward_model"
                stored = (ASSETS / "prompts.jsonl").read_text().splitlines()
                texts = [json.loads(line)["prompt"][0]["content"] for line in stored]
            else:
                policy, reward = random_models(name, folder)
                texts = [f"Tell me about the {' '.join(rng.sample(words, 6))}." for _ in range(256)]
            prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
            mine = ours(policy, reward, prompts, arguments.steps)
            other = trl(policy, reward, prompts, arguments.steps)
            for phase in ("generation", "scoring", "training", "total"):
                ratio = other[phase] / mine[phase]
                print(f"{name:10} {phase:11} {mine[phase]:9.2f} {other[phase]:9.2f} {ratio:9.2f}")
            per_token = (other["total"] / other["tokens"]) / (mine["total"] / mine["tokens"])
            counts = f"{mine['tokens']:9.0f} {other['tokens']:9.0f}"
            print(f"{name:10} {'tokens':11} {counts} {per_token:9.2f}x per token", flush=True)


if __name__ == "__main__":
    main()
