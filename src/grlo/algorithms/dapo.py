"""Decoupled clip and dynamic sampling policy optimisation (DAPO, arXiv 2503.14476)."""

from __future__ import annotations

from dataclasses import dataclass

from grlo.algorithms.clipped import Reduction
from grlo.algorithms.grpo import GRPO


@dataclass(frozen=True, kw_only=True)
class DAPO(GRPO):
    """GRPO with clip-higher and a loss that is a mean over tokens (sections 3.1 and 3.3).

    The paper's other two parts are settings of their own: dynamic sampling (3.2) is
    `sampling.max_draws`, the overlong penalty (3.4) is `shaping.overlong_buffer`.
    """

    name: str = "dapo"
    clip_high: float = 0.28
    reduction: Reduction = "token_mean"
