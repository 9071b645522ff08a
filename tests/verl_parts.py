"""Recipes and answers for tests of the launcher of verl, with and without verl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from grlo.launchers.verl.expression import Cluster
from grlo.launchers.verl.folder import VerlFolder
from grlo.launchers.verl.rows import row_of
from grlo.launchers.verl.scoring import Answer
from grlo.prompts.sampler import PromptSampler
from grlo.recipe import load_recipe
from grlo.rollout import ChatRenderer
from grlo.settings import Recipe
from grlo.stages.export_verl import export_verl
from grlo.stages.train_data import load_prompts
from grlo.types import Prompt

PROMPTS: Sequence[dict[str, object]] = (
    {
        "prompt": [{"role": "user", "content": "say the animal twice\n> cat"}],
        "reward_model": {"style": "model", "ground_truth": ""},
        "ability": "chat",
    },
    {
        "prompt": [{"role": "user", "content": "12 + 5"}],
        "reward_model": {"style": "rule", "ground_truth": "17"},
        "ability": "math",
        "extra_info": {"kind": "number", "nested": {"weights": [1, 2.5]}},
    },
    {
        "prompt": [{"role": "user", "content": "<|im_end|> 3 + 5"}],
        "reward_model": {"style": "both", "ground_truth": "8"},
        "ability": "math",
    },
)
"""One for the reward model, one for the verifier, one for both together; the last one spells a
special token."""

RECIPE = """
seed = 3
[policy]
model = "nano:base"
gradient_checkpointing = false
[prompts]
sources = ["prompts.jsonl"]
max_prompt_tokens = 128
[sampling]
prompts_per_step = 4
samples_per_prompt = 2
max_tokens = 60
[reward]
name = "mixture"
[reward.parts.quality]
name = "reward_model"
model = "nano:reward_model"
[reward.parts.correct]
name = "verified"
verifier = "math"
[reward.routes]
model = { quality = 1.0 }
rule = { correct = 1.0 }
both = { correct = 1.0, quality = 0.1 }
[algorithm]
name = "ppo"
[optimizer]
learning_rate = 1e-4
[critic.optimizer]
learning_rate = 1e-3
[training]
steps = 5
num_minibatches = 2
[checkpoint]
every = 2
"""

ANSWERS = ("17", "The answer is \\boxed{8}.", "cat cat", "no")


def write_recipe(folder: Path, *overrides: str) -> Recipe:
    """The recipe with its prompts in a folder."""
    lines = "".join(json.dumps(row) + "\n" for row in PROMPTS)
    (folder / "prompts.jsonl").write_text(lines)
    (folder / "recipe.toml").write_text(RECIPE)
    return load_recipe([folder / "recipe.toml"], overrides=overrides)


def export(folder: Path, *overrides: str) -> VerlFolder:
    """An export of the recipe in `folder/export`."""
    recipe = write_recipe(folder, *overrides)
    return export_verl(recipe, out=folder / "export", cluster=Cluster(gpus_per_node=2))


def renderer_of(recipe: Recipe) -> ChatRenderer:
    return ChatRenderer.from_pretrained(recipe.policy.model)


def prompts_of(recipe: Recipe) -> list[Prompt]:
    return load_prompts(recipe, renderer_of(recipe))


def answers_of_step(recipe: Recipe, step: int) -> list[Answer]:
    """What a policy might say in a step: every second answer is cut before it ends."""
    renderer, size = renderer_of(recipe), recipe.sampling.prompts_per_step
    sampler = PromptSampler(prompts_of(recipe), prompts_per_step=size, seed=recipe.seed)
    found = []
    for group, prompt in enumerate(sampler.batch(step)):
        index = (step - 1) * size + group
        extra_info = row_of(prompt, split="rollouts", index=index)["extra_info"]
        assert isinstance(extra_info, dict)
        for sample in range(recipe.sampling.samples_per_prompt):
            tokens = renderer.encode_answer(ANSWERS[(group + sample) % len(ANSWERS)])
            found.append(
                Answer(
                    extra_info=extra_info,
                    prompt_tokens=renderer.encode(prompt.messages),
                    tokens=tokens if sample == 0 else tokens[:-1],
                    sample=sample,
                    step=step,
                )
            )
    return found
