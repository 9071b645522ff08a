"""Study files: read, validated as a whole, with the recipe of every arm and seed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from grlo.errors import GrloError, RecipeError
from grlo.recipe import ASSETS, InlineLayer, dump_recipe, load_recipe_of, load_settings
from grlo.settings import BudgetSettings, Recipe, SFTRecipe
from grlo.studies.settings import StudySettings

MANY_STEPS = 1_000_000
"""Steps of an arm that a budget ends."""
_NO_SAMPLES = Path("/own_samples.jsonl")
"""Stands for demonstrations that are yet to be drawn."""


@dataclass(frozen=True)
class Study:
    """A study file and where it stands."""

    settings: StudySettings
    path: Path

    def is_sft(self, name: str) -> bool:
        """Whether an arm is trained on demonstrations."""
        files = [tomllib.loads(path.read_text()) for path in self.files(name)]
        return any("data" in table for table in files)

    def files(self, name: str) -> list[Path]:
        """Recipe files of an arm."""
        return [self.path.parent / recipe for recipe in self.settings.arms[name].recipes]

    def is_matched(self, name: str) -> bool:
        """Whether the budget of the study decides how long an arm is trained."""
        matching, arm = self.settings.matching, self.settings.arms[name]
        return matching is not None and bool(arm.recipes) and arm.matched and matching.to != name


def load_study(path: Path, *, seeds: Sequence[int] = ()) -> Study:
    """Reads a study file and the recipes that it names.

    Args:
        path: TOML file of `StudySettings`; relative paths in it are relative to it.
        seeds: Instead of those of the file, if there are any.

    Raises:
        RecipeError: Lists every problem of the file, or of the recipes of its arms.
    """
    settings = load_settings(StudySettings, path)
    study = Study(replace(settings, seeds=tuple(seeds)) if seeds else settings, path.resolve())
    problems = []
    for name, arm in study.settings.arms.items():
        try:
            if arm.own_samples is not None and not study.is_sft(name):
                problems.append(
                    f"arms.{name}.own_samples: its recipe is none of fine-tuning (`data`)"
                )
            elif arm.recipes:
                problems += _matching_problems(study, name, load_arm(study, name, seed=0))
            if arm.own_samples is not None:
                load_prompt_recipe(study, name, seed=0)
        except (GrloError, OSError, ValueError) as error:
            problems.append(f"arms.{name}: {error}")
    if problems:
        raise RecipeError("\n".join([f"{path}:", *problems]))
    return study


def load_arm(
    study: Study,
    name: str,
    *,
    seed: int,
    start: Path | None = None,
    samples: Path | None = None,
    budget: Mapping[str, float] | None = None,
) -> Recipe | SFTRecipe:
    """The recipe of an arm with a seed.

    Args:
        study: The study.
        name: Of an arm with recipes.
        seed: Of training.
        start: Checkpoint that it starts from, instead of the recipe's model.
        samples: Demonstrations, instead of the recipe's.
        budget: What it may spend, by field of `BudgetSettings`; its own steps hold without one.

    Raises:
        RecipeError: Lists every problem of the recipe.
    """
    arm = study.settings.arms[name]
    is_sft = study.is_sft(name)
    overrides = [f"seed={seed}"]
    if study.settings.jobs.num_threads:
        overrides.append(f"training.num_threads={study.settings.jobs.num_threads}")
    if start is not None:
        overrides.append(f"policy.model={json.dumps(str(start))}")
    if arm.own_samples is not None:
        samples = samples or _NO_SAMPLES
        overrides += [f"data.sources={json.dumps([str(samples)])}", "data.response=response"]
    if budget is not None:
        overrides.append(f"training.steps={MANY_STEPS}")
        overrides += ["training.num_epochs=0"] if is_sft else []
        for item in fields(BudgetSettings):
            overrides.append(f"budget.{item.name}={float(budget.get(item.name, 0.0))!r}")
    layer = InlineLayer(f"arms.{name}.overrides", arm.overrides, study.path.parent)
    if is_sft:
        return load_recipe_of(SFTRecipe, study.files(name), layer=layer, overrides=overrides)
    return load_recipe_of(Recipe, study.files(name), layer=layer, overrides=overrides)


def load_prompt_recipe(study: Study, name: str, *, seed: int) -> Recipe:
    """The recipe whose prompts the model of an arm with own samples answers."""
    own = study.settings.arms[name].own_samples
    assert own is not None
    files = [study.path.parent / recipe for recipe in own.recipes]
    return load_recipe_of(Recipe, files, overrides=[f"seed={seed}"])


def definition(study: Study, name: str) -> dict[str, Any]:
    """What an arm's results depend on: its recipe, where it starts, what it may spend, how it is
    measured. Labels, prices and published rows may change without training again."""
    settings = study.settings
    arm = settings.arms[name]
    found: dict[str, Any] = {"evaluation": _without_place(settings), "model": arm.model}
    if arm.recipes:
        found["recipe"] = dump_recipe(load_arm(study, name, seed=0))
        if study.is_matched(name) and settings.matching is not None:
            found |= {"matching": asdict(settings.matching), "share": arm.share}
    if arm.own_samples is not None:
        found["own_samples"] = {
            "recipe": dump_recipe(load_prompt_recipe(study, name, seed=0)),
            "samples_per_prompt": arm.own_samples.samples_per_prompt,
        }
    if arm.starts_from:
        found["starts_from"] = definition(study, arm.starts_from)
    return _portable(json.loads(json.dumps(found)), study.path.parent)


def _portable(value: Any, folder: Path) -> Any:
    """The value with paths as they are from the study file or in the miniature's assets, so that
    both may be moved together with the study's folder."""
    if isinstance(value, dict):
        return {key: _portable(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item, folder) for item in value]
    if isinstance(value, str) and value.startswith("/"):
        path = Path(value)
        if path.is_relative_to(ASSETS):
            return f"nano:{path.relative_to(ASSETS)}"
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return value


def _without_place(settings: StudySettings) -> dict[str, Any]:
    table = asdict(settings.evaluation) if settings.evaluation is not None else {}
    return {key: value for key, value in table.items() if key not in ("device", "base_samples")}


def _matching_problems(study: Study, name: str, recipe: Recipe | SFTRecipe) -> list[str]:
    matching = study.settings.matching
    problems: list[str] = []
    if not study.is_matched(name) or matching is None:
        return problems
    draws_nothing = isinstance(recipe, SFTRecipe)
    if matching.by == "generated_tokens" and draws_nothing:
        problems.append(
            f"arms.{name}: fine-tuning generates no tokens, so it cannot be matched by "
            "generated_tokens. Match by flops, trained_tokens or device_hours, or set matched = "
            "false."
        )
    if recipe.budget != BudgetSettings():
        problems.append(f"arms.{name}: its recipe has a budget of its own besides the study's")
    return problems
