"""What was drawn for a step, and which groups of it are trained on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grlo.training.metrics import informative_groups
from grlo.types import Rollout, Score


@dataclass
class Draws:
    """The rollouts of a step, one stretch of prompts after the other."""

    is_dynamic: bool
    """Whether groups without spread are left out (DAPO, arXiv 2503.14476, section 3.2)."""
    rollouts: list[Rollout] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    """Groups to train on, in the order of the draws, at most as many as one draw has."""
    num_groups: int = 0
    is_enough: bool = False
    """Whether the groups to train on are as many as one draw has."""
    _metrics: list[Mapping[str, float]] = field(default_factory=list)

    def add(
        self, rollouts: Sequence[Rollout], scores: Sequence[Score], *, metrics: Mapping[str, float]
    ) -> None:
        """One further draw.

        Args:
            rollouts: Their groups are numbered on from those before.
            scores: One per rollout.
            metrics: What the reward says of this draw.
        """
        drawn = list(dict.fromkeys(rollout.group for rollout in rollouts))
        useful = informative_groups(rollouts, scores) if self.is_dynamic else drawn
        self.rollouts += rollouts
        self.scores += scores
        self.groups = [*self.groups, *useful][: len(drawn)]
        self.num_groups += len(drawn)
        self.is_enough = len(self.groups) == len(drawn)
        self._metrics.append(metrics)

    def kept(self) -> tuple[list[Rollout], list[Score]]:
        """Rollouts to train on with their scores."""
        chosen = set(self.groups)
        rows = [row for row, rollout in enumerate(self.rollouts) if rollout.group in chosen]
        return [self.rollouts[row] for row in rows], [self.scores[row] for row in rows]

    def metrics(self) -> dict[str, float]:
        """The reward's metrics, each a mean over the draws that have it, and `sampling/...`.

        Groups that are neither kept nor without spread came with the last draw and are not needed.
        """
        names = dict.fromkeys(name for metrics in self._metrics for name in metrics)
        found = {
            name: statistics.fmean(metrics[name] for metrics in self._metrics if name in metrics)
            for name in names
        }
        if self.is_dynamic:
            num_useful = len(informative_groups(self.rollouts, self.scores))
            found |= {
                "sampling/draws": float(len(self._metrics)),
                "sampling/drawn_groups": float(self.num_groups),
                "sampling/kept_groups": float(len(self.groups)),
                "sampling/dropped_zero_spread": float(self.num_groups - num_useful),
            }
        return found

    def mean_score(self) -> float:
        """Of all that was drawn and scored."""
        return statistics.fmean(s.value for s in self.scores if s.value is not None)
