"""Writes a recipe down for verl: data, configuration, script."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from grlo.launchers.verl import SUPPORTED
from grlo.launchers.verl.expression import Cluster, express
from grlo.launchers.verl.folder import VerlFolder
from grlo.launchers.verl.rows import gold_rows, row_of, training_rows, write_parquet
from grlo.settings import Recipe
from grlo.types import Prompt

LOG_VARIABLE = "VERL_FILE_LOGGER_PATH"
"""Where verl's logger `file` writes."""
_REWARD = "grlo.launchers.verl.reward"
_AGENT_LOOP = "grlo.launchers.verl.agent_loop"


def write_export(
    folder: VerlFolder,
    recipe: Recipe,
    *,
    prompts: Sequence[Prompt],
    gold_prompts: Sequence[Prompt],
    cluster: Cluster,
    record: Mapping[str, Any],
    into: VerlFolder,
) -> None:
    """Writes everything that verl needs.

    Args:
        folder: Where the export will lie: its files name each other.
        recipe: What to do.
        prompts: Of training, those that are too long left out.
        gold_prompts: Held out, where the recipe has a gold signal.
        cluster: Nodes and GPUs.
        record: What is recorded of the run besides, JSON-able.
        into: Where it is written, an empty folder.

    Raises:
        RecipeError: verl cannot express the recipe.
        MissingExtraError: Parquet needs the extra `verl` or `data`.
    """
    config = {"defaults": ["ppo_trainer", "_self_"], **configuration(folder, recipe, cluster)}
    training = training_rows(
        prompts,
        steps=recipe.training.steps,
        prompts_per_step=recipe.sampling.prompts_per_step,
        seed=recipe.seed,
    )
    write_parquet(into.train_file, training)
    # verl wants a file even where it is never read.
    unread = [row_of(prompts[0], split="gold", index=0)]
    write_parquet(into.held_out_file, gold_rows(gold_prompts) if gold_prompts else unread)
    agent_loop = {
        "name": "grlo",
        "_target_": f"{_AGENT_LOOP}.OneAnswer",
        "policy": recipe.policy.model,
        "template": recipe.policy.template,
    }
    into.agent_loop_file.write_text(_yaml([agent_loop]))
    into.config_file.write_text(_yaml(config))
    into.script_file.write_text(_script(folder))
    into.script_file.chmod(0o755)
    into.write_record({**record, "cluster": vars(cluster)})


def configuration(folder: VerlFolder, recipe: Recipe, cluster: Cluster) -> dict[str, Any]:
    """Everything in which the run differs from verl's defaults, nested as verl has it.

    Raises:
        RecipeError: verl cannot express the recipe.
    """
    keys = express(recipe, cluster) | {
        "data.train_files": [str(folder.train_file)],
        "data.val_files": [str(folder.held_out_file)],
        "trainer.default_local_dir": str(folder.checkpoints_dir),
        "trainer.experiment_name": folder.path.name,
        "actor_rollout_ref.rollout.agent.default_agent_loop": "grlo",
        "actor_rollout_ref.rollout.agent.agent_loop_config_path": str(folder.agent_loop_file),
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.name": "OurReward",
        "reward.reward_manager.module.path": f"pkg://{_REWARD}",
        # They only pass on what our reward actors are asked.
        "reward.num_workers": 2,
        "reward.reward_kwargs.folder": str(folder.path),
        "reward.reward_kwargs.attempt": 0,
    }
    return nested(keys)


def nested(keys: Mapping[str, object]) -> dict[str, Any]:
    """Dotted keys as tables."""
    tables: dict[str, Any] = {}
    for dotted, value in keys.items():
        *path, last = dotted.split(".")
        table = tables
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return tables


def arguments(folder: VerlFolder, *, attempt: str) -> list[str]:
    """Of `python`, to start verl.

    Args:
        folder: The export.
        attempt: Number of the start, or what stands for it in a script.
    """
    log = folder.metrics_file(0).with_name(f"metrics_{attempt}.jsonl")
    return [
        "-m",
        "verl.trainer.main_ppo",
        f"--config-dir={folder.path}",
        f"--config-name={folder.config_file.stem}",
        f"reward.reward_kwargs.attempt={attempt}",
        f"+ray_kwargs.ray_init.runtime_env.env_vars.{LOG_VARIABLE}={log}",
        f"hydra.run.dir={folder.path}/hydra",
    ]


def _script(folder: VerlFolder) -> str:
    words = [_quoted(word) for word in arguments(folder, attempt="${attempt}")]
    logs = shlex.quote(str(folder.metrics_file(0).parent))
    return f"""\
#!/usr/bin/env bash
# Starts verl {" or ".join(SUPPORTED)} on this export, or goes on from its newest checkpoint.
# With a Ray cluster: RAY_ADDRESS=auto. The package grlo must be installed on every node, and this
# folder be there under the same path. `grlo import verl` makes a run directory of what comes out.
set -euo pipefail
mkdir -p {logs}
attempt=$(find {logs} -name 'metrics_*.jsonl' | wc -l)
exec "${{PYTHON:-python3}}" {" ".join(words)} "$@"
"""


def _quoted(word: str) -> str:
    """Quoted for the shell, which still puts in the number of the start."""
    before, variable, after = word.partition("${attempt}")
    return "".join([shlex.quote(before), variable, shlex.quote(after) if after else ""])


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
