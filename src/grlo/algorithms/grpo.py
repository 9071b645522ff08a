"""Group relative policy optimisation: GRPO (arXiv 2402.03300) and Dr.GRPO (arXiv 2503.20783)."""

from __future__ import annotations

from dataclasses import dataclass

from grlo.algorithms.advantages import group_advantages
from grlo.algorithms.clipped import ClippedPolicy, Reduction, with_sequence_advantages
from grlo.batch import AnnotatedBatch, TrainBatch


@dataclass(frozen=True, kw_only=True)
class GRPO(ClippedPolicy):
    """GRPO; Dr.GRPO is `scale_by_std = false` with `reduction = "constant_length"`."""

    name: str = "grpo"
    scale_by_std: bool = True
    """Divides by the group's standard deviation, which favours very easy and very hard prompts."""
    dual_clip: float = 0.0
    reduction: Reduction = "sequence_mean_token_mean"

    @property
    def compares_group(self) -> bool:
        return True

    def assign_credit(self, batch: AnnotatedBatch) -> TrainBatch:
        """Every token of a row has the row's advantage within its group."""
        return with_sequence_advantages(
            batch,
            group_advantages(
                self.sequence_rewards(batch), batch.groups_B, scale_by_std=self.scale_by_std
            ),
        )
