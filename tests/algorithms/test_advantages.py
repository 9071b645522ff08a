"""Credit assignment against its defining sums."""

from __future__ import annotations

import math

import pytest
import torch

from grlo.algorithms.advantages import (
    generalized_advantages,
    group_advantages,
    last_token_rewards,
    leave_one_out_advantages,
    returns_to_go,
    whiten,
)

JUNK = 1e30


def example(num_rows: int = 5, num_tokens: int = 9):
    """Rewards and values with junk outside a mask that has a hole (as in multi-turn rollouts)."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(num_rows, num_tokens, dtype=torch.bool)
    for row in range(num_rows):
        mask[row, 2 : 5 + row % 4] = True
    mask[3, 4] = False
    rewards = torch.randn(num_rows, num_tokens, generator=generator)
    values = torch.randn(num_rows, num_tokens, generator=generator)
    rewards[~mask] = JUNK
    values[~mask] = JUNK
    return rewards, values, mask


def defining_advantages(rewards, values, mask, gamma, gae_lambda):
    """A_t = sum_k (gamma lambda)^k delta_{t+k}, written out over the response tokens of a row."""
    expected = torch.zeros_like(values)
    for row in range(len(values)):
        steps = torch.nonzero(mask[row]).flatten().tolist()
        r = [float(rewards[row, t]) for t in steps]
        v = [float(values[row, t]) for t in steps] + [0.0]
        delta = [r[k] + gamma * v[k + 1] - v[k] for k in range(len(steps))]
        for k, t in enumerate(steps):
            expected[row, t] = sum(
                (gamma * gae_lambda) ** (j - k) * delta[j] for j in range(k, len(steps))
            )
    return expected


@pytest.mark.parametrize(
    ("gamma", "gae_lambda"), [(1.0, 1.0), (0.97, 0.9), (1.0, 0.5), (0.9, 1.0), (1.0, 0.0)]
)
def test_gae_equals_its_defining_sum_with_junk_and_holes(gamma, gae_lambda):
    rewards, values, mask = example()
    advantages, returns = generalized_advantages(
        rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda
    )
    expected = defining_advantages(rewards, values, mask, gamma, gae_lambda)
    torch.testing.assert_close(advantages, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(returns[mask], (expected + values)[mask], atol=1e-5, rtol=1e-5)
    assert not returns[~mask].any()
    assert not advantages[~mask].any()


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_returns_to_go_equal_the_discounted_sum(gamma):
    rewards, _, mask = example()
    returns = returns_to_go(rewards, mask, gamma=gamma)
    for row in range(len(rewards)):
        steps = torch.nonzero(mask[row]).flatten().tolist()
        for k, t in enumerate(steps):
            expected = sum(
                gamma ** (j - k) * float(rewards[row, steps[j]]) for j in range(k, len(steps))
            )
            assert math.isclose(float(returns[row, t]), expected, abs_tol=1e-5)
    assert not returns[~mask].any()


def test_the_score_sits_on_the_last_response_token_only():
    _, _, mask = example()
    scores = torch.tensor([1.0, -2.0, 3.0, 4.0, 0.5])
    rewards = last_token_rewards(scores, mask)
    for row in range(len(scores)):
        last = int(torch.nonzero(mask[row]).max())
        assert float(rewards[row, last]) == float(scores[row])
        assert float(rewards[row].abs().sum()) == abs(float(scores[row]))


def test_a_row_without_response_tokens_has_no_reward():
    assert not last_token_rewards(torch.tensor([7.0]), torch.zeros(1, 4, dtype=torch.bool)).any()


def test_whitening_gives_zero_mean_and_unit_sample_variance_inside_the_mask():
    _, values, mask = example()
    whitened = whiten(values, mask)
    inside = whitened[mask]
    assert abs(float(inside.mean())) < 1e-5
    assert abs(float(inside.var(correction=1)) - 1) < 1e-4
    assert not whitened[~mask].any()


@pytest.mark.parametrize("value", [0.0, 3.7, 0.1])
def test_whitening_values_without_spread_gives_zeros(value):
    mask = torch.ones(3, 4, dtype=torch.bool)
    assert not whiten(torch.full((3, 4), value), mask).any()


def test_whitening_a_single_token_gives_zero():
    mask = torch.tensor([[True, False]])
    assert not whiten(torch.tensor([[5.0, JUNK]]), mask).any()


SCORES = torch.tensor([1.0, 2.0, 6.0, 4.0, 0.1, 0.1, 0.1, -3.0, 5.0])
GROUPS = torch.tensor([3, 3, 3, 8, 5, 5, 5, 7, 7])


def by_hand(scale):
    expected = []
    for index, group in enumerate(GROUPS.tolist()):
        members = SCORES[group == GROUPS]
        if len(members) == 1 or float(members.max()) == float(members.min()):
            expected.append(0.0)
            continue
        mean = float(members.sum()) / len(members)
        variance = sum((float(m) - mean) ** 2 for m in members) / (len(members) - 1)
        divisor = math.sqrt(variance) + 1e-6 if scale else 1.0
        expected.append((float(SCORES[index]) - mean) / divisor)
    return torch.tensor(expected)


@pytest.mark.parametrize("scale", [True, False])
def test_group_advantages_equal_the_formula_with_zero_for_one_and_for_no_spread(scale):
    advantages = group_advantages(SCORES, GROUPS, scale_by_std=scale)
    torch.testing.assert_close(advantages, by_hand(scale), atol=1e-5, rtol=1e-5)
    assert advantages[3] == 0
    assert not advantages[4:7].any()


def test_leave_one_out_subtracts_the_mean_of_the_others():
    advantages = leave_one_out_advantages(SCORES, GROUPS)
    for index, group in enumerate(GROUPS.tolist()):
        others = [float(SCORES[j]) for j in range(len(SCORES)) if j != index and GROUPS[j] == group]
        expected = float(SCORES[index]) - sum(others) / len(others) if others else 0.0
        assert math.isclose(float(advantages[index]), expected, abs_tol=1e-5)


@pytest.mark.parametrize(
    "compute",
    [
        lambda s, g: group_advantages(s, g, scale_by_std=True),
        lambda s, g: group_advantages(s, g, scale_by_std=False),
        leave_one_out_advantages,
    ],
)
def test_a_constant_added_to_a_group_and_the_order_of_rows_do_not_matter(compute):
    shifted = SCORES + torch.where(GROUPS == 3, 10.0, 0.0)
    torch.testing.assert_close(compute(SCORES, GROUPS), compute(shifted, GROUPS), atol=1e-4, rtol=0)
    order = torch.randperm(len(SCORES), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        compute(SCORES, GROUPS)[order], compute(SCORES[order], GROUPS[order])
    )
