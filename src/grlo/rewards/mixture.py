"""Several rewards in one run: every prompt goes, by its style, to a weighted sum of named parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

from grlo import registry
from grlo.interfaces import BuildContext, Progress, Reward, silent
from grlo.ledger import total_usage
from grlo.settings import Plugin, require
from grlo.types import Rollout, Score, Usage


@dataclass(frozen=True)
class MixtureSettings:
    """Named rewards, and which of them score which style of prompt.

    [reward]
    name = "mixture"
    [reward.parts.quality]
    name = "reward_model"
    model = "Skywork/Skywork-Reward-V2-Llama-3.1-8B"
    [reward.parts.correct]
    name = "verified"
    verifier = "math"
    [reward.routes]
    model = { quality = 1.0 }
    rule = { correct = 1.0, quality = 0.1 }
    """

    parts: Mapping[str, Annotated[object, Plugin("reward")]]
    """Settings of rewards by names of one's own."""
    routes: Mapping[str, Mapping[str, float]]
    """Style of a prompt -> part -> weight."""
    name: str = "mixture"

    def __post_init__(self) -> None:
        require(len(self.routes) > 0, "routes must say for at least one style what scores it")
        named = {part for weights in self.routes.values() for part in weights}
        for style, weights in self.routes.items():
            require(len(weights) > 0, f"routes.{style} names no part")
            for part, weight in weights.items():
                require(
                    part in self.parts,
                    f"routes.{style} names the part {part!r}; there are: {', '.join(self.parts)}",
                )
                require(
                    math.isfinite(weight) and weight != 0,
                    f"routes.{style}.{part} must be a weight other than 0",
                )
        idle = sorted(set(self.parts) - named)
        require(
            not idle, f"no route uses the parts {', '.join(idle)}; remove them, or route to them"
        )

    @property
    def styles(self) -> tuple[str, ...]:
        """Styles of prompts that have a reward."""
        return tuple(self.routes)

    def build(self, *, context: BuildContext) -> MixtureReward:
        """Builds all parts."""
        parts = {name: cast(Any, part).build(context=context) for name, part in self.parts.items()}
        return MixtureReward(parts, routes=self.routes)


class MixtureReward:
    """A weighted sum of rewards for every rollout, chosen by the style of its prompt.

    `parts` of a score holds each part's value under the part's name, before its weight, and the
    parts of that below it. A rollout that one of its parts leaves unscored is unscored.

    Args:
        parts: Rewards by name. Each is called once per step, with the rollouts that it scores.
        routes: Style -> part -> weight.
    """

    def __init__(
        self, parts: Mapping[str, Reward], *, routes: Mapping[str, Mapping[str, float]]
    ) -> None:
        self._parts, self._routes = dict(parts), routes
        self._used: list[str] = []

    def begin(self, rollouts: Sequence[Rollout], *, drawn_on: str) -> None:
        """Has each part begin with the rollouts that it scores."""
        for name, part in self._parts.items():
            routed = [r for r in rollouts if name in self._routes.get(r.prompt.style, ())]
            registry.begin(part, routed, drawn_on=drawn_on)

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        """One score per rollout, in order.

        Raises:
            KeyError: A prompt has a style without a route; `grlo check` and the start of a run
                find that first.
        """
        weights = [self._routes[rollout.prompt.style] for rollout in rollouts]
        num_scores = sum(len(of_row) for of_row in weights)
        found: list[dict[str, Score]] = [{} for _ in rollouts]
        self._used, before = [], 0
        for name, part in self._parts.items():
            rows = [row for row, of_row in enumerate(weights) if name in of_row]
            if not rows:
                continue
            self._used.append(name)

            def advance(*, done: int, total: int, tokens: int, before: int = before) -> None:
                progress(done=before + done, total=num_scores, tokens=tokens)

            scores = part.score([rollouts[row] for row in rows], progress=advance)
            before += len(rows)
            for row, score in zip(rows, scores, strict=True):
                found[row][name] = score
        return [_sum(of_row, scores) for of_row, scores in zip(weights, found, strict=True)]

    def state_dict(self) -> dict[str, float]:
        """Statistics of every part, as `part/key`."""
        return {
            f"{name}/{key}": value
            for name, part in self._parts.items()
            for key, value in part.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        for name, part in self._parts.items():
            prefix = f"{name}/"
            part.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )

    def metrics(self) -> dict[str, float]:
        """Of the latest call: metrics of every part that scored, `reward/...` as
        `reward/<part>/...` and others likewise."""
        found = {}
        for name in self._used:
            for key, value in self._parts[name].metrics().items():
                kind, _, rest = key.partition("/")
                found[f"{kind}/{name}/{rest}"] = value
        return found

    def usage(self) -> Usage:
        """Sum over the parts that scored."""
        return total_usage(self._parts[name].usage() for name in self._used)

    def describe(self) -> dict[str, object]:
        """What the parts say of themselves, by part."""
        found = {name: registry.describe(part) for name, part in self._parts.items()}
        return {name: description for name, description in found.items() if description}

    def close(self) -> None:
        for part in self._parts.values():
            registry.close(part)


def _sum(weights: Mapping[str, float], scores: Mapping[str, Score]) -> Score:
    """The weighted sum of a rollout's scores, with everything that its parts found."""
    values: dict[str, float] = {}
    details: dict[str, object] = {}
    for name, score in scores.items():
        if score.value is not None:
            values[name] = score.value
        values |= {f"{name}/{key}": value for key, value in score.parts.items()}
        if score.details:
            details[name] = dict(score.details)
    unscored = [name for name, score in scores.items() if score.value is None]
    return Score(
        value=None if unscored else math.fsum(weights[name] * values[name] for name in scores),
        parts=values,
        note="; ".join(f"{name}: {score.note}" for name, score in scores.items() if score.note),
        extracted=next((s.extracted for s in scores.values() if s.extracted is not None), None),
        details=details,
    )
