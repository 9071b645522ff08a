"""A verifier that is a function of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from grlo.errors import RecipeError
from grlo.interfaces import BuildContext, Verifier
from grlo.registry import resolve
from grlo.settings import require


@dataclass(frozen=True)
class FunctionSettings:
    """A function `(prompt, text) -> Score`, called from one thread."""

    path: str
    """`package.module:function`."""
    name: str = "function"

    def __post_init__(self) -> None:
        try:
            found = resolve(self.path, kind="function", registry={})
        except RecipeError as error:
            raise ValueError(f"path: {error}") from error
        require(callable(found), f"path: {self.path} is {found!r}; expected a function")

    def build(self, *, context: BuildContext) -> Verifier:
        """The function itself."""
        return cast(Verifier, resolve(self.path, kind="function", registry={}))
