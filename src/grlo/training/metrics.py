"""Metrics of a step that follow from its rollouts, scores and costs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from grlo.types import LedgerEntry, Rollout, Score


def step_metrics(
    rollouts: Sequence[Rollout],
    scores: Sequence[Score],
    *,
    score_std: float,
    costs: Sequence[LedgerEntry],
) -> dict[str, float]:
    """`reward/`, `response/`, `group/`, `time/` and `tokens/` metrics.

    `time/step` is the sum of the other times but `time/overlapped`, in which the answers of the
    next step were drawn beside other phases.

    Args:
        rollouts: All rollouts of the step.
        scores: One per rollout; unscored ones are counted and left out of all means.
        score_std: Running standard deviation of the scores.
        costs: Ledger entries of the step.
    """
    values = [score.value for score in scores if score.value is not None]
    lengths = sorted(len(rollout.completion.tokens) for rollout in rollouts)
    truncated = sum(rollout.completion.finish_reason == "length" for rollout in rollouts)
    metrics = {
        "reward/mean": statistics.fmean(values),
        "reward/std": statistics.pstdev(values),
        "reward/min": min(values),
        "reward/max": max(values),
        "reward/running_std": score_std,
        "reward/unscored": (len(scores) - len(values)) / len(scores),
        "response/length_mean": statistics.fmean(lengths),
        "response/length_p50": float(lengths[len(lengths) // 2]),
        "response/length_p95": float(lengths[int(0.95 * (len(lengths) - 1))]),
        "response/truncated": truncated / len(rollouts),
        "prompt/length_mean": statistics.fmean(len(r.prompt_tokens) for r in rollouts),
        "group/zero_spread": _zero_spread_share(rollouts, scores),
    }
    metrics |= {f"reward/part/{name}": mean for name, mean in _part_means(scores).items()}
    for cost in costs:
        metrics[f"time/{cost.phase}"] = metrics.get(f"time/{cost.phase}", 0.0) + cost.seconds
    seconds = sum(cost.seconds for cost in costs)
    generated = sum(lengths)
    drawing = [cost for cost in costs if cost.phase == "generate"]
    overlapped = sum(cost.overlapped_seconds for cost in drawing)
    if overlapped:
        metrics["time/overlapped"] = overlapped
    if drawing:  # With overlap the last step draws nothing.
        took = metrics["time/generate"] + overlapped
        drawn = sum(cost.tokens for cost in drawing)
        metrics["tokens_per_second/generate"] = drawn / max(took, 1e-9)
    metrics |= {
        "time/step": seconds,
        "tokens/generated": float(generated),
        "tokens_per_second/total": generated / max(seconds, 1e-9),
    }
    return metrics


def with_effective_sample_size(means: Mapping[str, float]) -> dict[str, float]:
    """Means over tokens, with the effective sample size in place of the mean squared weight.

    Of n importance weights w it is (sum w)^2 / (n sum w^2) (Kish 1965), a share of the n tokens: 1
    where all weights are equal, 1/n where one token has them all.
    """
    found = dict(means)
    squared = found.pop("importance/weight_squared", None)
    if squared is not None:
        share = found["importance/weight"] ** 2 / squared
        found["importance/effective_sample_size"] = min(share, 1.0)  # Not above by rounding.
    return found


def informative_groups(rollouts: Sequence[Rollout], scores: Sequence[Score]) -> list[int]:
    """Groups whose scored samples do not all score the same before shaping, in order.

    A penalty on length is no verdict: a group of wrong answers of unlike length is not informative.
    """
    unshaped = [
        replace(score, value=score.parts.get("unshaped", score.value))
        if score.value is not None
        else score
        for score in scores
    ]
    groups = _scores_by_group(rollouts, unshaped)
    return [group for group, values in groups.items() if min(values) != max(values)]


def _zero_spread_share(rollouts: Sequence[Rollout], scores: Sequence[Score]) -> float:
    """Share of the groups with two or more scored samples in which all scores are equal."""
    groups = _scores_by_group(rollouts, scores)
    several = [values for values in groups.values() if len(values) > 1]
    if not several:
        return 0.0
    return sum(min(values) == max(values) for values in several) / len(several)


def _scores_by_group(
    rollouts: Sequence[Rollout], scores: Sequence[Score]
) -> dict[int, list[float]]:
    """Values of the scored samples of every group that has any."""
    groups: dict[int, list[float]] = defaultdict(list)
    for rollout, score in zip(rollouts, scores, strict=True):
        if score.value is not None:
            groups[rollout.group].append(score.value)
    return groups


def _part_means(scores: Sequence[Score]) -> dict[str, float]:
    parts: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        for name, value in score.parts.items():
            parts[name].append(value)
    return {name: statistics.fmean(values) for name, values in parts.items()}
