"""Recipes: TOML files merged left to right into a validated recipe, and back.

All errors of a recipe are found before any is raised.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from grlo.errors import RecipeError
from grlo.rundir import newest_checkpoint
from grlo.schema import Origins, Table, dump, parse, plugin_name, recipe_error, shown
from grlo.settings import CriticSettings, OptimizerSettings, Recipe, SFTRecipe

DATA_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet", ".toml")
"""Of files that recipes name where names of benchmarks may stand too."""
REMOVED = "none"
"""`--set key=none` takes a key out again, so that its default holds."""
ASSETS = Path(__file__).parent / "nano" / "assets"
NANO_FILES = {
    "base": "base",
    "reward_model": "reward_model",
    "prompts": "prompts.jsonl",
    "chat_demonstrations": "chat_demonstrations.jsonl",
    "math_prompts": "math_prompts.jsonl",
    "chat_dev_prompts": "chat_dev_prompts.jsonl",
}
"""What `nano:NAME` stands for among the assets of the embedded miniature."""

AnyRecipe = TypeVar("AnyRecipe", Recipe, SFTRecipe)
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class _Layer:
    """One file, or the overrides of the command line."""

    label: str
    table: Table


@dataclass(frozen=True)
class InlineLayer:
    """A layer of a recipe that another file holds as a table."""

    label: str
    """Where it stands, for errors."""
    table: Mapping[str, Any]
    """As in a file; the text `none` takes a key out again, so that its default holds."""
    folder: Path
    """That relative paths are relative to."""


def load_recipe(paths: Sequence[Path], *, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a reinforcement-learning run; see `load_recipe_of`."""
    return load_recipe_of(Recipe, paths, overrides=overrides)


def load_recipe_of(
    cls: type[AnyRecipe],
    paths: Sequence[Path],
    *,
    layer: InlineLayer | None = None,
    overrides: Sequence[str] = (),
) -> AnyRecipe:
    """Reads, merges and validates a recipe.

    Tables merge key by key and later files win. A file that names another engine, reward or
    algorithm replaces that section as a whole. Relative paths are relative to the file that
    states them.

    Args:
        cls: `Recipe` or `SFTRecipe`.
        paths: TOML files, left to right.
        layer: Merged after the files.
        overrides: `section.key=value`, applied last. The value is TOML; what is not TOML is taken
            as a string, and `none` restores the default. Relative paths are relative to the
            working directory.

    Raises:
        RecipeError: Lists every problem of the recipe with its key, its file and the remedy.
    """
    problems: list[str] = []
    layers: list[_Layer] = []
    for path in paths:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: cannot be read: {error}")
        except tomllib.TOMLDecodeError as error:
            problems.append(f"{path}: is not valid TOML: {error}")
        else:
            layers.append(_Layer(str(path), _with_paths(table, folder=path.resolve().parent)))
    if layer is not None:
        layers.append(_Layer(layer.label, _with_paths(_without(layer.table), layer.folder)))
    layers.append(_Layer("--set", _with_paths(_parse_overrides(overrides, problems), Path.cwd())))
    if problems:
        raise recipe_error(problems)
    merged: Table = {}
    origin: dict[str, str] = {}
    for own in layers:
        _merge(merged, own.table, origin, label=own.label)
    _require_kind(cls, merged)
    return _build(cls, merged, origin, default_origin=", ".join(str(path) for path in paths))


def load_settings(cls: type[Settings], path: Path) -> Settings:
    """A TOML file as an instance of a settings dataclass; relative paths are relative to the file.

    Raises:
        RecipeError: The file cannot be read, or lists every problem of it.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: is not valid TOML: {error}") from error
    table = _with_paths(table, folder=path.resolve().parent)
    origins = Origins(of_key={}, default=str(path))
    return parse(cls, table, registries=_registries(), origins=origins)


def _require_kind(cls: type[Recipe] | type[SFTRecipe], table: Table) -> None:
    """Refuses a recipe of the other kind by that, not by each of its sections."""
    if "sources" in table and "policy" not in table:
        raise RecipeError(
            "this is a recipe of `grlo prompts build`: it has the key 'sources' and no policy."
        )
    kinds = {Recipe: ("train", "prompts"), SFTRecipe: ("sft", "data")}
    for kind, (command, section) in kinds.items():
        if kind is not cls and section in table and kinds[cls][1] not in table:
            raise RecipeError(
                f"this is a recipe of `grlo {command}`: it has the section {section!r}. Expected "
                f"one of `grlo {kinds[cls][0]}`, with the section {kinds[cls][1]!r}."
            )


def dump_recipe(recipe: Recipe | SFTRecipe) -> Table:
    """The recipe as JSON-able tables with every default written out."""
    return dump(recipe, registries=_registries())


def load_dumped(table: Mapping[str, object]) -> Recipe:
    """The recipe that `dump_recipe` made a table of.

    Raises:
        RecipeError: The table is not a recipe of this version of the package.
    """
    return _build(Recipe, dict(table), {}, default_origin="recipe.json")


def format_recipe(recipe: Recipe | SFTRecipe) -> str:
    """The recipe as TOML with every default written out; keys without a value are comments."""
    return "\n".join(_toml_lines(dump_recipe(recipe))).strip() + "\n"


def differences(before: AnyRecipe, after: AnyRecipe) -> list[str]:
    """One line `key: old -> new` for every setting in which two recipes differ."""
    old, new = dict(_flatten(dump_recipe(before))), dict(_flatten(dump_recipe(after)))
    return [
        f"{key}: {shown(old.get(key))} -> {shown(new.get(key))}"
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key)
    ]


def validate(recipe: Recipe) -> list[str]:
    """What makes a recipe useless or ambiguous although every single value is valid.

    Returns:
        Problems, each with its remedy; empty when there are none.
    """
    problems: list[str] = []
    steps, sampling = recipe.training.steps, recipe.sampling
    needs_critic = getattr(recipe.algorithm, "needs_critic", False)
    name = plugin_name(recipe.algorithm, registry=_registries()["algorithm"])
    compares_group = getattr(recipe.algorithm, "compares_group", False)
    if compares_group and sampling.samples_per_prompt == 1:
        problems.append(
            f"sampling.samples_per_prompt: 1 with algorithm {name!r}, which compares the "
            "samples of a prompt with each other: every advantage would be zero. Use 2 or more "
            "(8 is common), or algorithm.name = 'ppo' or 'reinforce_pp'."
        )
    if not needs_critic and recipe.critic != CriticSettings():
        problems.append(
            f"critic: settings are given, but algorithm {name!r} has no critic and would "
            "ignore them. Remove the section, or choose algorithm.name = 'ppo'."
        )
    warmup = getattr(recipe.algorithm, "critic_warmup_steps", 0)
    if warmup >= steps:
        problems.append(
            f"algorithm.critic_warmup_steps: {warmup} of training.steps = {steps}: the policy "
            "would never be trained. Lower it or train for more steps."
        )
    if recipe.shaping.overlong_buffer > sampling.max_tokens:
        problems.append(
            f"shaping.overlong_buffer: {recipe.shaping.overlong_buffer} is more than "
            f"sampling.max_tokens = {sampling.max_tokens}. Shorten the buffer."
        )
    if recipe.training.num_minibatches > sampling.prompts_per_step:
        problems.append(
            f"training.num_minibatches: {recipe.training.num_minibatches} mini-batches out of "
            f"sampling.prompts_per_step = {sampling.prompts_per_step} prompts (the samples of a "
            "prompt stay together). Use at most one mini-batch per prompt."
        )
    problems += _overlap_problems(recipe)
    problems += _sharding_problems(recipe)
    if "critic" in recipe.training.offload and recipe.critic.share_trunk:
        problems.append(
            "training.offload: critic with critic.share_trunk: its trunk is the policy's, which "
            "does not leave the device. Remove critic from offload, or share_trunk."
        )
    best_by = recipe.checkpoint.best_by
    section = {"gold/mean": "gold"}.get(best_by, "evaluation" if "eval/" in best_by else "")
    if section and getattr(recipe, section) is None:
        problems.append(
            f"checkpoint.best_by: {best_by} needs the section {section!r}. Add it, or choose "
            "another metric."
        )
    problems += _optimizer_problems("optimizer", recipe.optimizer, steps=steps)
    if needs_critic:
        problems += _optimizer_problems("critic.optimizer", recipe.critic.optimizer, steps=steps)
    return problems


def _overlap_problems(recipe: Recipe) -> list[str]:
    if not recipe.training.overlap:
        return []
    problems = []
    if recipe.sampling.max_draws > 1:
        problems.append(
            f"training.overlap: true with sampling.max_draws = {recipe.sampling.max_draws}: what "
            "dynamic sampling draws next depends on scores that are not there yet. Set max_draws = "
            "1, or overlap = false."
        )
    # An algorithm of the user's own may correct in its own way.
    if getattr(recipe.algorithm, "importance_cap", None) == 0:
        problems.append(
            "training.overlap: true with algorithm.importance_cap = 0: answers are then drawn by "
            "the policy of one step before, and nothing would correct for that. Set importance_cap "
            "= 2, or overlap = false."
        )
    return problems


def _sharding_problems(recipe: Recipe) -> list[str]:
    if recipe.training.sharding != "fsdp":
        return []
    needs_critic = getattr(recipe.algorithm, "needs_critic", False)
    problems = [
        f"{key}: adapters with training.sharding = 'fsdp': they are trained on whole copies of the "
        "model. Set sharding = 'ddp' or 'auto'."
        for key, lora in (("policy.lora", recipe.policy.lora), ("critic.lora", recipe.critic.lora))
        if lora is not None
    ]
    optimizers = {"optimizer": recipe.optimizer}
    if needs_critic:
        optimizers["critic.optimizer"] = recipe.critic.optimizer
    problems += [
        f"{key}.name: 'adamw_8bit' with training.sharding = 'fsdp': its blocks of 256 know nothing "
        "of shards. Choose 'adamw', or sharding = 'ddp' or 'auto'."
        for key, optimizer in optimizers.items()
        if optimizer.name == "adamw_8bit"
    ]
    return problems


def validate_sft(recipe: SFTRecipe, *, steps: int = 0) -> list[str]:
    """What makes a recipe of supervised fine-tuning useless; see `validate`.

    Args:
        recipe: A recipe whose single values are valid.
        steps: Of the run, where the recipe leaves them to the number of demonstrations.
    """
    steps = steps or recipe.training.steps
    return _optimizer_problems("optimizer", recipe.optimizer, steps=steps) if steps else []


def _optimizer_problems(key: str, optimizer: OptimizerSettings, *, steps: int) -> list[str]:
    problems = []
    if optimizer.warmup_steps >= steps:
        problems.append(
            f"{key}.warmup_steps: {optimizer.warmup_steps} of training.steps = {steps}: the "
            "learning rate would never reach its value. Shorten the warm-up or train longer."
        )
    if optimizer.schedule == "constant":
        for name in ("decay_start", "final_fraction"):
            if getattr(optimizer, name) != 0:
                problems.append(
                    f"{key}.{name}: {getattr(optimizer, name)} has no effect with {key}.schedule = "
                    "'constant'. Remove it, or choose 'linear' or 'cosine'."
                )
    if not 0 <= optimizer.final_fraction <= 1:
        problems.append(
            f"{key}.final_fraction: {optimizer.final_fraction} is not a share between 0 and 1."
        )
    if any(not 0 <= beta < 1 for beta in optimizer.betas):
        problems.append(f"{key}.betas: {list(optimizer.betas)} must lie in [0, 1).")
    return problems


def _registries() -> dict[str, Mapping[str, str]]:
    from grlo.algorithms import ALGORITHMS
    from grlo.engines import ENGINES
    from grlo.rewards import REWARDS
    from grlo.verifiers import VERIFIERS

    return {
        "reward": REWARDS,
        "algorithm": ALGORITHMS,
        "engine": ENGINES,
        "verifier": VERIFIERS,
    }


# Reading ------------------------------------------------------------------------------------------


def _parse_overrides(overrides: Sequence[str], problems: list[str]) -> Table:
    table: Table = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            problems.append(f"--set {override}: expected section.key=value")
            continue
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = None if text.strip() == REMOVED else text.strip()
        node = table
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                problems.append(f"--set {override}: {part!r} was given a value before")
                break
        else:
            node[parts[-1]] = value
    return table


def _without(table: Mapping[str, Any]) -> Table:
    """The table with None in place of the text that takes a key out."""
    return {
        key: _without(value) if isinstance(value, Mapping) else None if value == REMOVED else value
        for key, value in table.items()
    }


def _with_paths(table: Table, folder: Path) -> Table:
    """The table with models and prompt files as absolute paths where they are local."""
    resolved: Table = {}
    for key, value in table.items():
        if isinstance(value, dict):
            resolved[key] = _with_paths(value, folder)
        elif key == "model" and isinstance(value, str):
            resolved[key] = _model_path(value, folder)
        elif key in ("data", "judge") and isinstance(value, str) and value:
            resolved[key] = str((folder / Path(value).expanduser()).resolve())
        elif key == "benchmarks" and isinstance(value, list):
            resolved[key] = [
                _source_path(item, folder) if str(item).endswith(".toml") else item
                for item in value
            ]
        elif key == "sources" and isinstance(value, list):
            resolved[key] = [_with_source_path(item, folder) for item in value]
        elif key == "against" and isinstance(value, list):
            resolved[key] = [
                _source_path(item, folder) if str(item).endswith(DATA_ENDINGS) else item
                for item in value
            ]
        elif key == "embed" and isinstance(value, str) and value:
            resolved[key] = _model_path(value, folder)
        else:
            resolved[key] = value
    return resolved


def _with_source_path(source: object, folder: Path) -> object:
    """A source that is a path, or a table that has one as `file`."""
    if isinstance(source, dict) and isinstance(source.get("file"), str):
        return {**source, "file": _source_path(source["file"], folder)}
    return _source_path(source, folder) if isinstance(source, str) else source


def _model_path(model: str, folder: Path) -> str:
    """A local folder as an absolute path, of a run its newest checkpoint; a hub id as it is."""
    if model.startswith("nano:"):
        return _nano_path(model)
    local = folder / Path(model).expanduser()
    looks_local = model.startswith((".", "/", "~"))
    if not looks_local and not local.exists():
        return model
    return str(newest_checkpoint(local.resolve()) or local.resolve())


def _source_path(source: str, folder: Path) -> str:
    if source.startswith("nano:"):
        return _nano_path(source)
    if source.startswith("hub:"):
        return source
    return str((folder / Path(source).expanduser()).resolve())


def _nano_path(uri: str) -> str:
    name = uri.removeprefix("nano:")
    # An unknown name stays as it is and is reported as a missing file under the name it was given.
    return str(ASSETS / NANO_FILES[name]) if name in NANO_FILES else uri


def _merge(
    merged: Table, table: Table, origin: dict[str, str], *, label: str, prefix: str = ""
) -> None:
    """Writes a layer over what is merged so far; naming another plug-in drops its settings."""
    for key, value in table.items():
        dotted = prefix + key
        origin[dotted] = label
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            old = merged.get(key)
            if not isinstance(old, dict) or _name(value, dotted, old) != _name(old, dotted, old):
                merged[key] = {}
            _merge(merged[key], value, origin, label=label, prefix=dotted + ".")
        else:
            merged[key] = value


def _name(table: Table, dotted: str, old: Table) -> object:
    """The plug-in that a table names; without a name, that of the table it is merged into."""
    return table.get("name", old.get("name", "hf" if dotted == "engine" else None))


def _build(
    cls: type[AnyRecipe], table: Table, origin: Mapping[str, str], *, default_origin: str
) -> AnyRecipe:
    """The recipe of a merged table, or one error with all its problems."""
    origins = Origins(of_key=origin, default=default_origin)
    recipe = parse(cls, table, registries=_registries(), origins=origins)
    if problems := _problems(recipe):
        raise recipe_error(problems)
    return recipe


def _problems(recipe: Recipe | SFTRecipe) -> list[str]:
    return validate(recipe) if isinstance(recipe, Recipe) else validate_sft(recipe)


# Writing ------------------------------------------------------------------------------------------


def _flatten(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _toml_lines(table: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    scalars = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if prefix and (scalars or not table):
        yield f"\n[{prefix}]"
    for key, value in scalars.items():
        # TOML has no null; leaving the key out says the same.
        yield f"# {_toml_key(key)}: none" if value is None else f"{_toml_key(key)} = {_toml(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _toml_lines(value, f"{prefix}.{_toml_key(key)}".lstrip("."))


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for the delete character, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_toml_key(k)} = {_toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, (int, float)):
        return repr(value)
    raise TypeError(f"a recipe cannot hold {value!r}")
