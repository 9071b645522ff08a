"""Tokens per second of generation: the reference engine, its options, transformers, vLLM."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from grlo.engines import decoding
from grlo.engines.hf import HFEngine
from grlo.types import SamplingParams
from one_gpu.record import Record
from one_gpu.setup import Setup, padded

NUM_PROMPTS = 4
"""Distinct prompts, each with its share of the rows: prompts are hardly timed that way."""

Draw = Callable[[Sequence[Sequence[int]], int, int, tuple[int, ...]], int]
"""Prompts, samples of each, most tokens, stop tokens -> tokens that were drawn."""


def run(setup: Setup, record: Record) -> None:
    """A step of decoding at several lengths of context, then answers of unlike lengths."""
    with record.attempt("model"):
        model = setup.policy(torch.bfloat16)
        rows = fitting_rows(setup)
        draw = engine_draw(model, rows)
        warm_up(setup, draw)
        steps(setup, record, "engine", draw, rows)
        spread(setup, record, "engine", draw, rows)
        if setup.is_cuda:
            with record.attempt("engine, CUDA graphs"):
                draw = engine_draw(model, rows, cuda_graphs=True)
                warm_up(setup, draw)
                steps(setup, record, "engine, CUDA graphs", draw, rows)
                spread(setup, record, "engine, CUDA graphs", draw, rows)
            with record.attempt("engine, masked columns"), masked_columns():
                draw = engine_draw(model, rows)
                steps(setup, record, "engine, masked columns", draw, rows)
                spread(setup, record, "engine, masked columns", draw, rows)
        else:
            record.add("CUDA graphs, masked columns", skipped="not on a GPU")
        # Its cache is copied at every step; a quarter of the rows leaves room for that.
        few = max(NUM_PROMPTS, rows // 4 // NUM_PROMPTS * NUM_PROMPTS)
        with record.attempt("transformers"):
            draw = transformers_draw(model)
            warm_up(setup, draw)
            steps(setup, record, "transformers", draw, few)
            spread(setup, record, "transformers", draw, few)
        with record.attempt("engine"):
            draw = engine_draw(model, few)
            steps(setup, record, "engine", draw, few)
            spread(setup, record, "engine", draw, few)


@contextmanager
def masked_columns() -> Iterator[None]:
    """Within the block the engine reads all columns of all rows and masks what is not a row's."""
    reads_stretches = decoding.reads_stretches
    decoding.reads_stretches = lambda model: False
    try:
        yield
    finally:
        decoding.reads_stretches = reads_stretches


def run_vllm(setup: Setup, record: Record) -> None:
    """The same of vLLM, where it is installed."""
    if importlib.util.find_spec("vllm") is None:
        record.add("vllm", skipped="not installed")
        return
    from grlo.engines.vllm import VLLMEngineSettings
    from grlo.interfaces import BuildContext

    with record.attempt("vllm"):
        rows = fitting_rows(setup)
        settings = VLLMEngineSettings(
            dtype="bfloat16",
            max_rows=rows,
            max_model_len=setup.prompt_tokens + max(contexts(setup)) + 4 * lookahead(setup),
            enforce_eager=setup.tiny,
        )
        context = BuildContext(device=setup.device, seed=0)
        engine = settings.build_from_path(setup.checkpoint(), context=context)
        try:
            draw = drawer(engine)
            warm_up(setup, draw)
            steps(setup, record, "vllm", draw, rows)
            spread(setup, record, "vllm", draw, rows)
        finally:
            engine.close()


def fitting_rows(setup: Setup) -> int:
    """Rows whose full-length cache fills half of the memory that is free."""
    most = 2 * NUM_PROMPTS if setup.tiny else 256
    if not setup.is_cuda:
        return most
    row = setup.shape("policy").cache_elements_per_token * 2 * (max(contexts(setup)) + 256)
    free, _ = torch.cuda.mem_get_info()
    return min(most, max(NUM_PROMPTS, int(free / 2 / row) // NUM_PROMPTS * NUM_PROMPTS))


def contexts(setup: Setup) -> list[int]:
    """Lengths of context at which a step is timed."""
    return [8, 24, 40] if setup.tiny else [128, 1024, 3072]


def lookahead(setup: Setup) -> int:
    """Tokens of the shorter draw; the engine looks for finished rows every 16 steps."""
    return 2 if setup.tiny else 16


def engine_draw(model: PreTrainedModel, rows: int, **options: Any) -> Draw:
    return drawer(HFEngine(model, max_rows=rows, **options))


def drawer(engine: Any) -> Draw:
    def draw(
        prompts: Sequence[Sequence[int]], samples: int, tokens: int, stop: tuple[int, ...]
    ) -> int:
        sampling = SamplingParams(max_tokens=tokens, num_samples=samples, stop=stop)
        completions = engine.generate(prompts, sampling, seeds=range(len(prompts)))
        return sum(len(completion.tokens) for completion in completions)

    return draw


def transformers_draw(model: PreTrainedModel) -> Draw:
    """`model.generate` with its own cache, all rows in one batch, as TRL calls it."""

    def draw(
        prompts: Sequence[Sequence[int]], samples: int, tokens: int, stop: tuple[int, ...]
    ) -> int:
        # Prompts of a call are equally long here, so that none is padded.
        tokens_BT, mask_BT = padded(prompts, str(model.device))
        config = GenerationConfig(
            do_sample=True,
            top_k=0,
            max_new_tokens=tokens,
            num_return_sequences=samples,
            pad_token_id=0,
            eos_token_id=list(stop) or None,
        )
        with torch.inference_mode():
            output_BT = model.generate(tokens_BT, attention_mask=mask_BT, generation_config=config)
        answers_BT = output_BT[:, tokens_BT.shape[1] :]
        ends = torch.tensor(stop, dtype=torch.int64, device=model.device)
        ends_BT = torch.isin(answers_BT, ends).int()
        return int((ends_BT.cumsum(1) - ends_BT == 0).sum())

    return draw


def prompts_of(setup: Setup, length: int) -> list[tuple[int, ...]]:
    return [setup.tokens(length, seed=seed) for seed in range(NUM_PROMPTS)]


def warm_up(setup: Setup, draw: Draw) -> None:
    draw(prompts_of(setup, setup.prompt_tokens), 1, lookahead(setup), ())


def steps(setup: Setup, record: Record, name: str, draw: Draw, rows: int) -> None:
    """Seconds of a step of decoding, as a difference of two draws: prompts cancel."""
    few, many = lookahead(setup), 4 * lookahead(setup)
    samples = rows // NUM_PROMPTS
    for context in contexts(setup):
        with record.attempt(f"{name}, step at {context}"):
            prompts = prompts_of(setup, context)
            short, _ = record.seconds(lambda: draw(prompts, samples, few, ()))  # noqa: B023
            long, peak = record.seconds(lambda: draw(prompts, samples, many, ()))  # noqa: B023
            step = (long - short) / (many - few)
            record.add(
                f"{name}, step at {context}",
                context=round(context + (few + many) / 2),
                rows=rows,
                step_seconds=step,
                tokens_per_second=rows / step if step > 0 else 0.0,
                peak_gib=peak,
            )


def spread(setup: Setup, record: Record, name: str, draw: Draw, rows: int) -> None:
    """Whole answers that end by themselves: about one token in so many is a stop."""
    with record.attempt(f"{name}, spread lengths"):
        limit = 16 if setup.tiny else 256
        vocab_size = setup.shape("policy").vocab_size
        stop = tuple(range(10, vocab_size, max(2, round(0.4 * limit))))
        prompts = prompts_of(setup, setup.prompt_tokens)
        drawn: list[int] = []
        samples = rows // NUM_PROMPTS
        seconds, peak = record.seconds(lambda: drawn.append(draw(prompts, samples, limit, stop)))
        record.add(
            f"{name}, spread lengths",
            rows=rows,
            tokens=drawn[0],
            mean_length=drawn[0] / rows,
            seconds=seconds,
            tokens_per_second=drawn[0] / seconds,
            peak_gib=peak,
        )
