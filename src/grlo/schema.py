"""Tables as dataclasses, plug-ins included, and back. The only module that knows pydantic.

A field annotated `Annotated[object, Plugin(kind)]` holds the settings of a plug-in: a table whose
`name` says which, or that name alone. A settings class may hold further plug-ins in the same way,
one by one or in a table of them by names of the user's choice.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from grlo.errors import RecipeError
from grlo.registry import resolve
from grlo.settings import Plugin

Table = dict[str, Any]
Registries = Mapping[str, Mapping[str, str]]
"""Kind of plug-in -> its registry."""

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
_PART_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Origins:
    """Which file a key comes from, for errors."""

    of_key: Mapping[str, str]
    default: str


def parse(cls: type, table: Table, *, registries: Registries, origins: Origins) -> Any:
    """A table as an instance of a dataclass.

    Raises:
        RecipeError: Lists every problem of the table with its key, its file and the remedy.
    """
    reader = _Reader(registries)
    settings_type, values = reader.dataclass(cls, table, "")
    parsed = None
    try:
        # JSON, because its strict mode takes arrays for tuples but no string for a number.
        text = json.dumps(values, default=str)
        parsed = TypeAdapter(settings_type).validate_json(text, strict=True)
    except ValidationError as error:
        reader.problems += [
            _describe(item, table=values, known=reader.known, origins=origins)
            for item in error.errors()
        ]
    if reader.problems:
        raise recipe_error(reader.problems)
    return parsed


def recipe_error(problems: Sequence[str]) -> RecipeError:
    """One error with all problems."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return RecipeError("\n  ".join([f"{count} in the recipe:", *problems]))


def shown(value: object) -> str:
    """A value as JSON, cut to a line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def plugin_name(settings: object, *, registry: Mapping[str, str]) -> str:
    """The name under which a table selects the class of `settings`."""
    named = getattr(settings, "name", "")
    if isinstance(named, str) and named:
        return named
    path = f"{type(settings).__module__}:{type(settings).__qualname__}"
    return next((name for name, known in registry.items() if known == path), path)


def dump(value: object, *, registries: Registries, hint: object = None) -> Any:
    """A settings object as JSON-able tables with every default and every plug-in's name.

    Args:
        value: Settings, or part of them.
        registries: By kind of plug-in.
        hint: Annotation of the field that holds the value.
    """
    if is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value), include_extras=True)
        table = {
            field.name: dump(
                getattr(value, field.name), registries=registries, hint=hints[field.name]
            )
            for field in fields(value)
        }
        if (plugin := _plugin(hint)) is None:
            return table
        name = {"name": plugin_name(value, registry=registries[plugin.kind])}
        return name | table | name
    if isinstance(value, Mapping):
        inner = get_args(hint)[1] if len(get_args(hint)) == 2 else None
        return {str(k): dump(v, registries=registries, hint=inner) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(item, registries=registries) for item in value]
    return value


# Types --------------------------------------------------------------------------------------------


class _Reader:
    """Finds the types that a table asks for, and the problems in what it names."""

    def __init__(self, registries: Registries) -> None:
        self.registries = registries
        self.problems: list[str] = []
        self.known: list[str] = []
        """Every dotted key that may stand in the table."""

    def dataclass(self, cls: type, table: object, path: str) -> tuple[Any, Any]:
        """Type and values of a table that becomes an instance of a dataclass."""
        hints = get_type_hints(cls, include_extras=True)
        self.known += [path + name for name in hints if path + name not in self.known]
        has_plugins = any(_holds_plugin(hint) for hint in hints.values())
        values = dict(table) if isinstance(table, dict) else table
        given = values if isinstance(values, dict) else {}
        keys: dict[str, Any] = {}
        for field in fields(cls):
            value = given.get(field.name)
            keys[field.name], value = self.typed(hints[field.name], value, path + field.name)
            if value is not None and isinstance(values, dict):
                values[field.name] = value
            if not _is_required(field):
                keys[field.name] = NotRequired[keys[field.name]]
        # The outermost one is a table in any case: that is what unknown keys are refused by.
        if path and not has_plugins:
            return cls, values
        return _table_type(cls.__name__, keys, lambda parsed: cls(**parsed)), values

    def typed(self, hint: Any, value: object, path: str) -> tuple[Any, Any]:
        """Type and value of a field."""
        if plugin := _plugin(hint):
            return self.plugin(plugin, value, path)
        if get_origin(hint) in (Union, types.UnionType):
            for option in get_args(hint):
                if _is_settings(option):
                    if value is None:  # Its plug-ins are missing only where the section is there.
                        self.known += [f"{path}.{name}" for name in get_type_hints(option)]
                        return hint, None
                    settings_type, parsed = self.dataclass(option, value, path + ".")
                    return hint if settings_type is option else settings_type | None, parsed
        if _is_settings(hint):
            return self.dataclass(hint, value, path + ".")
        if _holds_plugin(hint):
            return self.plugins(get_args(hint)[1], value, path)
        return hint, value

    def plugins(self, hint: Any, tables: object, path: str) -> tuple[Any, Any]:
        """Type and values of a table of plug-ins by name."""
        if not isinstance(tables, dict):
            return dict[str, Any], tables
        keys: dict[str, Any] = {}
        values: Table = {}
        for name, table in tables.items():
            if not _PART_NAME.fullmatch(name):
                self.problems.append(f"{path}.{name}: a name is letters, digits and underscores")
            keys[name], values[name] = self.typed(hint, table, f"{path}.{name}")
            self.known.append(f"{path}.{name}")
        return _table_type("Plugins", keys, dict), values

    def plugin(self, plugin: Plugin, values: object, path: str) -> tuple[Any, Any]:
        """The settings class that a table names, and the table's values for that class."""
        registry = self.registries[plugin.kind]
        known = ", ".join(sorted(registry))
        if values is None and plugin.default is not None:
            values = {}
        if isinstance(values, str):
            values = {"name": values}
        if not isinstance(values, dict):
            found = "missing" if values is None else f"found {shown(values)}"
            return self._problem(
                f"{path}: {found}; expected a table with a `name`, one of: {known}; or an import "
                "path 'package.module:Object'"
            )
        name = values.get("name", plugin.default)
        if not isinstance(name, str):
            found = "missing" if name is None else f"found {shown(name)}"
            return self._problem(f"{path}.name: {found}; expected one of: {known}")
        try:
            settings_type = resolve(name, kind=plugin.kind, registry=registry)
        except RecipeError as error:
            return self._problem(f"{path}.name: {error}")
        if not (isinstance(settings_type, type) and is_dataclass(settings_type)):
            return self._problem(
                f"{path}.name: {name!r} is {settings_type!r}; expected a dataclass with the "
                "settings"
            )
        try:
            hints = get_type_hints(settings_type)
        except NameError as error:
            return self._problem(
                f"{path}.name: the annotations of {name!r} cannot be resolved: {error}. Import "
                "what they name when the module runs, not under TYPE_CHECKING only."
            )
        values = {key: value for key, value in values.items() if key != "name"}
        if "name" in hints:
            values["name"] = name
        found = self.dataclass(settings_type, values, path + ".")
        self.known.append(f"{path}.name")
        return found

    def _problem(self, text: str) -> tuple[Any, None]:
        self.problems.append(text)
        return Any, None


def _table_type(name: str, keys: Mapping[str, Any], build: Any) -> Any:
    """A table with these keys, and what is made of it."""
    table = TypedDict(name, dict(keys))  # noqa: UP013  # pyright: ignore[reportArgumentType]
    table.__pydantic_config__ = _CONFIG  # pyright: ignore[reportAttributeAccessIssue]
    return Annotated[table, AfterValidator(build)]


def _plugin(hint: object) -> Plugin | None:
    """The marker of an annotation, if it has one."""
    return next(
        (item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Plugin)), None
    )


def _is_settings(hint: object) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _holds_plugin(hint: Any) -> bool:
    """Whether a value of this type may contain settings of a plug-in."""
    if _plugin(hint) is not None:
        return True
    if _is_settings(hint):
        hints = get_type_hints(hint, include_extras=True)
        return any(_holds_plugin(inner) for inner in hints.values())
    return any(_holds_plugin(argument) for argument in get_args(hint))


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


# Errors -------------------------------------------------------------------------------------------


def _describe(item: Any, *, table: Table, known: Sequence[str], origins: Origins) -> str:
    """One pydantic error as `key (file): found; expected`."""
    key = _dotted(item["loc"], table, known)
    file = next((origins.of_key[k] for k in _prefixes(key) if k in origins.of_key), origins.default)
    kind, found = item["type"], shown(item["input"])
    where = f"{key} ({file})" if key else file
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: unknown key, found {found}.{_suggestion(key, known)}"
    if kind in ("missing", "missing_argument"):
        return f"{key}: missing in {origins.default}; it has no default and must be set"
    message = item["msg"]
    if kind == "value_error":
        return f"{where}: {message.removeprefix('Value error, ')}"
    expected = re.sub(r"^(Input|Tuple) should (be|have) ", "", message)
    if kind in ("dataclass_type", "dict_type"):
        expected = "a table"
    return f"{where}: found {found}, expected {expected}"


def _prefixes(key: str) -> Iterator[str]:
    """The key and the sections that it stands in, the innermost first."""
    while key:
        yield key
        key = key.rpartition(".")[0]


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
