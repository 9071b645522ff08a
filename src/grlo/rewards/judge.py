"""Rewards of a judge: a language model behind an endpoint grades answers or compares them."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from grlo.endpoint import ChatRequest, Endpoint, EndpointSettings, Failure, Reply
from grlo.errors import RewardError
from grlo.interfaces import BuildContext, Progress, silent
from grlo.rewards.judge_prompts import (
    GRADED_INSTRUCTIONS,
    PAIRWISE_INSTRUCTIONS,
    Block,
    Case,
    build_case,
    conversation_blocks,
    prompts_digest,
    suspicions,
)
from grlo.seeding import derive_rng
from grlo.settings import require
from grlo.thoughts import without_thoughts
from grlo.types import Prompt, Rollout, Score, Usage

_REASONING = 2000
"""Characters of a judge's reasoning that are kept."""
_FIRST_WINS: Mapping[str, float] = {"A": 1.0, "B": 0.0, "tie": 0.5, "AA": 1.0, "BB": 0.0}
"""What the verdict of a game is worth to the answer that was shown as A."""
_ONLY_IN = {
    "scale": "graded",
    "opponent": "pairwise",
    "num_opponents": "pairwise",
    "asks_strength": "pairwise",
}
"""Settings that only one mode reads."""


@dataclass(frozen=True)
class JudgeSettings:
    """Who judges, and how."""

    endpoint: EndpointSettings
    name: str = "judge"
    mode: Literal["graded", "pairwise"] = "graded"
    """`graded`: a grade for every answer by itself. `pairwise`: games against other answers, each
    played in both orders."""
    scale: tuple[int, int] = (1, 10)
    """Lowest and highest grade; the reward runs from 0 to 1 between them."""
    opponent: Literal["reference", "group"] = "reference"
    """`reference`: the prompt's reference answer. `group`: other answers to the same prompt."""
    num_opponents: int = 2
    """Answers of its group that every answer meets: all where there are no more, and one more
    where this number and that of the group are both odd."""
    asks_strength: bool = False
    """The judge also says when an answer is much better (`AA`, `BB`). That changes no reward; it is
    in the verdicts of `details`."""
    instructions: str = ""
    """What to judge by, in place of our own text. Where the material stands and how the verdict
    looks is explained after it in any case."""
    max_answer_chars: int = 20000
    """Answers and references are cut there, and the judge is told so."""
    strip_thoughts: bool = False
    """Judge only what follows the last `</think>`; an answer whose thought never ends is empty."""
    styles: tuple[str, ...] = ("judge",)
    """Styles of the prompts that it scores when it is the only reward."""

    def __post_init__(self) -> None:
        require(self.scale[0] < self.scale[1], "scale must rise")
        require(self.num_opponents > 0, "num_opponents must be positive")
        require(self.max_answer_chars > 0, "max_answer_chars must be positive")
        require(len(self.styles) > 0, "styles must name at least one style")
        for setting in fields(self):
            mode = _ONLY_IN.get(setting.name, self.mode)
            require(
                mode == self.mode or getattr(self, setting.name) == setting.default,
                f"{setting.name} has no effect with mode = '{self.mode}'",
            )
        require(
            self.opponent == "group" or self.num_opponents == 2,
            "num_opponents has no effect with opponent = 'reference'",
        )

    def build(self, *, context: BuildContext) -> JudgeReward:
        """Opens the endpoint; nothing is asked yet.

        Raises:
            MissingExtraError: The `openai` library is not installed.
            EndpointError: The key is not in the environment, or the cache cannot be written.
        """
        return JudgeReward(Endpoint(self.endpoint), settings=self, seed=context.seed)


@dataclass(frozen=True)
class _Answer:
    """An answer as the judge sees it."""

    text: str
    is_cut: bool
    suspicions: tuple[str, ...]

    def block(self, name: str) -> Block:
        return Block(f"{name} (cut, it goes on)" if self.is_cut else name, self.text)


@dataclass(frozen=True)
class _Verdict:
    """What became of a case."""

    value: int | str | None
    reasoning: str = ""
    """The judge's own words."""
    model: str = ""
    """The judge, by the name that the endpoint gives it."""
    failure: str = ""
    """Why there is no value."""

    def details(self) -> dict[str, object]:
        return {
            "verdict": self.value,
            "reasoning": self.reasoning[:_REASONING],
            "judge": self.model,
        }


@dataclass
class _Game:
    """An answer against another one, in both orders."""

    opponent: str
    """`reference`, or `answer N`, N being its place in the group from 1."""
    preference: float | None
    """1 for a victory, 0.5 for a tie, None for a game that was not judged."""
    is_consistent: bool = True
    verdicts: list[dict[str, object]] = field(default_factory=list)
    """In the first the answer was shown as A, in the second as B."""
    failure: str = ""
    """Why the game was not judged."""


_Sides = tuple[Sequence[Block], _Answer, _Answer]
"""What both answers of a game share, and these."""


class JudgeReward:
    """Scores rollouts by verdicts of a judge.

    Graded: value = (grade - lowest) / (highest - lowest); `parts` holds the grade. Pairwise: value
    is the mean preference over the games of an answer; orders that disagree make a tie, and `parts`
    holds their share as `inconsistent`. Equal answers tie without being shown.

    A verdict is the last line of the judge's reply, with the id of the case. A reply without one is
    asked for it once more; then the rollout, or the game, is not scored. The judge's reasons are in
    `details`, and so are the signs that an answer talks to its judge, which change no score.

    The same answers lead to the same requests: there is no state, and a resumed run asks a cached
    judge nothing twice.

    Args:
        endpoint: Of the judge.
        settings: See `JudgeSettings`.
        seed: Of the run; opponents and the ids of cases follow from it.
    """

    def __init__(self, endpoint: Endpoint, *, settings: JudgeSettings, seed: int) -> None:
        self._endpoint, self._settings, self._seed = endpoint, settings, seed
        self._metrics: dict[str, float] = {}
        self._usage = Usage()

    def begin(self, rollouts: Sequence[Rollout], *, drawn_on: str) -> None:
        """Asks the judge of whole groups while others are drawn, wherever that is; see `Reward`."""
        answers = [self._answer(rollout.text) for rollout in rollouts]
        if self._settings.mode == "graded":
            cases = self._grade_cases(rollouts, answers)
        else:
            pairs = self._pairs(rollouts)
            cases = self._game_cases(self._sides(pairs, rollouts, answers))
        self._endpoint.begin([case.request for case in cases])

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        """One score per rollout, in order.

        Raises:
            EndpointError: No request can succeed; see `Endpoint.complete`.
        """
        answers = [self._answer(rollout.text) for rollout in rollouts]
        self._metrics = {
            "reward/judge/suspicious": _share(bool(answer.suspicions) for answer in answers),
            "reward/judge/truncated": _share(answer.is_cut for answer in answers),
        }
        score = self._grade if self._settings.mode == "graded" else self._compare
        try:
            scores = score(rollouts, answers, progress)
        finally:
            self._usage = self._endpoint.drain_usage()
        self._metrics["reward/judge/unscored"] = _share(score.value is None for score in scores)
        return scores

    def _answer(self, text: str) -> _Answer:
        if self._settings.strip_thoughts:
            text = without_thoughts(text)
        limit = self._settings.max_answer_chars
        return _Answer(text[:limit], is_cut=len(text) > limit, suspicions=suspicions(text[:limit]))

    # Grades

    def _grade_cases(self, rollouts: Sequence[Rollout], answers: Sequence[_Answer]) -> list[Case]:
        lowest, highest = self._settings.scale
        return [
            build_case(
                [
                    *conversation_blocks(rollout.prompt.messages),
                    *self._reference_blocks(rollout.prompt),
                    answer.block("ANSWER"),
                ],
                instructions=self._instructions,
                verdict='"grade": N',
                meaning=f"N is an integer from {lowest} (worst) to {highest} (best)",
                seed=self._seed,
            )
            for rollout, answer in zip(rollouts, answers, strict=True)
        ]

    def _grade(
        self, rollouts: Sequence[Rollout], answers: Sequence[_Answer], progress: Progress
    ) -> list[Score]:
        lowest, highest = self._settings.scale
        cases = self._grade_cases(rollouts, answers)
        verdicts = self._ask(cases, key="grade", allowed=range(lowest, highest + 1), to=progress)
        return [
            _score(
                None if grade is None else (grade - lowest) / (highest - lowest),
                parts={} if grade is None else {"grade": float(grade)},
                why=verdict.failure,
                answer=answer,
                details=verdict.details(),
            )
            for verdict, answer in zip(verdicts, answers, strict=True)
            for grade in [verdict.value if isinstance(verdict.value, int) else None]
        ]

    # Games

    def _compare(
        self, rollouts: Sequence[Rollout], answers: Sequence[_Answer], progress: Progress
    ) -> list[Score]:
        pairs = self._pairs(rollouts)
        alone = (
            "its prompt has no reference answer to play against"
            if self._settings.opponent == "reference"
            else "its group holds no other answer to play against"
        )
        games = self._play(pairs, rollouts, answers, progress)
        places = _places(rollouts)
        of_row: dict[int, list[_Game]] = defaultdict(list)
        for (row, other), game in zip(pairs, games, strict=True):
            of_row[row].append(game)
            if other is not None:
                of_row[other].append(_mirrored(game, opponent=places[row]))
        judged = [game for game in games if game.preference is not None]
        inconsistent = _share(not game.is_consistent for game in judged)
        self._metrics["reward/judge/inconsistent"] = inconsistent
        return [
            self._score_of_games(of_row[row], answer, alone=alone)
            for row, answer in enumerate(answers)
        ]

    def _pairs(self, rollouts: Sequence[Rollout]) -> list[tuple[int, int | None]]:
        """Rows that meet; None is the reference."""
        if self._settings.opponent == "reference":
            return [
                (row, None)
                for row, rollout in enumerate(rollouts)
                if rollout.prompt.reference is not None
            ]
        return [*self._group_pairs(rollouts)]

    def _group_pairs(self, rollouts: Sequence[Rollout]) -> list[tuple[int, int]]:
        """Rows that meet, group by group: neighbours in a circle that the seed shuffles."""
        groups: dict[int, list[int]] = defaultdict(list)
        for row, rollout in enumerate(rollouts):
            groups[rollout.group].append(row)
        pairs = []
        for rows in groups.values():
            circle = list(rows)
            prompt = rollouts[rows[0]].prompt
            derive_rng(self._seed, "judge opponents", prompt.id, len(rows)).shuffle(circle)
            pairs += [
                (circle[i], circle[j])
                for i, j in circle_pairs(len(circle), num_opponents=self._settings.num_opponents)
            ]
        return pairs

    def _play(
        self,
        pairs: Sequence[tuple[int, int | None]],
        rollouts: Sequence[Rollout],
        answers: Sequence[_Answer],
        progress: Progress,
    ) -> list[_Game]:
        """The games of all pairs, from the view of the first row; None is the reference."""
        sides = self._sides(pairs, rollouts, answers)
        cases = self._game_cases(sides)
        allowed = tuple(_FIRST_WINS) if self._settings.asks_strength else ("A", "B", "tie")
        verdicts = iter(self._ask(cases, key="better", allowed=allowed, to=progress))
        games, places = [], _places(rollouts)
        for (_, other), (_, mine, theirs) in zip(pairs, sides, strict=True):
            opponent = "reference" if other is None else places[other]
            if mine.text == theirs.text:
                games.append(_Game(opponent, preference=0.5))
            else:
                games.append(_game(opponent, as_a=next(verdicts), as_b=next(verdicts)))
        return games

    def _sides(
        self,
        pairs: Sequence[tuple[int, int | None]],
        rollouts: Sequence[Rollout],
        answers: Sequence[_Answer],
    ) -> list[_Sides]:
        sides: list[_Sides] = []
        for row, other in pairs:
            prompt, mine = rollouts[row].prompt, answers[row]
            conversation = conversation_blocks(prompt.messages)
            if other is None:
                sides.append((conversation, mine, self._answer(prompt.reference or "")))
            else:
                known = [*conversation, *self._reference_blocks(prompt)]
                sides.append((known, mine, answers[other]))
        return sides

    def _game_cases(self, sides: Sequence[_Sides]) -> list[Case]:
        """Both orders of every game between answers that differ."""
        return [
            build_case(
                [*known, first.block("ANSWER A"), second.block("ANSWER B")],
                instructions=self._instructions,
                verdict='"better": "V"',
                meaning="V is A or B for the better answer, AA or BB where it is much better, or "
                "tie"
                if self._settings.asks_strength
                else "V is A, B or tie",
                seed=self._seed,
            )
            for known, mine, theirs in sides
            if mine.text != theirs.text
            for first, second in ((mine, theirs), (theirs, mine))
        ]

    def _score_of_games(self, games: Sequence[_Game], answer: _Answer, *, alone: str) -> Score:
        judged = [game for game in games if game.preference is not None]
        values = [game.preference for game in games if game.preference is not None]
        return _score(
            math.fsum(values) / len(values) if values else None,
            parts={"inconsistent": _share(not g.is_consistent for g in judged)} if judged else {},
            why=games[0].failure if games else alone,
            answer=answer,
            details={
                "games": [
                    {
                        "opponent": game.opponent,
                        "preference": game.preference,
                        "verdicts": game.verdicts,
                    }
                    for game in games
                ]
            },
        )

    def _reference_blocks(self, prompt: Prompt) -> list[Block]:
        if prompt.reference is None:
            return []
        return [self._answer(prompt.reference).block("REFERENCE")]

    # Verdicts

    def _ask(
        self,
        cases: Sequence[Case],
        *,
        key: str,
        allowed: Sequence[int] | Sequence[str],
        to: Progress,
    ) -> list[_Verdict]:
        """A verdict per case, in order; replies that have none are asked for it once more."""
        replies = self._endpoint.complete([case.request for case in cases], progress=to)
        verdicts = [
            _verdict(reply, case, key=key, allowed=allowed)
            for reply, case in zip(replies, cases, strict=True)
        ]
        again: list[tuple[int, ChatRequest]] = [
            (index, cases[index].reminded(reply.text))
            for index, reply in enumerate(replies)
            if isinstance(reply, Reply) and verdicts[index].value is None
        ]

        def advance(*, done: int, total: int, tokens: int) -> None:
            to(done=len(cases) + done, total=len(cases) + total, tokens=tokens)

        late = self._endpoint.complete([request for _, request in again], progress=advance)
        for (index, _), reply in zip(again, late, strict=True):
            found = _verdict(reply, cases[index], key=key, allowed=allowed)
            verdicts[index] = replace(found, reasoning=verdicts[index].reasoning)
        num_failed = sum(isinstance(reply, Failure) for reply in (*replies, *late))
        num_missing = sum(verdict.value is None for verdict in verdicts)
        self._metrics |= {
            "reward/judge/asked_again": len(again) / max(1, len(cases)),
            "reward/judge/failed": num_failed / max(1, len(cases)),
            "reward/judge/unparsed": (num_missing - num_failed) / max(1, len(cases)),
        }
        return verdicts

    def state_dict(self) -> dict[str, float]:
        """Empty: a judge does not change."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Raises RewardError for statistics, which belong to another reward."""
        if state:
            raise RewardError(
                f"the checkpoint has the statistics {', '.join(sorted(state))}, but a judge keeps "
                "none. Resume with the recipe it was made by."
            )

    def metrics(self) -> dict[str, float]:
        """Of the latest call.

        Shares of answers: `suspicious`, `truncated`, `unscored`. Shares of cases: `asked_again`,
        `failed` (no reply), `unparsed` (no verdict in the second reply either). Share of judged
        games: `inconsistent` (the orders disagree).
        """
        return dict(self._metrics)

    def usage(self) -> Usage:
        """Of the latest call, also of one that raised."""
        return self._usage

    def describe(self) -> dict[str, object]:
        """The judge, and SHA-256 of all that is said to it besides the material."""
        return {
            "judge": self._settings.endpoint.model,
            "endpoint": self._settings.endpoint.base_url,
            "prompts": prompts_digest(self._instructions),
        }

    def close(self) -> None:
        """Ends the connections to the judge."""
        self._endpoint.close()

    @property
    def _instructions(self) -> str:
        ours = GRADED_INSTRUCTIONS if self._settings.mode == "graded" else PAIRWISE_INSTRUCTIONS
        return self._settings.instructions or ours


def circle_pairs(size: int, *, num_opponents: int) -> list[tuple[int, int]]:
    """Pairs of places in a circle such that every place meets equally many others.

    Args:
        size: Places.
        num_opponents: That each meets; all others where there are no more. An odd number in an odd
            circle cannot be had and becomes the next even one.

    Returns:
        Each pair once.
    """
    if num_opponents >= size - 1:
        return list(itertools.combinations(range(size), 2))
    distances = range(1, num_opponents // 2 + 1)
    pairs = [(i, (i + distance) % size) for distance in distances for i in range(size)]
    if num_opponents % 2 and size % 2:
        return circle_pairs(size, num_opponents=num_opponents + 1)
    if num_opponents % 2:
        pairs += [(i, i + size // 2) for i in range(size // 2)]
    return pairs


def read_verdict(text: str, *, nonce: str, key: str) -> object:
    """The verdict in the last line of a reply; None if there is none.

    Args:
        text: The judge's reply. A code fence around the line is overlooked.
        nonce: Id of the case, which the line must repeat.
        key: Of the verdict, beside which the line holds the id and nothing else.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip().strip("`")]
    try:
        row = json.loads(lines[-1].strip("`"))
    except (IndexError, ValueError, RecursionError):
        return None
    is_verdict = isinstance(row, dict) and set(row) == {"id", key} and row["id"] == nonce
    return row[key] if is_verdict else None


def _verdict(
    reply: Reply | Failure, case: Case, *, key: str, allowed: Sequence[int] | Sequence[str]
) -> _Verdict:
    if isinstance(reply, Failure):
        return _Verdict(None, failure=f"the judge did not answer: {reply.reason}")
    found = read_verdict(reply.text, nonce=case.nonce, key=key)
    # A boolean is an integer too.
    if isinstance(found, (int, str)) and not isinstance(found, bool) and found in allowed:
        return _Verdict(found, reply.text, reply.model)
    failure = f"the judge gave no verdict that can be read: {reply.text[:_REASONING]}"
    return _Verdict(None, reply.text, reply.model, failure)


def _game(opponent: str, *, as_a: _Verdict, as_b: _Verdict) -> _Game:
    """Of an answer that was shown first as A and then as B."""
    verdicts = [as_a.details(), as_b.details()]
    if as_a.value is None or as_b.value is None:
        failure = as_a.failure or as_b.failure
        return _Game(opponent, preference=None, verdicts=verdicts, failure=failure)
    first, second = _FIRST_WINS[str(as_a.value)], 1.0 - _FIRST_WINS[str(as_b.value)]
    return _Game(
        opponent,
        preference=first if first == second else 0.5,
        is_consistent=first == second,
        verdicts=verdicts,
    )


def _mirrored(game: _Game, *, opponent: str) -> _Game:
    """The same game for the other answer."""
    return _Game(
        opponent,
        preference=None if game.preference is None else 1.0 - game.preference,
        is_consistent=game.is_consistent,
        verdicts=game.verdicts[::-1],
        failure=game.failure,
    )


def _score(
    value: float | None,
    *,
    parts: Mapping[str, float],
    why: str,
    answer: _Answer,
    details: dict[str, object],
) -> Score:
    """A score; its note says why there is no value, and what looks suspicious."""
    notes = [] if value is not None else [why]
    if answer.suspicions:
        notes.append(f"the answer may be talking to its judge: {', '.join(answer.suspicions)}")
        details = details | {"suspicions": list(answer.suspicions)}
    return Score(value=value, parts=parts, note="; ".join(notes), details=details)


def _places(rollouts: Sequence[Rollout]) -> list[str]:
    """What each rollout is called among those of its group."""
    seen: Counter[int] = Counter()
    names = []
    for rollout in rollouts:
        seen[rollout.group] += 1
        names.append(f"answer {seen[rollout.group]}")
    return names


def _share(flags: Iterable[bool]) -> float:
    found = list(flags)
    return sum(found) / len(found) if found else 0.0
