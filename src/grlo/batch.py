"""Batches of a step: `Batch -> AnnotatedBatch -> TrainBatch`, micro-batches and loss weights.

Dimensions: B rows (one per rollout), T tokens (prompt and response, right-padded). Index t speaks
of token t: `logprobs_BT[b, t]` is the log-probability of token t given those before it and
`values_BT[b, t]` the value of the state in which token t was chosen. `mask_BT` is true exactly on
response tokens; what lies outside it never matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from grlo.types import Rollout, Score


@dataclass(frozen=True)
class TokenBatch:
    """Prompts with their responses as tensors."""

    tokens_BT: Tensor
    """int64, right-padded."""
    mask_BT: Tensor
    """bool, true on response tokens."""
    lengths_B: Tensor
    """int64, prompt and response tokens of each row."""
    groups_B: Tensor
    """int64, rows of one prompt share a number."""


@dataclass(frozen=True)
class Batch(TokenBatch):
    """The scored rollouts of a step."""

    scores_B: Tensor
    """float32."""
    truncated_B: Tensor
    """bool, the response was cut at the length limit."""
    engine_logprobs_BT: Tensor
    """float32, log-probabilities that the engine reported; zero outside the mask."""


@dataclass(frozen=True)
class AnnotatedBatch(Batch):
    """A batch with what the models say of it before any update."""

    score_std: float
    """Running standard deviation of the scores, the unit of clips and penalties; positive."""
    old_logprobs_BT: Tensor | None
    """float32; None when the step makes one update, so that they equal the policy's own."""
    reference_logprobs_BT: Tensor | None
    """float32; None when the algorithm needs no reference."""
    old_values_BT: Tensor | None
    """float32; None when the algorithm has no critic."""


@dataclass(frozen=True)
class TrainBatch(AnnotatedBatch):
    """A batch with credit assigned to every token."""

    advantages_BT: Tensor
    """float32; zero outside the mask."""
    returns_BT: Tensor | None
    """float32, targets of the critic; None without one."""


@dataclass(frozen=True)
class TokenLoss:
    """A loss before reduction, and what to report beside it."""

    loss_BT: Tensor
    metrics_BT: Mapping[str, Tensor]
    """Detached per-token quantities; the learner averages each over the mask."""


AnyBatch = TypeVar("AnyBatch", bound=TokenBatch)


def collate(rollouts: Sequence[Rollout], scores: Sequence[Score], *, pad_id: int) -> Batch:
    """Rollouts with a score as one batch; unscored ones are left out.

    Raises:
        ValueError: No rollout has a score.
    """
    kept = [
        (rollout, score.value)
        for rollout, score in zip(rollouts, scores, strict=True)
        if score.value is not None
    ]
    if not kept:
        raise ValueError("no rollout has a score")
    num_rows = len(kept)
    lengths = [len(r.prompt_tokens) + len(r.completion.tokens) for r, _ in kept]
    tokens_BT = torch.full((num_rows, max(lengths)), pad_id, dtype=torch.int64)
    mask_BT = torch.zeros(num_rows, max(lengths), dtype=torch.bool)
    engine_logprobs_BT = torch.zeros(num_rows, max(lengths), dtype=torch.float32)
    for row, (rollout, _) in enumerate(kept):
        start, stop = len(rollout.prompt_tokens), lengths[row]
        tokens_BT[row, :stop] = torch.tensor(
            (*rollout.prompt_tokens, *rollout.completion.tokens), dtype=torch.int64
        )
        mask_BT[row, start:stop] = True
        engine_logprobs_BT[row, start:stop] = torch.tensor(rollout.completion.logprobs)
    return Batch(
        tokens_BT=tokens_BT,
        mask_BT=mask_BT,
        lengths_B=torch.tensor(lengths),
        groups_B=torch.tensor([r.group for r, _ in kept]),
        scores_B=torch.tensor([value for _, value in kept], dtype=torch.float32),
        truncated_B=torch.tensor([r.completion.finish_reason == "length" for r, _ in kept]),
        engine_logprobs_BT=engine_logprobs_BT,
    )


def take_rows(batch: AnyBatch, rows: Tensor) -> AnyBatch:
    """The given rows, cut to the longest of them."""
    num_tokens = int(batch.lengths_B[rows].max())
    taken = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            value = value[rows]
            taken[field.name] = value[:, :num_tokens] if value.ndim == 2 else value
    return replace(batch, **taken)


def to_device(batch: AnyBatch, device: str | torch.device) -> AnyBatch:
    """The batch with every tensor on `device`."""
    moved = {
        field.name: value.to(device)
        for field in fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor)
    }
    return replace(batch, **moved)


def split_minibatches(groups_B: Tensor, num_minibatches: int) -> list[Tensor]:
    """Row numbers of each mini-batch; groups stay whole and keep their order.

    Args:
        groups_B: Group of each row; rows of a group are adjacent.
        num_minibatches: Wanted number; fewer are returned when there are fewer groups.
    """
    _, inverse, counts = torch.unique_consecutive(groups_B, return_inverse=True, return_counts=True)
    num_groups = len(counts)
    num_parts = min(num_minibatches, num_groups)
    part_of_group = torch.arange(num_groups) * num_parts // num_groups
    part_of_row = part_of_group[inverse.cpu()]
    return [torch.nonzero(part_of_row == part).flatten() for part in range(num_parts)]


def pack_by_tokens(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Indices sorted by length and cut so that rows x longest row stays within the budget.

    A single row longer than the budget is a part of its own. Every index appears exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    parts: list[list[int]] = []
    for index in order:
        if parts and (len(parts[-1]) + 1) * lengths[index] <= max_tokens:
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def shared_prompt_lengths(batch: TokenBatch) -> list[int]:
    """How many leading tokens each row has in common with the row before it: its group's prompt."""
    prompt_B = batch.mask_BT.int().argmax(1)
    is_same_B = torch.zeros(len(prompt_B), dtype=torch.bool, device=prompt_B.device)
    is_same_B[1:] = batch.groups_B[1:] == batch.groups_B[:-1]
    return torch.where(is_same_B, prompt_B, 0).tolist()


def pack_groups(batch: TokenBatch, *, max_tokens: int) -> list[Tensor]:
    """Row numbers of micro-batches that keep the rows of a group together; see `pack_shared`."""
    parts = pack_shared(
        batch.lengths_B.tolist(), shared_prompt_lengths(batch), max_tokens=max_tokens
    )
    return [torch.tensor(part) for part in parts]


def pack_shared(
    lengths: Sequence[int], shared: Sequence[int], *, max_tokens: int
) -> list[list[int]]:
    """Row numbers of batches that keep rows with a common beginning together.

    Groups of such rows are sorted by their longest, so that little of the attention grid is
    padding. A batch holds at most `max_tokens` tokens, shared ones counted once, and a grid of at
    most twice as many cells; a group beyond that is divided, and a single row may exceed it.
    Every row appears exactly once.

    Args:
        lengths: Tokens of each row.
        shared: How many leading tokens each row has in common with the one before it; 0 begins a
            group.
        max_tokens: Budget of a batch.
    """
    groups: list[list[int]] = []
    for row, num_shared in enumerate(shared):
        if num_shared:
            groups[-1].append(row)
        else:
            groups.append([row])
    groups.sort(key=lambda rows: (max(lengths[row] for row in rows), rows[0]))
    parts: list[list[int]] = []
    tokens = longest = 0
    for rows in groups:
        for position, row in enumerate(rows):
            new_group = position == 0
            cost = lengths[row] if new_group else lengths[row] - shared[row]
            longest_with = max(longest, lengths[row])
            fits = (
                bool(parts)
                and tokens + cost <= max_tokens
                and (len(parts[-1]) + 1) * longest_with <= 2 * max_tokens
            )
            if fits:
                parts[-1].append(row)
                tokens, longest = tokens + cost, longest_with
            else:
                parts.append([row])
                tokens = longest = lengths[row]
    return parts


def _token_mean(mask_BT: Tensor, horizon: int) -> Tensor:
    return mask_BT / mask_BT.sum()


def _sequence_mean_token_mean(mask_BT: Tensor, horizon: int) -> Tensor:
    return mask_BT / mask_BT.sum(1, keepdim=True).clamp(min=1) / len(mask_BT)


def _sequence_mean_token_sum(mask_BT: Tensor, horizon: int) -> Tensor:
    return mask_BT / len(mask_BT)


def _constant_length(mask_BT: Tensor, horizon: int) -> Tensor:
    return mask_BT / (len(mask_BT) * horizon)


REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "token_mean": _token_mean,
    "sequence_mean_token_mean": _sequence_mean_token_mean,
    "sequence_mean_token_sum": _sequence_mean_token_sum,
    "constant_length": _constant_length,
}


def loss_weights(mask_BT: Tensor, *, reduction: str, horizon: int) -> Tensor:
    """Weight of every token's loss, made once for a whole mini-batch before it is cut.

    The scalar loss is `(weights_BT * loss_BT).sum()`, a sum over micro-batches, so that neither
    their size nor their number can change the gradient.

    Args:
        mask_BT: Response tokens of the whole mini-batch.
        reduction: `token_mean` (DAPO, verl's default), `sequence_mean_token_mean` (GRPO),
            `sequence_mean_token_sum`, or `constant_length` (Dr.GRPO: a sum over `horizon`).
        horizon: The response limit, used by `constant_length`.
    """
    return REDUCTIONS[reduction](mask_BT.float(), horizon)
