"""8-bit states: near AdamW, as large as estimated, and whole after a resume."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from grlo.algorithms.ppo import PPO
from grlo.batch import Batch
from grlo.errors import CheckpointError, MissingExtraError
from grlo.memory.estimates import optimizer_bytes
from grlo.model_shape import shape_from_config
from grlo.rollout import ChatRenderer
from grlo.settings import (
    CriticSettings,
    ModelSettings,
    Offload,
    OptimizerSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    TrainingSettings,
)
from grlo.training import checkpoint
from grlo.training.learner import Learner
from grlo.training.optimizers import build_optimizer

EIGHT_BITS = OptimizerSettings(learning_rate=1e-3, name="adamw_8bit")


@pytest.fixture(scope="module")
def wide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for matrices that are kept in 8 bits."""
    path = tmp_path_factory.mktemp("wide")
    config = Qwen3Config(
        vocab_size=259,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(path)
    return path


def make_recipe(
    path: Path, settings: OptimizerSettings, *, offload: Sequence[Offload] = ()
) -> Recipe:
    return Recipe(
        policy=ModelSettings(
            model=str(path), compute_dtype="float32", gradient_checkpointing=False
        ),
        prompts=PromptSettings(sources=("unused.jsonl",)),
        reward=None,
        algorithm=PPO(),
        sampling=SamplingSettings(max_tokens=8),
        optimizer=settings,
        critic=CriticSettings(optimizer=settings),
        training=TrainingSettings(steps=10, num_minibatches=1, offload=tuple(offload)),
    )


def train(learner: Learner, start: int, stop: int) -> None:
    for step in range(start, stop + 1):
        generator = torch.Generator().manual_seed(step)
        mask = torch.zeros(4, 12, dtype=torch.bool)
        mask[:, 4:] = True
        batch = Batch(
            tokens_BT=torch.randint(1, 250, (4, 12), generator=generator),
            mask_BT=mask,
            lengths_B=torch.full((4,), 12),
            groups_B=torch.arange(4),
            scores_B=torch.randn(4, generator=generator),
            truncated_B=torch.zeros(4, dtype=torch.bool),
            engine_logprobs_BT=torch.full((4, 12), -5.0),
        )
        annotated = learner.annotate(batch, step=step, score_std=1.0)
        learner.update(learner.algorithm.assign_credit(annotated), step=step)


def all_weights(learner: Learner) -> torch.Tensor:
    return torch.cat(
        [p.detach().flatten() for m in learner.models().values() for p in m.parameters()]
    )


def test_eight_bits_without_the_package_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("bitsandbytes", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"grlo\[lowbit\]"):
        build_optimizer(nn.Linear(2, 2), EIGHT_BITS)


def test_eight_bits_move_weights_nearly_as_float32_does(wide_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    start = all_weights(Learner(make_recipe(wide_path, EIGHT_BITS), device="cpu"))
    moves = []
    for name in ("adamw", "adamw_8bit"):
        settings = OptimizerSettings(learning_rate=1e-3, eps=1e-5, name=name)
        learner = Learner(make_recipe(wide_path, settings), device="cpu")
        train(learner, 1, 8)
        moves.append(all_weights(learner) - start)
    assert torch.cosine_similarity(moves[0], moves[1], dim=0) > 0.95
    assert not torch.equal(moves[0], moves[1])


def test_eight_bit_states_are_as_large_as_estimated(wide_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    recipe = make_recipe(wide_path, EIGHT_BITS)
    learner = Learner(recipe, device="cpu")
    train(learner, 1, 1)
    found = sum(
        tensor.nbytes
        for state in learner.optimizers["policy"].state.values()
        for key, tensor in state.items()
        if key.startswith(("state", "absmax"))
    )
    shape = shape_from_config(learner.policy.config.to_dict())
    estimate = optimizer_bytes(shape, recipe, EIGHT_BITS, lora=None)
    assert estimate == pytest.approx(found, rel=0.01)
    assert estimate < 0.3 * 8 * shape.num_parameters


@pytest.mark.parametrize("offload", [(), ("optimizer", "critic")])
def test_a_run_with_eight_bits_resumes_bit_for_bit_from_safetensors(
    wide_path: Path, chat_policy_path: Path, tmp_path: Path, offload: Sequence[Offload]
) -> None:
    pytest.importorskip("bitsandbytes")
    renderer = ChatRenderer.from_pretrained(str(chat_policy_path))
    recipe = make_recipe(wide_path, EIGHT_BITS, offload=offload)
    whole = Learner(recipe, device="cpu")
    train(whole, 1, 2)
    path = tmp_path / "step_000002"
    checkpoint.save(path, whole, renderer, state={"step": 2})
    stored = load_file(path / "grlo_optimizer.safetensors")
    assert stored["policy.model.layers.0.mlp.up_proj.weight.state1"].dtype == torch.uint8
    assert not any("qmap" in key for key in stored)
    train(whole, 3, 5)

    resumed = Learner(recipe, device="cpu", checkpoint=path)
    checkpoint.restore(path, resumed)
    train(resumed, 3, 5)
    assert torch.equal(all_weights(whole), all_weights(resumed))


def test_states_of_another_optimizer_are_refused(
    wide_path: Path, chat_policy_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    renderer = ChatRenderer.from_pretrained(str(chat_policy_path))
    float32 = OptimizerSettings(learning_rate=1e-3)
    learner = Learner(make_recipe(wide_path, float32), device="cpu")
    train(learner, 1, 1)
    path = tmp_path / "step_000001"
    checkpoint.save(path, learner, renderer, state={"step": 1})
    other = Learner(make_recipe(wide_path, EIGHT_BITS), device="cpu", checkpoint=path)
    with pytest.raises(CheckpointError, match="state1"):
        checkpoint.restore(path, other)
