"""What all algorithms here share: the clipped policy loss with entropy bonus and KL term."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grlo.algorithms.advantages import last_token_rewards
from grlo.algorithms.losses import (
    clipped_policy_loss,
    importance_ratio,
    kl_estimate,
    truncated_importance_weight,
)
from grlo.batch import AnnotatedBatch, TokenLoss, TrainBatch
from grlo.settings import require

Reduction = Literal[
    "token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant_length"
]


@dataclass(frozen=True, kw_only=True)
class ClippedPolicy:
    """Settings and loss of the policy update."""

    name: str = ""
    clip_low: float = 0.2
    """The ratio may fall to 1 - clip_low before the gradient stops."""
    clip_high: float = 0.2
    """The ratio may rise to 1 + clip_high before the gradient stops."""
    dual_clip: float = 3.0
    """Bound on the ratio where the advantage is negative; 0 sets none."""
    entropy_coefficient: float = 0.0
    kl_coefficient: float = 0.0
    """beta of the KL term against the initial policy; 0 never loads a reference model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k2"
    kl_in: Literal["loss", "reward"] = "loss"
    reduction: Reduction = "token_mean"
    """How token losses become one number; counted over the whole mini-batch."""
    importance_cap: float = 0.0
    """C of truncated importance sampling (Yao et al. 2025): the surrogate of a token, not its
    entropy or KL term, is weighted by min(pi_old / pi_engine, C), where the engine that drew it has
    other log-probabilities than the learner before the update. 0 weights nothing; usual is 2."""

    def __post_init__(self) -> None:
        require(0 < self.clip_low <= 1, "clip_low must lie in (0, 1]; 1 sets no lower bound")
        require(self.clip_high > 0, "clip_high must be positive")
        require(self.dual_clip == 0 or self.dual_clip > 1, "dual_clip must be 0 (none) or exceed 1")
        require(self.kl_coefficient >= 0, "kl_coefficient must not be negative")
        # Below 1 it would scale down tokens on which engine and learner agree.
        require(
            self.importance_cap == 0 or self.importance_cap >= 1,
            "importance_cap must be 0 (no weights) or at least 1",
        )

    @property
    def needs_reference(self) -> bool:
        return self.kl_coefficient > 0

    @property
    def needs_old_logprobs(self) -> bool:
        return self.kl_coefficient > 0 and self.kl_in == "reward"

    @property
    def needs_critic(self) -> bool:
        return False

    @property
    def compares_group(self) -> bool:
        """Whether a sample is compared with the other samples of its prompt."""
        return False

    @property
    def zero_advantage_metrics(self) -> Mapping[str, float] | None:
        """Metrics of a token without advantage, if the policy loss has no gradient there.

        The learner does not read rows of such tokens. Metrics that are not named here, such as the
        entropy, are known only where the policy was evaluated. None: an entropy bonus or a KL term
        in the loss gives every token a gradient.
        """
        has_kl = self.kl_coefficient > 0 and self.kl_in == "loss"
        if has_kl or self.entropy_coefficient != 0:
            return None
        return {"policy/loss": 0.0, "policy/clip_fraction": 0.0}

    def token_rewards(self, batch: AnnotatedBatch) -> Tensor:
        """The score on the last response token; minus beta KL_t on each if that is in the reward.

        Returns:
            float32 [B, T], zero outside the mask.
        """
        rewards_BT = last_token_rewards(batch.scores_B, batch.mask_BT)
        if not self.needs_old_logprobs:
            return rewards_BT
        assert batch.old_logprobs_BT is not None
        assert batch.reference_logprobs_BT is not None
        kl_BT = kl_estimate(
            batch.old_logprobs_BT, batch.reference_logprobs_BT, estimator=self.kl_estimator
        )
        return rewards_BT - torch.where(batch.mask_BT, self.kl_coefficient * kl_BT, 0.0)

    def sequence_rewards(self, batch: AnnotatedBatch) -> Tensor:
        """Sum of a row's token rewards, float32 [B]."""
        return self.token_rewards(batch).sum(1)

    def policy_loss(self, logprobs_BT: Tensor, entropy_BT: Tensor, batch: TrainBatch) -> TokenLoss:
        """Surrogate minus entropy bonus plus KL term, per token."""
        # With one update per step the old policy is the present one, and the ratio is exactly 1.
        old_BT = logprobs_BT.detach() if batch.old_logprobs_BT is None else batch.old_logprobs_BT
        loss_BT, is_clipped_BT = self.surrogate(logprobs_BT, old_BT, batch)
        importance_BT = self.importance_weights(old_BT, batch)
        if importance_BT:
            loss_BT = importance_BT["importance/weight"] * loss_BT
        metrics_BT = importance_BT | {
            "policy/loss": loss_BT.detach(),
            "policy/entropy": entropy_BT.detach(),
            "policy/clip_fraction": is_clipped_BT.float(),
            "policy/approx_kl": kl_estimate(old_BT, logprobs_BT.detach(), estimator="k3"),
        }
        if self.entropy_coefficient != 0:
            loss_BT = loss_BT - self.entropy_coefficient * entropy_BT
        if batch.reference_logprobs_BT is not None:
            kl_BT = kl_estimate(
                logprobs_BT, batch.reference_logprobs_BT, estimator=self.kl_estimator
            )
            metrics_BT["policy/kl"] = kl_BT.detach()
            if self.kl_in == "loss":
                loss_BT = loss_BT + self.kl_coefficient * kl_BT
        return TokenLoss(loss_BT=loss_BT, metrics_BT=metrics_BT)

    def importance_weights(self, old_logprobs_BT: Tensor, batch: TrainBatch) -> dict[str, Tensor]:
        """Truncated importance weight of every token, zero outside the mask, with what is reported
        of it; empty without `importance_cap`."""
        if self.importance_cap == 0:
            return {}
        weight_BT, is_capped_BT = truncated_importance_weight(
            old_logprobs_BT, batch.engine_logprobs_BT, cap=self.importance_cap
        )
        weight_BT = torch.where(batch.mask_BT, weight_BT, 0.0)
        return {
            "importance/weight": weight_BT,
            "importance/weight_squared": weight_BT**2,
            "importance/capped": is_capped_BT.float(),
        }

    def surrogate(
        self, logprobs_BT: Tensor, old_logprobs_BT: Tensor, batch: TrainBatch
    ) -> tuple[Tensor, Tensor]:
        """PPO's clipped surrogate of every token.

        Returns:
            Loss, and where clipping has stopped the gradient (bool), both [B, T].
        """
        return self.clip(importance_ratio(logprobs_BT, old_logprobs_BT), batch.advantages_BT)

    def clip(self, ratio_BT: Tensor, advantages_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The clipped surrogate of ratios, and where it is clipped."""
        loss_BT = clipped_policy_loss(
            ratio_BT,
            advantages_BT,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )
        is_clipped_BT = torch.where(
            advantages_BT > 0, ratio_BT > 1 + self.clip_high, ratio_BT < 1 - self.clip_low
        )
        return loss_BT, is_clipped_BT & (advantages_BT != 0)


def with_sequence_advantages(batch: AnnotatedBatch, advantages_B: Tensor) -> TrainBatch:
    """The batch with one advantage for all response tokens of a row, and no critic."""
    return TrainBatch(
        **vars(batch), advantages_BT=advantages_B[:, None] * batch.mask_BT, returns_BT=None
    )
