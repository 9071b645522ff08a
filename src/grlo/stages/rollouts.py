"""`grlo rollouts`: what the model said during training, to be read."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from grlo.errors import DataError
from grlo.reporting.text import visible
from grlo.rundir import RolloutKind, Row, RunDir

Sort = Literal["reward", "length", "order"]


def show(
    run_dir: Path,
    *,
    step: int | None = None,
    sort: Sort = "reward",
    descending: bool = True,
    limit: int | None = None,
    search: str | None = None,
    kind: RolloutKind = "rollouts",
) -> None:
    """Prints rollouts of a step: panels in a pager in a terminal, else plain text.

    Args:
        run_dir: A run, finished or not.
        step: Which step; None is the last.
        sort: By `reward`, by `length` in tokens, or in the `order` in which they were sampled.
        descending: Highest, longest or latest first. Unscored rollouts are last by reward, either
            way.
        limit: How many are shown; None shows all.
        search: Only rollouts with this text in prompt or answer, in upper or lower case.
        kind: Those of training, or those of the gold signal with its scores.

    Raises:
        CheckpointError: The folder holds no run.
        DataError: There are no rollouts of the step, or none that match.
    """
    run = RunDir.existing(run_dir)
    if step is None:
        step = max(run.rollout_steps(kind=kind), default=1)
    rows = run.rollouts(step, kind=kind)
    found = select(rows, sort=sort, descending=descending, search=search)
    if not found:
        raise DataError(f"none of the {len(rows)} rollouts of step {step} holds {search!r}.")
    shown = found[:limit]
    console = Console(highlight=False)
    # `less` passes the colours on only when told so; what the user has set goes first.
    os.environ.setdefault("LESS", "-FRX")
    with console.pager(styles=True) if console.is_terminal else nullcontext():
        console.print(_summary(run_dir, step, rows, num_shown=len(shown)), soft_wrap=True)
        for row in shown:
            if console.is_terminal:
                console.print(_panel(row))
            else:
                console.print(_plain(row), soft_wrap=True)


def select(
    rows: Sequence[Row], *, sort: Sort, descending: bool = True, search: str | None = None
) -> list[Row]:
    """The rows that hold `search`, sorted; see `show`."""
    wanted = (search or "").casefold()
    found = [row for row in rows if wanted in _searchable(row)]
    if sort == "order":
        return found[::-1] if descending else found
    if sort == "length":
        return sorted(found, key=lambda row: row["num_tokens"], reverse=descending)
    scored = [row for row in found if row["score"] is not None]
    scored.sort(key=lambda row: row["score"], reverse=descending)
    return scored + [row for row in found if row["score"] is None]


def _searchable(row: Row) -> str:
    return "\n".join([*(m["content"] for m in row["input"]), row["output"]]).casefold()


def _summary(run_dir: Path, step: int, rows: Sequence[Row], *, num_shown: int) -> Text:
    scores = [row["score"] for row in rows if row["score"] is not None]
    words = [f"{run_dir}, step {step}: {num_shown} of {len(rows)} rollouts"]
    if scores:
        spread = statistics.pstdev(scores)
        words.append(f"mean reward {statistics.fmean(scores):.3f} ± {spread:.3f}")
    words.append(f"mean length {statistics.fmean(row['num_tokens'] for row in rows):.0f} tokens")
    if len(scores) < len(rows):
        words.append(f"{len(rows) - len(scores)} without a reward")
    return Text(" · ".join(words), style="bold")


def _title(row: Row) -> str:
    score = "unscored" if row["score"] is None else f"reward {row['score']:.3f}"
    parts = [f"{name} {value:.3f}" for name, value in row["parts"].items()]
    length = f"{row['num_tokens']} tokens"
    return visible(" · ".join([score, *parts, length, row["finish_reason"]]))


def _turns(row: Row) -> list[str]:
    return [visible(f"{message['role']}: {message['content']}") for message in row["input"]]


def _panel(row: Row) -> Panel:
    # Text, not markup: an answer may hold square brackets.
    turns = [Text(turn, style="dim") for turn in _turns(row)]
    note = [Text(visible(row["note"]), style="italic")] if row["note"] else []
    body = Group(*turns, Rule(style="dim"), Text(visible(row["output"])), *note)
    return Panel(body, title=Text(_title(row)), title_align="left")


def _plain(row: Row) -> Text:
    note = [f"note: {visible(row['note'])}"] if row["note"] else []
    lines = [f"\n== {_title(row)}", *_turns(row), f"answer: {visible(row['output'])}", *note]
    return Text("\n".join(lines))
