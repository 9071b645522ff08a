"""A small recipe and small batches for tests of the learner."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from grlo.batch import Batch, TrainBatch
from grlo.settings import (
    CriticSettings,
    ModelSettings,
    OptimizerSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    TrainingSettings,
)
from grlo.training.learner import Learner

TEMPERATURE = 0.7
SHAPES = [(3, 5), (3, 9), (6, 1), (6, 12), (2, 7), (2, 3), (9, 4), (9, 10)]
"""Prompt and response tokens of the rows; two rows are a group."""


def make_recipe(
    policy: Path,
    algorithm: object,
    *,
    critic: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
    **training: Any,
) -> Recipe:
    """A recipe with one mini-batch and the same optimizer for policy and critic."""
    adamw = OptimizerSettings(**({"learning_rate": 1e-3} | (optimizer or {})))
    settings = {"steps": 10, "num_minibatches": 1, "micro_batch_tokens": 10_000} | training
    plain = ModelSettings(model=str(policy), compute_dtype="float32", gradient_checkpointing=False)
    return Recipe(
        policy=replace(plain, **(model or {})),
        prompts=PromptSettings(sources=("unused.jsonl",)),
        reward=None,
        algorithm=algorithm,
        sampling=SamplingSettings(temperature=TEMPERATURE, max_tokens=16),
        optimizer=adamw,
        critic=CriticSettings(**({"optimizer": adamw} | (critic or {}))),
        training=TrainingSettings(device="cpu", **settings),
    )


def make_batch(
    *, seed: int = 0, padding: int = 0, scores: list[float] | None = None, vocab_size: int = 61
) -> Batch:
    """Eight rows in four groups, prompts and responses of many lengths, junk in the padding."""
    generator = torch.Generator().manual_seed(seed)
    num_tokens = max(sum(shape) for shape in SHAPES) + padding
    tokens = torch.randint(1, vocab_size, (len(SHAPES), 40), generator=generator)[:, :num_tokens]
    for row in range(1, len(SHAPES), 2):
        tokens[row, : SHAPES[row][0]] = tokens[row - 1, : SHAPES[row][0]]
    mask = torch.zeros(len(SHAPES), num_tokens, dtype=torch.bool)
    for row, (prompt, response) in enumerate(SHAPES):
        mask[row, prompt : prompt + response] = True
    drawn = torch.randn(len(SHAPES), generator=generator)
    return Batch(
        tokens_BT=tokens,
        mask_BT=mask,
        lengths_B=torch.tensor([sum(shape) for shape in SHAPES]),
        groups_B=torch.arange(len(SHAPES)) // 2,
        scores_B=drawn if scores is None else torch.tensor(scores),
        truncated_B=torch.zeros(len(SHAPES), dtype=torch.bool),
        engine_logprobs_BT=torch.where(mask, -4.0, math.nan),
    )


def credit(learner: Learner, batch: Batch, step: int = 1) -> TrainBatch:
    return learner.algorithm.assign_credit(learner.annotate(batch, step=step, score_std=1.0))


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def weights(learner: Learner) -> torch.Tensor:
    return flat(p for model in learner.models().values() for p in model.parameters())


def captured_gradients(learner: Learner, batch: TrainBatch, **update: Any) -> dict[str, Any]:
    """Gradients by `model.parameter` with which the optimizers of an update step."""
    captured: dict[str, Any] = {}

    def hook(name: str) -> Any:
        model = learner.models()[name]
        return lambda *_: captured.update(
            {
                f"{name}.{key}": None if p.grad is None else p.grad.clone()
                for key, p in model.named_parameters()
                if p.requires_grad
            }
        )

    for name, optimizer in learner.optimizers.items():
        optimizer.register_step_pre_hook(hook(name))
    learner.update(batch, **({"step": 1} | update))
    return captured


def out_of_memory_once(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *, call: int
) -> None:
    """Has a function of a module lose what its `call`-th call gives to an allocator's refusal."""
    function, calls = getattr(module, name), []

    def failing(*args: Any, **options: Any) -> Any:
        result = function(*args, **options)
        calls.append(name)
        if len(calls) == call:
            monkeypatch.setattr(module, name, function)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return result

    monkeypatch.setattr(module, name, failing)
