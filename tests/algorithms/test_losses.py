"""Policy and value losses and KL estimators against written-out formulas and exact values."""

from __future__ import annotations

import math

import pytest
import torch

from grlo.algorithms.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    importance_ratio,
    kl_estimate,
)

LOW, HIGH, DUAL = 0.2, 0.3, 3.0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        # Advantage positive: the gain is capped above, never below.
        (1.1, 2.0, -2.2, -2.0),
        (1.5, 2.0, -2.6, 0.0),
        (0.5, 2.0, -1.0, -2.0),
        # Advantage negative: capped below; above it grows until the dual clip stops it.
        (0.9, -2.0, 1.8, 2.0),
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 2.0),
        (5.0, -2.0, 6.0, 0.0),
    ],
)
def test_ppo_clip_in_every_quadrant_of_ratio_and_advantage(ratio, advantage, loss, slope):
    ratio = torch.tensor(ratio, requires_grad=True)
    value = clipped_policy_loss(
        ratio, torch.tensor(advantage), clip_low=LOW, clip_high=HIGH, dual_clip=DUAL
    )
    (gradient,) = torch.autograd.grad(value, ratio)
    assert math.isclose(float(value.detach()), loss, rel_tol=1e-6)
    assert math.isclose(float(gradient), slope, abs_tol=1e-6)


def test_without_dual_clip_a_negative_advantage_is_unbounded():
    loss = clipped_policy_loss(
        torch.tensor(50.0), torch.tensor(-1.0), clip_low=LOW, clip_high=HIGH, dual_clip=0
    )
    assert float(loss) == 50.0


def test_importance_ratio_is_the_quotient_and_never_overflows():
    new, old = torch.tensor([-1.0, -500.0, 0.0]), torch.tensor([-2.0, 0.0, -500.0])
    ratio = importance_ratio(new, old)
    assert math.isclose(float(ratio[0]), math.e, rel_tol=1e-6)
    assert torch.isfinite(ratio).all()


@pytest.mark.parametrize(
    ("value", "old", "target", "expected"),
    [
        (1.0, 0.8, 3.0, 0.5 * max(2.0**2, 2.0**2)),
        (2.0, 0.0, 3.0, 0.5 * max(1.0, 2.5**2)),
        (-2.0, 0.0, 3.0, 0.5 * max(25.0, 3.5**2)),
    ],
)
def test_value_loss_is_the_larger_of_both_errors(value, old, target, expected):
    loss = clipped_value_loss(
        torch.tensor(value), torch.tensor(old), torch.tensor(target), clip=0.5
    )
    assert math.isclose(float(loss), expected, rel_tol=1e-6)


def test_value_loss_without_clip_is_half_the_squared_error():
    loss = clipped_value_loss(torch.tensor(9.0), torch.tensor(0.0), torch.tensor(3.0), clip=0)
    assert float(loss) == 18.0


def categoricals():
    generator = torch.Generator().manual_seed(3)
    policy = torch.randn(6, generator=generator, dtype=torch.float64)
    reference = policy + 0.3 * torch.randn(6, generator=generator, dtype=torch.float64)
    return policy.log_softmax(0), reference.log_softmax(0)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased_estimates_of_the_exact_divergence(estimator):
    policy, reference = categoricals()
    exact = float((policy.exp() * (policy - reference)).sum())
    expectation = (policy.exp() * kl_estimate(policy, reference, estimator=estimator)).sum()
    assert math.isclose(float(expectation), exact, rel_tol=1e-9)


def test_k2_is_half_the_squared_log_ratio():
    policy, reference = categoricals()
    torch.testing.assert_close(
        kl_estimate(policy, reference, estimator="k2"), (policy - reference) ** 2 / 2
    )


def test_as_a_loss_k2_has_the_gradient_of_the_divergence_and_k1_has_none():
    _, reference = categoricals()
    logits = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((logprobs.exp() * (logprobs - reference)).sum(), logits)
    for estimator, expected in (("k2", exact), ("k1", torch.zeros_like(exact))):
        logprobs = logits.log_softmax(0)
        per_token = kl_estimate(logprobs, reference, estimator=estimator)
        # Tokens are sampled: their probabilities weight the gradient but carry none themselves.
        loss = (logprobs.detach().exp() * per_token).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        torch.testing.assert_close(gradient, expected)


def test_k3_is_never_negative_and_finite_for_absurd_inputs():
    logprobs = torch.tensor([-1.0, -900.0, 0.0])
    reference = torch.tensor([-3.0, 0.0, -900.0])
    estimate = kl_estimate(logprobs, reference, estimator="k3")
    assert torch.isfinite(estimate[:1]).all()
    assert (estimate[:1] >= 0).all()
    assert torch.isfinite(estimate).all()
