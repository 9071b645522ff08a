"""`grlo export verl`: a recipe as data, configuration and script for verl."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grlo.errors import CheckpointError, DataError
from grlo.evaluation.gold import choose
from grlo.launchers.verl.exporting import write_export
from grlo.launchers.verl.expression import Cluster, express
from grlo.launchers.verl.folder import VerlFolder
from grlo.prompts.sources import suffix_problems
from grlo.recipe import dump_recipe
from grlo.rewards import single_rewards
from grlo.rundir import PARTIAL
from grlo.settings import Recipe
from grlo.stages.runs import open_policy, record_data
from grlo.stages.train_data import hash_prompts, load_gold_prompts, load_prompts


def cluster_for(
    recipe: Recipe, *, nodes: int, gpus: int, reward_gpus: float | None, reward_actors: int
) -> Cluster:
    """Nodes and GPUs; each reward actor has one if there is a model, unless somebody says more."""
    if reward_gpus is None:
        rewards = [recipe.reward, *([] if recipe.gold is None else [recipe.gold.reward])]
        parts = [part for reward in rewards for part in single_rewards(reward)]
        reward_gpus = float(any(hasattr(part.settings, "model") for part in parts))
    return Cluster(nodes, gpus, reward_gpus=reward_gpus, reward_actors=reward_actors)


def export_verl(recipe: Recipe, *, out: Path, cluster: Cluster) -> VerlFolder:
    """Writes the export of a recipe.

    Args:
        recipe: What to do.
        out: New or empty folder.
        cluster: Nodes and GPUs.

    Raises:
        RecipeError: verl cannot express the recipe.
        CheckpointError: The folder holds something.
        DataError: Prompts cannot be read, or the reward does not score some.
    """
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty. Choose a new or empty folder for --out.")
    return write_folder(recipe, out=out, cluster=cluster)


def write_folder(recipe: Recipe, *, out: Path, cluster: Cluster) -> VerlFolder:
    """Writes the export of a recipe into a folder that does not exist or is empty."""
    express(recipe, cluster)  # What cannot be said is found before anything is read.
    renderer = open_policy(recipe.policy, num_threads=0)
    prompts = load_prompts(recipe, renderer)
    gold_prompts = load_gold_prompts(recipe, renderer, training=prompts)
    if problems := suffix_problems([*prompts, *gold_prompts], recipe.prompts.suffixes):
        raise DataError("\n".join(problems))
    record: Mapping[str, Any] = {
        "recipe": dump_recipe(recipe),
        "prompt_hash": hash_prompts([*prompts, *gold_prompts]),
        "data": record_data(recipe.prompts.sources),
    }
    if recipe.gold is not None:
        gold_prompts = list(choose(gold_prompts, count=recipe.gold.num_prompts, seed=recipe.seed))
    folder = VerlFolder(out.resolve())
    partial = out.with_name(out.name + PARTIAL)
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_export(
        folder,
        recipe,
        prompts=prompts,
        gold_prompts=gold_prompts,
        cluster=cluster,
        record=record,
        into=VerlFolder(partial.resolve()),
    )
    partial.rename(out)
    return folder
