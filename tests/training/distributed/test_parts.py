"""Engines and reward models of two ranks give what those of one process give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grlo import sequence_scores
from grlo.algorithms.ppo import PPO
from grlo.engines.hf import HFEngineSettings
from grlo.errors import EngineError
from grlo.interfaces import BuildContext
from grlo.rewards.mixture import MixtureSettings
from grlo.rewards.reward_model import RewardModelSettings
from grlo.rewards.shuffled import ShuffledRewardSettings
from grlo.training.distributed.fsdp import Sharding
from grlo.training.distributed.parts import LeadingLearner, SharedEngine, SharedScoring, follow
from grlo.training.distributed.ranks import Ranks
from grlo.training.learner import Learner
from grlo.types import Completion, Message, Prompt, Rollout, SamplingParams
from small_updates import credit, make_batch, make_recipe
from two_ranks import division, on_ranks

PROMPTS = [(5, 6, 7), (8, 9), (5, 6, 7), (1, 2, 3, 4, 5), (30,)]
SEEDS = [11, 12, 13, 14, 15]
SAMPLING = SamplingParams(max_tokens=9, temperature=1.0, num_samples=3, stop=(3,))


def draw(engine: Any, prompts: Sequence[Sequence[int]] = PROMPTS) -> list[Completion]:
    told: dict[int, Completion] = {}
    completions = engine.generate(
        prompts, SAMPLING, seeds=SEEDS[: len(prompts)], on_completion=told.__setitem__
    )
    assert told == dict(enumerate(completions)), "each is reported, at its own place"
    return completions


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_answers_are_those_of_one_process_before_and_after_an_update(policy_path, sharding):
    recipe = make_recipe(policy_path, PPO(), optimizer={"learning_rate": 0.05})
    context = BuildContext(device="cpu", seed=0)

    def work(learner: Learner, engine: Any) -> list[list[Completion]]:
        found = [draw(engine, PROMPTS[:1]), draw(engine, []), draw(engine)]
        learner.update(credit(learner, make_batch()), step=1)
        engine.load_weights(learner.policy_weights())
        return [*found, draw(engine)]

    def run(ranks: Ranks) -> Any:
        options: dict[str, Any] = {"device": "cpu", "division": division(ranks, sharding)}
        if ranks.is_leader:
            learner = LeadingLearner(recipe, ranks=ranks, **options)
        else:
            learner = Learner(recipe, **options)
        engine = HFEngineSettings().build(learner.policy, context=context)
        shared = SharedEngine(engine, ranks, weights=learner.policy_weights)
        return lead(ranks, lambda: work(learner, shared), engine=shared, learner=learner)

    alone = Learner(recipe, device="cpu")
    expected = work(alone, HFEngineSettings().build(alone.policy, context=context))
    assert [c.tokens for c in expected[2]] != [c.tokens for c in expected[3]]
    found, _ = on_ranks(run)
    for ours, theirs in zip(found, expected, strict=True):
        assert [c.tokens for c in ours] == [c.tokens for c in theirs]
        assert [c.finish_reason for c in ours] == [c.finish_reason for c in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def lead(
    ranks: Ranks,
    work: Callable[[], Any],
    *,
    engine: SharedEngine | None = None,
    scoring: SharedScoring | None = None,
    learner: Any = None,
) -> Any:
    """What the leader's work gives; the others follow until it is done."""
    if ranks.is_leader:
        found = work()
        ranks.send(None)
        return found
    follow(
        ranks,
        engine=engine or SharedEngine(Recorder(), ranks, weights=lambda: iter(())),
        scoring=scoring or SharedScoring(ranks, sharding=None),
        learner=learner or SimpleNamespace(annotate=None),
    )
    return "followed to the end"


class Recorder:
    """An engine that answers a prompt with its own tokens, and remembers what it was asked."""

    def __init__(self, *, fails: bool = False) -> None:
        self.asked: list[Sequence[int]] = []
        self.fails = fails

    def generate(self, prompts: Any, sampling: Any, *, seeds: Any, **_: Any) -> list[Completion]:
        if self.fails:
            raise EngineError("no such token")
        self.asked = list(prompts)
        return [
            Completion((*prompt, seed, sample), (0.0,) * (len(prompt) + 2), "stop")
            for prompt, seed in zip(prompts, seeds, strict=True)
            for sample in range(sampling.num_samples)
        ]

    def load_weights(self, named_tensors: Any) -> None:
        self.asked = list(named_tensors)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("size", "together"), [(2, 1), (2, 2), (4, 2)])
def test_ranks_with_an_engine_together_are_asked_the_same(size, together):
    def run(ranks: Ranks) -> Any:
        own = Recorder()
        engine = SharedEngine(own, ranks, weights=lambda: iter(()), ranks_per_engine=together)
        work = lambda: engine.generate(PROMPTS, SAMPLING, seeds=SEEDS)  # noqa: E731
        found = lead(ranks, work, engine=engine)
        return own.asked, found

    results = on_ranks(run, size=size)
    expected = Recorder().generate(PROMPTS, SAMPLING, seeds=SEEDS)
    assert results[0][1] == expected
    asked = [result[0] for result in results]
    assert [prompt for own in asked[::together] for prompt in own] == PROMPTS
    for rank, own in enumerate(asked):
        assert own == asked[rank - rank % together]


def test_what_an_engine_of_another_rank_raises_reaches_the_leader():
    def run(ranks: Ranks) -> str:
        own = Recorder(fails=ranks.rank == 1)
        engine = SharedEngine(own, ranks, weights=lambda: iter(()))

        def work() -> str:
            with pytest.raises(EngineError) as caught:
                engine.generate(PROMPTS, SAMPLING, seeds=SEEDS)
            return str(caught.value)

        return lead(ranks, work, engine=engine)

    assert on_ranks(run) == ["no such token", "followed to the end"]


QUESTIONS = [f"What is {number} and {number * 37}?" for number in range(5)]


def rollouts() -> list[Rollout]:
    """Groups of unlike size and length, two answers of one alike."""
    rows = []
    for group, text in enumerate(QUESTIONS):
        prompt = Prompt(str(group), (Message("user", text),))
        for sample in range(1 + group % 3):
            answer = "same" if group == 2 else "x" * (3 + 7 * sample + 5 * group)
            rows.append(Rollout(prompt, group, (1,), Completion((1,), (0.0,), "stop"), answer))
    return rows


def settings(path: Path, kind: str) -> Any:
    model = {"model": str(path), "tokens_per_batch": 60}
    plain = RewardModelSettings(**model, standardize=True)
    return {
        "plain": plain,
        "shuffled": ShuffledRewardSettings(**model),
        "mixture": MixtureSettings(
            parts={"one": plain, "two": replace(plain, standardize=False, max_tokens=30)},
            routes={"model": {"one": 1.0, "two": 0.5}},
        ),
    }[kind]


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", ["plain", "shuffled", "mixture"])
def test_scores_are_those_of_one_process(chat_reward_model_path, kind, sharding):
    def score(reward: Any) -> Any:
        found = [reward.score(rows) for rows in (rollouts(), rollouts()[:1], [])]
        return (
            [[s.value for s in scores] for scores in found],
            reward.state_dict(),
            reward.metrics(),
        )

    def run(ranks: Ranks) -> Any:
        divided = Sharding(ranks) if sharding == "fsdp" else None
        scoring = SharedScoring(ranks, sharding=divided)
        context = BuildContext(device="cpu", seed=0, num_ranks=2, share=scoring.share)
        if divided is not None:
            shard = divided.shard
            context = replace(context, shard=lambda m, name: shard(m, name, dtype=m.dtype))
        reward = settings(chat_reward_model_path, kind).build(context=context)
        return lead(ranks, lambda: score(reward), scoring=scoring)

    alone = settings(chat_reward_model_path, kind)
    expected = score(alone.build(context=BuildContext(device="cpu", seed=0)))
    found, _ = on_ranks(run)
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert found[1] == pytest.approx(expected[1], abs=1e-5)
    assert found[2] == pytest.approx(expected[2], abs=1e-5)


def test_a_sharded_reward_model_that_runs_out_of_memory_names_its_setting(
    chat_reward_model_path,
):

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")

    def run(ranks: Ranks) -> str:
        divided = Sharding(ranks)
        context = BuildContext(
            device="cpu", seed=0, shard=lambda m, name: divided.shard(m, name, dtype=m.dtype)
        )
        large = replace(settings(chat_reward_model_path, "plain"), tokens_per_batch=900)
        reward = large.build(context=context)
        sequence_scores.forward_scores = full  # type: ignore[assignment]
        with pytest.raises(Exception, match=r"lower reward\.tokens_per_batch \(now 900\)"):
            reward.score(rollouts())
        return "named"

    assert on_ranks(run) == ["named", "named"]
