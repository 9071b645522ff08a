"""Memory of a run by component and phase."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import Qwen3Config

import known_models
from allocations import allocations
from grlo.algorithms.grpo import GRPO
from grlo.algorithms.ppo import PPO
from grlo.engines.hf import HFEngineSettings
from grlo.engines.vllm import VLLMEngineSettings
from grlo.engines.vllm_server import VLLMServerEngineSettings
from grlo.memory.estimates import PHASES, MemoryItem, estimate_memory, peak_bytes, phase_bytes
from grlo.model_shape import ModelShape, lora_parameters, shape_from_config
from grlo.settings import (
    CriticSettings,
    LoraSettings,
    ModelSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    TrainingSettings,
)
from grlo.training.models import DTYPES
from grlo.training.output_head import head_logprobs

SMALL = shape_from_config(
    Qwen3Config(
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    ).to_dict()
)
QWEN3_4B = shape_from_config(known_models.QWEN3_4B.to_dict())


def make_recipe(**policy: Any) -> Recipe:
    return Recipe(
        policy=ModelSettings(model="x", **policy),
        prompts=PromptSettings(sources=("x",), max_prompt_tokens=10),
        reward=None,
        algorithm=GRPO(),
        training=TrainingSettings(steps=1, micro_batch_tokens=100),
        sampling=SamplingSettings(prompts_per_step=2, samples_per_prompt=3, max_tokens=20),
    )


def by_component(recipe: Recipe, shape: ModelShape, **shapes: Any) -> dict[str, int]:
    items = estimate_memory(recipe, policy=shape, **shapes)
    return {item.component: item.num_bytes for item in items}


def test_memory_of_weights_states_and_cache_is_exact() -> None:
    shape = SMALL
    count = shape.num_parameters
    sizes = by_component(make_recipe(compute_dtype="float32"), shape)
    assert sizes["policy weights"] == 4 * count
    assert sizes["policy optimizer (two moments)"] == 8 * count
    assert sizes["policy gradients"] == 4 * count
    assert sizes["key/value cache, full rows: 6"] == 6 * 30 * (2 * 3 * 2 * 16) * 4
    assert sizes["logits of a chunk"] == 3 * 4 * 100 * 97
    assert "engine's copy of the policy" not in sizes
    assert not {"reference", "reward model", "critic weights"} & set(sizes)


def test_every_further_model_and_type_is_counted() -> None:
    shape = SMALL
    recipe = replace(make_recipe(), algorithm=PPO(kl_coefficient=0.1))
    sizes = by_component(recipe, shape, critic=shape, rewards=[(shape, None)], num_sequences=4)
    count = shape.num_parameters
    # It has one output and an embedding of its own instead of a head.
    assert sizes["critic weights"] == 4 * (count - 97 * 24 + 24)
    assert sizes["reference"] == 2 * count
    assert sizes["reward model"] == 2 * count
    assert sizes["autocast copy of the head"] == 2 * 97 * 24
    assert sizes["engine's copy of the policy"] == 2 * count
    assert sizes["key/value cache, full rows: 4"] == 4 * 30 * (2 * 3 * 2 * 16) * 2


def test_an_engine_with_weights_of_its_own_holds_them_unless_it_sleeps() -> None:
    shape = SMALL
    for device, sleeps, phases in [
        ("cuda", True, ("generate",)),
        ("cuda", False, PHASES),
        ("cpu", True, PHASES),
    ]:
        recipe = make_recipe(compute_dtype="float32")
        recipe = replace(
            recipe,
            engine=VLLMEngineSettings(enable_sleep_mode=sleeps),
            training=replace(recipe.training, device=device),
        )
        items = {item.component: item for item in estimate_memory(recipe, policy=shape)}
        copy = items["engine's copy of the policy"]
        assert (copy.phases, copy.num_bytes) == (phases, 4 * shape.num_parameters)
    recipe = replace(make_recipe(), engine=VLLMServerEngineSettings())
    names = [item.component for item in estimate_memory(recipe, policy=shape)]
    assert not [name for name in names if "engine" in name or "cache" in name]


def test_a_critic_with_adapters_trains_those_alone() -> None:
    shape = SMALL
    lora = LoraSettings(rank=4)
    recipe = replace(make_recipe(), algorithm=PPO(), critic=CriticSettings(lora=lora))
    sizes = by_component(recipe, shape, critic=shape)
    adapters = lora_parameters(shape, lora)
    # It has one output and an embedding of its own instead of a head.
    assert sizes["critic weights"] == 4 * (shape.num_parameters - 97 * 24 + 24 + adapters)
    assert sizes["critic optimizer (two moments)"] == 8 * adapters
    assert sizes["critic gradients"] == 4 * adapters
    assert sizes["policy gradients"] == 4 * shape.num_parameters


def test_a_critic_on_the_policys_trunk_is_its_head() -> None:
    shape = SMALL
    alone = by_component(make_recipe(), shape)
    recipe = replace(make_recipe(), algorithm=PPO(), critic=CriticSettings(share_trunk=True))
    shared = by_component(recipe, shape)
    assert {name: size for name, size in shared.items() if name not in alone} == {
        "critic weights": 4 * 24,
        "critic optimizer (two moments)": 8 * 24,
        "critic gradients": 4 * 24,
    }
    assert alone.items() <= shared.items()


def test_with_overlap_the_engine_has_a_copy_and_its_cache_beside_the_update() -> None:
    shape = SMALL
    recipe = make_recipe(compute_dtype="float32")
    overlapped = replace(recipe, training=replace(recipe.training, overlap=True))
    sizes = by_component(overlapped, shape)
    assert sizes["engine's copy of the policy"] == 4 * shape.num_parameters
    items = {item.component: item for item in estimate_memory(overlapped, policy=shape)}
    assert items["engine's copy of the policy"].phases == PHASES
    cache = items["key/value cache, full rows: 6"]
    # The engine draws while the learner works, and waits while a reward scores.
    assert set(PHASES) - set(cache.phases) == {"score"}
    alone = {item.component: item for item in estimate_memory(recipe, policy=shape)}
    assert alone[cache.component].phases == ("generate",)
    elsewhere = replace(overlapped, engine=HFEngineSettings(device="cuda:1"))
    assert not [n for n in by_component(elsewhere, shape) if n.startswith(("engine", "key/value"))]


def test_the_peak_is_what_the_hungriest_phase_holds() -> None:
    items = (
        MemoryItem("a", PHASES, 100),
        MemoryItem("b", ("annotate", "policy's update"), 10),
        MemoryItem("c", ("generate",), 12),
        MemoryItem("d", ("policy's update",), 4),
        MemoryItem("e", ("policy's step",), 2),
    )
    assert phase_bytes(items)["generate"] == 112
    assert phase_bytes(items)["score"] == 100
    assert peak_bytes(items) == 114


def test_what_is_offloaded_is_on_the_device_in_its_own_phases_only() -> None:
    shape = SMALL
    recipe = replace(make_recipe(), algorithm=PPO(kl_coefficient=0.1))
    shapes: Any = {"policy": shape, "critic": shape, "rewards": [(shape, None)]}
    before = {item.component: item for item in estimate_memory(recipe, **shapes)}
    where = {
        "optimizer": {
            "policy optimizer (two moments)": {"policy's step"},
            "critic optimizer (two moments)": {"critic's step"},
        },
        "reference": {"reference": {"annotate"}},
        "reward_model": {"reward model": {"score"}},
        "critic": {"critic weights": {"annotate", "critic's update", "critic's step"}},
    }
    for name, expected in where.items():
        training = replace(recipe.training, offload=(name,))
        for item in estimate_memory(replace(recipe, training=training), **shapes):
            assert item.num_bytes == before[item.component].num_bytes
            phases = expected.get(item.component, set(before[item.component].phases))
            assert set(item.phases) == phases, (name, item.component)


@pytest.mark.parametrize("entropy", ["none", "detached", "gradient"])
@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [600, 1400])
def test_the_output_head_takes_no_more_than_estimated(
    rows: int, entropy: Any, compute_dtype: Any
) -> None:
    """Of several chunks; what it is asked for and the gradients that it returns come on top."""
    vocab, hidden = 16384, 32
    shape = replace(SMALL, vocab_size=vocab, hidden_size=hidden)
    recipe = make_recipe(compute_dtype=compute_dtype)
    training = replace(recipe.training, device="cpu", micro_batch_tokens=rows)
    sampling = replace(recipe.sampling, prompts_per_step=rows)
    sizes = by_component(replace(recipe, training=training, sampling=sampling), shape)
    head = torch.nn.Linear(hidden, vocab, bias=False)
    states = torch.randn(rows, hidden, requires_grad=True)
    targets = torch.randint(0, vocab, (rows,))

    def update() -> None:
        with torch.autocast("cpu", dtype=DTYPES[compute_dtype], enabled=compute_dtype != "float32"):
            logprobs, entropies = head_logprobs(
                head, states, targets, vocab_size=vocab, temperature=0.7, entropy=entropy
            )
        (logprobs + entropies).sum().backward()

    update()  # Gradients are there from the second micro-batch on.
    peak = allocations(update).peak
    names = ("logits of a chunk", "autocast copy of the head", "gradient of the head")
    estimate = sum(sizes.get(name, 0) for name in names)
    assert peak - 8 * states.nbytes <= estimate
    assert peak > 0.6 * estimate


def test_adapters_serve_as_their_own_reference() -> None:
    shape = SMALL
    recipe = replace(make_recipe(lora=LoraSettings()), algorithm=GRPO(kl_coefficient=0.1))
    assert "reference" not in by_component(recipe, shape)


def test_adapters_and_checkpointing_save_memory() -> None:
    shape = QWEN3_4B

    def peak(**policy: Any) -> int:
        return peak_bytes(estimate_memory(make_recipe(**policy), policy=shape))

    assert peak(lora=LoraSettings()) < 0.5 * peak()
    assert peak() < peak(gradient_checkpointing=False)
