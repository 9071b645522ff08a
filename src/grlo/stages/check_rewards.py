"""Rewards of a recipe, the gold reward among them: whether they can score its prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grlo import registry
from grlo.interfaces import BuildContext
from grlo.model_shape import ModelShape
from grlo.rewards import SingleReward, single_rewards, style_problems
from grlo.settings import Dtype, Recipe
from grlo.stages.check_findings import Findings, heading
from grlo.stages.check_models import FoundModel, check_renderer, find_model
from grlo.stages.check_prompts import read_sources, show_tokens
from grlo.types import Message, Prompt

SAMPLE_ANSWER = "This is an answer."


def check_rewards(
    reward: object, prompts: Sequence[Prompt], findings: Findings, *, key: str
) -> list[tuple[ModelShape, Dtype | None]]:
    """Whether a reward can score these prompts; shapes and stated types of its models."""
    problems = style_problems(reward, prompts)
    findings.problems += problems if key == "reward" else [f"{key}: {text}" for text in problems]
    models = []
    for part in single_rewards(reward, key=key):
        if isinstance(getattr(part.settings, "model", None), str):
            mine = [prompt for prompt in prompts if prompt.style in part.styles]
            model = _check_reward_model(part, mine, findings)
            if model is not None:
                models.append((model.shape, getattr(part.settings, "dtype", None)))
        if hasattr(part.settings, "verifier"):
            with findings.collect():
                _show_verifier(part)
    return models


def check_gold(
    recipe: Recipe, prompts: Sequence[Prompt], findings: Findings
) -> list[tuple[ModelShape, Dtype | None]]:
    """The gold reward, on the prompts that it is to score."""
    gold = recipe.gold
    if gold is None:
        return []
    heading("Gold signal")
    evaluations = -(-recipe.training.steps // gold.every)
    if gold.sources:
        prompts = read_sources(recipe, gold.sources, findings, key="gold.sources")
        count = min(gold.num_prompts or len(prompts), len(prompts))
        print(
            f"{evaluations} evaluations of {count} held-out prompts x {gold.samples_per_prompt}, "
            f"{len(prompts)} prompts to draw from"
        )
    else:
        print(f"{evaluations} evaluations of the step's own rollouts")
    return check_rewards(gold.reward, prompts, findings, key="gold.reward")


def _check_reward_model(
    part: SingleReward, prompts: Sequence[Prompt], findings: Findings
) -> FoundModel | None:
    """Whether a reward model is one, and what it would read."""
    settings: Any = part.settings
    revision = getattr(settings, "revision", None)
    model = find_model(part.key, settings.model, revision, findings)
    if model is None:
        return None
    if model.shape.num_labels != 1:
        found = f"{model.shape.num_labels} labels" if model.shape.num_labels else "no scalar head"
        findings.problems.append(
            f"{part.key}: {model.name} has {found}; expected a sequence-classification model with "
            "one label."
        )
    renderer = check_renderer(model, getattr(settings, "template", None), findings)
    if renderer is not None:
        with findings.collect():
            messages = prompts[0].messages if prompts else (Message("user", "Hello!"),)
            turns = (*messages, Message("assistant", SAMPLE_ANSWER))
            where = "" if part.key == "reward" else f" of {part.key}"
            heading(f"What the reward model{where} reads")
            show_tokens(renderer, renderer.encode_conversation(turns))
    return model


def _show_verifier(part: SingleReward) -> None:
    """What a verifier runs on, such as the sandbox of programs."""
    verifier: Any = part.settings
    verifier = verifier.verifier.build(context=BuildContext(device="cpu", seed=0))
    facts = registry.describe(verifier)
    registry.close(verifier)
    if facts:
        heading(f"What grades ({part.key})")
        _show_facts(facts)


def _show_facts(facts: Mapping[str, object], indent: str = "") -> None:
    for name, fact in facts.items():
        if isinstance(fact, Mapping) and all(value is True for value in fact.values()):
            print(f"{indent}{name}: {', '.join(map(str, fact))}")
        elif isinstance(fact, Mapping):
            print(f"{indent}{name}:")
            _show_facts(fact, indent + "  ")
        elif isinstance(fact, (list, tuple)):
            print(f"{indent}{name}:")
            for item in fact:
                print(f"{indent}  - {item}")
        else:
            print(f"{indent}{name}: {fact}")
