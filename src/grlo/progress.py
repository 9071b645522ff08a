"""Progress bars in the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from grlo.interfaces import Progress, silent


@contextmanager
def progress_bar(label: str, *, unit: str = "tokens") -> Iterator[Progress]:
    """A bar on stderr with label, done/total, tokens per second and time left.

    Quiet when stderr is not a terminal, so that logs stay readable.

    Args:
        label: What is being done.
        unit: Name of what `tokens` counts.

    Yields:
        The progress to hand on; the bar disappears when the context ends.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield silent
        return
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bars:
        task = bars.add_task(label, total=None, speed="")
        start = time.monotonic()

        def advance(*, done: int, total: int, tokens: int) -> None:
            seconds = max(time.monotonic() - start, 1e-9)
            speed = f"{tokens / seconds:,.0f} {unit}/s" if tokens else ""
            bars.update(task, completed=done, total=total, speed=speed)

        yield advance
