"""Where to look in a run, in words: signs that often come before trouble and never prove it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from grlo.rundir import Row

WINDOW = 10
"""Steps at either end of a run that are compared; a third of it, where that is fewer."""
CORRELATION = 0.5
GROWTH = 1.5
"""Factor by which the median length changes, up or down."""
HIGH_SHARES: Mapping[str, tuple[float, str]] = {
    "response/truncated": (0.1, "of the answers were cut by the limit"),
    "watch/repetition": (0.1, "of the 4-grams of an answer repeat earlier ones"),
    "group/zero_spread": (
        0.5,
        "of the groups have equal scores",
    ),
    "reward/unscored": (0.02, "of the answers have no score"),
    "gold/unscored": (0.02, "of the answers have no score by gold"),
    "reward/truncated": (0.05, "of the conversations were cut before the reward model read them"),
    "reward/clipped": (0.05, "of the scores were clipped"),
    "policy/clip_fraction": (0.3, "of the tokens were clipped by the loss"),
}
"""Share above which it is worth a look, and what it is a share of."""
SHAPING_SHARE = 0.5
ENTROPY_LEFT, DISTINCT_LEFT = 0.2, 0.5
"""Share of the beginning's value below which it is worth a look."""
LOGPROB_GAP_NATS = 0.05
GRADIENT_FACTOR = 10
"""Of the largest gradient norm over the median."""


def looks(rows: Sequence[Row]) -> list[str]:
    """Sentences on what stands out in the metrics of a run, oldest step first; maybe none."""
    return [f"look: {sentence}" for rule in _RULES for sentence in rule(rows)]


def _width(rows: Sequence[Row]) -> int:
    return max(1, min(WINDOW, len(rows) // 3))


def _ends(rows: Sequence[Row], name: str) -> tuple[float, float] | None:
    """Means over the first and the last steps; None where either end lacks the metric."""
    width = _width(rows)
    first, last = (
        [row[name] for row in part if name in row] for part in (rows[:width], rows[-width:])
    )
    return (statistics.fmean(first), statistics.fmean(last)) if first and last else None


def _when(rows: Sequence[Row]) -> str:
    width = _width(rows)
    return f"in the last {width} steps" if width > 1 else "in the last step"


def _gold(rows: Sequence[Row]) -> Iterator[str]:
    evaluated = [row for row in rows if "gold/mean" in row]
    if not evaluated or not evaluated[-1].get("gold/parted"):
        return
    best = max(evaluated, key=lambda row: row["gold/mean"])
    last = evaluated[-1]
    yield (
        f"gold fell from {best['gold/mean']:.3g} (step {best['step']}) to {last['gold/mean']:.3g} "
        f"(step {last['step']}) while the training reward rose from "
        f"{best['gold/training_reward']:.3g} to {last['gold/training_reward']:.3g}"
    )


def _correlation(rows: Sequence[Row]) -> Iterator[str]:
    names = {
        "watch/score_length_correlation": "correlate",
        "watch/score_length_rank_correlation": "correlate by rank",
    }
    for name, verb in names.items():
        ends = _ends(rows, name)
        if ends and abs(ends[1]) >= CORRELATION:
            yield f"score and length {verb} {ends[1]:.2f} {_when(rows)}"


def _length(rows: Sequence[Row]) -> Iterator[str]:
    ends = _ends(rows, "response/length_p50")
    if ends and min(ends) > 0 and not 1 / GROWTH < ends[1] / ends[0] < GROWTH:
        yield f"the median answer went from {ends[0]:.0f} to {ends[1]:.0f} tokens"


def _shares(rows: Sequence[Row]) -> Iterator[str]:
    for name, (bound, what) in HIGH_SHARES.items():
        ends = _ends(rows, name)
        if ends and ends[1] >= bound:
            yield f"{ends[1]:.1%} {what} {_when(rows)}"
    for name in sorted(rows[-1]) if rows else ():
        if not name.startswith("reward/shaping/"):
            continue
        ends = _ends(rows, name)
        if ends and ends[1] >= SHAPING_SHARE:
            term = name.removeprefix("reward/shaping/")
            yield f"the penalty {term} touched {ends[1]:.0%} of the answers {_when(rows)}"


def _collapse(rows: Sequence[Row]) -> Iterator[str]:
    for name, left, what in (
        ("watch/distinct_2", DISTINCT_LEFT, "the share of distinct 2-grams"),
        ("policy/entropy", ENTROPY_LEFT, "the entropy of the policy"),
    ):
        ends = _ends(rows, name)
        if ends and ends[0] > 0 and ends[1] <= left * ends[0]:
            yield f"{what} fell from {ends[0]:.3g} to {ends[1]:.3g}"


def _learner(rows: Sequence[Row]) -> Iterator[str]:
    gap = _ends(rows, "engine/logprob_gap")
    if gap and gap[1] >= LOGPROB_GAP_NATS:
        yield (
            f"engine and learner disagree by {gap[1]:.2g} nats a token {_when(rows)}: rollouts are "
            "not drawn from the policy that is trained"
        )
    explained = _ends(rows, "critic/explained_variance")
    if explained and explained[1] <= 0 and len(rows) > WINDOW:
        yield f"the critic explains nothing of the returns ({explained[1]:.2f}) {_when(rows)}"
    norms = [row["policy/grad_norm"] for row in rows if "policy/grad_norm" in row]
    if len(norms) > WINDOW and max(norms) > GRADIENT_FACTOR * statistics.median(norms) > 0:
        step = max(rows, key=lambda row: row.get("policy/grad_norm", -math.inf))["step"]
        yield (
            f"the gradient norm reached {max(norms):.3g} in step {step}; its median is "
            f"{statistics.median(norms):.3g}"
        )


_RULES: tuple[Callable[[Sequence[Row]], Iterator[str]], ...] = (
    _gold,
    _correlation,
    _length,
    _shares,
    _collapse,
    _learner,
)
