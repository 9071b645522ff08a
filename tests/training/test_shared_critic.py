"""A value head on the policy's trunk: one pass for both, one joint gradient, plain checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from grlo.algorithms.ppo import PPO
from grlo.algorithms.reinforce_pp import ReinforcePlusPlus
from grlo.errors import CheckpointError
from grlo.rollout import ChatRenderer
from grlo.settings import CriticSettings, LoraSettings, OptimizerSettings
from grlo.training import checkpoint
from grlo.training import learner as learner_module
from grlo.training.learner import Learner, explained_variance
from grlo.training.models import token_logprobs
from grlo.training.shared_critic import ValueHead, token_logprobs_and_values
from small_updates import (
    TEMPERATURE,
    captured_gradients,
    credit,
    flat,
    make_batch,
    make_recipe,
    out_of_memory_once,
    weights,
)

SHARED = {"share_trunk": True}
LORA = LoraSettings(rank=2, alpha=4)


def make_learner(policy_path, algorithm=None, *, critic=None, head_scale: float = 0.3, **options):
    """A learner whose head is not zero, so that values differ and their gradient has a trunk."""
    recipe = make_recipe(policy_path, algorithm or PPO(), critic=SHARED | (critic or {}), **options)
    learner = Learner(recipe, device="cpu")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        weight = learner.critic.weight
        weight.copy_(head_scale * torch.randn(weight.shape, generator=generator))
    return learner


@pytest.mark.parametrize("attention", ["packed", "sdpa"])
def test_one_pass_gives_what_plain_forwards_of_every_row_give(policy_path, attention):
    learner = make_learner(policy_path, model={"attention": attention})
    batch = make_batch()
    options = {"temperature": TEMPERATURE, "compute_dtype": torch.float32}
    logprobs, entropy, values = token_logprobs_and_values(
        learner.policy, learner.critic, batch, **options, entropy="detached"
    )
    expected, expected_entropy = token_logprobs(
        learner.policy, batch, **options, entropy="detached"
    )
    assert torch.equal(logprobs, expected)
    assert torch.equal(entropy, expected_entropy)
    plain = AutoModelForCausalLM.from_pretrained(policy_path)
    for row, length in enumerate(batch.lengths_B.tolist()):
        tokens = batch.tokens_BT[row : row + 1, :length]
        hidden = plain(tokens, output_hidden_states=True).hidden_states[-1][0]
        for t in batch.mask_BT[row].nonzero().flatten().tolist():
            value = hidden[t - 1] @ learner.critic.weight
            torch.testing.assert_close(values[row, t], value, atol=1e-5, rtol=0)
    assert not values[~batch.mask_BT].any()


def test_the_trunk_is_passed_as_often_as_without_a_critic(policy_path):
    counts = []
    for algorithm, critic in ((ReinforcePlusPlus(), {}), (PPO(), SHARED)):
        recipe = make_recipe(
            policy_path, algorithm, critic=critic, num_minibatches=2, micro_batch_tokens=20
        )
        learner, calls = Learner(recipe, device="cpu"), []
        learner.policy.base_model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        batch = credit(learner, make_batch())
        assert batch.old_logprobs_BT is not None
        annotated = len(calls)
        learner.update(batch, step=1)
        counts.append((annotated, len(calls) - annotated))
    assert counts[0] == counts[1]
    assert min(counts[0]) > 3


def test_old_values_come_without_old_logprobs_where_one_update_needs_none(policy_path):
    learner, other = (make_learner(policy_path, num_minibatches=n) for n in (1, 2))
    single, several = (credit(each, make_batch()) for each in (learner, other))
    assert single.old_logprobs_BT is None
    assert several.old_logprobs_BT is not None
    assert torch.equal(single.old_values_BT, several.old_values_BT)


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean_token_mean"])
@pytest.mark.parametrize("coefficient", [0.1, 2.0])
def test_the_gradient_is_that_of_the_policy_loss_plus_the_coefficient_times_that_of_the_values(
    policy_path, reduction, coefficient
):
    """Both gradients by autograd on plain forwards of whole rows, one after the other."""
    learner = make_learner(
        policy_path,
        PPO(reduction=reduction, value_clip=0.05),
        critic={"value_coefficient": coefficient},
        optimizer={"max_grad_norm": 0.0},
    )
    batch = credit(learner, make_batch())
    # Old values that are not the present ones, so that some are clipped.
    batch = replace(batch, old_values_BT=batch.old_values_BT + 0.1 * torch.sign(batch.returns_BT))
    plain = AutoModelForCausalLM.from_pretrained(policy_path)
    head = learner.critic.weight.detach().clone().requires_grad_()
    policy_losses, value_losses = [], []
    for row, length in enumerate(batch.lengths_B.tolist()):
        tokens = batch.tokens_BT[row, :length]
        steps = batch.mask_BT[row].nonzero().flatten().tolist()
        output = plain(tokens[None], output_hidden_states=True)
        distribution = (output.logits[0] / TEMPERATURE).log_softmax(-1)
        hidden = output.hidden_states[-1][0]
        for t in steps:
            is_mean = reduction == "token_mean"
            share = int(batch.mask_BT.sum()) if is_mean else len(steps) * len(batch.lengths_B)
            advantage = batch.advantages_BT[row, t]
            policy_losses.append(-advantage * distribution[t - 1, tokens[t]] / share)
            value, old = hidden[t - 1] @ head, batch.old_values_BT[row, t]
            target = batch.returns_BT[row, t]
            clipped = old + (value - old).clamp(-0.05, 0.05)
            worst = max((value - target) ** 2, (clipped - target) ** 2)
            value_losses.append(0.5 * worst / int(batch.mask_BT.sum()))
    parameters = dict(plain.named_parameters())
    of_policy = torch.autograd.grad(
        torch.stack(policy_losses).sum(), list(parameters.values()), retain_graph=True
    )
    of_values = torch.autograd.grad(
        torch.stack(value_losses).sum(), [*parameters.values(), head], allow_unused=True
    )
    expected = {
        f"policy.{name}": p + coefficient * (0 if v is None else v)
        for name, p, v in zip(parameters, of_policy, of_values[:-1], strict=True)
    }
    assert flat(v for v in of_values[:-1] if v is not None).norm() > 1e-3, "values reach the trunk"
    expected["critic.weight"] = coefficient * of_values[-1]
    found = captured_gradients(learner, batch)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("algorithm", [PPO(), PPO(entropy_coefficient=0.01, gae_lambda=0.9)])
@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_micro_batch_size_padding_and_junk_do_not_change_an_update(
    policy_path, algorithm, num_minibatches
):
    results = []
    for micro_batch_tokens, padding in ((10_000, 0), (30, 5), (1, 0)):
        learner = make_learner(
            policy_path,
            algorithm,
            num_minibatches=num_minibatches,
            micro_batch_tokens=micro_batch_tokens,
            # AdamW turns rounding noise on a zero gradient into a full step unless eps is large.
            optimizer={"eps": 1e-3},
        )
        metrics = {}
        for step in (1, 2):
            batch = make_batch(seed=step, padding=padding)
            metrics = learner.update(credit(learner, batch, step), step=step)
        results.append((weights(learner), metrics))
    for other, metrics in results[1:]:
        torch.testing.assert_close(results[0][0], other, atol=3e-6, rtol=0)
        for key, value in results[0][1].items():
            if not key.startswith(("engine/", "update/")):
                assert math.isclose(metrics[key], value, rel_tol=2e-3, abs_tol=2e-5), key


def test_running_out_of_memory_in_the_shared_pass_changes_neither_annotations_nor_update(
    policy_path, monkeypatch
):
    options = {"num_epochs": 2, "micro_batch_tokens": 40, "optimizer": {"eps": 1e-3}}
    plain = make_learner(policy_path, **options)
    batch = credit(plain, make_batch())
    metrics = plain.update(batch, step=1)
    annotating, updating = (
        make_learner(policy_path, **options),
        make_learner(policy_path, **options),
    )
    out_of_memory_once(monkeypatch, learner_module, "token_logprobs_and_values", call=2)
    found = credit(annotating, make_batch())
    assert annotating.micro_batches.max_tokens < 40
    for key in ("old_logprobs_BT", "old_values_BT"):
        torch.testing.assert_close(getattr(found, key), getattr(batch, key), atol=1e-5, rtol=0)
    out_of_memory_once(monkeypatch, learner_module, "token_logprobs_and_values", call=2)
    found_metrics = updating.update(batch, step=1)
    assert found_metrics.pop("update/micro_batch_tokens") < metrics.pop("update/micro_batch_tokens")
    torch.testing.assert_close(weights(updating), weights(plain), atol=1e-6, rtol=0)
    for key, value in metrics.items():
        assert found_metrics[key] == pytest.approx(value, rel=1e-3, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize(
    "model", [{"gradient_checkpointing": True}, {"attention": "sdpa"}, {"attention": "eager"}]
)
def test_checkpointing_and_attention_change_no_gradient(policy_path, model):
    results = []
    for changes in ({}, model):
        learner = make_learner(policy_path, model=changes, optimizer={"eps": 1e-3})
        for step in (1, 2):
            learner.update(credit(learner, make_batch(seed=step), step), step=step)
        results.append(weights(learner))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=0)


def test_detached_values_leave_the_trunk_to_the_policy(policy_path):
    joint, detached = (
        make_learner(policy_path, critic={"detach": flag}, optimizer={"max_grad_norm": 0.0})
        for flag in (False, True)
    )
    batch = credit(joint, make_batch())
    with_values = captured_gradients(joint, batch)
    without = captured_gradients(detached, batch)
    alone = Learner(make_recipe(policy_path, PPO(), optimizer={"max_grad_norm": 0.0}), device="cpu")
    expected = captured_gradients(alone, batch)
    assert torch.equal(with_values["critic.weight"], without["critic.weight"])
    for name in (name for name in without if name.startswith("policy.")):
        torch.testing.assert_close(without[name], expected[name], atol=1e-8, rtol=0)
    assert not torch.allclose(
        with_values["policy.model.norm.weight"], without["policy.model.norm.weight"]
    )


def test_warm_up_trains_the_head_alone(policy_path):
    learner = make_learner(policy_path, PPO(critic_warmup_steps=1))
    policy, head = flat(learner.policy.parameters()), flat(learner.critic.parameters())
    batch = make_batch()
    metrics = learner.update(credit(learner, batch, 1), step=1)
    assert torch.equal(policy, flat(learner.policy.parameters()))
    assert not torch.equal(head, flat(learner.critic.parameters()))
    assert "policy/loss" not in metrics
    assert metrics["critic/grad_norm"] > 0
    learner.update(credit(learner, batch, 2), step=2)
    assert not torch.equal(policy, flat(learner.policy.parameters()))


def test_the_gradient_of_the_head_in_warm_up_is_that_of_a_joint_step(policy_path):
    found = []
    for warmup in (0, 1):
        learner = make_learner(
            policy_path, PPO(critic_warmup_steps=warmup), optimizer={"max_grad_norm": 0.0}
        )
        found.append(captured_gradients(learner, credit(learner, make_batch()))["critic.weight"])
    torch.testing.assert_close(found[0], found[1], atol=1e-7, rtol=1e-5)


def test_head_and_trunk_have_learning_rates_of_their_own(policy_path):
    head = OptimizerSettings(learning_rate=0.5, weight_decay=0.0)
    learner = make_learner(policy_path, critic={"optimizer": head})
    before = flat(learner.critic.parameters()), flat(learner.policy.parameters())
    learner.update(credit(learner, make_batch()), step=1)
    moved_head = (flat(learner.critic.parameters()) - before[0]).abs()
    moved_trunk = (flat(learner.policy.parameters()) - before[1]).abs()
    # The first step of AdamW is the learning rate in size.
    assert moved_head.median() == pytest.approx(0.5, rel=1e-3)
    assert moved_trunk.max() < 2e-3


def test_values_are_not_rounded_to_the_type_of_the_trunk():
    head = ValueHead(2, dtype=torch.float32)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([1.0, 1.0]))
    hidden = torch.tensor([[10.0, 0.015625]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(hidden).tolist() == [10.015625]


def test_the_head_learns_the_return(policy_path):
    learner = make_learner(
        policy_path,
        PPO(value_clip=0),
        head_scale=0.0,
        critic={"optimizer": OptimizerSettings(learning_rate=3e-2), "value_coefficient": 1.0},
    )
    first = credit(learner, make_batch())
    assert not first.old_values_BT.any(), "a new head gives no values"
    for step in range(1, 25):
        learner.update(credit(learner, make_batch(), step), step=min(step, 10))
    assert explained_variance(first) == pytest.approx(0, abs=1e-6)
    assert explained_variance(credit(learner, make_batch())) > 0.5


def test_adapters_are_trained_by_both_losses_and_serve_the_reference(policy_path):
    pytest.importorskip("peft")
    gradients = []
    for detach in (False, True):
        learner = make_learner(
            policy_path,
            PPO(kl_coefficient=0.1),
            critic={"detach": detach},
            model={"lora": LORA},
            optimizer={"max_grad_norm": 0.0},
        )
        base = {n: p.clone() for n, p in learner.policy.named_parameters() if not p.requires_grad}
        batch = credit(learner, make_batch())
        assert batch.reference_logprobs_BT is not None
        found = captured_gradients(learner, batch)
        assert all("lora_" in name or name == "critic.weight" for name in found)
        gradients.append(flat(g for name, g in found.items() if name != "critic.weight"))
        for name, parameter in learner.policy.named_parameters():
            if name in base:
                assert torch.equal(parameter, base[name])
    assert (gradients[0] - gradients[1]).norm() > 0.01 * gradients[1].norm()


# Checkpoints --------------------------------------------------------------------------------------


@pytest.fixture
def renderer(chat_policy_path) -> ChatRenderer:
    return ChatRenderer.from_pretrained(str(chat_policy_path))


def train_steps(learner: Learner, start: int, stop: int) -> None:
    for step in range(start, stop + 1):
        learner.update(credit(learner, make_batch(seed=step), step), step=step)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_restored_learner_goes_on_bit_for_bit(chat_policy_path, renderer, tmp_path, lora):
    options = {"critic": SHARED, "model": {"lora": lora}, "num_minibatches": 2}
    recipe = make_recipe(chat_policy_path, PPO(), **options)
    whole = Learner(recipe, device="cpu")
    train_steps(whole, 1, 2)
    path = tmp_path / "step_000002"
    checkpoint.save(path, whole, renderer, state={"step": 2})
    train_steps(whole, 3, 5)

    resumed = Learner(recipe, device="cpu", checkpoint=path)
    checkpoint.restore(path, resumed)
    train_steps(resumed, 3, 5)
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_checkpoint_is_a_plain_policy_with_the_head_beside_it(
    chat_policy_path, renderer, tmp_path, lora
):
    recipe = make_recipe(chat_policy_path, PPO(), critic=SHARED, model={"lora": lora})
    learner = Learner(recipe, device="cpu")
    train_steps(learner, 1, 2)
    path = tmp_path / "step_000002"
    checkpoint.save(path, learner, renderer, state={"step": 2})
    assert [file.name for file in (path / "critic").iterdir()] == ["value_head.safetensors"]
    (weight,) = load_file(path / "critic" / "value_head.safetensors").values()
    assert torch.equal(weight, learner.critic.weight)
    assert weight.any()
    stored, started = load_file(path / "model.safetensors"), chat_policy_path / "model.safetensors"
    assert stored.keys() == load_file(started).keys()
    plain = AutoModelForCausalLM.from_pretrained(path)
    tokens = torch.arange(1, 9)[None]
    torch.testing.assert_close(plain(tokens).logits, learner.policy.eval()(tokens).logits)
    assert not any("critic" in str(file) for file in checkpoint.model_files(path))


def test_a_checkpoint_of_a_separate_critic_does_not_resume_a_shared_one(
    chat_policy_path, renderer, tmp_path
):
    learner = Learner(make_recipe(chat_policy_path, PPO()), device="cpu")
    train_steps(learner, 1, 1)
    checkpoint.save(tmp_path / "step_000001", learner, renderer, state={"step": 1})
    shared = make_recipe(chat_policy_path, PPO(), critic=SHARED)
    with pytest.raises(CheckpointError, match=r"no critic/value_head\.safetensors"):
        Learner(shared, device="cpu", checkpoint=tmp_path / "step_000001")


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"share_trunk": True, "model": "x"}, "model has no effect with share_trunk"),
        ({"share_trunk": True, "lora": LORA}, "lora has no effect with share_trunk"),
        ({"value_coefficient": 0.5}, "no effect without share_trunk"),
        ({"detach": True}, "no effect without share_trunk"),
        ({"share_trunk": True, "value_coefficient": 0.0}, "must be positive"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings, expected):
    with pytest.raises(ValueError, match=expected):
        CriticSettings(**settings)


def test_no_second_model_is_loaded(policy_path, monkeypatch):
    monkeypatch.delattr(learner_module, "load_critic")
    learner = make_learner(policy_path)
    assert [name for name, _ in learner.critic.named_parameters()] == ["weight"]
