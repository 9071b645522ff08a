"""Tokens per CPU-second of generation: the `hf` engine beside `model.generate`.

Both draw from the same random models, with the same prompts and the same number of samples. In the
first case nobody stops; in the second an answer ends at a stop token, which about every fiftieth
token is. `model.generate` gets all samples in one batch.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from grlo.engines.hf import HFEngine
from grlo.types import SamplingParams


@dataclass(frozen=True)
class Shape:
    hidden_size: int
    num_layers: int
    vocab_size: int


SHAPES = {"0.9M": Shape(128, 4, 1024), "10M": Shape(320, 8, 4096)}


def build(shape: Shape, dtype: torch.dtype) -> PreTrainedModel:
    """A random model whose next token is nearly uniform."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.hidden_size // 32,
        num_key_value_heads=shape.hidden_size // 64,
        head_dim=32,
        intermediate_size=shape.hidden_size * 11 // 4,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
    )
    return Qwen3ForCausalLM(config).eval().to(dtype)


def cpu_seconds(work: Callable[[], int]) -> tuple[float, float, int]:
    """Processor seconds, wall seconds and the number of tokens that `work` returns."""
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = work()
    return time.process_time() - cpu, time.perf_counter() - wall, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--prompt-tokens", type=int, default=41, help="of the longest prompt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()

    print("model  lengths  tokens  engine tok/CPU-s  generate tok/CPU-s  ratio  (best of repeats)")
    for name in args.shapes:
        shape = SHAPES[name]
        model = build(shape, getattr(torch, args.dtype))
        rng = random.Random(0)
        lengths = [
            rng.randint(args.prompt_tokens // 2, args.prompt_tokens) for _ in range(args.prompts)
        ]
        prompts = [[rng.randrange(shape.vocab_size) for _ in range(n)] for n in sorted(lengths)]
        for label, stop in (("equal", ()), ("varied", tuple(range(shape.vocab_size // 50)))):
            engine, generate = compare(model, prompts, stop, args)
            print(
                f"{name:6} {label:8} {engine[1]:6}  {engine[0]:16,.0f}  {generate[0]:18,.0f}  "
                f"{engine[0] / generate[0]:5.2f}"
            )


def compare(
    model: PreTrainedModel,
    prompts: list[list[int]],
    stop: tuple[int, ...],
    args: argparse.Namespace,
) -> tuple[tuple[float, int], tuple[float, int]]:
    """Best tokens per CPU-second, and tokens, of the engine and of `generate`, run by turns."""
    engine = HFEngine(model)
    sampling = SamplingParams(max_tokens=args.max_tokens, num_samples=args.samples, stop=stop)

    def ours() -> int:
        completions = engine.generate(prompts, sampling, seeds=range(len(prompts)))
        return sum(len(completion.tokens) for completion in completions)

    longest = max(map(len, prompts))
    tokens_BT = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=args.max_tokens,
        num_return_sequences=args.samples,
        pad_token_id=0,
        eos_token_id=list(stop) or None,
    )

    def theirs() -> int:
        with torch.inference_mode():
            output_BT = model.generate(tokens_BT, attention_mask=mask_BT, generation_config=config)
        answers_BT = output_BT[:, longest:]
        ends_BT = torch.isin(answers_BT, torch.tensor(stop, dtype=torch.int64))
        return int((ends_BT.cumsum(1) - ends_BT.int() == 0).sum())

    best = [(0.0, 0), (0.0, 0)]
    for _ in range(args.repeats):
        for place, work in enumerate((ours, theirs)):
            cpu, _, tokens = cpu_seconds(work)
            best[place] = max(best[place], (tokens / cpu, tokens))
    return best[0], best[1]


if __name__ == "__main__":
    main()
