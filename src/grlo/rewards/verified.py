"""Rewards of a verifier: mathematics, code, choices, instructions, or a function of one's own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

from grlo import registry
from grlo.errors import RewardError
from grlo.grading import grade_all
from grlo.interfaces import BuildContext, Progress, Verifier, silent
from grlo.settings import Plugin, require
from grlo.types import Prompt, Rollout, Score, Usage


@dataclass(frozen=True)
class VerifiedSettings:
    """Which verifier grades, and what its verdicts are worth."""

    verifier: Annotated[object, Plugin("verifier")]
    """Settings of the verifier; its name alone will do."""
    name: str = "verified"
    right: float = 1.0
    """Reward of a score of 1."""
    wrong: float = 0.0
    """Reward of a score of 0; what lies between is interpolated."""
    unparsed: float | None = None
    """Reward of an answer that the verifier could not read; None is that of a wrong one."""
    styles: tuple[str, ...] = ("rule",)
    """Styles of the prompts that it scores when it is the only reward."""

    def __post_init__(self) -> None:
        require(self.right > self.wrong, "right must exceed wrong")
        require(len(self.styles) > 0, "styles must name at least one style")

    def build(self, *, context: BuildContext) -> VerifiedReward:
        """Builds the verifier."""
        return VerifiedReward(cast(Any, self.verifier).build(context=context), settings=self)


class VerifiedReward:
    """Scores rollouts by a verifier.

    `parts` holds the verifier's own `score` and its parts.
    """

    def __init__(self, verifier: Verifier, *, settings: VerifiedSettings) -> None:
        self._verifier, self._settings = verifier, settings
        self._metrics: dict[str, float] = {}
        self._begun: dict[tuple[int, str], tuple[Prompt, Score]] = {}
        """Verdicts of the next call, by prompt and answer."""
        self._seconds = 0.0
        """That they took."""

    def begin(self, rollouts: Sequence[Rollout], *, drawn_on: str) -> None:
        """Verifies answers while a GPU or another machine draws the others; see `Reward`.

        Left to `score` are verifiers that do not say they may be called from several threads.
        """
        if drawn_on not in ("", "cpu") and hasattr(self._verifier, "num_workers"):
            self._grade(rollouts, silent)

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        """One score per rollout, in order; unscored where the verifier fails."""
        self._grade(rollouts, progress)
        verdicts = [self._begun[_key(rollout)][1] for rollout in rollouts]
        seconds, self._seconds, self._begun = self._seconds, 0.0, {}
        num_unscored = sum(verdict.value is None for verdict in verdicts)
        num_unparsed = sum(_is_unparsed(verdict) for verdict in verdicts)
        self._metrics = {
            "reward/unscored": num_unscored / max(1, len(verdicts)),
            "reward/unparsed": num_unparsed / max(1, len(verdicts)),
            "answers_per_second/verifier": len(verdicts) / max(seconds, 1e-9),
        }
        return [self._valued(verdict) for verdict in verdicts]

    def _grade(self, rollouts: Sequence[Rollout], progress: Progress) -> None:
        """Verdicts of those that have none yet; equal answers to a prompt have the same one."""
        new = {_key(rollout): rollout for rollout in rollouts if _key(rollout) not in self._begun}
        answers = [(rollout.prompt, rollout.text) for rollout in new.values()]
        start = time.perf_counter()
        verdicts = grade_all(self._verifier, answers, progress=progress)
        self._seconds += time.perf_counter() - start
        for (key, rollout), verdict in zip(new.items(), verdicts, strict=True):
            self._begun[key] = rollout.prompt, verdict

    def _valued(self, verdict: Score) -> Score:
        if verdict.value is None:
            return verdict
        settings = self._settings
        value = settings.wrong + verdict.value * (settings.right - settings.wrong)
        if settings.unparsed is not None and _is_unparsed(verdict):
            value = settings.unparsed
        return replace(verdict, value=value, parts={"score": verdict.value, **verdict.parts})

    def state_dict(self) -> dict[str, float]:
        """Empty: a verifier does not change."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Raises RewardError for statistics, which belong to another reward."""
        if state:
            raise RewardError(
                f"the checkpoint has the statistics {', '.join(sorted(state))}, but a verifier "
                "keeps none. Resume with the recipe it was made by."
            )

    def metrics(self) -> dict[str, float]:
        """Of the latest call: shares of unscored and of unreadable answers, and throughput."""
        return dict(self._metrics)

    def usage(self) -> Usage:
        return Usage()

    def describe(self) -> dict[str, object]:
        """What the verifier says of itself, such as how it isolates programs."""
        return registry.describe(self._verifier)

    def close(self) -> None:
        registry.close(self._verifier)


def _key(rollout: Rollout) -> tuple[int, str]:
    # Equal conversations have equal ids and may have other references: the prompt is the object.
    return id(rollout.prompt), rollout.text


def _is_unparsed(verdict: Score) -> bool:
    return verdict.parts.get("parsed", 1.0) == 0
