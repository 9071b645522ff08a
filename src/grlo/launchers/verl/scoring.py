"""Our reward beside verl: one object that scores whatever verl's workers bring, and writes it down.

verl asks for one answer at a time, from many workers at once. What has come while earlier answers
were scored is scored together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from grlo import registry
from grlo.errors import RewardError
from grlo.interfaces import BuildContext, Reward
from grlo.launchers.verl.folder import VerlFolder
from grlo.launchers.verl.rows import prompt_of
from grlo.ledger import total_usage
from grlo.rewards.shaping import shaped
from grlo.rollout import ChatRenderer
from grlo.rundir import RolloutKind, append_jsonl, read_jsonl
from grlo.types import Completion, Message, Prompt, Rollout, Score, Usage

MOST_AT_ONCE = 512
"""Answers that are scored together."""


@dataclass(frozen=True)
class Answer:
    """An answer of verl's policy."""

    extra_info: Mapping[str, Any]
    """Of the row that it answers."""
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    sample: int
    """Its number among the answers to the row."""
    step: int
    """In which verl asks; of training the row says it."""


class Scorer:
    """The rewards of a recipe, and the log of what they were asked.

    Args:
        folder: The export.
        attempt: Number of the start of verl.
        actor: Number of this one among several.
        device: Where reward models run.

    Raises:
        RewardError: The reward counts what it has seen, which verl's checkpoints do not keep.
    """

    def __init__(self, folder: VerlFolder, *, attempt: int, actor: int, device: str) -> None:
        recipe = folder.recipe()
        self._folder, self._attempt, self._actor = folder, attempt, actor
        self._recipe = recipe
        self._renderer = ChatRenderer.from_pretrained(
            recipe.policy.model, template=recipe.policy.template
        )
        context = BuildContext(device=device, seed=recipe.seed)
        self._rewards: dict[RolloutKind, Reward] = {
            "rollouts": shaped(_built(recipe.reward, context), recipe, self._renderer)
        }
        if recipe.gold is not None:
            self._rewards["gold"] = _built(recipe.gold.reward, context)

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """One score per answer, in order; all of them are written down, also what is unscored."""
        scores: dict[int, Score] = {}
        for split, reward in self._rewards.items():
            rows = [i for i, a in enumerate(answers) if a.extra_info["split"] == split]
            if not rows:
                continue
            rollouts = [self._rollout(answers[row]) for row in rows]
            found = reward.score(rollouts)
            scores |= dict(zip(rows, found, strict=True))
            asked = [answers[row] for row in rows]
            self._write(asked, rollouts, found, split=split, usage=reward.usage())
        return [scores[row] for row in range(len(answers))]

    def close(self) -> None:
        for reward in self._rewards.values():
            registry.close(reward)

    def _rollout(self, answer: Answer) -> Rollout:
        is_whole = bool(answer.tokens) and answer.tokens[-1] in self._renderer.stop_ids
        return Rollout(
            prompt=prompt_of(answer.extra_info),
            group=self._step_and_group(answer)[1],
            prompt_tokens=answer.prompt_tokens,
            completion=Completion(
                tokens=answer.tokens,
                logprobs=(),
                finish_reason="stop" if is_whole else "length",
            ),
            text=self._renderer.decode(answer.tokens),
        )

    def _step_and_group(self, answer: Answer) -> tuple[int, int]:
        """The place of a row of training says both."""
        index: int = answer.extra_info["index"]
        if answer.extra_info["split"] == "gold":
            return answer.step, index
        step, group = divmod(index, self._recipe.sampling.prompts_per_step)
        return step + 1, group

    def _write(
        self,
        answers: Sequence[Answer],
        rollouts: Sequence[Rollout],
        scores: Sequence[Score],
        *,
        split: RolloutKind,
        usage: Usage,
    ) -> None:
        by_step: dict[int, list[dict[str, object]]] = {}
        for answer, rollout, score in zip(answers, rollouts, scores, strict=True):
            step, _ = self._step_and_group(answer)
            row = {"sample": answer.sample, "rollout": asdict(rollout), "score": asdict(score)}
            by_step.setdefault(step, []).append(row)
        for step, rows in by_step.items():
            file = self._folder.answers_file(self._attempt, step, split, actor=self._actor)
            file.parent.mkdir(parents=True, exist_ok=True)
            append_jsonl(file, [*rows, {"usage": asdict(usage)}])
            usage = Usage()  # All but a few calls are of one step.


class Together:
    """Scores answers that come one by one: those that wait go together.

    Args:
        scorer: Called from one thread at a time.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._waiting: list[tuple[Answer, asyncio.Future[Score]]] = []
        self._task: asyncio.Task[None] | None = None

    async def score(self, answer: Answer) -> Score:
        """The score of an answer; a reward that raises does so for all that went together."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((answer, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            try:
                scores = await asyncio.to_thread(self._scorer.score, [one for one, _ in batch])
            except Exception as error:
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), score in zip(batch, scores, strict=True):
                    future.set_result(score)


@dataclass(frozen=True)
class Scored:
    """What was scored in a step, group by group, sample by sample."""

    rollouts: list[Rollout]
    scores: list[Score]
    usage: Usage
    """What that asked of remote services."""


def read_answers(folder: VerlFolder, *, attempt: int, step: int, split: RolloutKind) -> Scored:
    """What the reward actors have written down; nothing where they were not asked."""
    rows = [row for file in folder.answers_files(attempt, step, split) for row in read_jsonl(file)]
    answers = [row for row in rows if "rollout" in row]
    answers.sort(key=lambda row: (row["rollout"]["group"], row["sample"]))
    return Scored(
        rollouts=[_read_rollout(row["rollout"]) for row in answers],
        scores=[Score(**row["score"]) for row in answers],
        usage=total_usage(Usage(**row["usage"]) for row in rows if "usage" in row),
    )


def _read_rollout(fields: dict[str, Any]) -> Rollout:
    prompt, completion = fields.pop("prompt"), fields.pop("completion")
    messages = tuple(Message(**message) for message in prompt.pop("messages"))
    completion |= {key: tuple(completion[key]) for key in ("tokens", "logprobs")}
    return Rollout(
        prompt=Prompt(messages=messages, **prompt),
        completion=Completion(**completion),
        prompt_tokens=tuple(fields.pop("prompt_tokens")),
        **fields,
    )


def _built(settings: object, context: BuildContext) -> Reward:
    reward: Reward = cast(Any, settings).build(context=context)
    if state := reward.state_dict():
        raise RewardError(
            f"the reward keeps {', '.join(sorted(state))} from step to step, which verl's "
            "checkpoints do not: a resumed run would be another one. Train with grlo train."
        )
    return reward
