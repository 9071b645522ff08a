"""Reward models on their own: scores of answers, accuracy on preferences, training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from grlo.errors import DataError
from grlo.evaluation.stats import wilson_interval
from grlo.interfaces import BuildContext
from grlo.progress import progress_bar
from grlo.prompts.preferences import read_preferences_and_ties
from grlo.prompts.sources import listed, parse_row
from grlo.rewards.reward_model import RewardModelSettings
from grlo.rundir import write_atomic
from grlo.training.preferences import RewardModelTraining, train_reward_model
from grlo.types import Message, PreferencePair


@dataclass(frozen=True)
class Accuracy:
    """How often a reward model prefers what was preferred."""

    num_pairs: int
    """Scored pairs; the two below are not among them."""
    num_unscored: int
    """Pairs with a score that is not finite."""
    num_data_ties: int
    """Rows of the file that prefer nothing."""
    num_ties: int
    """Scored pairs whose answers have equal scores; each counts as half right."""
    accuracy: float
    low: float
    """Lower end of the 95 % interval (Wilson 1927)."""
    high: float
    margin: float
    """Mean score of the chosen answers less that of the rejected ones."""


def score(
    settings: RewardModelSettings, answers: Path, *, out: Path, device: str = "auto"
) -> list[float | None]:
    """Scores the answers of a file and writes its rows with a `score` each, null if there is none.

    Args:
        settings: The reward model; `standardize` is not used.
        answers: JSONL of rows with `messages` and `response`; other fields are kept.
        out: JSONL to write.
        device: `auto`, `cpu`, `cuda`, ...

    Returns:
        The scores in order.

    Raises:
        DataError: Rows are malformed; nothing is written.
        ModelError: The reward model cannot be used.
    """
    rows, conversations = _read_answers(answers)
    reward = settings.build(context=_context(device))
    with progress_bar("scoring") as progress:
        raw = reward.score_answers(conversations, progress=progress)
    scores = [value if math.isfinite(value) else None for value in raw]
    lines = [
        json.dumps({**row, "score": value}, ensure_ascii=False) + "\n"
        for row, value in zip(rows, scores, strict=True)
    ]
    write_atomic(out, "".join(lines))
    scored = [value for value in scores if value is not None]
    mean = f", mean {math.fsum(scored) / len(scored):.3f}" if scored else ""
    truncated = reward.metrics()["reward/truncated"]
    Console().print(
        f"{len(scored)} of {len(rows)} answers scored{mean}; {truncated:.1%} truncated; "
        f"written to {out}",
        soft_wrap=True,
    )
    return scores


def accuracy(
    settings: RewardModelSettings, preferences: Sequence[Path], *, device: str = "auto"
) -> dict[str, Accuracy]:
    """Measures and prints how often the chosen answer gets the higher score.

    Args:
        settings: The reward model; `standardize` is not used.
        preferences: JSONL files of rows with `messages`, `chosen` and `rejected`.
        device: `auto`, `cpu`, `cuda`, ...

    Returns:
        The accuracy by file name.

    Raises:
        DataError: A file cannot be read or has malformed rows.
        ModelError: The reward model cannot be used.
    """
    files = {path: read_preferences_and_ties(path) for path in preferences}
    reward = settings.build(context=_context(device))
    table = Table("preferences", "pairs", "accuracy", "95 % interval", "margin", "ties", "unscored")
    results: dict[str, Accuracy] = {}
    for path, (pairs, num_data_ties) in files.items():
        answers = [(pair.messages, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
        with progress_bar(path.name) as progress:
            scores = reward.score_answers(answers, progress=progress)
        result = replace(measure_accuracy(scores[::2], scores[1::2]), num_data_ties=num_data_ties)
        results[path.name] = result
        table.add_row(
            path.name,
            str(result.num_pairs),
            f"{result.accuracy:.1%}",
            f"{result.low:.1%} to {result.high:.1%}",
            f"{result.margin:.3f}",
            str(result.num_ties),
            str(result.num_unscored),
        )
    Console().print(table)
    return results


def measure_accuracy(chosen: Sequence[float], rejected: Sequence[float]) -> Accuracy:
    """Accuracy from the scores of the answers of each pair; pairs that are not finite are left out.

    Raises:
        DataError: No pair has finite scores.
    """
    margins = [c - r for c, r in zip(chosen, rejected, strict=True)]
    finite = [margin for margin in margins if math.isfinite(margin)]
    if not finite:
        raise DataError(f"none of {len(margins)} pairs has finite scores: is the model damaged?")
    num_ties = sum(margin == 0 for margin in finite)
    right = sum(margin > 0 for margin in finite) + num_ties / 2
    low, high = wilson_interval(right / len(finite), len(finite))
    return Accuracy(
        num_pairs=len(finite),
        num_unscored=len(margins) - len(finite),
        num_data_ties=0,
        num_ties=num_ties,
        accuracy=right / len(finite),
        low=low,
        high=high,
        margin=math.fsum(finite) / len(finite),
    )


def train(
    settings: RewardModelTraining, preferences: Sequence[Path], *, out: Path
) -> dict[str, float]:
    """Fits a reward model to the pairs of the files and prints its held-out accuracy.

    Args:
        settings: See `RewardModelTraining`; `device` may be `auto`.
        preferences: JSONL files of rows with `messages`, `chosen` and `rejected`.
        out: Folder of the checkpoint.

    Returns:
        The metrics of `train_reward_model`.

    Raises:
        DataError: A file cannot be read, has malformed rows or too few.
        ModelError: The model or its tokenizer cannot be used.
        NonFiniteError: The loss or its gradient is not finite.
    """
    pairs: list[PreferencePair] = []
    for path in preferences:
        pairs += read_preferences_and_ties(path)[0]
    settings = replace(settings, device=_context(settings.device).device)
    with progress_bar("training") as progress:
        metrics = train_reward_model(settings, pairs, out=out, progress=progress)
    console = Console()
    if "accuracy" in metrics:
        num = int(metrics["num_held_out"])
        low, high = wilson_interval(metrics["accuracy"], num)
        console.print(
            f"held-out accuracy {metrics['accuracy']:.1%} ({low:.1%} to {high:.1%}) on {num} "
            f"pairs, margin {metrics['margin']:.3f}",
            soft_wrap=True,
        )
    console.print(
        f"trained on {int(metrics['num_pairs'])} pairs, {int(metrics['num_truncated'])} answers "
        f"truncated, final loss {metrics['loss']:.4f}; written to {out}",
        soft_wrap=True,
    )
    return metrics


def _context(device: str) -> BuildContext:
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return BuildContext(device=device, seed=0)


def _read_answers(
    path: Path,
) -> tuple[list[dict[str, Any]], list[tuple[tuple[Message, ...], str]]]:
    rows: list[dict[str, Any]] = []
    conversations: list[tuple[tuple[Message, ...], str]] = []
    malformed: list[str] = []
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; expected JSONL with messages, response.")
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            row = json.loads(line)
            prompt = parse_row(row, source=source, default_style="model")
            response = row.get("response")
            if not isinstance(response, str):
                raise ValueError(f"response is {type(response).__name__}; expected a string")
        except ValueError as error:
            malformed.append(f"{source}: {error}")
            continue
        rows.append(row)
        conversations.append((prompt.messages, response))
    if malformed:
        raise DataError(f"{path}: {len(malformed)} rows are malformed:\n{listed(malformed)}")
    if not rows:
        raise DataError(f"{path}: has no rows.")
    return rows, conversations
