"""Device-hours of the published schedule from what was measured, by phase.

The schedule (arXiv 2605.15464 and its release): 60 steps of 1,024 prompts with one answer each, PPO
with a critic, four updates a step. Taken are answers of one length; generation goes by the measured
seconds of a step of decoding, a + b * context, everything else by its operations at the measured
share of the device's peak. Checkpoints, evaluations and loading are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grlo.model_shape import ModelShape, forward_flops
from grlo.training import flops

Row = Mapping[str, Any]

ENGINE = ("engine", "engine, CUDA graphs")
"""Ways in which the reference engine may draw; the faster one is taken."""
LEARNER = (
    "packed, checkpointing",
    "packed, no checkpointing, micro-batch 4,096",
    "compiled, checkpointing",
    "compiled, no checkpointing, micro-batch 4,096",
)
"""Variants of the learner that the schedule may be trained by; the faster one is taken."""
SCORER = (
    "sorted batches of 32,768 tokens",
    "sorted batches of 8,192 tokens",
    "compiled, sorted batches of 32,768 tokens",
)


@dataclass(frozen=True)
class Schedule:
    """What is generated, scored and trained on."""

    policy: ModelShape
    critic: ModelShape
    reward: ModelShape
    prompt_tokens: int
    num_responses: int = 61440
    num_steps: int = 60


def project(schedule: Schedule, rows: Sequence[Row], *, length: int) -> dict[str, float | None]:
    """Hours of one device for each phase; None where a measurement is missing.

    `critic-free` is the total without the critic's passes. `floor` is everything at the ceilings:
    products at the measured peak, decoding at the greater of that and of reading weights and keys
    and values once a step at the bandwidth of a copy.
    """
    measured = {row["name"]: row for row in rows if "error" not in row}
    peak = measured.get("bf16 product", {}).get("flop_per_second")
    policy = _read(schedule.policy, schedule, length)
    critic = _read(schedule.critic, schedule, length)
    reward = _read(schedule.reward, schedule, length)
    forward = _rate(measured, ("annotate",))
    trained = _rate(measured, LEARNER)
    scored = _rate(measured, SCORER)
    sync = measured.get("weights to the engine", {}).get("seconds")
    drawn = [_decoding(schedule, rows, name, length) for name in ENGINE]
    annotate = policy.forward().flops + critic.forward().flops
    update = policy.trained().flops + critic.trained().flops
    seconds: dict[str, float | None] = {
        "generate": min((value for value in drawn if value is not None), default=None),
        "score": _over(reward.forward().flops, scored),
        "annotate": _over(annotate, forward),
        "update": _over(update, trained),
        "sync": None if sync is None else sync * schedule.num_steps,
    }
    known = [value for value in seconds.values() if value is not None]
    total = sum(known) if len(known) == len(seconds) else None
    seconds["total"], seconds["critic-free"] = total, None
    if total is not None and forward is not None and trained is not None:
        of_critic = critic.forward().flops / forward + critic.trained().flops / trained
        seconds["critic-free"] = total - of_critic
    seconds["generate by vllm"] = _decoding(schedule, rows, "vllm", length)
    work = reward.forward().flops + annotate + update
    floor = _decoding_floor(schedule, measured, rows, length)
    rest = _over(work, peak)
    seconds["floor"] = None if floor is None or rest is None else floor + rest
    return {phase: None if value is None else value / 3600 for phase, value in seconds.items()}


def _read(shape: ModelShape, schedule: Schedule, length: int) -> flops.Reading:
    """All responses, each read once with its prompt."""
    one = flops.reading(shape, [(0, schedule.prompt_tokens, length)])
    count = schedule.num_responses
    return flops.Reading(count * one.tokens, count * one.flops, count * one.weight_flops)


def _rate(measured: Mapping[str, Row], names: Sequence[str]) -> float | None:
    """The best FLOP per second of the named measurements."""
    rates = [
        measured[name]["flops"] / measured[name]["seconds"]
        for name in names
        if "seconds" in measured.get(name, {})
    ]
    return max(rates, default=None)


def _over(work: float, rate: float | None) -> float | None:
    return None if rate is None else work / rate


def _step_rows(rows: Sequence[Row], name: str) -> list[Row]:
    """Timed steps of decoding of one engine with its largest number of rows."""
    steps = [
        row
        for row in rows
        if row["name"].startswith(f"{name}, step at") and row.get("step_seconds", 0) > 0
    ]
    most = max((row["rows"] for row in steps), default=0)
    return [row for row in steps if row["rows"] == most]


def _decoding(schedule: Schedule, rows: Sequence[Row], name: str, length: int) -> float | None:
    """Seconds of decoding all responses, rows of equal length in full batches."""
    steps = _step_rows(rows, name)
    if len(steps) < 2:
        return None
    base, slope = _line([(row["context"], row["step_seconds"]) for row in steps])
    context = schedule.prompt_tokens + length / 2
    num_steps = schedule.num_responses / steps[0]["rows"] * length
    return num_steps * (base + slope * context)


def _decoding_floor(
    schedule: Schedule, measured: Mapping[str, Row], rows: Sequence[Row], length: int
) -> float | None:
    peak = measured.get("bf16 product", {}).get("flop_per_second")
    bandwidth = measured.get("copy bandwidth", {}).get("bytes_per_second")
    steps = _step_rows(rows, "engine")
    if peak is None or bandwidth is None or not steps:
        return None
    num_rows = steps[0]["rows"]
    step = step_floor(
        schedule.policy,
        num_rows=num_rows,
        context=schedule.prompt_tokens + length // 2,
        bandwidth=bandwidth,
        peak=peak,
    )
    return schedule.num_responses / num_rows * length * step


def step_floor(
    shape: ModelShape, *, num_rows: int, context: int, bandwidth: float, peak: float
) -> float:
    """Least seconds of a step of decoding in bfloat16: weights and all keys and values are read
    once, and the products are done; whichever takes longer."""
    weights = 2 * (shape.active_parameters + shape.head_parameters)
    cache = 2 * num_rows * context * shape.cache_elements_per_token
    work = num_rows * forward_flops(shape, num_tokens=1, num_cached=context)
    return max((weights + cache) / bandwidth, work / peak)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Value at zero and slope by least squares; neither is negative, whatever the noise."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    slope = min(max(slope, 0.0), mean_y / mean_x)
    return mean_y - slope * mean_x, slope
