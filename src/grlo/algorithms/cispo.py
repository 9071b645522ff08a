"""Clipped importance-sampling weights (CISPO, of MiniMax-M1, arXiv 2506.13585)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from grlo.algorithms.clipped import Reduction
from grlo.algorithms.grpo import GRPO
from grlo.algorithms.losses import clipped_weight_loss, importance_ratio
from grlo.batch import TrainBatch
from grlo.settings import require


@dataclass(frozen=True, kw_only=True)
class CISPO(GRPO):
    """GRPO's advantages, REINFORCE's gradient with a bounded importance weight, mean over tokens.

    The paper sets no lower bound and tunes the upper one without stating it.
    """

    name: str = "cispo"
    clip_low: float = 1.0
    """1 sets no lower bound."""
    clip_high: float = 4.0
    """The weight is at most 5, as in ScaleRL (arXiv 2510.13786)."""
    reduction: Reduction = "token_mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.dual_clip == 0, "dual_clip must be 0: cispo bounds every weight by clip_high")

    def surrogate(
        self, logprobs_BT: Tensor, old_logprobs_BT: Tensor, batch: TrainBatch
    ) -> tuple[Tensor, Tensor]:
        """Weighted log-likelihood, and where the weight is bounded."""
        ratio_BT = importance_ratio(logprobs_BT, old_logprobs_BT)
        loss_BT = clipped_weight_loss(
            logprobs_BT,
            ratio_BT,
            batch.advantages_BT,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )
        bounded_BT = (ratio_BT > 1 + self.clip_high) | (ratio_BT < 1 - self.clip_low)
        return loss_BT, bounded_BT & (batch.advantages_BT != 0)
