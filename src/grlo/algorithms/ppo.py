"""Proximal policy optimisation with a critic (Schulman et al. 2017), as GRLO's release runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from grlo.algorithms.advantages import generalized_advantages, whiten
from grlo.algorithms.clipped import ClippedPolicy
from grlo.algorithms.losses import clipped_value_loss
from grlo.batch import AnnotatedBatch, TokenLoss, TrainBatch
from grlo.settings import require


@dataclass(frozen=True, kw_only=True)
class PPO(ClippedPolicy):
    """PPO with GAE and a critic; defaults are the published settings of GRLO."""

    name: str = "ppo"
    gamma: float = 1.0
    """Discount per token."""
    gae_lambda: float = 1.0
    whiten_advantages: bool = True
    """Zero mean and unit variance over all response tokens of the step."""
    value_clip: float = 0.5
    """Largest move of a value per rollout batch, in `value_clip_unit`; 0 sets no limit."""
    value_clip_unit: Literal["raw", "reward_std"] = "raw"
    """`raw`: the unit of the scores (published); `reward_std`: their running standard deviation."""
    critic_warmup_steps: int = 0
    """First steps in which only the critic is trained; of one on the policy's trunk, its head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.gamma <= 1, "gamma must lie in [0, 1]")
        require(0 <= self.gae_lambda <= 1, "gae_lambda must lie in [0, 1]")
        require(self.value_clip >= 0, "value_clip must not be negative")
        require(self.critic_warmup_steps >= 0, "critic_warmup_steps must not be negative")

    @property
    def needs_critic(self) -> bool:
        return True

    def assign_credit(self, batch: AnnotatedBatch) -> TrainBatch:
        """GAE on token rewards; advantages whitened over the step, returns left as they are."""
        assert batch.old_values_BT is not None
        advantages_BT, returns_BT = generalized_advantages(
            self.token_rewards(batch),
            batch.old_values_BT,
            batch.mask_BT,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
        )
        if self.whiten_advantages:
            advantages_BT = whiten(advantages_BT, batch.mask_BT)
        return TrainBatch(**vars(batch), advantages_BT=advantages_BT, returns_BT=returns_BT)

    def value_loss(self, values_BT: Tensor, batch: TrainBatch) -> TokenLoss:
        """Clipped squared error of the critic, per token."""
        assert batch.old_values_BT is not None
        assert batch.returns_BT is not None
        unit = batch.score_std if self.value_clip_unit == "reward_std" else 1.0
        clip = self.value_clip * unit
        loss_BT = clipped_value_loss(values_BT, batch.old_values_BT, batch.returns_BT, clip=clip)
        moved_BT = (values_BT - batch.old_values_BT).detach().abs()
        metrics_BT = {"critic/loss": loss_BT.detach()}
        if clip > 0:
            metrics_BT["critic/clip_fraction"] = (moved_BT > clip).float()
        return TokenLoss(loss_BT=loss_BT, metrics_BT=metrics_BT)
