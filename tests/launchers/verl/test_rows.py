"""The rows that verl reads are those that training would draw, in its order."""

from __future__ import annotations

import json

import pytest

from grlo.errors import CheckpointError, DataError
from grlo.launchers.verl.rows import prompt_of
from grlo.prompts.sampler import PromptSampler
from grlo.prompts.sources import read_prompts
from verl_parts import export, prompts_of, write_recipe

pq = pytest.importorskip("pyarrow.parquet")


def test_the_file_holds_the_prompts_of_every_step_in_the_order_of_grlo_train(tmp_path):
    folder = export(tmp_path)
    recipe = folder.recipe()
    rows = pq.read_table(folder.train_file).to_pylist()
    sampler = PromptSampler(prompts_of(recipe), prompts_per_step=4, seed=recipe.seed)
    drawn = [prompt for step in range(1, 6) for prompt in sampler.batch(step)]
    assert [prompt_of(row["extra_info"]) for row in rows] == drawn
    assert [row["extra_info"]["index"] for row in rows] == list(range(20))
    first = rows[0]
    assert first["prompt"] == [{"role": m.role, "content": m.content} for m in drawn[0].messages]
    assert first["reward_model"]["style"] == drawn[0].style
    assert first["reward_model"]["ground_truth"] == (drawn[0].reference or "")


def test_what_verifiers_read_comes_back_whole(tmp_path):
    rows = pq.read_table(export(tmp_path).train_file).to_pylist()
    prompts = [prompt_of(row["extra_info"]) for row in rows]
    rule = next(prompt for prompt in prompts if prompt.style == "rule")
    assert rule.meta == {"kind": "number", "nested": {"weights": [1, 2.5]}}
    assert rule.reference == "17"


def test_prompts_that_training_drops_are_not_written(tmp_path):
    write_recipe(tmp_path)
    long = {"prompt": "long " * 200}
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n")
    assert sum(1 for _ in (tmp_path / "prompts.jsonl").open()) == 4
    from grlo.launchers.verl.expression import Cluster
    from grlo.recipe import load_recipe
    from grlo.stages.export_verl import export_verl

    recipe = load_recipe([tmp_path / "recipe.toml"])
    folder = export_verl(recipe, out=tmp_path / "out", cluster=Cluster())
    ids = {row["extra_info"]["id"] for row in pq.read_table(folder.train_file).to_pylist()}
    assert len(ids) == 3


def test_held_out_prompts_of_the_gold_signal_have_a_file_of_their_own(tmp_path):
    (tmp_path / "gold.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    folder = export(
        tmp_path,
        "gold.reward.name=reward_model",
        "gold.reward.model=nano:reward_model",
        f'gold.sources=["{tmp_path}/gold.jsonl"]',
        "gold.every=2",
    )
    rows = pq.read_table(folder.held_out_file).to_pylist()
    assert [row["extra_info"]["split"] for row in rows] == ["gold", "gold"]
    assert "test_freq: 2" in folder.config_file.read_text()


def test_our_own_reader_reads_the_file_too(tmp_path):
    folder = export(tmp_path)
    prompts = read_prompts(str(folder.train_file), default_style="model")
    assert {prompt.style for prompt in prompts} == {"model", "rule", "both"}


def test_an_export_into_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "mine.txt").write_text("")
    with pytest.raises(CheckpointError, match="not empty"):
        export(tmp_path)


def test_a_style_without_a_reward_is_found_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match="'both'"):
        export(tmp_path, 'reward.name="reward_model"', 'reward.model="nano:reward_model"')
    assert not (tmp_path / "export").exists()
