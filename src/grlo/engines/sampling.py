"""Drawing tokens from logits, with random numbers that depend on nothing but their counter.

Dimensions: R rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

# Constants of SplitMix64 (Steele, Lea and Flood 2014), as signed 64-bit integers.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64

# Tokens are found in two stages, block and place in the block: sums over 151,936 probabilities stay
# short enough for float32, and only the blocks' sums and one block are added up in float64.
_BLOCK = 256


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # The sign bit of int64 must not be copied down.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def stream_keys(seeds_R: Tensor, samples_R: Tensor) -> Tensor:
    """One SplitMix64 stream for every (seed, sample); int64 in and out."""
    return _mix(_mix(seeds_R + _GAMMA) + (samples_R + 1) * _GAMMA)


def uniforms(keys_R: Tensor, indices_R: Tensor) -> Tensor:
    """Number `indices_R` of each stream, uniform in [0, 1) on a grid of 2**-53; float64."""
    bits = _mix(keys_R + (indices_R + 1) * _GAMMA)
    return _shift_right(bits, 11).double() * 2.0**-53


def draw(
    logits_RV: Tensor, uniforms_R: Tensor, *, temperature: float, top_p: float, top_k: int
) -> tuple[Tensor, Tensor]:
    """Draws a token per row by inverting the cumulative distribution.

    The distribution is `softmax(logits / temperature)`, cut to the `top_k` most probable tokens, of
    these to the smallest set whose share reaches `top_p` (Holtzman et al. 2020), and renormalised.
    Temperature 0 takes the most probable token, whatever `top_p` and `top_k` say.

    Args:
        logits_RV: Any floating type; computed in float32.
        uniforms_R: float64 in [0, 1).
        temperature: Not negative.
        top_p: In (0, 1].
        top_k: 0 keeps all.

    Returns:
        Tokens (int64) and their log-probabilities (float32) under the distribution they were drawn
        from, both of shape [R]. At temperature 0, where that would say nothing, the log-probability
        is the one at temperature 1. A token of probability zero is never drawn.
    """
    logits_RV = logits_RV.float()
    if temperature == 0:
        tokens_R = logits_RV.argmax(-1)
        top_R = logits_RV.gather(-1, tokens_R[:, None])[:, 0]
        return tokens_R, top_R - logits_RV.logsumexp(-1)
    if temperature != 1:
        logits_RV = logits_RV / temperature
    ids_RV = None
    if top_k or top_p < 1:
        logits_RV, ids_RV = _truncate(logits_RV, top_p=top_p, top_k=top_k)
    weights_RV = (logits_RV - logits_RV.amax(-1, keepdim=True)).exp_()
    places_R, totals_R = _invert(weights_RV, uniforms_R)
    weights_R = weights_RV.gather(-1, places_R[:, None])[:, 0]
    logprobs_R = (weights_R.double().log() - totals_R.log()).float()
    tokens_R = places_R if ids_RV is None else ids_RV.gather(-1, places_R[:, None])[:, 0]
    return tokens_R, logprobs_R


def _truncate(logits_RV: Tensor, *, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """The most probable tokens in descending order, excluded ones at -inf, and their ids."""
    if 0 < top_k < logits_RV.shape[-1]:
        sorted_RK, ids_RK = logits_RV.topk(top_k)
    else:
        sorted_RK, ids_RK = logits_RV.sort(descending=True, stable=True)
    if top_p < 1:
        probs_RK = sorted_RK.double().softmax(-1)
        before_RK = probs_RK.cumsum(-1) - probs_RK
        # The first token stays even when it alone is above top_p.
        before_RK[:, 0] = 0
        sorted_RK = sorted_RK.masked_fill(before_RK >= top_p, float("-inf"))
    return sorted_RK, ids_RK


def _invert(weights_RV: Tensor, uniforms_R: Tensor) -> tuple[Tensor, Tensor]:
    """Index at which the cumulative weight passes `uniforms_R` of the total, and the totals."""
    num_rows, num_tokens = weights_RV.shape
    if num_tokens % _BLOCK:
        weights_RV = pad(weights_RV, (0, -num_tokens % _BLOCK))
    weights_RBK = weights_RV.view(num_rows, -1, _BLOCK)
    sums_RB = weights_RBK.sum(-1).double()
    ends_RB = sums_RB.cumsum(-1)
    totals_R = ends_RB[:, -1]
    targets_R = uniforms_R * totals_R
    blocks_R = _first_above(ends_RB, targets_R)
    index = torch.arange(num_rows, device=weights_RV.device)
    targets_R = targets_R - (ends_RB - sums_RB)[index, blocks_R]
    inside_RK = weights_RBK[index, blocks_R].double()
    places_R = _first_above(inside_RK.cumsum(-1), targets_R)
    return blocks_R * _BLOCK + places_R, totals_R


def _first_above(ends_RN: Tensor, targets_R: Tensor) -> Tensor:
    """First index whose end lies above the target, so that its weight is positive.

    Where rounding leaves none, it is the last index of positive weight.
    """
    below_R = torch.nextafter(ends_RN[:, -1], torch.zeros_like(targets_R))
    targets_R = torch.minimum(targets_R, below_R)
    return torch.searchsorted(ends_RN, targets_R[:, None], right=True)[:, 0]
