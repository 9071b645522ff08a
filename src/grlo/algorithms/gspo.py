"""Group sequence policy optimisation (GSPO, arXiv 2507.18071)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from grlo.algorithms.grpo import GRPO
from grlo.algorithms.losses import sequence_ratio
from grlo.batch import TrainBatch


@dataclass(frozen=True, kw_only=True)
class GSPO(GRPO):
    """GRPO with one ratio and one clip for a whole response (equation 5).

    Every token of a row carries the row's loss, so that the mean over tokens, and then over rows,
    is the paper's mean over responses. Other reductions would weigh long responses more.
    """

    name: str = "gspo"
    clip_low: float = 3e-4
    """Section 5.1 of the paper; ratios of whole responses stay much closer to 1 than of tokens."""
    clip_high: float = 4e-4

    def surrogate(
        self, logprobs_BT: Tensor, old_logprobs_BT: Tensor, batch: TrainBatch
    ) -> tuple[Tensor, Tensor]:
        """The clipped surrogate of the response's geometric mean ratio, on each of its tokens."""
        ratio_B1 = sequence_ratio(logprobs_BT, old_logprobs_BT, batch.mask_BT)
        return self.clip(ratio_B1.expand_as(logprobs_BT), batch.advantages_BT)
