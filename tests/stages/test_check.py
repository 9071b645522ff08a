"""`grlo check`: what it prints, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from grlo.errors import RecipeError
from grlo.recipe import dump_recipe, format_recipe, load_recipe
from grlo.rundir import RunDir
from grlo.stages import memory as memory_stage
from grlo.stages.check import check

OVERLAYS = ("nano-gold.toml", "nano-evaluation.toml")  # Recipes that are given after nano.toml.
RECIPES = sorted(
    path
    for path in (Path(__file__).parents[2] / "recipes").glob("*.toml")
    if "sft" not in path.stem  # Of another command; see test_sft.
)
RECIPE = """
[policy]
model = "policy"
compute_dtype = "float32"

[prompts]
sources = ["prompts.jsonl"]
max_prompt_tokens = 100

[sampling]
prompts_per_step = 2
samples_per_prompt = 3
max_tokens = 50

[reward]
name = "reward_model"
model = "reward"

[algorithm]
name = "ppo"

[training]
steps = 5
num_minibatches = 2
device = "cpu"
"""
ROW = {"prompt": "Tell me a story.", "ability": "creative"}


@pytest.fixture
def folder(tmp_path: Path, make_model: Any) -> Path:
    """A recipe with models and prompts that pass."""
    make_model("policy")
    make_model("reward", num_labels=1)
    write_prompts(tmp_path, [ROW] * 3 + [{**ROW, "prompt": "Hi"}])
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def write_prompts(folder: Path, rows: list[Any]) -> None:
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def problems_of(folder: Path, *overrides: str, **options: Any) -> list[str]:
    """The problems that a check finds."""
    try:
        check([folder / "recipe.toml"], overrides=overrides, **options)
    except RecipeError as error:
        return str(error).split("\n- ")[1:]
    return []


def test_a_sound_recipe_passes_and_shows_what_it_will_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check([folder / "recipe.toml"], run_dir=folder / "run")
    output = capsys.readouterr().out
    assert format_recipe(load_recipe([folder / "recipe.toml"])) in output
    for line in (
        "4 prompts, 2 of them repeated",
        "style: model 4",
        "domain: creative 4",
        "above 100 tokens: 0 left out",
        "stops at: <|endoftext|> (256), <|im_end|> (258)",
        "5 steps, 10 updates, 30 responses",
        "each prompt is seen 2.5 times",
        "at most 1.5e+03 tokens are generated",
        "disk: 4 checkpoints of",
        "No problem found.",
    ):
        assert line in output
    assert "not checked" not in output


def test_memory_is_shown_by_component_and_phase_with_the_plan(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "recipe.toml"
    check([path], overrides=["training.micro_batch_tokens=0"], weights=False)
    output = capsys.readouterr().out.partition("== Memory (estimates) ==")[2]
    assert re.search(r"policy weights +\S+ \S+ +always", output)
    assert re.search(r"critic activations +\S+ \S+ +critic's update", output)
    assert re.search(r"in all +\S+ \S+ +policy's step", output)
    assert "micro-batches of 16384 tokens; in the CPU's memory: none" in output
    assert "fits: of" in output
    check([path], overrides=['training.device="cuda"'], weights=False)
    output = capsys.readouterr().out
    assert "not checked: memory of cuda: it is not on this machine" in output
    (problem,) = problems_of(folder, 'training.offload=["critic"]', weights=False)
    assert "training.offload: critic cannot wait" in problem


def test_missing_bitsandbytes_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "bitsandbytes" else found(name, *rest),
    )
    overrides = ('optimizer.name="adamw_8bit"', "optimizer.learning_rate=1e-6")
    (problem,) = problems_of(folder, *overrides, weights=False)
    assert "grlo[lowbit]" in problem


def test_tokens_are_shown_as_the_models_read_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check([folder / "recipe.toml"])
    output = capsys.readouterr().out
    policy, _, rest = output.partition("== First prompt as the policy reads it ==")[2].partition(
        "== What the reward model reads =="
    )
    assert "<|im_start|>user\nTell me a story.<|im_end|>\n<|im_start|>assistant\n" in policy
    assert "<|im_start|>/257 u/" in policy
    assert "<|im_end|>/258*" in policy
    assert "<|im_start|>assistant\nThis is an answer.<|im_end|>" in rest


def test_one_small_step_is_made_and_leaves_nothing_behind(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    check([folder / "recipe.toml"], run_dir=folder / "run")
    step = capsys.readouterr().out.partition("== One small step with the longest prompts ==")[2]
    for name in ("score of an empty answer: ", "score of 'This is an answer.': ", "policy/loss"):
        assert name in step
    assert sorted(folder.rglob("*")) == before


def test_weights_that_cannot_be_loaded_fail_in_the_small_step(folder: Path) -> None:
    (folder / "reward" / "model.safetensors").write_bytes(b"torn")
    (problem,) = problems_of(folder)
    assert "weights" in problem
    assert problems_of(folder, weights=False) == []


def test_a_reward_model_that_gives_no_number_is_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "reward" / "model.safetensors")
    weights["score.weight"].fill_(float("nan"))
    save_file(weights, folder / "reward" / "model.safetensors", metadata={"format": "pt"})
    problems = problems_of(folder)
    assert any("an empty answer could not be scored" in problem for problem in problems)


def test_a_run_of_another_recipe_is_refused_and_the_same_one_resumed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = dump_recipe(load_recipe([folder / "recipe.toml"]))
    with RunDir.create_or_open(folder / "run", recipe=recipe, prompt_hash=""):
        pass
    assert problems_of(folder, run_dir=folder / "run") == []
    assert "which will be resumed" in capsys.readouterr().out
    (problem,) = problems_of(folder, run_dir=folder / "policy")
    assert "holds something that is no run" in problem
    (problem,) = problems_of(folder, "training.steps=6", run_dir=folder / "run")
    assert "holds a run of another recipe" in problem
    assert "training.steps: 5 -> 6" in problem


def test_everything_is_reported_at_once(folder: Path, make_model: Any) -> None:
    make_model("reward", num_labels=2)
    critic = make_model("critic", num_labels=3)
    write_prompts(folder, [ROW, {"prompt": 3}])
    problems = problems_of(
        folder,
        f"critic.model={critic}",
        "sampling.max_tokens=1000",
        "trackers.names=['wandbb', 'wandb']",
        "training.device=tpu",
    )
    expected = [
        "prompts.max_prompt_tokens + sampling.max_tokens = 1100",
        "1 of 2 rows are malformed",
        "2 labels; expected a sequence-classification model with one label",
        "3 labels; a value function has one",
        "trackers.names: unknown 'wandbb'",
        "training.device: found 'tpu'",
    ]
    for text in expected:
        assert sum(text in problem for problem in problems) == 1, text


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"template": None}, "no chat template"),
        ({"eos": None}, "no end-of-text (EOS) token"),
        ({"vocab_size": 250}, "the tokenizer makes ids up to 258"),
    ],
)
def test_a_policy_that_cannot_be_rendered_for_is_refused(
    folder: Path, make_model: Any, model: dict[str, Any], expected: str
) -> None:
    shutil.rmtree(folder / "policy")
    make_model("policy", **model)
    (problem,) = problems_of(folder)
    assert expected in problem


def test_a_reward_without_a_scalar_head_and_a_policy_with_one_are_refused(folder: Path) -> None:
    (problem,) = problems_of(folder, f"reward.model={folder}/policy")
    assert "no scalar head" in problem
    (problem,) = problems_of(folder, f"policy.model={folder}/reward")
    assert "is a classifier" in problem


def test_missing_files_are_problems_with_weights_and_not_checked_without(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("policy", "reward"):
        shutil.rmtree(folder / name)
    (folder / "prompts.jsonl").unlink()
    overrides = [f"policy.model={folder}/policy", f"reward.model={folder}/reward"]
    assert len(problems_of(folder, *overrides)) == 3
    capsys.readouterr()
    assert problems_of(folder, *overrides, weights=False) == []
    output = capsys.readouterr().out
    assert output.count("not checked: ") == 4
    assert "No problem found in what could be checked." in output


def test_missing_weights_are_found_without_loading_any(folder: Path) -> None:
    (folder / "policy" / "model.safetensors").unlink()
    (problem,) = problems_of(folder)
    assert "lacks the weights model.safetensors" in problem
    assert problems_of(folder, weights=False) == []


def test_faults_of_files_that_are_here_count_without_weights_too(folder: Path) -> None:
    write_prompts(folder, [{"prompt": ""}])
    (problem,) = problems_of(folder, weights=False)
    assert "rows are malformed" in problem


def test_prompts_that_are_all_too_long_are_refused(folder: Path) -> None:
    (problem,) = problems_of(folder, "prompts.max_prompt_tokens=5")
    assert "4 of 4 prompts are longer" in problem


def test_a_style_that_no_reward_scores_is_refused(folder: Path) -> None:
    rule = {**ROW, "reward_model": {"style": "rule", "ground_truth": "7"}}
    write_prompts(folder, [ROW, rule, rule])
    (problem,) = problems_of(folder)
    assert problem.startswith("2 prompts (first:")
    assert "prompts.jsonl:2) have the style 'rule'" in problem


def test_a_critic_of_another_vocabulary_is_refused(folder: Path, make_model: Any) -> None:
    critic = make_model("critic", num_labels=1)
    assert problems_of(folder, f"critic.model={critic}") == []
    tokenizer = json.loads((critic / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (critic / "tokenizer.json").write_text(json.dumps(tokenizer))
    (problem,) = problems_of(folder, f"critic.model={critic}")
    assert "another vocabulary than the policy" in problem


def test_a_critic_on_the_policys_trunk_takes_no_model_of_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []
    for overrides in ([], ["critic.share_trunk=true"]):
        assert problems_of(folder, *overrides) == []
        printed = capsys.readouterr().out
        (line,) = [line for line in printed.splitlines() if line.startswith("critic weights ")]
        sizes.append(line.split()[2:4])
    assert sizes == [[sizes[0][0], "KiB"], ["128", "B"]]


def test_a_full_disk_and_an_unwritable_run_directory_are_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").write_text("")
    (problem,) = problems_of(folder, run_dir=folder / "file" / "run")
    assert "is not a folder that can be written" in problem
    usage = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (problem,) = problems_of(folder, run_dir=folder / "run")
    assert "4 checkpoints (checkpoint.keep_last, the best, and the one being written)" in problem


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = problems_of(folder, "trackers.names=['wandb']")
    assert "pip install 'grlo[wandb]'" in problem


def test_an_engine_that_cannot_be_used_in_training_is_a_problem_without_weights_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "engine.name=vllm"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = problems_of(folder, name, weights=False)
    assert "pip install 'grlo[vllm]'" in problem
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    (problem,) = problems_of(folder, name, "engine.tensor_parallel=2", weights=False)
    assert "tensor_parallel = 2" in problem


GOLD = (
    "gold.reward.name=verified",
    "gold.reward.verifier=nano",
    "gold.reward.styles=['model']",
    "gold.every=2",
)


def test_a_gold_reward_is_shown_and_probed_on_its_own_prompts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = "Repeat the word sun 2 times."
    meta = {"kind": "repeat", "word": "sun", "times": 2}
    row = {"prompt": [{"role": "user", "content": prompt}], "ability": "instruction_following"}
    row |= {"reward_model": {"style": "rule"}, "extra_info": meta}
    (folder / "held_out.jsonl").write_text((json.dumps(row) + "\n") * 4)
    given = [*GOLD[:2], "gold.every=2", f"gold.sources=['{folder}/held_out.jsonl']"]
    assert problems_of(folder, *given, "shaping.overlong_buffer=20") == []
    output = capsys.readouterr().out
    assert "3 evaluations of 4 held-out prompts x 1, 4 prompts to draw from" in output
    assert "gold.reward: score of an empty answer: 0.0" in output


def test_a_gold_reward_that_cannot_score_its_prompts_is_a_problem(folder: Path) -> None:
    (problem,) = problems_of(folder, *GOLD[:2])
    assert problem.startswith("gold.reward: 4 prompts")
    assert "style 'model'" in problem
    # Without held-out prompts it is probed on those of training, which are none of its domains.
    problems = problems_of(folder, *GOLD)
    assert all(problem.startswith("gold.reward: ") for problem in problems)
    assert any("KeyError" in problem for problem in problems)


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_recipe_of_the_package_passes_without_weights(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    below = [path.with_name("nano.toml")] if path.name in OVERLAYS else []
    check([*below, path], weights=False)
    assert "No problem found" in capsys.readouterr().out


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 6


def test_dynamic_sampling_is_counted_in_what_a_run_may_draw(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check([folder / "recipe.toml"], weights=False, overrides=["sampling.max_draws=3"])
    output = capsys.readouterr().out
    for line in (
        "dynamic sampling draws up to 90 responses for them",
        "each prompt is seen 2.5 to 7.5 times",
        "at most 4.5e+03 tokens are generated",
    ):
        assert line in output


def test_the_memory_of_each_of_several_devices_is_shown(folder, capsys) -> None:
    check([folder / "recipe.toml"], num_devices=2)
    shown = capsys.readouterr().out
    assert "2 devices, each with so much: whole models on each (ddp)" in shown
    check([folder / "recipe.toml"], overrides=["training.sharding=fsdp"], num_devices=2)
    shown = capsys.readouterr().out
    assert "models in shards over all (fsdp)" in shown
    assert "not checked: one step with the real weights: their shards take 2 devices" in shown


def test_devices_that_do_not_hold_a_run_are_a_problem(folder, monkeypatch) -> None:
    monkeypatch.setattr(memory_stage, "free_bytes", lambda device: 2**20)
    assert problems_of(folder) == [], "one device may try"
    (problem,) = problems_of(folder, num_devices=2)
    assert problem.startswith("--devices 2: each would need")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.overlap=true", "training.overlap"),
        ("engine.device=cpu", "engine.device"),
    ],
)
def test_what_does_not_go_with_several_devices_is_a_problem(folder, override, named) -> None:
    overrides = (override, "algorithm.importance_cap=2")
    assert problems_of(folder, *overrides, weights=False) == []
    (problem,) = problems_of(folder, *overrides, weights=False, num_devices=2)
    assert problem.startswith(named)


def test_gpus_that_are_not_here_are_a_problem_with_weights_and_not_checked_without(
    folder, capsys
) -> None:
    override = "training.device=cuda"
    problems = problems_of(folder, override, num_devices=100)
    assert any(p.startswith("--devices 100: this machine has") for p in problems)
    assert problems_of(folder, override, num_devices=100, weights=False) == []
    assert "not checked: --devices 100: this machine has" in capsys.readouterr().out
