"""`grlo rollouts`: what the model said during training, to be read."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from grlo.errors import DataError
from grlo.rundir import RunDir, read_jsonl

# Terminal escapes and other controls; tab and newline are text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def show(run_dir: Path, *, step: int | None, sort: Literal["reward", "length"], limit: int) -> None:
    """Prints rollouts of a step, through a pager where the output is a terminal.

    Args:
        run_dir: A run.
        step: Which step; None is the last.
        sort: What comes first: the highest `reward` or the greatest `length`. Unscored rollouts
            are last.
        limit: How many are shown.

    Raises:
        DataError: There are no rollouts of the step.
    """
    run = RunDir.existing(run_dir)
    steps = run.rollout_steps()
    if not steps or (step is not None and step not in steps):
        there = f"steps {steps[0]} to {steps[-1]} are there" if steps else "no step is done yet"
        raise DataError(f"{run_dir} has no rollouts of step {step or 'any'}: {there}.")
    step = steps[-1] if step is None else step
    rows = sorted(read_jsonl(run.rollouts_file(step)), key=lambda row: _key(row, sort))
    console = Console()
    with console.pager(styles=True) if console.is_terminal else nullcontext():
        console.print(f"step {step}: {min(limit, len(rows))} of {len(rows)} rollouts by {sort}")
        for row in rows[:limit]:
            console.print(_panel(row))


def _key(row: dict[str, Any], sort: str) -> tuple[bool, float]:
    if sort == "length":
        return False, -row["num_tokens"]
    return row["score"] is None, -(row["score"] or 0.0)


def visible(text: str) -> str:
    """Untrusted text with its control characters spelled out, so that none reaches a terminal."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def _panel(row: dict[str, Any]) -> RenderableType:
    turns = [Text(f"{m['role']}: {visible(m['content'])}", style="dim") for m in row["input"]]
    score = "unscored" if row["score"] is None else f"{row['score']:.3f}"
    parts = "".join(f" · {name} {value:.3f}" for name, value in row["parts"].items())
    title = f"reward {score}{parts} · {row['num_tokens']} tokens · {row['finish_reason']}"
    note = [Text(visible(row["note"]), style="italic")] if row["note"] else []
    # Text, not markup: an answer may hold square brackets.
    body = Group(*turns, Rule(style="dim"), Text(visible(row["output"])), *note)
    return Panel(body, title=Text(title), title_align="left")
