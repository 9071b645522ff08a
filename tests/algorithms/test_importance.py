"""Truncated importance sampling against written-out weights, token by token."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from grlo.algorithms.cispo import CISPO
from grlo.algorithms.clipped import ClippedPolicy
from grlo.algorithms.dapo import DAPO
from grlo.algorithms.grpo import GRPO
from grlo.algorithms.gspo import GSPO
from grlo.algorithms.losses import truncated_importance_weight
from grlo.algorithms.ppo import PPO
from grlo.algorithms.reinforce_pp import ReinforcePlusPlus
from grlo.algorithms.rloo import RLOO
from grlo.batch import TrainBatch
from grlo.training.metrics import with_effective_sample_size

# Ratios of the learner over the engine before the update; two of five exceed a cap of 2.
RATIOS = (0.5, 1.0, 1.5, 4.0, 8.0)
WEIGHTS = (0.5, 1.0, 1.5, 2.0, 2.0)
ALGORITHMS = [
    PPO(entropy_coefficient=0.01),
    GRPO(kl_coefficient=0.1),
    DAPO(),
    GSPO(),
    CISPO(),
    RLOO(),
    ReinforcePlusPlus(),
]
JUNK = math.nan


def make_batch(*, engine: str, has_old: bool = True) -> tuple[TrainBatch, Tensor]:
    """Two rows with five response tokens between them and junk around, and the policy's new
    log-probabilities.

    `engine` is `equal` to the old policy, or `off` by the ratios above.
    """
    mask_BT = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 0]], dtype=torch.bool)
    generator = torch.Generator().manual_seed(5)

    def spread(values: Tensor) -> Tensor:
        return torch.full(mask_BT.shape, JUNK).masked_scatter(mask_BT, values)

    old_N = -3 * torch.rand(5, generator=generator) - 0.1
    new_N = old_N + 0.1 * torch.randn(5, generator=generator) if has_old else old_N
    engine_N = old_N - torch.tensor(RATIOS).log() if engine == "off" else old_N
    advantages_N = torch.tensor([1.0, -2.0, 0.5, -1.0, 3.0])
    batch = TrainBatch(
        tokens_BT=torch.zeros(mask_BT.shape, dtype=torch.int64),
        mask_BT=mask_BT,
        lengths_B=torch.tensor([4, 4]),
        groups_B=torch.tensor([0, 0]),
        scores_B=torch.zeros(2),
        truncated_B=torch.zeros(2, dtype=torch.bool),
        engine_logprobs_BT=spread(engine_N),
        score_std=1.0,
        old_logprobs_BT=spread(old_N) if has_old else None,
        reference_logprobs_BT=spread(old_N - 0.2),
        old_values_BT=None,
        advantages_BT=torch.zeros(mask_BT.shape).masked_scatter(mask_BT, advantages_N),
        returns_BT=None,
    )
    return batch, spread(new_N).requires_grad_()


def loss_and_gradient(
    algorithm: ClippedPolicy, batch: TrainBatch, new_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Of every response token."""
    entropy_BT = torch.full_like(new_BT, 0.7)
    loss_BT = algorithm.policy_loss(new_BT, entropy_BT, batch).loss_BT
    losses = loss_BT[batch.mask_BT]
    (gradient_BT,) = torch.autograd.grad(losses.sum(), new_BT)
    return losses.detach(), gradient_BT[batch.mask_BT]


@pytest.mark.parametrize("has_old", [True, False])
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_the_surrogate_of_a_token_is_weighted_and_nothing_else(algorithm, has_old: bool) -> None:
    """Differences of loss and gradient to those of no surrogate at all grow by the weight."""
    batch, new_BT = make_batch(engine="off", has_old=has_old)
    nothing = replace(batch, advantages_BT=torch.zeros_like(batch.advantages_BT))
    plain, corrected = algorithm, replace(algorithm, importance_cap=2.0)
    rest, rest_slope = loss_and_gradient(plain, nothing, new_BT)
    loss, slope = loss_and_gradient(plain, batch, new_BT)
    found, found_slope = loss_and_gradient(corrected, batch, new_BT)
    weights = torch.tensor(WEIGHTS)
    torch.testing.assert_close(found, rest + weights * (loss - rest))
    if algorithm.name == "gspo":
        # The gradient of a response's ratio spreads over its tokens, and so do their weights.
        return
    torch.testing.assert_close(found_slope, rest_slope + weights * (slope - rest_slope))
    assert not torch.allclose(found, loss)


@pytest.mark.parametrize("has_old", [True, False])
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_an_engine_that_agrees_changes_not_a_bit(algorithm, has_old: bool) -> None:
    batch, new_BT = make_batch(engine="equal", has_old=has_old)
    expected = loss_and_gradient(algorithm, batch, new_BT)
    found = loss_and_gradient(replace(algorithm, importance_cap=1.0), batch, new_BT)
    assert torch.equal(expected[0], found[0])
    assert torch.equal(expected[1], found[1])


def test_no_gradient_flows_through_a_weight() -> None:
    old, engine = torch.tensor([-1.0], requires_grad=True), torch.tensor([-1.5], requires_grad=True)
    weight, _ = truncated_importance_weight(old, engine, cap=2.0)
    assert not weight.requires_grad
    assert float(weight) == pytest.approx(math.exp(0.5))


def test_absurd_ratios_have_finite_weights() -> None:
    old, engine = torch.tensor([0.0, -900.0]), torch.tensor([-900.0, 0.0])
    weight, is_capped = truncated_importance_weight(old, engine, cap=2.0)
    assert weight[0] == 2
    assert 0 < weight[1] < 1e-8
    assert is_capped.tolist() == [True, False]


def test_its_metrics_are_mean_weight_share_capped_and_effective_sample_size() -> None:
    batch, new_BT = make_batch(engine="off")
    algorithm = DAPO(importance_cap=2.0)
    metrics_BT = algorithm.policy_loss(new_BT, torch.zeros_like(new_BT), batch).metrics_BT
    means = {name: float(values[batch.mask_BT].mean()) for name, values in metrics_BT.items()}
    found = with_effective_sample_size(means)
    assert found["importance/weight"] == pytest.approx(sum(WEIGHTS) / 5)
    assert found["importance/capped"] == pytest.approx(2 / 5)
    kish = sum(WEIGHTS) ** 2 / (5 * sum(w * w for w in WEIGHTS))
    assert found["importance/effective_sample_size"] == pytest.approx(kish)
    assert "importance/weight_squared" not in found


def test_without_a_cap_nothing_is_said_of_weights() -> None:
    batch, new_BT = make_batch(engine="off")
    token_loss = DAPO().policy_loss(new_BT, torch.zeros_like(new_BT), batch)
    assert not any(name.startswith("importance/") for name in token_loss.metrics_BT)
    assert with_effective_sample_size({"policy/loss": 1.0}) == {"policy/loss": 1.0}


@pytest.mark.parametrize("cap", [-1.0, 0.5])
def test_a_cap_that_would_scale_down_equal_policies_is_refused(cap: float) -> None:
    with pytest.raises(ValueError, match="importance_cap"):
        PPO(importance_cap=cap)
