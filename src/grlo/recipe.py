"""Recipes: TOML files merged left to right into a validated `grlo.settings.Recipe`, and back.

The only module that knows pydantic. All errors of a recipe are found before any is raised.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model

from grlo.errors import RecipeError
from grlo.registry import resolve
from grlo.settings import CriticSettings, OptimizerSettings, Recipe

Table = dict[str, Any]

REMOVED = "none"
"""`--set key=none` takes a key out again, so that its default holds."""
ASSETS = Path(__file__).parent / "nano" / "assets"
NANO_FILES = {"base": "base", "reward_model": "reward_model", "prompts": "prompts.jsonl"}
"""What `nano:NAME` stands for among the assets of the embedded miniature."""
PLUGIN_DEFAULTS = {"engine": "hf", "reward": None, "algorithm": None}
"""Plug-in sections and the name they have without one."""
GROUP_BASELINES = ("grpo", "rloo")
"""Algorithms that compare a sample with the other samples of its prompt."""


@dataclass(frozen=True)
class _Layer:
    """One file, or the overrides of the command line."""

    label: str
    table: Table


def load_recipe(paths: Sequence[Path], *, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, merges and validates a recipe.

    Tables merge key by key and later files win. A file that names another engine, reward or
    algorithm replaces that section as a whole. Relative paths are relative to the file that
    states them.

    Args:
        paths: TOML files, left to right.
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
    layers.append(_Layer("--set", _with_paths(_parse_overrides(overrides, problems), Path.cwd())))
    if problems:
        raise _recipe_error(problems)
    merged: Table = {}
    origin: dict[str, str] = {}
    for layer in layers:
        _merge(merged, layer, origin)
    return _build(merged, origin, default_origin=", ".join(str(path) for path in paths))


def dump_recipe(recipe: Recipe) -> Table:
    """The recipe as JSON-able tables with every default written out."""
    table = _dump(recipe)
    for section, registry in _registries().items():
        name = plugin_name(getattr(recipe, section), registry=registry)
        table[section] = {"name": name} | table[section] | {"name": name}
    return table


def load_dumped(table: Mapping[str, object]) -> Recipe:
    """The recipe that `dump_recipe` made a table of.

    Raises:
        RecipeError: The table is not a recipe of this version of the package.
    """
    return _build(dict(table), {}, default_origin="recipe.json")


def format_recipe(recipe: Recipe) -> str:
    """The recipe as TOML with every default written out; keys without a value are comments."""
    return "\n".join(_toml_lines(dump_recipe(recipe))).strip() + "\n"


def differences(before: Recipe, after: Recipe) -> list[str]:
    """One line `key: old -> new` for every setting in which two recipes differ."""
    old, new = dict(_flatten(dump_recipe(before))), dict(_flatten(dump_recipe(after)))
    return [
        f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key)
    ]


def plugin_name(settings: object, *, registry: Mapping[str, str]) -> str:
    """The name under which a recipe selects the class of `settings`."""
    named = getattr(settings, "name", "")
    if isinstance(named, str) and named:
        return named
    path = f"{type(settings).__module__}:{type(settings).__qualname__}"
    return next((name for name, known in registry.items() if known == path), path)


def validate(recipe: Recipe) -> list[str]:
    """What makes a recipe useless or ambiguous although every single value is valid.

    Returns:
        Problems, each with its remedy; empty when there are none.
    """
    problems: list[str] = []
    steps, sampling = recipe.training.steps, recipe.sampling
    needs_critic = getattr(recipe.algorithm, "needs_critic", False)
    name = plugin_name(recipe.algorithm, registry=_registries()["algorithm"])
    compares_group = name in GROUP_BASELINES or (
        getattr(recipe.algorithm, "baseline", None) == "group"
    )
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
    if recipe.training.num_minibatches > sampling.prompts_per_step:
        problems.append(
            f"training.num_minibatches: {recipe.training.num_minibatches} mini-batches out of "
            f"sampling.prompts_per_step = {sampling.prompts_per_step} prompts (the samples of a "
            "prompt stay together). Use at most one mini-batch per prompt."
        )
    problems += _optimizer_problems("optimizer", recipe.optimizer, steps=steps)
    if needs_critic:
        problems += _optimizer_problems("critic.optimizer", recipe.critic.optimizer, steps=steps)
    return problems


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

    return {"reward": REWARDS, "algorithm": ALGORITHMS, "engine": ENGINES}


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


def _with_paths(table: Table, folder: Path) -> Table:
    """The table with models and prompt files as absolute paths where they are local."""
    resolved: Table = {}
    for key, value in table.items():
        if isinstance(value, dict):
            resolved[key] = _with_paths(value, folder)
        elif key == "model" and isinstance(value, str):
            resolved[key] = _model_path(value, folder)
        elif key == "sources" and isinstance(value, list):
            resolved[key] = [
                _source_path(item, folder) if isinstance(item, str) else item for item in value
            ]
        else:
            resolved[key] = value
    return resolved


def _model_path(model: str, folder: Path) -> str:
    """A local folder as an absolute path, a hub id as it is."""
    if model.startswith("nano:"):
        return _nano_path(model)
    local = folder / Path(model).expanduser()
    looks_local = model.startswith((".", "/", "~"))
    return str(local.resolve()) if looks_local or local.exists() else model


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


def _merge(merged: Table, layer: _Layer, origin: dict[str, str]) -> None:
    for section in PLUGIN_DEFAULTS:
        new, old = layer.table.get(section), merged.get(section)
        if isinstance(new, dict) and isinstance(old, dict):
            name = old.get("name", PLUGIN_DEFAULTS[section])
            if new.get("name", name) != name:
                del merged[section]
    _merge_table(merged, layer.table, origin, label=layer.label, prefix="")


def _merge_table(
    merged: Table, table: Table, origin: dict[str, str], *, label: str, prefix: str
) -> None:
    for key, value in table.items():
        dotted = prefix + key
        origin[dotted] = label
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(merged.get(key), dict):
                merged[key] = {}
            _merge_table(merged[key], value, origin, label=label, prefix=dotted + ".")
        else:
            merged[key] = value


# Validation ---------------------------------------------------------------------------------------


def _build(table: Table, origin: Mapping[str, str], *, default_origin: str) -> Recipe:
    """The recipe of a merged table, or one error with all its problems."""
    problems: list[str] = []
    types = get_type_hints(Recipe)
    table = dict(table)
    for section, registry in _registries().items():
        types[section], table[section] = _plugin_section(
            table.get(section), section=section, registry=registry, problems=problems
        )
    keys: dict[str, Any] = {
        field.name: (types[field.name], _default(field)) for field in fields(Recipe)
    }
    model = create_model(
        "Recipe", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **keys
    )
    parsed = None
    try:
        # JSON, because its strict mode takes arrays for tuples but no string for a number.
        parsed = model.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        known = [key for key, _ in _known_keys(types)]
        sources = {**origin, "": default_origin}
        problems += [
            _describe(item, table=table, known=known, sources=sources) for item in error.errors()
        ]
    if problems:
        raise _recipe_error(problems)
    recipe = Recipe(**{field.name: getattr(parsed, field.name) for field in fields(Recipe)})
    problems = validate(recipe)
    if problems:
        raise _recipe_error(problems)
    return recipe


def _plugin_section(
    values: object, *, section: str, registry: Mapping[str, str], problems: list[str]
) -> tuple[Any, object]:
    """The settings class that a plug-in section names, and the section's values for that class."""
    default = PLUGIN_DEFAULTS[section]
    if values is None and default is not None:
        values = {}
    if not isinstance(values, dict):
        found = "missing" if values is None else f"found {_shown(values)}"
        known = ", ".join(sorted(registry))
        problems.append(
            f"{section}: {found}; expected a table with a `name`, one of: {known}; or an import "
            "path 'package.module:Object'"
        )
        return Any, None
    name = values.get("name", default)
    if not isinstance(name, str):
        found = "missing" if name is None else f"found {_shown(name)}"
        problems.append(f"{section}.name: {found}; expected one of: {', '.join(sorted(registry))}")
        return Any, None
    try:
        settings_type = resolve(name, kind=section, registry=registry)
    except RecipeError as error:
        problems.append(f"{section}.name: {error}")
        return Any, None
    if not (isinstance(settings_type, type) and is_dataclass(settings_type)):
        problems.append(
            f"{section}.name: {name!r} is {settings_type!r}; expected a dataclass with the settings"
        )
        return Any, None
    try:
        get_type_hints(settings_type)
    except NameError as error:
        problems.append(
            f"{section}.name: the annotations of {name!r} cannot be resolved: {error}. Import what "
            "they name when the module runs, not under TYPE_CHECKING only."
        )
        return Any, None
    values = {key: value for key, value in values.items() if key != "name"}
    if any(field.name == "name" for field in fields(settings_type)):
        values["name"] = name
    return settings_type, values


def _default(field: Any) -> Any:
    if field.default_factory is not MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is MISSING else field.default


def _describe(item: Any, *, table: Table, known: Sequence[str], sources: Mapping[str, str]) -> str:
    """One pydantic error as `key (file): found; expected`."""
    key = _dotted(item["loc"], table, known)
    file = sources.get(key) or sources[""]
    kind, found = item["type"], _shown(item["input"])
    where = f"{key} ({file})"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: unknown key, found {found}.{_suggestion(key, known)}"
    if kind in ("missing", "missing_argument"):
        return f"{key}: missing in {sources['']}; it has no default and must be set"
    message = item["msg"]
    if kind == "value_error":
        return f"{where}: {message.removeprefix('Value error, ')}"
    expected = re.sub(r"^(Input|Tuple) should (be|have) ", "", message)
    if kind == "dataclass_type":
        expected = "a table"
    return f"{where}: found {found}, expected {expected}"


def _dotted(loc: Sequence[str | int], table: Table, known: Sequence[str]) -> str:
    """The key of a location, without the union branches that pydantic names in it."""
    parts: list[str] = []
    node: object = table
    for part in loc:
        if (
            isinstance(node, dict)
            and part not in node
            and ".".join((*parts, str(part))) not in known
        ):
            continue
        if not isinstance(node, (dict, list)):
            break
        inside_list = isinstance(node, list)
        if inside_list and not isinstance(part, int):
            continue
        if isinstance(node, list):
            node = node[part] if isinstance(part, int) and part < len(node) else None
        else:
            node = node.get(str(part)) if isinstance(node, dict) else None
        parts.append(str(part))
    return ".".join(parts)


def _suggestion(key: str, known: Sequence[str]) -> str:
    section, _, leaf = key.rpartition(".")
    keys_of_leaf = {name.rpartition(".")[2]: name for name in reversed(known)}
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section]
    if close := difflib.get_close_matches(leaf, siblings, n=1):
        return f" Did you mean {'.'.join(filter(None, (section, close[0])))!r}?"
    if close := difflib.get_close_matches(leaf, keys_of_leaf, n=1, cutoff=0.8):
        return f" Did you mean {keys_of_leaf[close[0]]!r}?"
    return f" Known keys here: {', '.join(siblings)}."


def _known_keys(types: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a recipe with its type."""
    for name, hint in types.items():
        yield prefix + name, hint
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        for option in options:
            if isinstance(option, type) and is_dataclass(option):
                yield from _known_keys(get_type_hints(option), f"{prefix}{name}.")
    if not prefix:
        for section in PLUGIN_DEFAULTS:
            yield f"{section}.name", str


def _recipe_error(problems: Sequence[str]) -> RecipeError:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return RecipeError("\n  ".join([f"{count} in the recipe:", *problems]))


# Writing ------------------------------------------------------------------------------------------


def _dump(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _dump(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _dump(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_dump(item) for item in value]
    return value


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


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
