"""Tokens per second of the reward model, by this package's batches and by plain ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from grlo.sequence_scores import score_sequences
from grlo.training import flops
from one_gpu.record import Record
from one_gpu.setup import Setup, compiled, padded


def run(setup: Setup, record: Record) -> None:
    """Conversations of unlike lengths: alone, and eight to a prompt."""
    with record.attempt("model"):
        model = setup.reward(torch.bfloat16).requires_grad_(False)
        num_rows = 8 if setup.tiny else 64
        alone = conversations(setup, num_rows, samples=1, prompt_tokens=setup.prompt_tokens)
        groups = conversations(setup, num_rows, samples=8, prompt_tokens=4 * setup.prompt_tokens)
        score_sequences(model, alone[:2], tokens_per_batch=1)  # The first call sets up libraries.
        for name, rows, budget in (
            ("sorted batches of 32,768 tokens", alone, 32768),
            ("sorted batches of 8,192 tokens", alone, 8192),
            ("eight samples a prompt", groups, 32768),
        ):
            with record.attempt(name):
                seconds, peak = record.seconds(
                    lambda: score_sequences(model, rows, tokens_per_batch=budget)  # noqa: B023
                )
                add(setup, record, name, rows, seconds, peak)
        with record.attempt("compiled, sorted batches of 32,768 tokens"), compiled(model):
            score_sequences(model, alone[:2], tokens_per_batch=32768)
            seconds, peak = record.seconds(
                lambda: score_sequences(model, alone, tokens_per_batch=32768)
            )
            add(setup, record, "compiled, sorted batches of 32,768 tokens", alone, seconds, peak)
        for name, rows in (
            ("transformers, batches of 8 as they come", alone),
            ("transformers, eight samples a prompt", groups),
        ):
            with record.attempt(name):
                plain_scores(model, rows[:8], setup.device)
                seconds, peak = record.seconds(
                    lambda: plain_scores(model, rows, setup.device)  # noqa: B023
                )
                add(setup, record, name, rows, seconds, peak)


def conversations(
    setup: Setup, count: int, *, samples: int, prompt_tokens: int
) -> list[tuple[int, ...]]:
    """Token ids of prompts with answers of spread lengths; `samples` of them share a prompt."""
    return [
        setup.tokens(prompt_tokens, seed=row // samples) + setup.tokens(length, seed=1000 + row)
        for row, length in enumerate(setup.spread_lengths(count))
    ]


def plain_scores(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], device: str, *, batch: int = 8
) -> None:
    """The model's own forward pass on padded batches in the order of arrival, as TRL scores."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            tokens_BT, mask_BT = padded(rows[start : start + batch], device)
            model(tokens_BT, attention_mask=mask_BT, use_cache=False).logits[:, 0].tolist()


def add(
    setup: Setup,
    record: Record,
    name: str,
    rows: Sequence[Sequence[int]],
    seconds: float,
    peak: float,
) -> None:
    """Operations are counted without sharing, so that both ways have done the same work."""
    reading = flops.reading(setup.shape("reward"), ((b, 0, len(row)) for b, row in enumerate(rows)))
    tokens = sum(map(len, rows))
    record.add(
        name,
        rows=len(rows),
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        flops=reading.flops,
        peak_gib=peak,
    )
