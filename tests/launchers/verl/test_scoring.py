"""Our reward beside verl: the same values, nothing zero that has no score, all written down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from grlo.errors import RewardError
from grlo.interfaces import BuildContext
from grlo.launchers.verl.rows import row_of
from grlo.launchers.verl.scoring import Answer, Scorer, Together, read_answers
from grlo.rewards.reward_model import RewardModelSettings
from grlo.rewards.verified import VerifiedSettings
from grlo.types import Completion, Prompt, Rollout, Score, Usage
from verl_parts import answers_of_step, export

pytest.importorskip("pyarrow")


def scorer_of(folder, **overrides) -> Scorer:
    return Scorer(folder, **{"attempt": 0, "actor": 0, "device": "cpu"} | overrides)


def rollouts_of(folder, answers: Sequence[Answer]) -> list[Rollout]:
    """The same answers, put together by another road: by the tokenizer, from the text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder.recipe().policy.model)
    from grlo.launchers.verl.rows import prompt_of

    return [
        Rollout(
            prompt=prompt_of(answer.extra_info),
            group=0,
            prompt_tokens=answer.prompt_tokens,
            completion=Completion(answer.tokens, (), "stop"),
            text=tokenizer.decode(list(answer.tokens), skip_special_tokens=True),
        )
        for answer in answers
    ]


def test_scores_are_those_of_our_rewards_by_the_style_of_the_row(tmp_path):
    folder = export(tmp_path)
    answers = [a for step in (1, 2, 3) for a in answers_of_step(folder.recipe(), step)]
    found = scorer_of(folder).score(answers)
    rollouts = rollouts_of(folder, answers)
    context = BuildContext(device="cpu", seed=0)
    mixture = folder.recipe().reward
    assert isinstance(mixture.parts["quality"], RewardModelSettings)
    assert isinstance(mixture.parts["correct"], VerifiedSettings)
    quality = mixture.parts["quality"].build(context=context).score(rollouts)
    correct = mixture.parts["correct"].build(context=context).score(rollouts)
    styles = set()
    for rollout, score, model, verdict in zip(rollouts, found, quality, correct, strict=True):
        style = rollout.prompt.style
        styles.add(style)
        weights = {"model": (1.0, 0.0), "rule": (0.0, 1.0), "both": (0.1, 1.0)}[style]
        # Without a reference there is no verdict.
        expected = weights[0] * model.value + weights[1] * (verdict.value or 0.0)
        assert score.value == pytest.approx(expected, abs=1e-5)
    assert styles == {"model", "rule", "both"}
    assert {score.value for score in found if score.value} & {1.0}


def test_what_was_scored_is_read_back_group_by_group_with_its_step(tmp_path):
    folder = export(tmp_path)
    answers = answers_of_step(folder.recipe(), 2)
    scores = scorer_of(folder, attempt=1).score(answers[::-1])[::-1]
    found = read_answers(folder, attempt=1, step=2, split="rollouts")
    rollouts, read = found.rollouts, found.scores
    assert [rollout.group for rollout in rollouts] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [rollout.completion.tokens for rollout in rollouts] == [a.tokens for a in answers]
    assert [rollout.completion.finish_reason for rollout in rollouts] == ["stop", "length"] * 4
    assert read == scores
    assert read_answers(folder, attempt=1, step=1, split="rollouts").rollouts == []
    assert read_answers(folder, attempt=0, step=2, split="rollouts").rollouts == []


def test_several_actors_write_one_step(tmp_path):
    folder = export(tmp_path)
    answers = answers_of_step(folder.recipe(), 1)
    for actor in (0, 1):
        scorer_of(folder, actor=actor).score(answers[actor * 4 : actor * 4 + 4])
    rollouts = read_answers(folder, attempt=0, step=1, split="rollouts").rollouts
    assert [rollout.group for rollout in rollouts] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_answer_that_cannot_be_scored_has_no_value_and_is_written_down(tmp_path, monkeypatch):
    folder = export(tmp_path)
    scorer = scorer_of(folder)

    class Broken:
        def score(self, rollouts):
            return [Score(value=None, note="the judge is away") for _ in rollouts]

        def usage(self):
            return Usage(requests=2, dollars=0.5)

    monkeypatch.setattr(scorer, "_rewards", {"rollouts": Broken()})
    answers = answers_of_step(folder.recipe(), 1)
    found = [*scorer.score(answers[:3]), *scorer.score(answers[3:])]
    assert {score.value for score in found} == {None}
    read = read_answers(folder, attempt=0, step=1, split="rollouts").scores
    assert [score.note for score in read] == ["the judge is away"] * 8
    found = read_answers(folder, attempt=0, step=1, split="rollouts")
    assert (found.usage.requests, found.usage.dollars) == (4, 1.0)


def test_held_out_answers_go_to_the_gold_reward(tmp_path):
    (tmp_path / "gold.jsonl").write_text('{"prompt": "1 + 1", "reference": "2"}\n')
    folder = export(
        tmp_path,
        "gold.reward.name=verified",
        "gold.reward.verifier=math",
        'gold.reward.styles=["model"]',
        f'gold.sources=["{tmp_path}/gold.jsonl"]',
    )
    prompt = Prompt(id="x", messages=(), style="model", reference="2")
    extra_info = row_of(prompt, split="gold", index=0)["extra_info"]
    tokens = answers_of_step(folder.recipe(), 1)[0].prompt_tokens
    renderer = scorer_of(folder)._renderer
    right = Answer(extra_info, tokens, renderer.encode_answer("2"), sample=0, step=4)
    assert scorer_of(folder).score([right])[0].value == 1.0
    found = read_answers(folder, attempt=0, step=4, split="gold")
    assert len(found.rollouts) == 1
    assert found.scores[0].value == 1.0


def test_a_reward_that_counts_what_it_has_seen_is_refused(tmp_path, monkeypatch):
    folder = export(tmp_path)

    class Counting:
        def state_dict(self):
            return {"calls": 1.0}

    monkeypatch.setattr(
        "grlo.rewards.mixture.MixtureSettings.build", lambda self, context: Counting()
    )
    with pytest.raises(RewardError, match="calls"):
        scorer_of(folder)


def test_answers_that_come_while_others_are_scored_are_scored_together():
    sizes, gate = [], threading.Event()

    class Slow:
        def score(self, answers):
            sizes.append(len(answers))
            gate.wait(30)
            return [Score(float(answer.sample)) for answer in answers]

    async def ask() -> list[float | None]:
        together = Together(Slow())  # pyright: ignore[reportArgumentType]
        tasks = [asyncio.create_task(together.score(Answer({}, (), (), 0, 0)))]
        while not sizes:
            await asyncio.sleep(0)
        more = (Answer({}, (), (), number, 0) for number in range(1, 6))
        tasks += [asyncio.create_task(together.score(answer)) for answer in more]
        await asyncio.sleep(0)
        gate.set()
        return [score.value for score in await asyncio.gather(*tasks)]

    assert asyncio.run(ask()) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert sizes == [1, 5]


def test_a_reward_that_raises_fails_for_its_answers_and_goes_on():
    class Once:
        calls = 0

        def score(self, answers):
            self.calls += 1
            if self.calls == 1:
                raise RewardError("broken")
            return [Score(1.0) for _ in answers]

    async def ask() -> Score:
        together = Together(Once())  # pyright: ignore[reportArgumentType]
        answer = Answer({}, (), (), 0, 0)
        with pytest.raises(RewardError, match="broken"):
            await together.score(answer)
        return await together.score(answer)

    assert asyncio.run(ask()).value == 1.0
