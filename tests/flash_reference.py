"""What torch's flash attention kernels of a GPU compute, stretch by stretch in float32.

Dimensions: N queries and M keys of all stretches, H heads of queries (keys and values may have
fewer), D their size.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

Stretches = Iterable[tuple[slice, slice]]
"""Queries, and the keys that they meet."""


def forward(
    query_NHD: Tensor,
    key_MHD: Tensor,
    value_MHD: Tensor,
    stretches: Stretches,
    *,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The output [N, H, D] and the log-sum-exp of the scores, float32 [N, H].

    In a causal stretch the last query meets the last key. What is in no stretch is not a number.
    """
    output = torch.full_like(query_NHD, torch.nan)
    normalizer_NH = torch.full(query_NHD.shape[:2], torch.nan)
    for queries, keys in stretches:
        q, k, v = _heads(query_NHD[queries], key_MHD[keys], value_MHD[keys])
        scores_HNM = _scores(q, k, is_causal=is_causal, scale=scale)
        normalizer_NH[queries] = scores_HNM.logsumexp(-1).T
        output[queries] = (scores_HNM.softmax(-1) @ v).transpose(0, 1).to(output.dtype)
    return output, normalizer_NH


def backward(
    upstream_NHD: Tensor,
    query_NHD: Tensor,
    key_MHD: Tensor,
    value_MHD: Tensor,
    output_NHD: Tensor,
    normalizer_NH: Tensor,
    stretches: Stretches,
    *,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values: Dao et al. 2022 (arXiv 2205.14135), algorithm 4,
    without blocks."""
    states = query_NHD, key_MHD, value_MHD
    found = [torch.zeros_like(x) for x in states]
    for queries, keys in stretches:
        q, k, v = _heads(query_NHD[queries], key_MHD[keys], value_MHD[keys])
        scores_HNM = _scores(q, k, is_causal=is_causal, scale=scale)
        weights_HNM = (scores_HNM - normalizer_NH[queries].T[..., None]).exp()
        up, out = (x[queries].float().transpose(0, 1) for x in (upstream_NHD, output_NHD))
        rows_HN1 = (up * out).sum(-1, keepdim=True)
        slopes_HNM = weights_HNM * (up @ v.transpose(1, 2) - rows_HN1) * scale
        parts = (
            slopes_HNM @ k,
            slopes_HNM.transpose(1, 2) @ q,
            weights_HNM.transpose(1, 2) @ up,
        )
        for whole, where, gradient in zip(found, (queries, keys, keys), parts, strict=True):
            # Of heads that share a key.
            summed = gradient.unflatten(0, (whole.shape[1], -1)).sum(1)
            whole[where] = summed.transpose(0, 1).to(whole.dtype)
    return found[0], found[1], found[2]


def _heads(query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """[H, N or M, D] of each, a head of keys and values to every head of queries."""
    q, k, v = (x.float().transpose(0, 1) for x in (query, key, value))
    return [q, *(x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))]


def _scores(q: Tensor, k: Tensor, *, is_causal: bool, scale: float) -> Tensor:
    scores_HNM = scale * (q @ k.transpose(1, 2))
    if is_causal:
        num_queries, num_keys = scores_HNM.shape[1:]
        seen_NM = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
        scores_HNM = scores_HNM.masked_fill(~seen_NM, -torch.inf)
    return scores_HNM
