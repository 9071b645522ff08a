"""Metrics in which reward hacking shows first: what the reward pays for, and how answers repeat."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby, pairwise

from grlo.correlation import correlation, ranks
from grlo.ngrams import distinct_share, repeated_share
from grlo.types import Rollout, Score

NUM_LENGTH_BINS = 10
REPETITION_NGRAM = 4


def watch_metrics(rollouts: Sequence[Rollout], scores: Sequence[Score]) -> dict[str, float]:
    """`watch/` metrics of a step.

    - `score_length_correlation` (Pearson) and `score_length_rank_correlation` (Spearman) between
      score and number of tokens; not there when all scores or all lengths are equal.
    - `score_by_length/1` to `/10`: mean score from the shortest tenth of the answers to the
      longest; answers of equal length count with their mean. Not there below ten scored answers.
    - `repetition`: mean share of 4-grams of an answer that occurred in it before.
    - `distinct_1`, `distinct_2`: distinct n-grams of all answers, divided by all n-grams.

    Args:
        rollouts: All rollouts of the step.
        scores: One per rollout; unscored ones have no part in what concerns scores.
    """
    answers = [rollout.completion.tokens for rollout in rollouts]
    repetition = [repeated_share(tokens, n=REPETITION_NGRAM) for tokens in answers]
    metrics: dict[str, float | None] = {
        "watch/repetition": statistics.fmean(repetition),
        "watch/distinct_1": distinct_share(answers, n=1),
        "watch/distinct_2": distinct_share(answers, n=2),
    }
    # Sorted, so that not even the rounding depends on the order of the rows.
    pairs = sorted(
        (len(tokens), score.value)
        for tokens, score in zip(answers, scores, strict=True)
        if score.value is not None
    )
    lengths, values = [float(length) for length, _ in pairs], [value for _, value in pairs]
    metrics["watch/score_length_correlation"] = correlation(lengths, values)
    metrics["watch/score_length_rank_correlation"] = correlation(ranks(lengths), ranks(values))
    for number, mean in enumerate(_means_by_length(pairs), start=1):
        metrics[f"watch/score_by_length/{number}"] = mean
    return {name: value for name, value in metrics.items() if value is not None}


def _means_by_length(pairs: Sequence[tuple[int, float]]) -> list[float]:
    """Mean score per tenth of the answers, which are sorted by length."""
    if len(pairs) < NUM_LENGTH_BINS:
        return []
    smoothed: list[float] = []
    for _, group in groupby(pairs, key=lambda pair: pair[0]):
        values = [value for _, value in group]
        smoothed += [statistics.fmean(values)] * len(values)
    bounds = [len(pairs) * number // NUM_LENGTH_BINS for number in range(NUM_LENGTH_BINS + 1)]
    return [statistics.fmean(smoothed[start:stop]) for start, stop in pairwise(bounds)]
