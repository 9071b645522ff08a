"""Whether a training reward goes on rising while the scores of evaluations fall.

The reward is a proxy. By how it and the scores it stands for rank the evaluations of a run, and by
where they part, too much optimisation shows (Gao et al. 2023, arXiv:2210.10760).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from grlo.correlation import correlation, ranks
from grlo.evaluation.gold import Parting
from grlo.evaluation.stats import Estimate


@dataclass(frozen=True)
class Onset:
    """The evaluation after which scores fell while the reward rose, and the last one."""

    best_step: int
    """With the best score: the first of equal ones."""
    best_score: float
    reward_at_best: float
    since: int
    """Step from which on all evaluations have parted from the best one."""
    num_parted: int
    """Evaluations from `since` to the last: one of them may be noise."""
    last_step: int
    last_score: float
    last_reward: float


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's coefficient: Pearson's of the ranks, equal values sharing their mean rank.

    Args:
        x: Such as the reward at each evaluation.
        y: Such as the score there.

    Returns:
        From -1 to 1; None where either has no spread.

    Raises:
        ValueError: The two are not of one length, or a value is not a number.
    """
    if len(x) != len(y) or any(map(math.isnan, (*x, *y))):
        raise ValueError(f"no correlation of {len(x)} and {len(y)} values, or with NaN among them")
    return correlation(ranks(x), ranks(y))


def onset(
    steps: Sequence[int], reward: Sequence[float], score: Sequence[float], *, margin: float
) -> Onset | None:
    """Where optimisation of the reward began to cost score.

    An evaluation has parted from the best one when its score is lower by more than `margin` and its
    reward higher (`grlo.evaluation.gold.Parting`). There is an onset if the last evaluation has
    parted. It lies at the step with the best score; the evaluations between it and `since` are
    within the margin, or recovered later. Scores that fall together with the reward are a collapse
    and no over-optimisation.

    Args:
        steps: Of the evaluations, rising.
        reward: At each: the training reward there, on one scale throughout.
        score: At each: what the reward stands for, measured on problems that are not trained on.
        margin: In the unit of the scores; one above the noise of an evaluation, such as two
            standard errors.

    Returns:
        None when there is no onset, as for fewer than two evaluations.

    Raises:
        ValueError: The three are not of one length, steps do not rise, a number is not finite, or
            the margin is negative.
    """
    if not all(before < after for before, after in pairwise(steps)):
        raise ValueError("steps of evaluations do not rise")
    if not all(map(math.isfinite, (*reward, *score, margin))) or margin < 0:
        raise ValueError("rewards, scores and a margin of 0 or more are to be finite")
    parting = Parting(stop_after=0, margin=margin)
    for step, own_reward, own_score in zip(steps, reward, score, strict=True):
        # With an error of one, the margin is one of scores.
        own = Estimate(own_score, 1.0, own_score, own_score)
        parting.add(own, step=step, training_reward=own_reward)
    if parting.best is None or not parting.num_parted:
        return None
    return Onset(
        best_step=parting.best.step,
        best_score=parting.best.gold,
        reward_at_best=parting.best.training_reward,
        since=steps[-parting.num_parted],
        num_parted=parting.num_parted,
        last_step=steps[-1],
        last_score=score[-1],
        last_reward=reward[-1],
    )
