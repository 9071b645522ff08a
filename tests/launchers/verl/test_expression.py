"""What verl can be told of a recipe, and that nothing of a recipe is forgotten."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from grlo.algorithms import ALGORITHMS
from grlo.algorithms.ppo import PPO
from grlo.errors import RecipeError
from grlo.launchers.verl import expression
from grlo.launchers.verl.expression import TABLE, Cluster, express, rules_of
from grlo.recipe import load_recipe
from grlo.rewards import REWARDS
from grlo.rewards.random_reward import RandomRewardSettings
from grlo.rewards.shuffled import ShuffledRewardSettings
from grlo.settings import Recipe
from grlo.stages.export_verl import cluster_for
from verl_parts import write_recipe

RECIPES = Path(__file__).parents[3] / "recipes"
SOURCES = 'prompts.sources=["prompts.jsonl"]'
GPU = 'training.device="auto"'


def nested_settings(cls: type) -> set[type]:
    """Settings classes that a field of `cls`, or of what lies in it, may hold."""
    found = {cls}
    for hint in get_type_hints(cls).values():
        for option in (hint, *get_args(hint)):
            if is_dataclass(option) and isinstance(option, type) and option not in found:
                found |= nested_settings(option)
    return found


def of_registry(registry: dict[str, str]) -> list[type]:
    paths = (path.split(":") for path in registry.values())
    return [getattr(importlib.import_module(module), name) for module, name in paths]


def test_every_field_of_every_section_and_plug_in_has_a_rule():
    classes = [*nested_settings(Recipe), *of_registry(ALGORITHMS), *of_registry(REWARDS), *TABLE]
    for cls in classes:
        rules = rules_of(cls)
        assert rules is not None, cls
        assert {field.name for field in fields(cls)} <= rules.keys(), cls


def test_no_rule_is_of_a_field_that_is_not_there():
    for cls, rules in TABLE.items():
        assert rules.keys() <= {field.name for field in fields(cls)}, cls


def test_a_setting_without_a_rule_is_an_error_that_names_it(tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path)
    rules = dict(TABLE[type(recipe.sampling)])
    del rules["temperature"]
    monkeypatch.setattr(expression, "TABLE", {**TABLE, type(recipe.sampling): rules})
    with pytest.raises(RecipeError, match=r"sampling\.temperature"):
        express(recipe, Cluster())


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ('policy.revision="abc"', "policy.revision"),
        ('policy.gradient_checkpointing="selective"', "policy.gradient_checkpointing"),
        ("policy.lora.dropout=0.1", "policy.lora.dropout"),
        ('policy.compute_dtype="float32"', "policy.compute_dtype"),
        ("sampling.max_draws=2", "sampling.max_draws"),
        ('optimizer.name="adamw_8bit"', "optimizer.name"),
        ('optimizer.schedule="linear"', "optimizer.schedule"),
        ('critic.optimizer.schedule="linear"', "critic.optimizer.schedule"),
        ("critic.share_trunk=true", "critic.share_trunk"),
        ("training.num_minibatches=3", "training.num_minibatches"),
        ('training.device="cpu"', "training.device"),
        ("training.num_threads=1", "training.num_threads"),
        ('training.offload=["reward_model"]', "training.offload"),
        ("budget.device_hours=2.0", "budget.device_hours"),
        ('checkpoint.best_by="eval/average"', "checkpoint.best_by"),
        ("shaping.clip=3.0", "shaping.clip"),
        ("shaping.standardize=true", "shaping.standardize"),
        ("shaping.missing_end_penalty=1.0", "shaping.unit"),
        ("algorithm.whiten_advantages=false", "algorithm.whiten_advantages"),
        ('algorithm.value_clip_unit="reward_std"', "algorithm.value_clip_unit"),
        ("reward.parts.quality.standardize=true", "reward.parts.quality.standardize"),
        ("engine.max_rows=8", "engine.max_rows"),
        ("evaluation.suite=quick", "evaluation"),
    ],
)
def test_what_verl_cannot_do_is_an_error_that_names_the_setting(tmp_path, override, named):
    besides = {
        "checkpoint.best_by": ["evaluation.suite=quick"],
        "optimizer.name": ["optimizer.learning_rate=1e-4"],
    }
    recipe = write_recipe(tmp_path, override, *besides.get(named, ()))
    with pytest.raises(RecipeError, match=rf"\n  {named}:"):
        express(recipe, Cluster())


@pytest.mark.parametrize(
    "reward", [ShuffledRewardSettings(model="x"), RandomRewardSettings()], ids=lambda one: one.name
)
def test_the_random_controls_are_refused(tmp_path, reward):
    recipe = replace(write_recipe(tmp_path), reward=reward)
    with pytest.raises(RecipeError, match=r"reward\.name"):
        express(recipe, Cluster())


def test_all_problems_are_listed_at_once(tmp_path):
    recipe = write_recipe(tmp_path, "training.num_threads=1", "sampling.max_draws=2")
    with pytest.raises(RecipeError, match=r"2 settings[\s\S]*max_draws[\s\S]*num_threads"):
        express(recipe, Cluster())


def test_an_algorithm_of_the_users_own_is_refused(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Mine(PPO):
        pass

    with pytest.raises(RecipeError, match=r"algorithm: verl knows nothing of .*Mine"):
        express(replace(write_recipe(tmp_path), algorithm=Mine()), Cluster())


def test_a_server_of_vllm_is_refused(tmp_path):
    recipe = write_recipe(tmp_path, "engine.name=vllm_server")
    with pytest.raises(RecipeError, match="engine: verl knows nothing of VLLMServer"):
        express(recipe, Cluster())


def test_the_published_settings_are_in_verls_words(tmp_path):
    recipe = load_recipe([RECIPES / "grlo-qwen3-4b.toml"], overrides=[SOURCES])
    keys = express(recipe, Cluster(nodes=1, gpus_per_node=4))
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    published = {
        "algorithm.adv_estimator": "gae",
        "algorithm.gamma": 1.0,
        "algorithm.lam": 1.0,
        "algorithm.use_kl_in_reward": False,
        "data.train_batch_size": 1024,
        "data.max_prompt_length": 1024,
        "data.max_response_length": 3072,
        f"{rollout}.n": 1,
        f"{rollout}.temperature": 1.0,
        f"{actor}.ppo_mini_batch_size": 256,
        f"{actor}.ppo_epochs": 1,
        f"{actor}.optim.lr": 1e-6,
        f"{actor}.optim.weight_decay": 0.01,
        f"{actor}.optim.clip_grad": 1.0,
        f"{actor}.clip_ratio_low": 0.2,
        f"{actor}.clip_ratio_high": 0.2,
        f"{actor}.clip_ratio_c": 3.0,
        f"{actor}.use_kl_loss": False,
        f"{actor}.entropy_coeff": 0.0,
        f"{actor}.loss_agg_mode": "token-mean",
        "critic.optim.lr": 1e-5,
        "critic.cliprange_value": 0.5,
        "critic.model.path": "Qwen/Qwen3-4B-Base",
        "trainer.critic_warmup": 0,
        "trainer.total_training_steps": 60,
        "trainer.n_gpus_per_node": 4,
    }
    assert {key: keys[key] for key in published} == published


@pytest.mark.parametrize("path", sorted(RECIPES.glob("grlo-*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_paper_are_expressed_or_say_why_not(path):
    recipe = load_recipe([path], overrides=[SOURCES])
    if path.stem == "grlo-then-rlvr":
        with pytest.raises(RecipeError, match=r"sampling\.max_draws"):
            express(recipe, Cluster())
    elif "cpu" in path.stem:
        with pytest.raises(RecipeError, match=r"\n  training\.device"):
            express(recipe, Cluster())
    else:
        assert express(recipe, Cluster())["actor_rollout_ref.model.path"] == recipe.policy.model


def test_a_limit_of_zero_which_sets_none_is_a_number_that_nothing_reaches(tmp_path):
    recipe = write_recipe(
        tmp_path,
        "algorithm.dual_clip=0.0",
        "algorithm.value_clip=0.0",
        "optimizer.max_grad_norm=0.0",
    )
    keys = express(recipe, Cluster())
    limits = ("actor.clip_ratio_c", "actor.optim.clip_grad")
    assert all(keys[f"actor_rollout_ref.{name}"] >= 1e9 for name in limits)
    assert keys["critic.cliprange_value"] >= 1e9


def test_a_critic_is_configured_only_where_there_is_one(tmp_path):
    assert "critic.optim.lr" in express(write_recipe(tmp_path), Cluster())
    keys = express(write_recipe(tmp_path, "algorithm.name=grpo", "critic=none"), Cluster())
    assert not [key for key in keys if key.startswith("critic.") and "optim" in key]
    assert keys["algorithm.adv_estimator"] == "grpo"


@pytest.mark.parametrize(("steps", "first"), [(0, 0), (3, 4)])
def test_warm_up_of_the_critic_ends_where_verl_first_trains_the_policy(tmp_path, steps, first):
    # verl trains the policy in steps of this number and above, and counts them from 1.
    recipe = write_recipe(tmp_path, f"algorithm.critic_warmup_steps={steps}")
    assert express(recipe, Cluster())["trainer.critic_warmup"] == first


def test_a_schedule_of_the_policy_and_warm_up_of_the_critic_exclude_each_other(tmp_path):
    overrides = ["algorithm.critic_warmup_steps=2", "optimizer.warmup_steps=2"]
    with pytest.raises(RecipeError, match=r"\n  optimizer\.schedule:"):
        express(write_recipe(tmp_path, *overrides), Cluster())


@pytest.mark.parametrize(("tokens", "expected"), [(0, 16384), (4096, 4096), (100, 188)])
def test_a_micro_batch_holds_at_least_the_longest_row(tmp_path, tokens, expected):
    keys = express(write_recipe(tmp_path, f"training.micro_batch_tokens={tokens}"), Cluster())
    assert keys["actor_rollout_ref.actor.ppo_max_token_len_per_gpu"] == expected
    assert keys["critic.ppo_max_token_len_per_gpu"] == expected


def test_types_of_weights_and_products_are_told_to_every_model(tmp_path):
    recipe = write_recipe(tmp_path, 'policy.param_dtype="bfloat16"', 'engine.dtype="float32"')
    keys = express(recipe, Cluster())
    for part in ("actor_rollout_ref.actor.fsdp_config", "critic.fsdp"):
        assert keys[f"{part}.model_dtype"] == "bf16"
        assert keys[f"{part}.mixed_precision.param_dtype"] == "bf16"
    assert keys["actor_rollout_ref.rollout.dtype"] == "float32"


def test_a_reward_model_gets_a_gpu_and_a_verifier_none(tmp_path):
    def gpus(recipe: Recipe, given: float | None = None) -> float:
        cluster = cluster_for(recipe, nodes=1, gpus=8, reward_gpus=given, reward_actors=2)
        return cluster.reward_gpus

    mixed = write_recipe(tmp_path)
    assert gpus(mixed) == 1
    assert gpus(mixed, 0.5) == 0.5
    assert gpus(write_recipe(tmp_path, "reward.name=verified", "reward.verifier=math")) == 0


def test_settings_of_the_engine_go_to_verls_vllm(tmp_path):
    recipe = write_recipe(
        tmp_path,
        "engine.name=vllm",
        "engine.tensor_parallel=2",
        "engine.gpu_memory_utilization=0.6",
        "engine.max_rows=64",
    )
    keys = express(recipe, Cluster())
    rollout = "actor_rollout_ref.rollout"
    assert keys[f"{rollout}.tensor_model_parallel_size"] == 2
    assert keys[f"{rollout}.gpu_memory_utilization"] == 0.6
    assert keys[f"{rollout}.max_num_seqs"] == 64


def test_penalties_that_need_no_statistics_are_expressed(tmp_path):
    shaped = write_recipe(tmp_path, "shaping.missing_end_penalty=1.0", 'shaping.unit="absolute"')
    assert shaped.shaping.is_on
    # Our own reward does it there, so that verl is told nothing.
    assert express(shaped, Cluster()) == express(write_recipe(tmp_path), Cluster())


def test_parts_of_a_gpu_count_as_whole_devices():
    cluster = Cluster(nodes=2, gpus_per_node=8, reward_gpus=0.5, reward_actors=3)
    assert cluster.num_devices == 18
    assert dataclasses.asdict(cluster)["nodes"] == 2
