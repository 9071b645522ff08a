"""DAPO, GSPO and CISPO against the papers' objectives written out response by response."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from grlo.algorithms.cispo import CISPO
from grlo.algorithms.clipped import ClippedPolicy, with_sequence_advantages
from grlo.algorithms.dapo import DAPO
from grlo.algorithms.grpo import GRPO
from grlo.algorithms.gspo import GSPO
from grlo.batch import AnnotatedBatch, loss_weights

LENGTHS = (3, 1, 5, 2, 4, 4)
GROUPS = (0, 0, 0, 1, 1, 1)
SCORES = (1.0, 0.0, 0.0, 1.0, 1.0, 0.0)
PROMPT = 2
EPS = 1e-6


def make_batch(spread: float, *, has_old: bool = True) -> tuple[AnnotatedBatch, Tensor]:
    """A batch of two groups with junk outside the mask, and the policy's log-probabilities.

    `spread` is the size of the log-ratios.
    """
    generator = torch.Generator().manual_seed(3)
    num_rows, width = len(LENGTHS), PROMPT + max(LENGTHS) + 1
    positions = torch.arange(width)[None]
    lengths_B = torch.tensor(LENGTHS) + PROMPT
    mask_BT = (positions >= PROMPT) & (positions < lengths_B[:, None])
    old_BT = -3 * torch.rand(num_rows, width, generator=generator, dtype=torch.float64) - 0.1
    new_BT = old_BT + spread * torch.randn(
        num_rows, width, generator=generator, dtype=torch.float64
    )
    junk_BT = 50 * torch.randn(num_rows, width, generator=generator, dtype=torch.float64)
    old_BT = torch.where(mask_BT, old_BT, junk_BT)
    new_BT = torch.where(mask_BT, new_BT, -junk_BT)
    batch = AnnotatedBatch(
        tokens_BT=torch.zeros(num_rows, width, dtype=torch.long),
        mask_BT=mask_BT,
        lengths_B=lengths_B,
        groups_B=torch.tensor(GROUPS),
        scores_B=torch.tensor(SCORES, dtype=torch.float64),
        truncated_B=torch.zeros(num_rows, dtype=torch.bool),
        engine_logprobs_BT=junk_BT,
        score_std=1.0,
        old_logprobs_BT=old_BT if has_old else None,
        reference_logprobs_BT=None,
        old_values_BT=None,
    )
    return batch, new_BT.requires_grad_()


def our_gradient(algorithm: ClippedPolicy, batch: AnnotatedBatch, new_BT: Tensor) -> Tensor:
    train = algorithm.assign_credit(batch)  # pyright: ignore[reportAttributeAccessIssue]
    loss_BT = algorithm.policy_loss(new_BT, torch.zeros_like(new_BT), train).loss_BT
    weights_BT = loss_weights(batch.mask_BT, reduction=algorithm.reduction, horizon=8)
    loss = (torch.where(batch.mask_BT, loss_BT, 0.0) * weights_BT).sum()
    (gradient_BT,) = torch.autograd.grad(loss, new_BT)
    return gradient_BT


def advantages() -> list[float]:
    """Scores less the group's mean over its sample standard deviation."""
    found = []
    for score, group in zip(SCORES, GROUPS, strict=True):
        others = [s for s, g in zip(SCORES, GROUPS, strict=True) if g == group]
        mean = sum(others) / len(others)
        std = math.sqrt(sum((s - mean) ** 2 for s in others) / (len(others) - 1))
        found.append((score - mean) / (std + EPS))
    return found


Objective = Callable[[Tensor, Tensor], Tensor]


def literal_gradient(objective: Objective, batch: AnnotatedBatch, new_BT: Tensor) -> Tensor:
    old_BT = batch.old_logprobs_BT
    loss = -objective(new_BT, new_BT.detach() if old_BT is None else old_BT)
    (gradient_BT,) = torch.autograd.grad(loss, new_BT)
    return gradient_BT


def tokens_of(row: int) -> range:
    return range(PROMPT, PROMPT + LENGTHS[row])


def dapo(new_BT: Tensor, old_BT: Tensor) -> Tensor:
    """Equation 8: a mean over all tokens of the minimum of both surrogates."""
    total = torch.zeros((), dtype=torch.float64)
    for row, advantage in enumerate(advantages()):
        for t in tokens_of(row):
            ratio = torch.exp(new_BT[row, t] - old_BT[row, t])
            clipped = torch.clamp(ratio, 1 - 0.2, 1 + 0.28)
            total = total + torch.minimum(ratio * advantage, clipped * advantage)
    return total / sum(LENGTHS)


def gspo(new_BT: Tensor, old_BT: Tensor) -> Tensor:
    """Equation 5: a mean over responses, each with one ratio."""
    total = torch.zeros((), dtype=torch.float64)
    for row, advantage in enumerate(advantages()):
        log_ratios = [new_BT[row, t] - old_BT[row, t] for t in tokens_of(row)]
        ratio = torch.exp(sum(log_ratios, torch.zeros(())) / LENGTHS[row])
        clipped = torch.clamp(ratio, 1 - 3e-4, 1 + 4e-4)
        total = total + torch.minimum(ratio * advantage, clipped * advantage)
    return total / len(LENGTHS)


def gspo_token(new_BT: Tensor, old_BT: Tensor) -> Tensor:
    """Equations 13 and 14: the response's ratio in value, the token's in gradient."""
    total = torch.zeros((), dtype=torch.float64)
    for row, advantage in enumerate(advantages()):
        log_ratios = [float((new_BT[row, t] - old_BT[row, t]).detach()) for t in tokens_of(row)]
        ratio = math.exp(sum(log_ratios) / LENGTHS[row])
        for t in tokens_of(row):
            token_ratio = ratio * torch.exp(new_BT[row, t] - new_BT[row, t].detach())
            clipped = torch.clamp(token_ratio, 1 - 3e-4, 1 + 4e-4)
            surrogate = torch.minimum(token_ratio * advantage, clipped * advantage)
            total = total + surrogate / LENGTHS[row]
    return total / len(LENGTHS)


def cispo(new_BT: Tensor, old_BT: Tensor) -> Tensor:
    """Equation 4: a mean over all tokens of weight, advantage and log-probability."""
    total = torch.zeros((), dtype=torch.float64)
    for row, advantage in enumerate(advantages()):
        for t in tokens_of(row):
            weight = min(math.exp(float((new_BT[row, t] - old_BT[row, t]).detach())), 5.0)
            total = total + weight * advantage * new_BT[row, t]
    return total / sum(LENGTHS)


@pytest.mark.parametrize("has_old", [True, False])
@pytest.mark.parametrize("spread", [1e-3, 0.2, 2.0])
@pytest.mark.parametrize(
    ("algorithm", "objective"),
    [(DAPO(), dapo), (GSPO(), gspo), (GSPO(), gspo_token), (CISPO(), cispo)],
)
def test_the_gradient_is_that_of_the_paper(
    algorithm: ClippedPolicy, objective: Objective, spread: float, has_old: bool
) -> None:
    batch, new_BT = make_batch(spread, has_old=has_old)
    found = our_gradient(algorithm, batch, new_BT)
    expected = literal_gradient(objective, batch, new_BT)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert expected.abs().max() > 1e-3
    assert (found[~batch.mask_BT] == 0).all()


def test_some_tokens_of_the_oracle_are_clipped_and_some_are_not() -> None:
    """Otherwise the test above would not see the clips."""
    for algorithm, spread in ((DAPO(), 0.2), (GSPO(), 1e-3), (CISPO(), 2.0)):
        batch, new_BT = make_batch(spread)
        train = algorithm.assign_credit(batch)
        metrics = algorithm.policy_loss(new_BT, torch.zeros_like(new_BT), train).metrics_BT
        share = metrics["policy/clip_fraction"][batch.mask_BT].mean()
        assert 0 < share < 1, algorithm.name


@pytest.mark.parametrize(
    ("algorithm", "ratio", "advantage", "slope"),
    [
        # Better answers: stopped above; CISPO goes on with the largest weight.
        (DAPO(), 1.27, 1.0, -1.27),
        (DAPO(), 1.29, 1.0, 0.0),
        (DAPO(), 0.5, 1.0, -0.5),
        (GSPO(), 1.0003, 1.0, -1.0003),
        (GSPO(), 1.0005, 1.0, 0.0),
        (GSPO(), 0.9, 1.0, -0.9),
        (CISPO(), 4.9, 1.0, -4.9),
        (CISPO(), 6.0, 1.0, -5.0),
        (CISPO(), 0.01, 1.0, -0.01),
        # Worse answers: stopped below, without a dual clip above.
        (DAPO(), 0.81, -1.0, 0.81),
        (DAPO(), 0.79, -1.0, 0.0),
        (DAPO(), 7.0, -1.0, 7.0),
        (GSPO(), 0.9998, -1.0, 0.9998),
        (GSPO(), 0.9996, -1.0, 0.0),
        (GSPO(), 7.0, -1.0, 7.0),
        (CISPO(), 0.01, -1.0, 0.01),
        (CISPO(), 6.0, -1.0, 5.0),
    ],
)
def test_every_quadrant_of_ratio_and_advantage(
    algorithm: ClippedPolicy, ratio: float, advantage: float, slope: float
) -> None:
    """How a response's mean loss changes as all its log-probabilities rise together."""
    batch, new_BT = make_batch(0.0)
    assert batch.old_logprobs_BT is not None
    train = with_sequence_advantages(batch, torch.full((len(LENGTHS),), advantage))
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    logprobs_BT = batch.old_logprobs_BT + math.log(ratio) + shift
    loss_BT = algorithm.policy_loss(logprobs_BT, torch.zeros_like(new_BT), train).loss_BT
    for row in range(len(LENGTHS)):
        loss = loss_BT[row, tokens_of(row)].mean()
        (found,) = torch.autograd.grad(loss, shift, retain_graph=True)
        assert math.isclose(float(found), slope, rel_tol=1e-9, abs_tol=1e-12)


def test_cispo_refuses_a_dual_clip_that_it_would_ignore() -> None:
    with pytest.raises(ValueError, match="dual_clip must be 0"):
        CISPO(dual_clip=3.0)


def test_where_ppo_stops_a_token_cispo_goes_on() -> None:
    batch, new_BT = make_batch(1.0)
    assert batch.old_logprobs_BT is not None
    stopped_BT = batch.mask_BT & (our_gradient(DAPO(), batch, new_BT) == 0)
    assert stopped_BT.any()
    assert (our_gradient(CISPO(), batch, new_BT)[stopped_BT] != 0).all()


def test_at_equal_policies_all_have_grpos_gradient_up_to_the_reduction() -> None:
    batch, new_BT = make_batch(0.0, has_old=False)
    for reduction in ("token_mean", "sequence_mean_token_mean"):
        expected = our_gradient(GRPO(reduction=reduction), batch, new_BT)
        for algorithm in (DAPO(reduction=reduction), CISPO(reduction=reduction)):
            torch.testing.assert_close(our_gradient(algorithm, batch, new_BT), expected)
    expected = our_gradient(GRPO(), batch, new_BT)
    torch.testing.assert_close(our_gradient(GSPO(), batch, new_BT), expected)


def test_a_row_without_response_tokens_is_harmless() -> None:
    batch, new_BT = make_batch(0.2)
    batch.mask_BT[1] = False
    for algorithm in (DAPO(), GSPO(), CISPO()):
        gradient_BT = our_gradient(algorithm, batch, new_BT)
        assert torch.isfinite(gradient_BT).all()
        assert (gradient_BT[1] == 0).all()
