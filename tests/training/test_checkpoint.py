"""Checkpoints: whole or absent, ordinary models, refused when damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from grlo.algorithms.ppo import PPO
from grlo.batch import Batch
from grlo.errors import CheckpointError
from grlo.modeling.adapters import merged_weights
from grlo.rollout import ChatRenderer
from grlo.rundir import list_checkpoints
from grlo.settings import (
    CriticSettings,
    LoraSettings,
    ModelSettings,
    OptimizerSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    TrainingSettings,
)
from grlo.training import checkpoint
from grlo.training.learner import Learner
from grlo.training.models import token_values


def recipe_for(path, *, lora: LoraSettings | None = None) -> Recipe:
    return Recipe(
        policy=ModelSettings(
            model=str(path), compute_dtype="float32", gradient_checkpointing=False, lora=lora
        ),
        prompts=PromptSettings(sources=("unused.jsonl",)),
        reward=None,
        algorithm=PPO(),
        sampling=SamplingSettings(max_tokens=8),
        optimizer=OptimizerSettings(learning_rate=1e-3),
        critic=CriticSettings(optimizer=OptimizerSettings(learning_rate=1e-3), lora=lora),
        training=TrainingSettings(steps=10, num_minibatches=1, device="cpu"),
    )


def batch_of(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 250, (4, 12), generator=generator)
    tokens[:, :4] = torch.tensor([5, 6, 7, 8])
    mask = torch.zeros(4, 12, dtype=torch.bool)
    mask[:, 4:] = True
    return Batch(
        tokens_BT=tokens,
        mask_BT=mask,
        lengths_B=torch.full((4,), 12),
        groups_B=torch.tensor([0, 0, 1, 1]),
        scores_B=torch.randn(4, generator=generator),
        truncated_B=torch.zeros(4, dtype=torch.bool),
        engine_logprobs_BT=torch.full((4, 12), -5.0),
    )


def train_steps(learner: Learner, start: int, stop: int) -> None:
    for step in range(start, stop + 1):
        annotated = learner.annotate(batch_of(step), step=step, score_std=1.0)
        learner.update(learner.algorithm.assign_credit(annotated), step=step)


def all_weights(learner: Learner) -> torch.Tensor:
    return torch.cat(
        [p.detach().flatten() for m in learner.models().values() for p in m.parameters()]
    )


@pytest.fixture
def renderer(chat_policy_path) -> ChatRenderer:
    return ChatRenderer.from_pretrained(str(chat_policy_path))


@pytest.fixture
def saved(chat_policy_path, renderer, tmp_path):
    """A learner after two steps and its checkpoint."""
    learner = Learner(recipe_for(chat_policy_path), device="cpu")
    train_steps(learner, 1, 2)
    path = tmp_path / "step_000002"
    checkpoint.save(path, learner, renderer, state={"step": 2})
    return learner, path


def test_policy_and_critic_load_in_plain_transformers(saved):
    learner, path = saved
    policy = AutoModelForCausalLM.from_pretrained(path)
    critic = AutoModelForSequenceClassification.from_pretrained(path / "critic")
    tokens = torch.arange(1, 9)[None]
    learner.policy.eval()
    torch.testing.assert_close(policy(tokens).logits, learner.policy(tokens).logits)
    torch.testing.assert_close(critic(tokens).logits, learner.critic(tokens).logits)
    assert policy.config.use_cache
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert "<|im_start|>" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], tokenize=False
    )
    # Plain `generate` stops where training did.
    assert set(policy.generation_config.eos_token_id) == {256, 258}


def test_no_pickle_is_written(saved):
    _, path = saved
    suffixes = {file.suffix for file in path.rglob("*") if file.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jinja"}


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, alpha=4)])
def test_a_restored_learner_goes_on_bit_for_bit(chat_policy_path, renderer, tmp_path, lora):
    recipe = recipe_for(chat_policy_path, lora=lora)
    whole = Learner(recipe, device="cpu")
    train_steps(whole, 1, 2)
    path = tmp_path / "step_000002"
    checkpoint.save(path, whole, renderer, state={"step": 2})
    train_steps(whole, 3, 5)

    resumed = Learner(recipe, device="cpu", checkpoint=path)
    checkpoint.restore(path, resumed)
    train_steps(resumed, 3, 5)
    assert torch.equal(all_weights(whole), all_weights(resumed))


def test_a_checkpoint_with_adapters_is_the_merged_model(chat_policy_path, renderer, tmp_path):
    recipe = recipe_for(chat_policy_path, lora=LoraSettings(rank=2, alpha=4))
    learner = Learner(recipe, device="cpu")
    train_steps(learner, 1, 2)
    checkpoint.save(tmp_path / "step_000002", learner, renderer, state={"step": 2})
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "step_000002")
    merged = dict(merged_weights(learner.policy))
    base = AutoModelForCausalLM.from_pretrained(chat_policy_path).state_dict()
    changed = 0
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, merged[name].detach())
        changed += not torch.equal(tensor, base[name])
    assert changed >= 14  # All seven linear maps of both layers.


def test_a_critic_with_adapters_starts_at_zero_and_is_stored_merged(
    chat_policy_path, renderer, tmp_path
):
    recipe = recipe_for(chat_policy_path)
    lora = LoraSettings(rank=2, alpha=4)
    learner = Learner(replace(recipe, critic=replace(recipe.critic, lora=lora)), device="cpu")
    batch = batch_of(1)
    assert not learner.annotate(batch, step=1, score_std=1.0).old_values_BT.any()
    frozen = {n: p.clone() for n, p in learner.critic.named_parameters() if not p.requires_grad}
    train_steps(learner, 1, 3)
    assert frozen
    for name, parameter in learner.critic.named_parameters():
        assert name not in frozen or torch.equal(parameter, frozen[name])
    checkpoint.save(tmp_path / "step_000003", learner, renderer, state={"step": 3})
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "step_000003" / "critic")
    values = token_values(plain, batch, compute_dtype=torch.float32)
    trained = token_values(learner.critic, batch, compute_dtype=torch.float32)
    torch.testing.assert_close(values, trained, atol=1e-6, rtol=1e-5)
    assert values.any()


def test_every_changed_or_missing_file_is_named(saved):
    _, path = saved
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        if file.name == "grlo_manifest.json":
            continue
        original = file.read_bytes()
        flipped = bytearray(original)
        flipped[len(flipped) // 2] ^= 1
        for damage in (bytes(flipped), original[:-1], None):
            if damage is None:
                file.unlink()
            else:
                file.write_bytes(damage)
            with pytest.raises(CheckpointError, match=file.name):
                checkpoint.read_state(path)
            file.write_bytes(original)
    assert checkpoint.read_state(path)["step"] == 2


def test_a_plain_model_is_refused_as_a_checkpoint(chat_policy_path):
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        checkpoint.read_state(chat_policy_path)


def test_another_format_is_refused(saved):
    _, path = saved
    manifest = json.loads((path / "grlo_manifest.json").read_text())
    state = json.loads((path / "grlo_state.json").read_text()) | {"format": 99}
    (path / "grlo_state.json").write_text(json.dumps(state))
    manifest["grlo_state.json"] = checkpoint._sha256(path / "grlo_state.json")
    (path / "grlo_manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.read_state(path)


def test_optimizer_state_of_another_model_is_refused(saved, chat_policy_path, renderer, tmp_path):
    _, path = saved
    small = AutoModelForCausalLM.from_pretrained(chat_policy_path)
    config = replace_layers(small.config, 1)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "small")
    learner = Learner(recipe_for(tmp_path / "small"), device="cpu")
    with pytest.raises(CheckpointError, match="does not train"):
        checkpoint.restore(path, learner)


def replace_layers(config, number: int):
    config.num_hidden_layers = number
    config.layer_types = config.layer_types[:number]
    return config


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_partial_one(
    saved, renderer, tmp_path, monkeypatch
):
    learner, path = saved

    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_states", no_space)
    with pytest.raises(CheckpointError, match="Earlier checkpoints are intact"):
        checkpoint.save(tmp_path / "step_000003", learner, renderer, state={"step": 3})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert checkpoint.read_state(path)["step"] == 2


def test_too_little_space_is_noticed_before_anything_is_written(
    saved, renderer, tmp_path, monkeypatch
):
    learner, _ = saved
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match="GiB needed"):
        checkpoint.save(tmp_path / "step_000003", learner, renderer, state={"step": 3})


def test_pruning_keeps_the_newest_and_the_named(tmp_path):
    for step in range(1, 7):
        (tmp_path / f"step_{step:06d}").mkdir()
    (tmp_path / "step_000007.partial").mkdir()
    checkpoint.prune(tmp_path, keep_last=2, keep={"step_000003"})
    assert sorted(p.name for p in list_checkpoints(tmp_path)) == [
        "step_000003",
        "step_000005",
        "step_000006",
    ]


def test_a_learner_that_differs_in_one_weight_is_not_called_equal(chat_policy_path):
    recipe = recipe_for(chat_policy_path)
    one, other = Learner(recipe, device="cpu"), Learner(recipe, device="cpu")
    train_steps(one, 1, 1)
    train_steps(other, 1, 1)
    assert torch.equal(all_weights(one), all_weights(other))
    changed = replace(recipe, optimizer=replace(recipe.optimizer, learning_rate=1.1e-3))
    third = Learner(changed, device="cpu")
    train_steps(third, 1, 1)
    assert not torch.equal(all_weights(one), all_weights(third))
