"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grlo.algorithms.advantages import group_advantages, returns_to_go, whiten
from grlo.algorithms.clipped import ClippedPolicy
from grlo.batch import AnnotatedBatch, TrainBatch
from grlo.settings import require


@dataclass(frozen=True, kw_only=True)
class ReinforcePlusPlus(ClippedPolicy):
    """Critic-free: advantages are whitened over the whole step instead of within a group."""

    name: str = "reinforce_pp"
    baseline: Literal["none", "group"] = "none"
    """`none`: returns-to-go of the token rewards. `group`: the score minus its group's mean on
    every token (the paper's baseline variant, for several samples per prompt)."""
    gamma: float = 1.0
    """Discount per token, without a group baseline."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.gamma <= 1, "gamma must lie in [0, 1]")

    @property
    def compares_group(self) -> bool:
        return self.baseline == "group"

    def assign_credit(self, batch: AnnotatedBatch) -> TrainBatch:
        """Returns or group deviations, whitened over all response tokens of the step."""
        if self.baseline == "group":
            advantages_B = group_advantages(
                self.sequence_rewards(batch), batch.groups_B, scale_by_std=False
            )
            advantages_BT = advantages_B[:, None] * batch.mask_BT
        else:
            advantages_BT = returns_to_go(
                self.token_rewards(batch), batch.mask_BT, gamma=self.gamma
            )
        return TrainBatch(
            **vars(batch), advantages_BT=whiten(advantages_BT, batch.mask_BT), returns_BT=None
        )
