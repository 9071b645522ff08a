"""The plan: what fits, in which order things leave the device, and what is left alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

import known_models
from grlo.algorithms.grpo import GRPO
from grlo.algorithms.ppo import PPO
from grlo.memory.estimates import phase_bytes
from grlo.memory.plan import (
    ENOUGH_TOKENS,
    MOST_TOKENS,
    OFFLOAD_ORDER,
    USABLE_SHARE,
    MemoryPlan,
    plan_memory,
)
from grlo.model_shape import shape_from_config
from grlo.settings import (
    LoraSettings,
    ModelSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    TrainingSettings,
)

GIB = 2**30
QWEN3_4B = shape_from_config(known_models.QWEN3_4B.to_dict())
LLAMA_8B = shape_from_config(known_models.LLAMA_8B.to_dict())


def make_recipe(
    algorithm: object, *, policy: dict[str, Any] | None = None, **training: Any
) -> Recipe:
    settings = {"steps": 1, "micro_batch_tokens": 0, "device": "cuda"} | training
    return Recipe(
        policy=ModelSettings(model="x", **(policy or {})),
        prompts=PromptSettings(sources=("x",)),
        reward=None,
        algorithm=algorithm,
        sampling=SamplingSettings(max_tokens=3072),
        training=TrainingSettings(**settings),
    )


def plan(recipe: Recipe, num_gib: float, **shapes: Any) -> MemoryPlan:
    return plan_memory(recipe, policy=QWEN3_4B, device_bytes=int(num_gib * GIB), **shapes)


PPO_SHAPES: dict[str, Any] = {"critic": QWEN3_4B, "rewards": [(LLAMA_8B, None)]}


def test_more_memory_never_means_smaller_micro_batches_or_more_transfers() -> None:
    recipe = make_recipe(PPO(kl_coefficient=0.1))
    plans = [plan(recipe, size, **PPO_SHAPES) for size in range(30, 400, 10)]
    for smaller, larger in pairwise(plans):
        assert len(larger.offload) <= len(smaller.offload)
        if larger.offload == smaller.offload:
            assert larger.micro_batch_tokens >= smaller.micro_batch_tokens
    assert plans[0].offload == OFFLOAD_ORDER
    assert not plans[0].fits
    assert plans[-1].offload == ()
    assert plans[-1].micro_batch_tokens == MOST_TOKENS
    assert {len(p.offload) for p in plans} >= {0, 1, 3, 4}


def test_what_is_chosen_fits_and_the_next_larger_does_not() -> None:
    recipe = make_recipe(PPO(kl_coefficient=0.1))
    for size in range(95, 200, 5):
        chosen = plan(recipe, size, **PPO_SHAPES)
        assert chosen.fits
        assert max(phase_bytes(chosen.items).values()) <= USABLE_SHARE * size * GIB
        assert chosen.micro_batch_tokens >= ENOUGH_TOKENS
        if chosen.micro_batch_tokens < MOST_TOKENS:
            doubled = replace(
                recipe.training,
                micro_batch_tokens=2 * chosen.micro_batch_tokens,
                offload=chosen.offload,
            )
            assert not plan(replace(recipe, training=doubled), size, **PPO_SHAPES).fits


def test_what_the_recipe_states_is_kept() -> None:
    stated = make_recipe(PPO(), micro_batch_tokens=5000)
    assert plan(stated, 1, **PPO_SHAPES).applied(stated) == stated
    recipe = make_recipe(PPO(), offload=("critic",))
    assert plan(recipe, 400, **PPO_SHAPES).offload == ("critic",)
    assert plan(recipe, 30, **PPO_SHAPES).offload == (
        "critic",
        "reward_model",
        "optimizer",
    )


def test_only_what_there_is_can_leave_the_device() -> None:
    assert plan(make_recipe(GRPO()), 10).offload == ("optimizer",)
    lora = {"lora": LoraSettings()}
    with_kl = make_recipe(GRPO(kl_coefficient=0.1), policy=lora)
    assert plan(with_kl, 5).offload == ("optimizer",)
    assert plan(make_recipe(GRPO(kl_coefficient=0.1)), 10).offload == ("reference", "optimizer")
    assert plan(make_recipe(PPO(), device="cpu"), 10, **PPO_SHAPES).offload == ()


def test_where_nothing_fits_micro_batches_are_no_smaller_than_helps() -> None:
    small = plan(make_recipe(GRPO(), policy={"lora": LoraSettings()}), 1)
    assert not small.fits
    assert small.micro_batch_tokens == 4096  # One row, prompt and answer at their limits.
    assert small.facts()["device_bytes"] == GIB
    assert small.facts()["estimated_peak_bytes"] == small.peak_bytes
    # With all weights in training the peak is the step of the optimizer.
    bound = plan(make_recipe(PPO()), 79, **PPO_SHAPES)
    assert not bound.fits
    assert phase_bytes(bound.items)["critic's step"] == bound.peak_bytes
    assert bound.micro_batch_tokens == MOST_TOKENS


def test_offloading_lowers_the_peak_step_by_step() -> None:
    recipe = make_recipe(PPO(kl_coefficient=0.1), micro_batch_tokens=ENOUGH_TOKENS)
    peaks = []
    for count in range(len(OFFLOAD_ORDER) + 1):
        training = replace(recipe.training, offload=OFFLOAD_ORDER[:count])
        peaks.append(plan(replace(recipe, training=training), 80, **PPO_SHAPES).peak_bytes)
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < 0.65 * peaks[0]


@pytest.mark.parametrize("name", OFFLOAD_ORDER)
def test_naming_something_twice_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        make_recipe(PPO(), offload=(name, name))


def plan_on(recipe: Recipe, *, num_devices: int, gib: float) -> MemoryPlan:
    """PPO of Qwen3-4B with a critic of its own and Llama-8B as the reward model."""
    return plan_memory(
        recipe,
        policy=QWEN3_4B,
        critic=QWEN3_4B,
        rewards=[(LLAMA_8B, None)],
        device_bytes=int(gib * GIB),
        num_devices=num_devices,
    )


def component(plan: MemoryPlan, name: str) -> int:
    return sum(item.num_bytes for item in plan.items if item.component.startswith(name))


def test_shards_are_parts_of_the_whole_and_passes_gather_a_layer_and_the_head():
    recipe = make_recipe(PPO(), micro_batch_tokens=4096, sharding="fsdp")
    whole = plan_on(replace(recipe), num_devices=1, gib=300)
    shards = plan_on(recipe, num_devices=8, gib=300)
    for name in ("policy weights", "critic weights", "policy gradients", "reward model"):
        exact = [item for item in whole.items if item.component == name]
        (mine,) = [item for item in shards.items if item.component == name]
        assert mine.num_bytes == -(-exact[0].num_bytes // 8), name
        assert mine.phases == exact[0].phases
    moments = "policy optimizer"
    assert component(shards, moments) == pytest.approx(component(whole, moments) / 8, rel=1e-6)
    # What is gathered is in bfloat16: embeddings and two of 36 layers.
    head = QWEN3_4B.vocab_size * QWEN3_4B.hidden_size
    layer = QWEN3_4B.attention_parameters + QWEN3_4B.mlp_parameters
    (item,) = [i for i in shards.items if i.phases == ("annotate",) and "gathered" in i.component]
    assert item.num_bytes == pytest.approx(2 * (head + 2 * layer), rel=0.001)
    assert component(shards, "engine's copy") == 2 * QWEN3_4B.num_parameters
    assert shards.peak_bytes < whole.peak_bytes / 3


@pytest.mark.parametrize(
    ("change", "gib", "sharding"),
    [
        ({}, 300, "ddp"),  # There is room for all of it.
        ({}, 80, "fsdp"),
        ({"device": "cpu"}, 8, "ddp"),
        ({"sharding": "ddp"}, 80, "ddp"),
        ({"sharding": "fsdp"}, 300, "fsdp"),
    ],
)
def test_whole_models_are_kept_where_they_fit(change, gib, sharding):
    plan = plan_on(make_recipe(PPO(), **change), num_devices=8, gib=gib)
    assert plan.sharding == sharding
    assert plan.applied(make_recipe(PPO())).training.sharding == sharding


def test_adapters_are_trained_on_whole_models():
    recipe = make_recipe(PPO(), policy={"lora": LoraSettings()})
    assert plan_on(recipe, num_devices=8, gib=40).sharding == "ddp"


def test_eight_devices_train_what_one_cannot_and_nothing_has_to_leave_them():
    recipe = make_recipe(PPO())
    assert not plan_on(recipe, num_devices=1, gib=80).fits
    plan = plan_on(recipe, num_devices=8, gib=80)
    assert plan.fits
    assert plan.offload == ()
    assert plan.micro_batch_tokens >= ENOUGH_TOKENS


def test_shards_that_wait_in_the_cpus_memory_take_none_of_the_device():
    recipe = make_recipe(
        PPO(), sharding="fsdp", micro_batch_tokens=4096, offload=("optimizer", "reward_model")
    )
    plan = plan_on(recipe, num_devices=2, gib=80)
    for name in ("policy weights", "critic weights", "policy optimizer", "policy gradients"):
        assert component(plan, name) == 0, name
    assert [i.num_bytes for i in plan.items if i.component == "reward model"] == [0]


def test_one_device_is_planned_for_as_if_there_were_no_sharding():
    plans = [
        plan_on(make_recipe(PPO(), sharding=sharding), num_devices=1, gib=200)
        for sharding in ("auto", "ddp", "fsdp")
    ]
    assert plans[0].items == plans[1].items == plans[2].items


def test_an_earlier_start_bounds_micro_batches():
    plan = plan_on(make_recipe(PPO()), num_devices=8, gib=300)
    recipe = make_recipe(PPO())
    assert plan.applied(recipe).training.micro_batch_tokens == plan.micro_batch_tokens
    assert plan.applied(recipe, at_most=100).training.micro_batch_tokens == 100
    assert plan.applied(recipe, at_most=None).training == plan.applied(recipe).training
