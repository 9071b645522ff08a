"""The learning rate of a step."""

from __future__ import annotations

import math

from grlo.settings import OptimizerSettings


def learning_rate(settings: OptimizerSettings, *, step: int, num_steps: float) -> float:
    """The rate of a step (1 is the first): linear warm-up, constant, then the schedule's decay."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    start = max(settings.warmup_steps, settings.decay_start * num_steps)
    done = min(max((step - start) / max(num_steps - start, 1), 0.0), 1.0)
    left = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate * (settings.final_fraction + (1 - settings.final_fraction) * left)
