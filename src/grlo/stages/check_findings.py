"""What `grlo check` finds, and how it says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from grlo.errors import GrloError


@dataclass
class Findings:
    """What is wrong, and what could not be looked at."""

    is_offline: bool
    """Whether files that are not here are no fault: they are reported as not checked."""
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Goes on after a user's error, which becomes a problem."""
        try:
            yield
        except GrloError as error:
            self.problems.append(str(error))

    def absent(self, what: str) -> None:
        """Something is not on this machine."""
        (self.unchecked if self.is_offline else self.problems).append(what)


def heading(text: str) -> None:
    """Begins a section of what is printed."""
    print(f"\n== {text} ==")


def size(num_bytes: float) -> str:
    """A number of bytes for people to read."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"
