"""Recipes: merging, overriding, validation, writing."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from grlo.errors import RecipeError
from grlo.recipe import (
    differences,
    dump_recipe,
    format_recipe,
    load_dumped,
    load_recipe,
)
from grlo.settings import LoraSettings

BASE = """
[policy]
model = "somebody/model"

[prompts]
sources = ["prompts.jsonl", "hub:owner/name:train"]

[reward]
name = "my_plugin:MyReward"
model = "weights"

[algorithm]
name = "ppo"
clip_low = 0.1

[training]
steps = 30
"""
PLUGIN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class MyReward:
    model: str
    bonus: float = 0.0
    strip: str | None = None

class NotSettings:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with base.toml and, importable, a reward of the user's own."""
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "base.toml").write_text(BASE)
    return tmp_path / "recipes"


def write(folder: Path, text: str, name: str = "other.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def message_of(paths: list[Path], *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(paths, overrides=overrides)
    return str(caught.value)


def test_later_files_and_then_overrides_win(folder: Path) -> None:
    later = write(folder, "[training]\nsteps = 40\nnum_epochs = 2\n[policy.lora]\nrank = 4")
    recipe = load_recipe(
        [folder / "base.toml", later], overrides=["training.num_epochs=3", "policy.template=llama3"]
    )
    assert (recipe.training.steps, recipe.training.num_epochs) == (40, 3)
    assert recipe.policy.lora == LoraSettings(rank=4)
    assert recipe.policy.template == "llama3"
    assert recipe.policy.model == "somebody/model"
    assert recipe.engine.name == "hf"


def test_none_on_the_command_line_restores_the_default(folder: Path) -> None:
    later = write(folder, "[policy.lora]\nrank = 4")
    recipe = load_recipe([folder / "base.toml", later], overrides=["policy.lora=none"])
    assert recipe.policy.lora is None


def test_naming_another_plugin_drops_the_settings_of_the_one_before(folder: Path) -> None:
    recipe = load_recipe(
        [folder / "base.toml"],
        overrides=["algorithm.clip_high=0.3", "algorithm.name=reinforce_pp"],
    )
    assert type(recipe.algorithm).__name__ == "ReinforcePlusPlus"
    assert (recipe.algorithm.clip_low, recipe.algorithm.clip_high) == (0.2, 0.3)


def test_paths_are_relative_to_the_file_that_states_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (folder / "weights").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    recipe = load_recipe([folder / "base.toml"], overrides=["critic.model=./critic"])
    assert recipe.reward.model == str(folder / "weights")
    assert recipe.prompts.sources == (str(folder / "prompts.jsonl"), "hub:owner/name:train")
    assert recipe.policy.model == "somebody/model", "a hub id stays a hub id"
    assert recipe.critic.model == str(elsewhere / "critic")


def test_nano_uris_name_files_of_the_package(folder: Path) -> None:
    recipe = load_recipe(
        [folder / "base.toml"],
        overrides=["policy.model=nano:base", 'prompts.sources=["nano:prompts"]'],
    )
    assert recipe.policy.model.endswith("grlo/nano/assets/base")
    assert recipe.prompts.sources[0].endswith("grlo/nano/assets/prompts.jsonl")


def test_all_problems_are_reported_at_once_with_key_file_and_suggestion(folder: Path) -> None:
    bad = write(
        folder,
        """
        sed = 1
        [policy]
        modle = "x"
        lora = {rnk = 4}
        [prompts]
        sources = []
        [sampling]
        temperature = "hot"
        max_tokens = true
        [algorithm]
        name = "pppo"
        [reward]
        name = "my_plugin:MyReward"
        bonus = 1
        colour = "red"
        [training]
        learning_rate = 1e-6
        steps = 2.5
        num_epochs = 1
        """,
    )
    message = message_of([bad])
    for line in (
        "12 problems in the recipe:",
        f"sed ({bad}): unknown key, found 1. Did you mean 'seed'?",
        f"policy.modle ({bad}): unknown key, found \"x\". Did you mean 'policy.model'?",
        "policy.model: missing in",
        f"policy.lora.rnk ({bad}): unknown key, found 4. Did you mean 'policy.lora.rank'?",
        f"prompts ({bad}): sources must name at least one file",
        f'sampling.temperature ({bad}): found "hot", expected a valid number',
        f"sampling.max_tokens ({bad}): found true, expected a valid integer",
        "algorithm.name: unknown algorithm 'pppo'. Did you mean 'ppo'?",
        "reward.model: missing in",
        f'reward.colour ({bad}): unknown key, found "red". Known keys here: model, bonus, strip',
        "Did you mean 'optimizer.learning_rate'?",
        f"training.steps ({bad}): found 2.5, expected a valid integer",
    ):
        assert line in message


def test_the_file_at_fault_is_the_last_that_set_the_key(folder: Path) -> None:
    later = write(folder, '[training]\nsteps = "many"')
    assert f"training.steps ({later})" in message_of([folder / "base.toml", later])
    message = message_of([folder / "base.toml", later], "training.steps=few")
    assert 'training.steps (--set): found "few"' in message


def test_numbers_must_be_finite_and_lists_be_lists(folder: Path) -> None:
    message = message_of(
        [folder / "base.toml"], "optimizer.learning_rate=inf", "prompts.sources=train.jsonl"
    )
    assert "optimizer.learning_rate (--set): found Infinity, expected a finite number" in message
    assert 'prompts.sources (--set): found "train.jsonl", expected a valid array' in message


def test_unreadable_files_and_malformed_overrides_are_reported_together(folder: Path) -> None:
    broken = write(folder, "[policy\n", "broken.toml")
    message = message_of([folder / "absent.toml", broken], "steps", "a..b=1")
    assert "absent.toml: cannot be read" in message
    assert "broken.toml: is not valid TOML" in message
    assert "--set steps: expected section.key=value" in message
    assert "--set a..b=1" in message


def test_a_plugin_must_be_a_dataclass_that_exists(folder: Path) -> None:
    base = folder / "base.toml"
    assert "expected a dataclass" in message_of([base], "reward.name=my_plugin:NotSettings")
    assert "has no 'Absent'" in message_of([base], "reward.name=my_plugin:Absent")
    assert "there is no module 'no_such'" in message_of([base], "reward.name=no_such:X")
    assert "expected a table with a `name`" in message_of([base], "reward=3")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["algorithm.name=grpo"], "every advantage would be zero"),
        (["algorithm.name=rloo"], "every advantage would be zero"),
        (["algorithm.name=reinforce_pp", "algorithm.baseline=group"], "every advantage"),
        (["algorithm.name=reinforce_pp", "critic.model=x"], "has no critic"),
        (["algorithm.critic_warmup_steps=30"], "the policy would never be trained"),
        (
            ["critic.share_trunk=true", 'training.offload=["critic"]'],
            "training.offload: critic with critic.share_trunk",
        ),
        (["optimizer.learning_rate=1", "optimizer.warmup_steps=30"], "never reach its value"),
        (["optimizer.learning_rate=1", "optimizer.decay_start=0.5"], "no effect"),
        (["critic.optimizer.learning_rate=1", "critic.optimizer.final_fraction=0.1"], "no effect"),
        (["algorithm.name=reinforce_pp", "critic.share_trunk=true"], "has no critic"),
        (["critic.share_trunk=true", "critic.model=x"], "model has no effect with share_trunk"),
        (["critic.detach=true"], "no effect without share_trunk"),
        (["training.sharding=fsdp", "policy.lora.rank=4"], "policy.lora: adapters with"),
        (["training.sharding=fsdp", "critic.lora.rank=4"], "critic.lora: adapters with"),
        (
            [
                "training.sharding=fsdp",
                "optimizer.learning_rate=1",
                "optimizer.name=adamw_8bit",
            ],
            "optimizer.name: 'adamw_8bit' with training.sharding = 'fsdp'",
        ),
        (["optimizer.learning_rate=1", "optimizer.betas=[0.9, 1.0]"], "must lie in [0, 1)"),
        (["training.num_minibatches=1025"], "at most one mini-batch per prompt"),
        (["shaping.overlong_buffer=99999"], "more than sampling.max_tokens"),
    ],
)
def test_useless_runs_are_refused(folder: Path, overrides: list[str], expected: str) -> None:
    message = message_of([folder / "base.toml"], *overrides)
    assert message.startswith("1 problem in the recipe:")
    assert expected in message


def test_a_dumped_recipe_loads_as_the_same_recipe(folder: Path) -> None:
    recipe = load_recipe(
        [folder / "base.toml"],
        overrides=[
            "policy.lora.target_modules=['q', 'v']",
            'policy.template=quote " and \\\\ and \x7f é',
            "optimizer.learning_rate=1e-6",
        ],
    )
    through_json = json.loads(json.dumps(dump_recipe(recipe), allow_nan=False))
    assert load_dumped(through_json) == recipe
    assert load_dumped(tomllib.loads(format_recipe(recipe))) == recipe
    assert through_json["reward"] == {
        "name": "my_plugin:MyReward",
        "model": "weights",
        "bonus": 0.0,
        "strip": None,
    }
    assert through_json["critic"]["optimizer"]["learning_rate"] == 1e-5, "defaults are written out"


def test_differences_name_exactly_the_settings_that_differ(folder: Path) -> None:
    before = load_recipe([folder / "base.toml"])
    after = load_recipe(
        [folder / "base.toml"], overrides=["training.steps=31", "policy.lora.rank=4"]
    )
    assert differences(before, before) == []
    lines = differences(before, after)
    assert "training.steps: 30 -> 31" in lines
    assert "policy.lora.rank: null -> 4" in lines
    assert {line.rpartition(":")[0].rpartition(".")[0] for line in lines} == {
        "training",
        "policy.lora",
    }


def test_the_gold_section_may_be_absent_and_demands_a_reward_where_it_is_there(
    folder: Path,
) -> None:
    path = folder / "base.toml"
    assert load_recipe([path]).gold is None
    with pytest.raises(RecipeError, match=r"gold\.reward: missing"):
        load_recipe([path], overrides=["gold.every=5"])
    given = [
        "gold.every=5",
        "gold.reward.name=verified",
        "gold.reward.verifier=nano",
        "gold.sources=['held_out.jsonl']",
    ]
    recipe = load_recipe([path], overrides=given)
    assert recipe.gold is not None
    assert recipe.gold.sources == (str(Path.cwd() / "held_out.jsonl"),)
    assert load_dumped(dump_recipe(recipe)) == recipe
    with pytest.raises(RecipeError, match=r"Did you mean 'gold\.every'"):
        load_recipe([path], overrides=["gold.evry=5"])


@pytest.mark.parametrize("price", ["-1", "inf", "nan", '"a"'])
def test_a_price_is_a_number_and_not_negative(folder: Path, price: str) -> None:
    bad = write(folder, f"[prices]\ndevice_hour = {price}")
    assert "prices" in message_of([folder / "base.toml", bad])


@pytest.mark.parametrize("currency", ["", " ", "a\\nb", "nine long"])
def test_a_currency_is_a_short_name(folder: Path, currency: str) -> None:
    bad = write(folder, f'[prices]\ncurrency = "{currency}"')
    assert "currency must be a short name" in message_of([folder / "base.toml", bad])
