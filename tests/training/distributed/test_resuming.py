"""A checkpoint of any number of ranks, in shards or not, is gone on from by any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from grlo.algorithms.ppo import PPO
from grlo.errors import CheckpointError
from grlo.modeling.adapters import whole_tensor
from grlo.rollout import ChatRenderer
from grlo.settings import LoraSettings, Recipe
from grlo.training import checkpoint
from grlo.training.distributed.ranks import Ranks
from grlo.training.learner import Learner
from small_updates import credit, make_batch, make_recipe
from two_ranks import division, on_ranks

FORMS = ("one", "fsdp", "ddp", "fsdp", "one", "ddp", "one")
"""A run of seven starts, a step each; every change of form is among them but fsdp to fsdp."""


def step(
    recipe: Recipe, folder: Path, number: int, ranks: Ranks | None = None, form: str = "one"
) -> dict[str, Any]:
    """Step `number` from the checkpoint of the one before, and a checkpoint of it."""
    options = {} if ranks is None else {"division": division(ranks, form)}
    before, path = folder / f"step_{number - 1}", folder / f"step_{number}"
    resume = before if before.exists() else None
    learner = Learner(recipe, device="cpu", checkpoint=resume, **options)
    if resume is not None:
        checkpoint.restore(resume, learner)
    learner.update(
        credit(learner, make_batch(seed=number, vocab_size=250), step=number), step=number
    )
    if ranks is None or ranks.is_leader:

        def tell(temporary: Path) -> None:
            if ranks is not None and form == "fsdp":
                ranks.send(temporary)

        renderer = ChatRenderer.from_pretrained(recipe.policy.model)
        checkpoint.save(path, learner, renderer, state={"step": number}, tell_others=tell)
    elif form == "fsdp":
        checkpoint.save_share(ranks.receive(), learner)
    return states(learner)


def states(learner: Learner) -> dict[str, Any]:
    """Weights and optimizer states, whole."""
    found = {}
    for name, model in learner.models().items():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                found[f"{name}.{key}"] = whole_tensor(parameter.detach()).clone()
                for part, value in learner.optimizers[name].state[parameter].items():
                    found[f"{name}.{key}.{part}"] = whole_tensor(value).clone()
    return found


def train(recipe: Recipe, folder: Path, forms: tuple[str, ...]) -> dict[str, Any]:
    """A step by each of the forms in turn; what the last has in the end."""
    found: dict[str, Any] = {}
    for number, form in enumerate(forms, start=1):
        if form == "one":
            found = step(recipe, folder, number)
        else:
            found, other = on_ranks(
                lambda ranks, n=number, form=form: step(recipe, folder, n, ranks, form)
            )
            torch.testing.assert_close(other, found, atol=0, rtol=0)
    return found


@pytest.mark.parametrize("shares_trunk", [False, True])
def test_any_form_goes_on_from_any_other(chat_policy_path, tmp_path, shares_trunk):
    recipe = make_recipe(
        chat_policy_path,
        PPO(),
        critic={"share_trunk": shares_trunk},
        micro_batch_tokens=24,
        num_minibatches=2,
    )
    forms = FORMS if not shares_trunk else FORMS[:4]
    found = train(recipe, tmp_path / "changing", forms)
    expected = train(recipe, tmp_path / "one", ("one",) * len(forms))
    assert any(key.endswith(".exp_avg_sq") for key in expected)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_what_a_form_restores_is_what_another_saved_to_the_last_bit(chat_policy_path, tmp_path):
    recipe = make_recipe(chat_policy_path, PPO(), micro_batch_tokens=24)
    saved, _ = on_ranks(lambda ranks: step(recipe, tmp_path, 1, ranks, "fsdp"))

    def restored(ranks: Ranks | None = None, form: str = "one") -> dict[str, Any]:
        options = {} if ranks is None else {"division": division(ranks, form)}
        learner = Learner(recipe, device="cpu", checkpoint=tmp_path / "step_1", **options)
        checkpoint.restore(tmp_path / "step_1", learner)
        return states(learner)

    torch.testing.assert_close(restored(), saved, atol=0, rtol=0)
    for found in on_ranks(lambda ranks: restored(ranks, "fsdp"), size=3):
        torch.testing.assert_close(found, saved, atol=0, rtol=0)


def test_adapters_go_on_from_two_ranks_to_one(chat_policy_path, tmp_path):
    lora = LoraSettings(rank=4, alpha=8)
    recipe = make_recipe(
        chat_policy_path, PPO(), model={"lora": lora}, critic={"lora": lora}, micro_batch_tokens=24
    )
    found = train(recipe, tmp_path / "changing", ("ddp", "one", "ddp"))
    expected = train(recipe, tmp_path / "one", ("one",) * 3)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_a_sharded_checkpoint_is_a_plain_model_with_safetensors_only(chat_policy_path, tmp_path):
    recipe = make_recipe(chat_policy_path, PPO(), micro_batch_tokens=24)
    saved, _ = on_ranks(lambda ranks: step(recipe, tmp_path, 1, ranks, "fsdp"))
    path = tmp_path / "step_1"
    files = [file for file in path.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".safetensors", ".json", ".jinja"}
    assert len(list((path / "optimizer").iterdir())) == 2
    assert not list(tmp_path.glob("*.partial"))
    model = AutoModelForCausalLM.from_pretrained(path)
    weights = {f"policy.{name}": p.detach() for name, p in model.named_parameters()}
    expected = {key: saved[key] for key in weights}
    torch.testing.assert_close(weights, expected, atol=0, rtol=0)
    names = load_file(path / "model.safetensors").keys()
    assert names == load_file(chat_policy_path / "model.safetensors").keys()
    config = json.loads((path / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    # Each rank wrote its part and no more.
    sizes = [file.stat().st_size for file in (path / "optimizer").iterdir()]
    total = sum(
        t.numel() * 4 for key, t in saved.items() if key.rpartition(".")[2].startswith("exp")
    )
    assert max(sizes) < 0.6 * total


def test_a_damaged_shard_is_named(chat_policy_path, tmp_path):
    recipe = make_recipe(chat_policy_path, PPO(), micro_batch_tokens=24)
    on_ranks(lambda ranks: step(recipe, tmp_path, 1, ranks, "fsdp"))
    shard = sorted((tmp_path / "step_1" / "optimizer").iterdir())[1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"optimizer/{shard.name} differs"):
        checkpoint.read_state(tmp_path / "step_1")
