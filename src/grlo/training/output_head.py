"""Log-probabilities and entropy from hidden states, without ever holding all logits.

Dimensions: N positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from grlo.modeling.products import outer, product
from grlo.work_sizes import chunk_rows

EntropyMode = Literal["none", "detached", "gradient"]


def head_logprobs(
    head: nn.Module,
    hidden_ND: Tensor,
    targets_N: Tensor,
    *,
    vocab_size: int,
    temperature: float,
    entropy: EntropyMode,
) -> tuple[Tensor, Tensor]:
    """log softmax(W h / temperature) at the targets, and the entropy of that distribution.

    Positions are worked on in chunks, and the backward pass computes the logits of a chunk again:
    with p = softmax(z), z = W h / temperature and H the entropy, the gradient of log p_y by z_j is
    [j = y] - p_j, and that of H is -p_j (log p_j + H).

    Args:
        head: The map to logits; one that is more than a matrix (adapters, a bias) goes through
            autograd chunk by chunk.
        hidden_ND: Hidden states.
        targets_N: Token whose log-probability is asked for.
        vocab_size: Number of logits.
        temperature: That of the sampling.
        entropy: `none` returns zeros for it, `detached` its value, `gradient` its gradient too.

    Returns:
        Two float32 tensors [N] in nats.
    """
    rows = chunk_rows(vocab_size, hidden_ND.device.type)
    if isinstance(head, nn.Linear) and head.bias is None:
        return _ChunkedHead.apply(  # pyright: ignore[reportReturnType]
            hidden_ND, head.weight, targets_N, temperature, entropy, rows
        )
    parts = [
        checkpoint(_of_any_head, head, hidden, targets, temperature, entropy, use_reentrant=False)
        for hidden, targets in zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
    ]
    logprobs_N, entropy_N = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return logprobs_N, entropy_N


class _ChunkedHead(torch.autograd.Function):
    """`head_logprobs` of a weight matrix [V, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        temperature: float,
        entropy: EntropyMode,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        dtype = _compute_dtype(weight_VD)
        weight = weight_VD.to(dtype)
        parts = []
        for start in range(0, max(1, len(hidden_ND)), rows):
            chunk = slice(start, start + rows)
            logits_CV = _logits(hidden_ND[chunk].to(dtype), weight, temperature)
            parts.append(_read(logits_CV, targets_N[chunk], entropy != "none"))
            del logits_CV  # Before there are those of the next chunk.
        normalizer_N, logprobs_N, entropy_N = map(_joined, zip(*parts, strict=True))
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, normalizer_N, entropy_N)
        ctx.dtype, ctx.temperature, ctx.rows = dtype, temperature, rows
        if entropy != "gradient":
            ctx.mark_non_differentiable(entropy_N)
        ctx.has_entropy_gradient = entropy == "gradient"
        return logprobs_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, upstream_N: Tensor, entropy_upstream_N: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N, normalizer_N, entropy_N = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        weight = weight_VD.to(ctx.dtype)
        for_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        for_weight = torch.zeros_like(weight_VD) if needs_weight else None
        for start in range(0, len(hidden_ND), ctx.rows):
            chunk = slice(start, start + ctx.rows)
            hidden = hidden_ND[chunk].to(ctx.dtype)
            logits_CV = _logits(hidden, weight, ctx.temperature)
            probs_CV = logits_CV.sub_(normalizer_N[chunk, None]).exp_()
            upstream = upstream_N[chunk, None] / ctx.temperature
            if ctx.has_entropy_gradient:
                entropy_upstream = entropy_upstream_N[chunk, None] / ctx.temperature
                gradient_CV = torch.xlogy(probs_CV, probs_CV).mul_(-entropy_upstream)
                both = upstream + entropy_upstream * entropy_N[chunk, None]
                gradient_CV.addcmul_(probs_CV, both, value=-1)
            else:
                gradient_CV = probs_CV.mul_(-upstream)
            gradient_CV.scatter_add_(1, targets_N[chunk, None], upstream)
            gradient_CV = gradient_CV.to(ctx.dtype)
            if for_hidden is not None:
                for_hidden[chunk] = product(gradient_CV, weight)
            if for_weight is not None:
                for_weight += outer(gradient_CV, hidden)
        return for_hidden, for_weight, None, None, None, None


def _logits(hidden_CD: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    logits_CV = product(hidden_CD, weight_VD.t()).float()
    return logits_CV if temperature == 1 else logits_CV.div_(temperature)


def _read(logits_CV: Tensor, targets_C: Tensor, has_entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizers, log-probabilities of targets and entropies; logits are lost."""
    top_C1 = logits_CV.amax(-1, keepdim=True)
    # From here on relative to the largest, so that sums of few likely tokens stay precise.
    logits_CV -= top_C1
    weights_CV = logits_CV.exp()
    sum_C = weights_CV.sum(-1)
    rest_C = sum_C.log()
    logprobs_C = logits_CV.gather(-1, targets_C[:, None]).squeeze(-1) - rest_C
    if has_entropy:
        entropy_C = rest_C - logits_CV.mul_(weights_CV).sum(-1).div_(sum_C)
    else:
        entropy_C = torch.zeros_like(rest_C)
    return top_C1.squeeze(-1) + rest_C, logprobs_C, entropy_C


def _of_any_head(
    head: nn.Module,
    hidden_CD: Tensor,
    targets_C: Tensor,
    temperature: float,
    entropy: EntropyMode,
) -> tuple[Tensor, Tensor]:
    logprobs_CV = (head(hidden_CD).float() / temperature).log_softmax(-1)
    chosen_C = logprobs_CV.gather(-1, targets_C[:, None]).squeeze(-1)
    if entropy == "none":
        return chosen_C, torch.zeros_like(chosen_C)
    with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
        return chosen_C, -(logprobs_CV.exp() * logprobs_CV).sum(-1)


def _compute_dtype(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(tuple(parts)) if len(parts) != 1 else parts[0]
