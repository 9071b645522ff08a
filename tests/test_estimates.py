"""Estimates against models that transformers builds without memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from allocations import allocations
from grlo import packed
from grlo.algorithms.grpo import GRPO
from grlo.algorithms.ppo import PPO
from grlo.engines.hf import HFEngineSettings
from grlo.engines.vllm import VLLMEngineSettings
from grlo.engines.vllm_server import VLLMServerEngineSettings
from grlo.errors import ModelError
from grlo.estimates import (
    PHASES,
    MemoryItem,
    ModelShape,
    backward_bytes,
    estimate_memory,
    forward_bytes,
    forward_flops,
    lora_parameters,
    peak_bytes,
    phase_bytes,
    read_shape,
    saved_bytes,
    shape_from_config,
)
from grlo.settings import (
    CriticSettings,
    LoraSettings,
    ModelSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    TrainingSettings,
)
from grlo.training.models import DTYPES, recompute_activations
from grlo.training.output_head import head_logprobs

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "llama-tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama-biases": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**SMALL, head_dim=8),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=16),
    "qwen3-biases": Qwen3Config(**SMALL, head_dim=16, attention_bias=True),
    "qwen3-moe": Qwen3MoeConfig(
        **SMALL, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12
    ),
    "Qwen3-4B": Qwen3Config(
        vocab_size=151936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    ),
    "Llama-3.1-8B": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    ),
}


def saved_config(config: PreTrainedConfig, tmp_path: Path) -> dict[str, Any]:
    config.save_pretrained(tmp_path)
    return json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_counts_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    shape = shape_from_config(saved_config(config, tmp_path))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("num_labels", [1, 2, 5])
def test_classifiers_are_counted_with_their_own_head(num_labels: int, tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL, num_labels=num_labels, tie_word_embeddings=True)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    config.architectures = ["LlamaForSequenceClassification"]
    shape = shape_from_config(saved_config(config, tmp_path))
    assert shape.num_labels == num_labels
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())


def test_published_sizes_are_reproduced(tmp_path: Path) -> None:
    """Sizes as the model cards state them."""
    qwen = shape_from_config(saved_config(CONFIGS["Qwen3-4B"], tmp_path))
    llama = shape_from_config(saved_config(CONFIGS["Llama-3.1-8B"], tmp_path))
    assert qwen.num_parameters / 1e9 == pytest.approx(4.0, abs=0.05)
    assert qwen.active_parameters / 1e9 == pytest.approx(3.6, abs=0.05)
    assert llama.num_parameters / 1e9 == pytest.approx(8.03, abs=0.005)


def test_flops_are_those_that_torch_counts() -> None:
    """Matrix products of a real forward pass, counted by torch with the full attention matrix."""
    from torch.utils.flop_counter import FlopCounterMode

    config = Qwen3Config(**SMALL, head_dim=16)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    shape = shape_from_config(config.to_dict())
    num_tokens = 11
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, num_tokens, dtype=torch.int64), use_cache=False)
    per_key = 4 * shape.num_layers * shape.num_heads * shape.head_dim
    ours = forward_flops(shape, num_tokens=num_tokens)
    not_causal = per_key * (num_tokens**2 - num_tokens * (num_tokens + 1) // 2)
    # The rotary frequencies are an outer product that the estimate leaves out.
    rotary = counter.get_total_flops() - (ours + not_causal)
    assert 0 <= rotary <= 2 * num_tokens * shape.head_dim


def test_a_cached_prefix_and_the_rest_cost_as_much_as_the_whole() -> None:
    shape = shape_from_config(CONFIGS["qwen3"].to_dict())
    whole = forward_flops(shape, num_tokens=30, num_outputs=30)
    prefix = forward_flops(shape, num_tokens=12, num_outputs=12)
    rest = forward_flops(shape, num_tokens=18, num_cached=12)
    assert whole == prefix + rest
    without_head = forward_flops(shape, num_tokens=30, num_outputs=0)
    assert whole - without_head == 2 * 30 * 97 * 24


def test_adapters_are_counted_as_peft_makes_them() -> None:
    peft = pytest.importorskip("peft")
    config = Qwen3Config(**SMALL, head_dim=16)
    for names in ("all-linear", ("q_proj", "down_proj")):
        lora = LoraSettings(rank=4, target_modules=names)
        targets = names if isinstance(names, str) else list(names)
        model = peft.get_peft_model(
            AutoModelForCausalLM.from_config(config),
            peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"),
        )
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert lora_parameters(shape_from_config(config.to_dict()), lora) == trainable


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
    shape = shape_from_config(CONFIGS["qwen3"].to_dict())
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
    shape = shape_from_config(CONFIGS["qwen3"].to_dict())
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
    shape = shape_from_config(CONFIGS["qwen3"].to_dict())
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
    shape = shape_from_config(CONFIGS["qwen3"].to_dict())
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
    shape = shape_from_config(CONFIGS["qwen3"].to_dict())
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
    shape = shape_from_config(CONFIGS["qwen3"].to_dict())
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
    shape = shape_from_config(CONFIGS["qwen3"].to_dict())
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
def test_the_output_head_takes_no_more_than_estimated(entropy: Any, compute_dtype: Any) -> None:
    """Of several chunks; what it is asked for and the gradients that it returns come on top."""
    vocab, hidden, rows = 16384, 32, 600
    shape = replace(
        shape_from_config(CONFIGS["qwen3"].to_dict()), vocab_size=vocab, hidden_size=hidden
    )
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
    shape = shape_from_config(CONFIGS["qwen3"].to_dict())
    recipe = replace(make_recipe(lora=LoraSettings()), algorithm=GRPO(kl_coefficient=0.1))
    assert "reference" not in by_component(recipe, shape)


# Activations against the allocator ----------------------------------------------------------------

WIDE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
DECODERS = {
    "qwen3": Qwen3Config(**WIDE, head_dim=16),
    "qwen3-narrow-mlp": Qwen3Config(**(WIDE | {"intermediate_size": 96}), head_dim=16),
    "llama": LlamaConfig(**WIDE),
    "llama-all-heads": LlamaConfig(**(WIDE | {"num_key_value_heads": 8, "hidden_size": 96})),
}
DTYPE_PAIRS = [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("attention", ["packed", "sdpa"])
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS)
@pytest.mark.parametrize("checkpointing", [False, True, "selective"])
def test_activations_are_what_the_allocator_hands_out(
    name: str, attention: Any, dtypes: Any, checkpointing: Any
) -> None:
    """What a forward pass keeps within 5 %, its peaks within 15 % (20 % without gradients)."""
    settings = ModelSettings(
        model="x",
        param_dtype=dtypes[0],
        compute_dtype=dtypes[1],
        attention=attention,
        gradient_checkpointing=checkpointing,
    )
    model = AutoModelForCausalLM.from_config(
        DECODERS[name],
        dtype=DTYPES[settings.param_dtype],
        attn_implementation=packed.ATTENTION if attention == "packed" else attention,
    )
    recompute_activations(model, settings)
    model.train()
    trunk = model.base_model
    rows = torch.randint(0, 97, (8, 100))
    packing = packed.pack(list(rows), shared=[0] + [30] * 7)
    sizes = {"num_tokens": 8 * 100, "num_cells": 8 * 100}
    if attention == "packed":
        sizes["num_tokens"] = len(packing.tokens_N)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", dtype=DTYPES[dtypes[1]], enabled=dtypes[0] != dtypes[1]):
            if attention == "packed":
                return packed.packed_hidden_states(trunk, packing)
            return trunk(input_ids=rows, use_cache=False).last_hidden_state

    @torch.no_grad()
    def annotate() -> torch.Tensor:
        return forward()

    shape = shape_from_config(model.config.to_dict())
    copies = 0
    if dtypes[0] != dtypes[1] and not checkpointing:  # The graph keeps them with the activations.
        linear = [m.weight for m in trunk.modules() if isinstance(m, torch.nn.Linear)]
        copies = sum(2 * weight.numel() for weight in linear)
    kept = allocations(forward).kept
    assert saved_bytes(shape, settings, **sizes) + copies == pytest.approx(kept, rel=0.05)
    peak = allocations(lambda: forward().float().sum().backward()).peak
    assert backward_bytes(shape, settings, **sizes) == pytest.approx(peak, rel=0.15)
    peak = allocations(annotate).peak
    assert forward_bytes(shape, settings, **sizes) == pytest.approx(peak, rel=0.2)


def test_adapters_and_checkpointing_save_memory() -> None:
    shape = shape_from_config(CONFIGS["Qwen3-4B"].to_dict())

    def peak(**policy: Any) -> int:
        return peak_bytes(estimate_memory(make_recipe(**policy), policy=shape))

    assert peak(lora=LoraSettings()) < 0.5 * peak()
    assert peak() < peak(gradient_checkpointing=False)


def test_a_folder_without_a_usable_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: cannot be read"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(ModelError, match="has no vocab_size, num_hidden_layers"):
        read_shape(tmp_path)
