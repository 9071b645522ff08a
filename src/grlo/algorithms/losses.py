"""Losses per token and divergence estimators, as pure functions of tensors of any equal shape.

The reduction to a scalar belongs to the learner.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# exp(20) is 5e8: far beyond any ratio that clipping lets through, and safe in float32.
_LOG_RATIO_LIMIT = 20.0


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """pi / pi_old per token, with the log-ratio clamped to +-20."""
    return (logprobs - old_logprobs).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


def truncated_importance_weight(
    old_logprobs: Tensor, engine_logprobs: Tensor, *, cap: float
) -> tuple[Tensor, Tensor]:
    """Weight of a token that another policy has drawn (truncated importance sampling).

        w = min(pi_old / pi_engine, C)

    Rollouts follow the engine's distribution, which is not quite the learner's before the update:
    other kernels, another type, older weights. The weight makes the expectation one over pi_old
    again, up to the bias of the truncation, which bounds the variance (Yao et al. 2025, "Your
    efficient RL framework secretly brings you off-policy RL training", with C = 2; the truncation
    is Ionides 2008's). The log-ratio is clamped to +-20.

    Args:
        old_logprobs: The learner's, before the update.
        engine_logprobs: Of the distribution that was drawn from.
        cap: C.

    Returns:
        w without gradient, and where the ratio exceeds C (bool).
    """
    ratio = importance_ratio(old_logprobs, engine_logprobs).detach()
    return ratio.clamp(max=cap), ratio > cap


def sequence_ratio(logprobs_BT: Tensor, old_logprobs_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Geometric mean of the token ratios of a response (GSPO, arXiv 2507.18071, eq. 7).

        s_i = exp(1/|y_i| sum_t (log pi(y_t) - log pi_old(y_t)))

    Args:
        mask_BT: True on response tokens; what lies outside it does not matter.

    Returns:
        [B, 1]; 1 for a row without response tokens.
    """
    log_ratio_BT = torch.where(mask_BT, logprobs_BT - old_logprobs_BT, 0.0)
    mean_B1 = log_ratio_BT.sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True).clamp(min=1)
    return mean_B1.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


def clipped_weight_loss(
    logprobs: Tensor, ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """REINFORCE with a clipped importance weight (CISPO, arXiv 2506.13585, eqs. 4 and 5), negated.

        L = -sg(clip(rho, 1 - clip_low, 1 + clip_high)) A log pi

    Unlike PPO's clip it never stops the gradient of a token: only the weight is bounded.

    Args:
        logprobs: log pi, with gradient.
        ratio: importance ratio rho.
        advantages: A, without gradient.
        clip_low: 1 sets no lower bound.
    """
    weight = ratio.detach().clamp(1 - clip_low, 1 + clip_high)
    return -weight * advantages * logprobs


def clipped_policy_loss(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, dual_clip: float
) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, eq. 7), negated.

        L = max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high))

    Separate bounds are DAPO's clip-higher (arXiv 2503.14476). Where A < 0 the loss is bounded by
    -A dual_clip (Ye et al. 2020, arXiv 1912.09729, eq. 5), so that a token which the policy now
    finds far more probable cannot dominate.

    Args:
        ratio: importance ratio rho.
        advantages: A, without gradient.
        dual_clip: Bound c > 1 on the ratio where the advantage is negative; 0 sets none.
    """
    loss = torch.maximum(
        -advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    )
    if dual_clip > 0:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return loss


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float
) -> Tensor:
    """Squared error of the critic, clipped as in PPO's reference implementation.

        L = 1/2 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)

    Args:
        clip: Largest move per rollout batch in units of the return; 0 sets no limit.
    """
    loss = (values - returns) ** 2
    if clip > 0:
        clipped = torch.clamp(values, old_values - clip, old_values + clip)
        loss = torch.maximum(loss, (clipped - returns) ** 2)
    return 0.5 * loss


def _k1(log_ratio: Tensor) -> Tensor:
    return log_ratio


def _k2(log_ratio: Tensor) -> Tensor:
    return 0.5 * log_ratio**2


def _k3(log_ratio: Tensor) -> Tensor:
    return torch.exp((-log_ratio).clamp(max=_LOG_RATIO_LIMIT)) + log_ratio - 1


KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {"k1": _k1, "k2": _k2, "k3": _k3}


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, *, estimator: str) -> Tensor:
    """Per-token estimate of KL(pi || ref) from tokens of pi (joschu.net/blog/kl-approx.html).

    With d = log pi - log ref: k1 = d, k2 = d^2 / 2, k3 = exp(-d) + d - 1. All but k2 are unbiased
    in value. As a term of the loss k2 has the gradient of the KL divergence, k1's is zero in
    expectation and k3's is biased; as a term of the reward k1 is the usual one.
    """
    return KL_ESTIMATORS[estimator](logprobs - reference_logprobs)
