"""A run as a plain model with a card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from grlo.cli import app
from grlo.errors import CheckpointError
from grlo.recipe import load_recipe
from grlo.rundir import RunDir
from grlo.stages.export_hf import export_hf
from grlo.stages.train import train

RECIPE = """
seed = 3
[policy]
model = "{policy}"
compute_dtype = "float32"
gradient_checkpointing = false
{lora}
[prompts]
sources = ["prompts.jsonl"]
[sampling]
prompts_per_step = 2
samples_per_prompt = 2
max_tokens = 8
[reward]
name = "reward_model"
model = "{reward}"
[algorithm]
name = "grpo"
[optimizer]
learning_rate = 1e-3
[training]
steps = 2
num_minibatches = 1
device = "cpu"
num_threads = 1
[checkpoint]
keep_last = 2
"""


@pytest.fixture
def make_run(tmp_path, make_model):
    def make(lora: str = "") -> Path:
        policy, reward = make_model("policy"), make_model("reward", num_labels=1)
        rows = "".join(json.dumps({"prompt": f"Say {n}"}) + "\n" for n in range(4))
        (tmp_path / "prompts.jsonl").write_text(rows)
        path = tmp_path / "recipe.toml"
        path.write_text(RECIPE.format(policy=policy, reward=reward, lora=lora))
        train(load_recipe([path]), run_dir=tmp_path / "run")
        return tmp_path / "run"

    return make


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.arange(5, 40)[None]).logits


@pytest.mark.parametrize("lora", ["", "[policy.lora]\nrank = 4\nalpha = 8"])
def test_the_model_is_that_of_the_checkpoint_and_nothing_of_training_is_beside_it(
    make_run, tmp_path, lora
):
    run = make_run(lora)
    out = export_hf(run, out=tmp_path / "model")
    newest = RunDir(run).checkpoints()[-1]
    assert torch.equal(logits(out), logits(newest))
    assert not torch.equal(logits(out), logits(tmp_path / "policy"))
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "generation_config.json"} <= names
    assert not any(name.startswith(("grlo_", "critic", "adapter")) for name in names)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(newest).chat_template


def test_the_card_says_what_the_run_recorded(make_run, tmp_path):
    run = make_run()
    card = (export_hf(run, out=tmp_path / "model") / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    rows = RunDir(run).metrics()
    rewards = [f"{row['reward/mean']:.4g}" for row in (rows[0], rows[-1])]
    assert f"| reward, mean | {rewards[0]} | {rewards[1]} |" in body
    assert "name grpo" in body
    assert RunDir(run).record()["prompt_hash"] in body
    updates = sum(entry.tokens for entry in RunDir(run).ledger() if entry.phase == "update")
    assert f"{updates:,}" in body
    assert str(tmp_path) not in body, "paths of this machine tell a reader nothing"


def test_the_card_has_utilisation_and_money_where_there_are_prices(make_run, tmp_path):
    run = make_run()
    plain = (export_hf(run, out=tmp_path / "plain") / "README.md").read_text()
    assert "| phase | time | device-hours | % | tokens | FLOPs | MFU, % |" in plain
    record = RunDir(run).record()
    record["recipe"]["prices"] = {"device_hour": 7.2e6, "currency": "CHF"}
    RunDir(run).recipe_file.write_text(json.dumps(record))
    card = (export_hf(run, out=tmp_path / "priced") / "README.md").read_text()
    assert "| FLOPs | MFU, % | CHF |" in card
    updates = [entry.seconds for entry in RunDir(run).ledger() if entry.phase == "update"]
    assert f"| {2000 * sum(updates):,.4f} |" in card


def test_an_earlier_step_is_exported_with_its_own_numbers(make_run, tmp_path):
    run = make_run()
    out = export_hf(run, out=tmp_path / "first", step=1)
    assert torch.equal(logits(out), logits(RunDir(run).checkpoint(1)))
    card = (out / "README.md").read_text()
    assert "1 of 2 steps" in card
    with pytest.raises(CheckpointError, match="no checkpoint of step 7; there are 1, 2"):
        export_hf(run, out=tmp_path / "seventh", step=7)


def test_nothing_is_overwritten_and_damage_is_not_exported(make_run, tmp_path):
    run = make_run()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        export_hf(run, out=tmp_path / "full")
    weights = RunDir(run).checkpoints()[-1] / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        export_hf(run, out=tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


def test_scores_of_evaluations_stand_in_the_card(make_run, tmp_path):
    run = make_run()
    runner = CliRunner()
    evaluated = tmp_path / "before"
    arguments = ["evaluate", str(tmp_path / "policy"), "--benchmarks", "nano_math", "--limit", "4"]
    result = runner.invoke(app, [*arguments, "--max-tokens", "8", "--out", str(evaluated)])
    assert result.exit_code == 0, result.output
    arguments = ["export", "hf", str(run), "--out", str(tmp_path / "model")]
    result = runner.invoke(app, [*arguments, "--evaluations", str(evaluated)])
    assert result.exit_code == 0, result.output
    card = (tmp_path / "model" / "README.md").read_text()
    assert "## Scores: before" in card
    assert "| nano_math |" in card
