"""Rows without advantages are left out of an update, and nobody can tell by the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from grlo.algorithms.cispo import CISPO
from grlo.algorithms.clipped import ClippedPolicy
from grlo.algorithms.dapo import DAPO
from grlo.algorithms.grpo import GRPO
from grlo.algorithms.gspo import GSPO
from grlo.algorithms.ppo import PPO
from grlo.algorithms.reinforce_pp import ReinforcePlusPlus
from grlo.algorithms.rloo import RLOO
from grlo.training import learner as learner_module
from grlo.training.learner import Learner
from small_updates import (
    captured_gradients,
    credit,
    make_batch,
    make_recipe,
    out_of_memory_once,
    weights,
)

# The second and the fourth group have no spread.
SCORES = [1.0, 0.0, 0.5, 0.5, -1.0, 2.0, 0.0, 0.0]
READ = [0, 1, 4, 5]
ALGORITHMS: dict[str, ClippedPolicy] = {
    "grpo": GRPO(),
    "dr_grpo": GRPO(scale_by_std=False, reduction="constant_length"),
    "dapo": DAPO(),
    "gspo": GSPO(),
    "cispo": CISPO(),
    "rloo": RLOO(),
    "grpo_reward_kl": GRPO(kl_coefficient=0.1, kl_in="reward"),
}


def reading_all(learner: Learner) -> Learner:
    """The learner as it is with an algorithm that says nothing of rows without advantages."""
    learner.rows_to_read = lambda batch: torch.arange(len(batch.tokens_BT))  # type: ignore
    return learner


def make_learner(policy_path: Any, algorithm: object, **options: Any) -> Learner:
    return Learner(make_recipe(policy_path, algorithm, **options), device="cpu")


def counted_rows(learner: Learner) -> list[int]:
    """Number of rows of each forward pass from here on."""
    rows: list[int] = []
    original = learner._token_losses

    def counting(names: Any, micro: Any) -> Any:
        rows.append(len(micro.tokens_BT))
        return original(names, micro)

    learner._token_losses = counting  # type: ignore[method-assign]
    return rows


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_the_gradient_is_exactly_that_of_all_rows(policy_path, name, num_minibatches):
    """To the last bit, with parts that hold a row each: those left out add exact zeros."""
    options = {"num_minibatches": num_minibatches, "micro_batch_tokens": 1}
    found = []
    for prepare in (lambda learner: learner, reading_all):
        learner = prepare(make_learner(policy_path, ALGORITHMS[name], **options))
        rows, results = counted_rows(learner), []
        for step in (1, 2):
            batch = credit(learner, make_batch(seed=step, padding=3, scores=SCORES), step)
            results.append(captured_gradients(learner, batch, step=step))
        found.append((results, weights(learner), sum(rows)))
    assert found[0][2] < found[1][2] or name == "grpo_reward_kl"
    for ours, expected in zip(found[0][0], found[1][0], strict=True):
        for key, gradient in expected.items():
            assert torch.equal(ours[key], gradient), key
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_parts_of_any_size_give_the_gradient_of_all_rows(policy_path, name):
    gradients = []
    for prepare, tokens in ((reading_all, 10_000), (lambda each: each, 10_000), (reading_all, 30)):
        learner = make_learner(policy_path, ALGORITHMS[name], micro_batch_tokens=tokens)
        learner = prepare(learner)
        gradients.append(captured_gradients(learner, credit(learner, make_batch(scores=SCORES))))
    for key, gradient in gradients[0].items():
        for other in gradients[1:]:
            torch.testing.assert_close(other[key], gradient, atol=1e-7, rtol=1e-5)


def test_running_out_of_memory_reads_the_same_rows_again_and_counts_them_once(
    policy_path, monkeypatch
):
    options = {"micro_batch_tokens": 18, "optimizer": {"eps": 1e-3}}
    plain, found = (make_learner(policy_path, GRPO(), **options) for _ in range(2))
    batch = credit(plain, make_batch(scores=SCORES))
    metrics = plain.update(batch, step=1)
    rows, done = counted_rows(found), []
    out_of_memory_once(monkeypatch, learner_module, "token_logprobs", call=2)
    found_metrics = found.update(
        batch, step=1, progress=lambda **counts: done.append(counts["done"])
    )
    assert found_metrics.pop("update/micro_batch_tokens") < metrics.pop("update/micro_batch_tokens")
    assert sum(rows) > len(READ)
    assert max(done) <= len(SCORES)
    torch.testing.assert_close(weights(found), weights(plain), atol=1e-6, rtol=0)
    for key, value in metrics.items():
        assert found_metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def test_only_rows_with_an_advantage_are_read(policy_path):
    learner = make_learner(policy_path, GRPO(), micro_batch_tokens=1, num_epochs=2)
    rows = counted_rows(learner)
    batch = credit(learner, make_batch(scores=SCORES))
    # What lies outside the mask is no advantage.
    junk = torch.where(batch.mask_BT, batch.advantages_BT, 7.0)
    batch = replace(batch, advantages_BT=junk)
    assert learner.rows_to_read(batch).tolist() == READ
    done = []
    metrics = learner.update(batch, step=1, progress=lambda **counts: done.append(counts))
    assert sum(rows) == 2 * len(READ)
    assert metrics["update/skipped_rows"] == 0.5
    assert done[-1]["total"] == 16


@pytest.mark.parametrize(
    "algorithm",
    [
        GRPO(entropy_coefficient=0.01),
        GRPO(kl_coefficient=0.1),
        PPO(whiten_advantages=False),
    ],
    ids=["entropy", "kl", "critic"],
)
def test_rows_with_another_gradient_are_read(policy_path, algorithm):
    learner = make_learner(policy_path, algorithm)
    batch = credit(learner, make_batch(scores=[0.0] * 8))
    assert not batch.advantages_BT.any()
    rows = counted_rows(learner)
    metrics = learner.update(batch, step=1)
    assert learner.rows_to_read(batch).tolist() == list(range(8))
    assert set(rows) == {8}
    assert "update/skipped_rows" not in metrics


def test_an_algorithm_that_says_nothing_reads_every_row(policy_path):
    @dataclass(frozen=True, kw_only=True)
    class Silent(GRPO):
        zero_advantage_metrics: Any = None

    learner = make_learner(policy_path, Silent())
    assert len(learner.rows_to_read(credit(learner, make_batch(scores=SCORES)))) == 8


@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_without_any_advantage_momentum_and_decay_move_the_weights_all_the_same(
    policy_path, num_minibatches
):
    found = []
    for prepare in (lambda learner: learner, reading_all):
        options = {"num_minibatches": num_minibatches, "micro_batch_tokens": 1}
        learner = prepare(make_learner(policy_path, GRPO(), **options))
        rows = counted_rows(learner)
        # Nothing to learn at first, then momentum, then nothing to learn again.
        for step, scores in enumerate(([0.5] * 8, SCORES, [0.5] * 8), start=1):
            rows.clear()
            before = weights(learner)
            batch = credit(learner, make_batch(scores=scores), step)
            metrics = learner.update(batch, step=step)
        assert not torch.equal(before, weights(learner))
        assert metrics["policy/grad_norm"] == 0
        found.append((weights(learner), list(rows), metrics))
    assert found[0][1] == []
    assert sum(found[1][1]) == 8
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][2]["policy/loss"] == 0
    assert found[0][2]["update/skipped_rows"] == 1
    assert "policy/entropy" not in found[0][2]


def test_losses_and_clip_fractions_are_means_over_all_tokens_and_entropy_over_those_read(
    policy_path,
):
    algorithm = GRPO(reduction="token_mean", clip_low=1e-4, clip_high=1e-4)
    found = []
    for prepare in (lambda learner: learner, reading_all):
        learner = prepare(make_learner(policy_path, algorithm, num_minibatches=2))
        batch = make_batch(scores=SCORES)
        learner.update(credit(learner, batch), step=1)
        train = credit(learner, batch, 2)
        # Old log-probabilities that are not the present ones, so that some tokens are clipped.
        moved = train.old_logprobs_BT + 0.1 * torch.sin(torch.arange(train.mask_BT.shape[1]))
        found.append((learner.update(replace(train, old_logprobs_BT=moved), step=2), train))
    (ours, train), (expected, _) = found
    for name in ("policy/loss", "policy/clip_fraction", "policy/grad_norm"):
        assert math.isclose(ours[name], expected[name], rel_tol=1e-4), name
    assert ours["policy/clip_fraction"] > 0.05
    assert ours["policy/entropy"] != expected["policy/entropy"]
    learner = make_learner(policy_path, algorithm, num_minibatches=2)
    alone = learner.update(credit(learner, make_batch(scores=SCORES)), step=1)
    read = make_learner(policy_path, algorithm, num_minibatches=2)
    subset = make_batch(scores=SCORES)
    subset = replace(
        subset,
        **{
            name: value[READ]
            for name, value in vars(subset).items()
            if isinstance(value, torch.Tensor)
        },
    )
    of_read = read.update(credit(read, subset), step=1)
    assert math.isclose(alone["policy/entropy"], of_read["policy/entropy"], rel_tol=1e-3)


def test_gradient_norms_are_those_of_the_whole_mini_batch(policy_path):
    """The mean over rows counts those that were left out: half the rows, half the gradient."""
    norms = []
    for scores in (SCORES, [1.0, 0.0, 0.5, 0.5]):
        learner = make_learner(policy_path, GRPO())
        batch = make_batch(scores=SCORES)
        rows = slice(0, len(scores))
        batch = replace(
            batch,
            scores_B=torch.tensor([1.0, 0.0, *[0.5] * 6]),
        )
        batch = replace(
            batch,
            **{n: v[rows] for n, v in vars(batch).items() if isinstance(v, torch.Tensor)},
        )
        norms.append(learner.update(credit(learner, batch), step=1)["policy/grad_norm"])
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-5)


def test_every_algorithm_that_leaves_rows_out_has_no_gradient_and_those_metrics_there():
    algorithms = [*ALGORITHMS.values(), ReinforcePlusPlus(), PPO()]
    algorithms += [replace(each, entropy_coefficient=0.1) for each in algorithms]
    algorithms += [replace(each, kl_coefficient=0.1, kl_in="loss") for each in algorithms[:9]]
    generator = torch.Generator().manual_seed(0)
    num_silent = 0
    for algorithm in algorithms:
        batch = make_batch(padding=2)
        shape = batch.mask_BT.shape
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4)]
        train = with_annotations(batch, old=drawn[0], reference=drawn[1])
        logprobs, entropy = drawn[2].requires_grad_(), drawn[3].requires_grad_()
        token_loss = algorithm.policy_loss(3 * logprobs, entropy, train)
        loss = torch.where(batch.mask_BT, token_loss.loss_BT, 0.0).sum()
        gradients = torch.autograd.grad(loss, [logprobs, entropy], allow_unused=True)
        has_gradient = any(g is not None and bool(g.any()) for g in gradients)
        known = algorithm.zero_advantage_metrics
        assert has_gradient == (known is None), algorithm
        num_silent += known is None
        for name, value in (known or {}).items():
            assert (token_loss.metrics_BT[name][batch.mask_BT] == value).all(), name
    assert 0 < num_silent < len(algorithms)


def with_annotations(batch: Any, *, old: torch.Tensor, reference: torch.Tensor) -> Any:
    """A batch in which no token has an advantage."""
    from grlo.batch import TrainBatch

    return TrainBatch(
        **vars(batch),
        score_std=1.0,
        old_logprobs_BT=old,
        reference_logprobs_BT=reference,
        old_values_BT=None,
        advantages_BT=torch.where(batch.mask_BT, 0.0, 7.0).double(),
        returns_BT=None,
    )
