"""Credit assignment as pure functions; dimensions as in `grlo.batch`.

Junk outside the mask is harmless.
"""

from __future__ import annotations

import torch
from torch import Tensor


def last_token_rewards(scores_B: Tensor, mask_BT: Tensor) -> Tensor:
    """The score of a row on its last response token, zero elsewhere.

    A response that the length limit cut is rewarded like any other: nothing is bootstrapped there.

    Returns:
        float32 [B, T]; a row without response tokens is all zero.
    """
    positions_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last_B = torch.where(mask_BT, positions_T, -1).amax(1)
    return torch.where(positions_T == last_B[:, None], scores_B[:, None].float(), 0.0) * mask_BT


def returns_to_go(rewards_BT: Tensor, mask_BT: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Discounted sum of the rewards from each response token on: G_t = r_t + gamma G_{t+1}.

    Tokens outside the mask carry the sum through undiscounted.

    Returns:
        float32 [B, T], zero outside the mask.
    """
    rewards_BT = torch.where(mask_BT, rewards_BT, 0.0)
    if gamma == 1.0:
        return rewards_BT.flip(1).cumsum(1).flip(1) * mask_BT
    returns_BT = torch.zeros_like(rewards_BT)
    running_B = rewards_BT.new_zeros(len(rewards_BT))
    for t in reversed(range(rewards_BT.shape[1])):
        mask_B = mask_BT[:, t]
        running_B = torch.where(mask_B, rewards_BT[:, t] + gamma * running_B, running_B)
        returns_BT[:, t] = torch.where(mask_B, running_B, 0.0)
    return returns_BT


def generalized_advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t = delta_t + gamma lambda A_{t+1}
        R_t = A_t + V_t

    t + 1 is the next response token of the row: tokens outside the mask carry V and A through. The
    value after the last one is zero, whether the response stopped or was cut.

    Returns:
        Advantages, not whitened, and returns; float32 [B, T], zero outside the mask.
    """
    rewards_BT = torch.where(mask_BT, rewards_BT, 0.0)
    values_BT = torch.where(mask_BT, values_BT, 0.0)
    if gamma == 1.0 and gae_lambda == 1.0:
        returns_BT = returns_to_go(rewards_BT, mask_BT)
        return (returns_BT - values_BT) * mask_BT, returns_BT
    advantages_BT = torch.zeros_like(values_BT)
    next_value_B = values_BT.new_zeros(len(values_BT))
    advantage_B = torch.zeros_like(next_value_B)
    for t in reversed(range(values_BT.shape[1])):
        mask_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantage_B = torch.where(mask_B, delta_B + gamma * gae_lambda * advantage_B, advantage_B)
        next_value_B = torch.where(mask_B, values_BT[:, t], next_value_B)
        advantages_BT[:, t] = torch.where(mask_B, advantage_B, 0.0)
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def whiten(values_BT: Tensor, mask_BT: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Zero mean and unit variance over all response tokens: (x - mean) / sqrt(var + eps).

    The variance is the sample's (n - 1). Fewer than two tokens, or no spread, give zeros.

    Returns:
        float32 [B, T], zero outside the mask.
    """
    inside_N = values_BT[mask_BT]
    if len(inside_N) < 2:
        return torch.zeros_like(values_BT)
    centered_BT = torch.where(mask_BT, values_BT - inside_N.mean(), 0.0)
    if inside_N.max() == inside_N.min():
        return torch.zeros_like(centered_BT)
    return centered_BT * torch.rsqrt(inside_N.var() + eps)


def _group_statistics(scores_B: Tensor, groups_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Size, deviation from the group's mean (exactly zero without spread), and sample variance."""
    _, index_B = torch.unique(groups_B, return_inverse=True)
    num_groups = int(index_B.max()) + 1
    zeros_G = scores_B.new_zeros(num_groups)
    size_G = zeros_G.index_add(0, index_B, torch.ones_like(scores_B))
    mean_G = zeros_G.index_add(0, index_B, scores_B) / size_G
    highest_G = torch.full_like(zeros_G, -torch.inf).scatter_reduce(0, index_B, scores_B, "amax")
    lowest_G = torch.full_like(zeros_G, torch.inf).scatter_reduce(0, index_B, scores_B, "amin")
    deviation_B = torch.where((highest_G == lowest_G)[index_B], 0.0, scores_B - mean_G[index_B])
    variance_G = zeros_G.index_add(0, index_B, deviation_B**2) / (size_G - 1).clamp(min=1)
    return size_G[index_B], deviation_B, variance_G[index_B]


def group_advantages(
    scores_B: Tensor, groups_B: Tensor, *, scale_by_std: bool, eps: float = 1e-6
) -> Tensor:
    """Advantage relative to the other samples of a prompt.

    GRPO (DeepSeekMath, arXiv 2402.03300, section 4.1.2): A_i = (s_i - mean_G) / (std_G + eps), with
    the sample standard deviation (n - 1). Dr.GRPO (arXiv 2503.20783) leaves the division out. A
    group of one and a group without spread have advantage zero.

    Returns:
        float32 [B].
    """
    _, deviation_B, variance_B = _group_statistics(scores_B, groups_B)
    return deviation_B / (variance_B.sqrt() + eps) if scale_by_std else deviation_B


def leave_one_out_advantages(scores_B: Tensor, groups_B: Tensor) -> Tensor:
    """RLOO (Ahmadian et al. 2024, arXiv 2402.14740, eq. 8): s_i minus the mean of the others.

    Equals n / (n - 1) (s_i - mean_G). A group of one and one without spread have advantage zero.

    Returns:
        float32 [B].
    """
    size_B, deviation_B, _ = _group_statistics(scores_B, groups_B)
    return deviation_B * size_B / (size_B - 1).clamp(min=1)
