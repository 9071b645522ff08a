"""Batches: collation, mini-batches, micro-batches and loss weights."""

from __future__ import annotations

import math
import random

import pytest
import torch

from grlo.batch import (
    REDUCTIONS,
    collate,
    loss_weights,
    pack_by_tokens,
    pack_groups,
    split_minibatches,
    take_rows,
)
from grlo.types import Completion, Message, Prompt, Rollout, Score


def rollout(group: int, prompt: tuple[int, ...], response: tuple[int, ...], finish="stop"):
    return Rollout(
        prompt=Prompt(id=str(group), messages=(Message("user", "?"),)),
        group=group,
        prompt_tokens=prompt,
        completion=Completion(response, tuple(-0.1 * t for t in response), finish),
        text="",
    )


ROLLOUTS = [
    rollout(0, (5, 6), (7, 8, 9)),
    rollout(0, (5, 6), (1,)),
    rollout(1, (2, 3, 4), (9, 9), "length"),
]


def test_collate_puts_every_token_where_its_mask_says():
    batch = collate(ROLLOUTS, [Score(1.0), Score(2.0), Score(3.0)], pad_id=99)
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 8, 9], [5, 6, 1, 99, 99], [2, 3, 4, 9, 9]]
    assert batch.mask_BT.int().tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert batch.lengths_B.tolist() == [5, 3, 5]
    assert batch.truncated_B.tolist() == [False, False, True]
    for row, item in enumerate(ROLLOUTS):
        inside = batch.engine_logprobs_BT[row][batch.mask_BT[row]]
        torch.testing.assert_close(inside, torch.tensor(item.completion.logprobs))


def test_collate_leaves_unscored_rollouts_out_and_zero_scores_in():
    batch = collate(ROLLOUTS, [Score(0.0), Score(None, note="judge down"), Score(3.0)], pad_id=0)
    assert batch.scores_B.tolist() == [0.0, 3.0]
    assert batch.groups_B.tolist() == [0, 1]


def test_collate_refuses_a_step_without_any_score():
    with pytest.raises(ValueError, match="no rollout has a score"):
        collate(ROLLOUTS, [Score(None)] * 3, pad_id=0)


def test_taking_rows_cuts_to_the_longest_of_them():
    batch = collate(ROLLOUTS, [Score(1.0)] * 3, pad_id=0)
    taken = take_rows(batch, torch.tensor([1]))
    assert taken.tokens_BT.tolist() == [[5, 6, 1]]
    assert taken.engine_logprobs_BT.shape == (1, 3)


def test_minibatches_keep_groups_whole_and_use_every_row_once():
    groups = torch.tensor([4, 4, 4, 9, 9, 2, 7, 7])
    parts = split_minibatches(groups, 3)
    assert sorted(torch.cat(parts).tolist()) == list(range(8))
    assert len(parts) == 3
    for group in groups.unique():
        assert sum(bool((groups[part] == group).any()) for part in parts) == 1


def test_there_are_never_more_minibatches_than_groups():
    assert [p.tolist() for p in split_minibatches(torch.tensor([1, 1, 2]), 8)] == [[0, 1], [2]]


def test_packing_uses_every_index_once_within_the_budget():
    rng = random.Random(0)
    lengths = [rng.randint(1, 90) for _ in range(200)]
    parts = pack_by_tokens(lengths, max_tokens=100)
    assert sorted(index for part in parts for index in part) == list(range(200))
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[i] for i in part) <= 100


def test_a_row_longer_than_the_budget_is_alone():
    assert pack_by_tokens([3, 500, 3], max_tokens=10) == [[0, 2], [1]]


def test_packed_groups_use_every_row_once_and_keep_to_the_budget():
    rng = random.Random(1)
    items = []
    for group in range(30):
        prompt = tuple(rng.randrange(9) for _ in range(rng.randint(1, 20)))
        items += [rollout(group, prompt, (1,) * rng.randint(1, 40)) for _ in range(4)]
    batch = collate(items, [Score(0.0)] * len(items), pad_id=0)
    parts = pack_groups(batch, max_tokens=120)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(items)))
    for part in parts:
        own = {items[row].group: len(items[row].prompt_tokens) for row in part.tolist()}
        responses = sum(len(items[row].completion.tokens) for row in part.tolist())
        assert sum(own.values()) + responses <= 120
        assert len(part) * int(batch.lengths_B[part].max()) <= 240


def test_a_row_beyond_the_budget_is_a_micro_batch_of_its_own():
    batch = collate(ROLLOUTS, [Score(0.0)] * 3, pad_id=0)
    assert sorted(part.tolist() for part in pack_groups(batch, max_tokens=1)) == [[0], [1], [2]]


MASK = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 0]], dtype=torch.bool)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("token_mean", [1 / 4, 1 / 4]),
        ("sequence_mean_token_mean", [1 / 6, 1 / 2]),
        ("sequence_mean_token_sum", [1 / 2, 1 / 2]),
        ("constant_length", [1 / 20, 1 / 20]),
    ],
)
def test_weights_of_a_token_in_each_row(reduction, expected):
    weights = loss_weights(MASK, reduction=reduction, horizon=10)
    assert not weights[~MASK].any()
    for row, value in enumerate(expected):
        for weight in weights[row][MASK[row]].tolist():
            assert math.isclose(weight, value, rel_tol=1e-6)


@pytest.mark.parametrize("reduction", [r for r in REDUCTIONS if r != "constant_length"])
def test_a_constant_loss_of_one_token_per_row_reduces_to_itself(reduction):
    mask = torch.tensor([[0, 1], [1, 0]], dtype=torch.bool)
    assert float(loss_weights(mask, reduction=reduction, horizon=7).sum()) == pytest.approx(1)
