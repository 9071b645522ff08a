"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740)."""

from __future__ import annotations

from dataclasses import dataclass

from grlo.algorithms.advantages import leave_one_out_advantages
from grlo.algorithms.clipped import ClippedPolicy, Reduction, with_sequence_advantages
from grlo.batch import AnnotatedBatch, TrainBatch


@dataclass(frozen=True, kw_only=True)
class RLOO(ClippedPolicy):
    """The baseline of a sample is the mean score of the other samples of its prompt."""

    name: str = "rloo"
    dual_clip: float = 0.0
    reduction: Reduction = "sequence_mean_token_sum"
    """The paper treats a response as one action: its log-probability is a sum over tokens."""

    @property
    def compares_group(self) -> bool:
        return True

    def assign_credit(self, batch: AnnotatedBatch) -> TrainBatch:
        """Every token of a row has the row's leave-one-out advantage."""
        return with_sequence_advantages(
            batch, leave_one_out_advantages(self.sequence_rewards(batch), batch.groups_B)
        )
