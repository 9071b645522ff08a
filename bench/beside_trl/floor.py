"""The floor of the arithmetic: operations of a step over the rate of matrix products.

Operations are those that the task needs (`grlo.training.flops`): no padding, a prompt once for all
its samples, in the reward model too. The rate is the best that this process reaches, per processor
second, over both libraries that torch has for float32 on a CPU and several shapes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from grlo.model_shape import ModelShape, read_shape
from grlo.rollout import ChatRenderer
from grlo.training import flops
from grlo.types import Message

SQUARES = (512, 1024, 2048)
ROWS = 1024
"""Of the products in the shapes of the model."""


@dataclass(frozen=True)
class Answer:
    """What the count needs to know of an answer."""

    step: int
    question: str
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]


def operations(
    answers: Sequence[Answer], *, policy: Path, reward: Path, has_reference: bool
) -> dict[str, float]:
    """Floating-point operations of each phase, over all steps; steps share nothing."""
    shape, reward_shape = read_shape(policy), read_shape(reward)
    own = ChatRenderer.from_pretrained(str(policy))
    renderer = ChatRenderer.from_pretrained(str(reward))
    read = flops.reading(
        shape, [((a.step, a.question), len(a.prompt_tokens), len(a.tokens)) for a in answers]
    )
    scored = []
    for answer in answers:
        question = Message("user", answer.question)
        turns = (question, Message("assistant", own.decode(answer.tokens)))
        shared, length = len(renderer.encode((question,))), len(renderer.encode_conversation(turns))
        scored.append(
            ((answer.step, answer.question), min(shared, length), max(0, length - shared))
        )
    generation = sum(
        flops.generation(
            shape, [(a.prompt_tokens, len(a.tokens)) for a in answers if a.step == step]
        ).flops
        for step in {answer.step for answer in answers}
    )
    scoring = flops.scoring(reward_shape, scored).flops
    training = read.trained().flops + (read.forward().flops if has_reference else 0.0)
    return {
        "generation": generation,
        "scoring": scoring,
        "training": training,
        "total": generation + scoring + training,
    }


@functools.cache
def matrix_rate(shape: ModelShape) -> dict[str, float]:
    """FLOP per processor second of float32 products under the threads in use, best first.

    Taken once a process, in the minute in which the phases are timed.
    """
    sizes = {f"{n}^3": (n, n, n) for n in SQUARES}
    for name in ("q_proj", "up_proj", "down_proj"):
        inputs, outputs = shape.linear_shapes[name]
        sizes[name] = (ROWS, inputs, outputs)
    found: dict[str, float] = {}
    with torch.no_grad():
        for name, (rows, inputs, outputs) in sizes.items():
            left, right = torch.rand(rows, inputs), torch.rand(outputs, inputs)
            for library, product in _libraries(left, right).items():
                found[f"{library} {name}"] = 2 * rows * inputs * outputs / _least_seconds(product)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _libraries(left: torch.Tensor, right: torch.Tensor) -> dict[str, Callable[[], object]]:
    products: dict[str, Callable[[], object]] = {
        "torch": lambda: torch.nn.functional.linear(left, right)
    }
    if torch.backends.mkldnn.is_available():
        linear = torch.ops.mkldnn._linear_pointwise
        products["oneDNN"] = lambda: linear(left, right, None, "none", [], "")
    return products


def _least_seconds(work: Callable[[], object], *, repetitions: int = 4) -> float:
    """Least processor seconds of a call, in bundles of a tenth of a second.

    A shorter time may be without that of other threads, which the system adds up a few
    milliseconds late.
    """
    work()
    start = time.perf_counter()
    work()
    bundle = max(1, round(0.1 / max(time.perf_counter() - start, 1e-6)))
    best = float("inf")
    for _ in range(repetitions):
        before = time.process_time()
        for _ in range(bundle):
            work()
        best = min(best, (time.process_time() - before) / bundle)
    return best
