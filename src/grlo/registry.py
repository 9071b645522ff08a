"""Plug-ins by name or by import path, imported when they are asked for; what all may offer."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence

from grlo.errors import RecipeError


def resolve(name: str, *, kind: str, registry: Mapping[str, str]) -> object:
    """The object a recipe names.

    Args:
        name: A key of `registry`, or `package.module:Object` of the user's own.
        kind: What is being looked up (`algorithm`, `engine`, ...), for the error.
        registry: Short name -> `package.module:Object`.

    Raises:
        RecipeError: The name is unknown, or its module or object does not exist.
    """
    path = registry.get(name, name)
    if ":" not in path:
        close = difflib.get_close_matches(name, registry, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        known = ", ".join(sorted(registry))
        raise RecipeError(
            f"unknown {kind} {name!r}.{hint} Known: {known}; or an import path "
            "'package.module:Object'."
        )
    module_name, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise RecipeError(f"{kind} {name!r}: there is no module {error.name!r}.") from error
        raise
    except AttributeError as error:
        raise RecipeError(f"{kind} {name!r}: {module_name} has no {attribute!r}.") from error


def describe(plugin: object) -> dict[str, object]:
    """What a plug-in says of itself for a run's record, by its method `describe` if it has one."""
    return dict(getattr(plugin, "describe", dict)())


def identity(plugin: object) -> dict[str, object]:
    """What tells the results of a plug-in from those of others: its kind, and what it says by its
    method `identity`, or else by `describe`, which may speak of the machine as well."""
    if plugin is None:
        return {}
    name = getattr(plugin, "__qualname__", type(plugin).__name__)
    return {"name": name, **dict(getattr(plugin, "identity", lambda: describe(plugin))())}


def begin(reward: object, rollouts: Sequence[object], *, drawn_on: str) -> None:
    """Has a reward begin, by its method `begin` if it has one."""
    if rollouts:
        getattr(reward, "begin", lambda *_, **__: None)(rollouts, drawn_on=drawn_on)


def close(plugin: object) -> None:
    """Ends the processes and connections of a plug-in, by its method `close` if it has one."""
    getattr(plugin, "close", lambda: None)()
