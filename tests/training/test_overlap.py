"""Overlap: who draws what by which weights, the same in one thread, and that it still learns."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from grlo.algorithms.grpo import GRPO
from grlo.algorithms.ppo import PPO
from grlo.batch import collate
from grlo.engines.hf import HFEngine, HFEngineSettings
from grlo.errors import NonFiniteError
from grlo.interfaces import Algorithm, BuildContext, OnCompletion, Progress, ignore, silent
from grlo.ledger import Ledger
from grlo.prompts.sampler import PromptSampler
from grlo.rollout import ChatRenderer, sample
from grlo.settings import (
    CriticSettings,
    ModelSettings,
    OptimizerSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    TrainingSettings,
)
from grlo.training.learner import Learner
from grlo.training.trainer import Trainer
from grlo.types import Completion, Message, Prompt, Rollout, SamplingParams, Score, Usage

NUM_SAMPLES = 2
PROMPTS = [Prompt(f"{n}", (Message("user", f"Say {n}"),)) for n in range(6)]


class EvenTokens:
    """Scores the share of even ids among the tokens of an answer."""

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        found = [rollout.completion.tokens for rollout in rollouts]
        return [Score(sum(t % 2 == 0 for t in tokens) / len(tokens)) for tokens in found]

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None: ...

    def metrics(self) -> dict[str, float]:
        return {}

    def usage(self) -> Usage:
        return Usage()


# With parts that only count ----------------------------------------------------------------------


class Renderer:
    stop_ids, pad_id = (0,), 0

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return (7,)

    def decode(self, tokens: Sequence[int]) -> str:
        return ""


class Engine:
    """Answers with the number of the weights that it holds."""

    def __init__(self) -> None:
        self.version = 0
        self.is_drawing = False
        self.calls = 0
        self.beside_update: threading.Barrier | None = None
        self.is_endless = False
        """From the second call on."""

    def generate(
        self,
        prompts: Sequence[object],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        progress: Progress,
        on_completion: OnCompletion = ignore,
    ) -> list[Completion]:
        self.calls += 1
        self.is_drawing = True
        try:
            if self.beside_update is not None and self.calls > 1:
                self.beside_update.wait(30)
            while self.is_endless and self.calls > 1:
                progress(done=0, total=1, tokens=0)
            completions = []
            for index in range(len(prompts) * sampling.num_samples):
                progress(done=index, total=0, tokens=0)
                completions.append(
                    Completion(
                        tokens=(self.version, index + 1, 0),
                        logprobs=(-1.0, -0.1 / 3, -1.0),
                        finish_reason="stop",
                    )
                )
        finally:
            self.is_drawing = False
        return completions

    def load_weights(self, named_tensors: Sequence[int]) -> None:
        assert not self.is_drawing, "weights were loaded while answers were drawn"
        (self.version,) = named_tensors


class CountingLearner:
    """Its weights are the number of its updates."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.version = engine, 0
        self.trained_on: list[set[int]] = []
        self.fails = False

    def annotate(self, batch: Any, *, step: int, score_std: float) -> Any:
        return batch

    def rows_to_read(self, batch: Any) -> torch.Tensor:
        return torch.arange(len(batch.tokens_BT))

    def update(self, batch: Any, *, step: int, progress: Progress) -> dict[str, float]:
        if self.engine.beside_update is not None:
            self.engine.beside_update.wait(30)
        if self.fails:
            raise NonFiniteError("policy loss is nan")
        self.trained_on.append(set(batch.tokens_BT[:, 1].tolist()))
        self.version += 1
        return {}

    def policy_weights(self) -> list[int]:
        return [self.version]


class NoAlgorithm:
    def assign_credit(self, batch: Any) -> Any:
        return batch


def counting_trainer(*, overlap: bool = True) -> Trainer:
    engine = Engine()
    return Trainer(
        prompts=PromptSampler(PROMPTS, prompts_per_step=2, seed=0),
        renderer=cast(Any, Renderer()),
        engine=cast(Any, engine),
        reward=EvenTokens(),
        algorithm=cast(Any, NoAlgorithm()),
        learner=cast(Any, CountingLearner(engine)),
        sampling=SamplingParams(max_tokens=3, num_samples=NUM_SAMPLES),
        ledger=Ledger(device="cpu", num_devices=1, attempt=0, since=time.perf_counter()),
        count_flops=lambda phase, rollouts, *, step: {},
        seed=0,
        overlap=overlap,
    )


def versions(trainer: Trainer) -> list[set[int]]:
    """Weights that drew what each update was made of."""
    return cast(Any, trainer.learner).trained_on


def test_answers_are_one_step_old_from_the_second_step_on() -> None:
    trainer = counting_trainer()
    list(trainer.steps(start=1, stop=5))
    # The update of step k starts from the weights of k - 1 updates.
    assert versions(trainer) == [{0}, {0}, {1}, {2}, {3}]
    without = counting_trainer(overlap=False)
    list(without.steps(start=1, stop=5))
    assert versions(without) == [{0}, {1}, {2}, {3}, {4}]


def test_steps_have_the_prompts_they_have_without_overlap() -> None:
    drawn = []
    for overlap in (True, False):
        results = counting_trainer(overlap=overlap).steps(start=1, stop=4)
        drawn.append([[(r.prompt.id, r.group) for r in result.rollouts] for result in results])
    assert drawn[0] == drawn[1]


def test_answers_are_drawn_while_the_learner_updates_and_none_behind_the_last_step() -> None:
    trainer = counting_trainer()
    engine = cast(Any, trainer.engine)
    # Update and drawing wait for each other: one after the other they would wait in vain.
    engine.beside_update = threading.Barrier(2)
    results = trainer.steps(start=1, stop=3)
    next(results)
    next(results)
    engine.beside_update = None
    next(results)
    assert engine.calls == 3
    assert trainer.ahead == []


def test_between_steps_the_engine_holds_the_newest_weights() -> None:
    """Evaluations and the gold signal draw by them."""
    trainer = counting_trainer()
    found = [cast(Any, trainer.engine).version for _ in trainer.steps(start=1, stop=3)]
    assert found == [1, 2, 3]


def test_an_update_that_fails_ends_what_is_drawn_beside_it() -> None:
    trainer = counting_trainer()
    engine = cast(Any, trainer.engine)
    engine.is_endless = cast(Any, trainer.learner).fails = True
    with pytest.raises(NonFiniteError):
        list(trainer.steps(start=1, stop=3))
    assert not engine.is_drawing


def test_an_engine_that_fails_beside_an_update_fails_the_run_and_is_recorded() -> None:
    trainer = counting_trainer()
    engine = cast(Any, trainer.engine)
    draw = engine.generate

    def fail(*args: Any, **options: Any) -> list[Completion]:
        if engine.calls == 2:
            raise MemoryError("too many rows")
        return draw(*args, **options)

    engine.generate = fail
    with pytest.raises(MemoryError):
        list(trainer.steps(start=1, stop=5))
    assert [(c.phase, c.status) for c in trainer.ledger.drain()][-2] == ("generate", "failed")


def test_a_resumed_trainer_goes_on_with_the_answers_that_were_drawn_ahead() -> None:
    whole = counting_trainer()
    expected = [result.rollouts for result in whole.steps(start=1, stop=4)]
    before = counting_trainer()
    results = before.steps(start=1, stop=4)
    next(results), next(results)
    after = counting_trainer()
    state = json.loads(json.dumps(before.state_dict()))
    after.load_state_dict(state)
    # The weights after two updates, which did not draw what step 3 is made of.
    cast(Any, after.learner).version = cast(Any, after.engine).version = 2
    assert [result.rollouts for result in after.steps(start=3, stop=4)] == expected[2:]
    assert cast(Any, after.engine).calls == 1, "only step 4's were drawn"


def test_entries_of_overlapped_steps_add_up_to_the_wall_time() -> None:
    start = time.perf_counter()
    trainer = counting_trainer()
    trainer.ledger = Ledger(device="cpu", num_devices=1, attempt=0, since=start)
    costs = [cost for result in trainer.steps(start=1, stop=4) for cost in result.costs]
    costs += trainer.ledger.drain()
    stop = time.perf_counter()
    assert sum(cost.seconds for cost in costs) <= stop - start
    assert sum(cost.seconds for cost in costs) == pytest.approx(stop - start, abs=0.5)
    drawing = [cost for cost in costs if cost.phase == "generate"]
    # Step 1 draws its own and those of step 2; the last one draws nothing.
    assert [cost.step for cost in drawing] == [1, 1, 2, 3]
    assert [cost.overlapped_seconds > 0 for cost in drawing] == [False, True, True, True]
    assert {cost.tokens for cost in drawing} == {2 * NUM_SAMPLES * 3}


def test_speed_of_drawing_counts_the_time_beside_the_update() -> None:
    trainer = counting_trainer()
    first, second, last = trainer.steps(start=1, stop=3)
    for result in (first, second):
        drawing = [cost for cost in result.costs if cost.phase == "generate"]
        took = sum(cost.seconds + cost.overlapped_seconds for cost in drawing)
        tokens = sum(cost.tokens for cost in drawing)
        assert result.metrics["tokens_per_second/generate"] == pytest.approx(tokens / took)
        overlapped = sum(cost.overlapped_seconds for cost in drawing)
        assert result.metrics["time/overlapped"] == overlapped > 0
        assert result.metrics["time/step"] == sum(cost.seconds for cost in result.costs)
    assert "tokens_per_second/generate" not in last.metrics


# With a model ------------------------------------------------------------------------------------


def make_recipe(
    path: Path, algorithm: Algorithm, *, num_minibatches: int = 1, rate: float = 3e-3
) -> Recipe:
    return Recipe(
        policy=ModelSettings(
            model=str(path), compute_dtype="float32", gradient_checkpointing=False
        ),
        prompts=PromptSettings(sources=("unused.jsonl",)),
        reward=None,
        algorithm=algorithm,
        sampling=SamplingSettings(max_tokens=8),
        optimizer=OptimizerSettings(learning_rate=rate),
        critic=CriticSettings(optimizer=OptimizerSettings(learning_rate=rate)),
        training=TrainingSettings(steps=50, num_minibatches=num_minibatches, device="cpu"),
    )


SAMPLING = SamplingParams(max_tokens=8, num_samples=4)


def make_trainer(recipe: Recipe, *, overlap: bool = True) -> Trainer:
    learner = Learner(recipe, device="cpu")
    context = BuildContext(device="cpu", seed=0, snapshot=overlap)
    engine = HFEngineSettings(dtype="float32").build(learner.policy, context=context)
    return Trainer(
        prompts=PromptSampler(PROMPTS, prompts_per_step=4, seed=1),
        renderer=ChatRenderer.from_pretrained(recipe.policy.model),
        engine=engine,
        reward=EvenTokens(),
        algorithm=cast(Algorithm, recipe.algorithm),
        learner=learner,
        sampling=SAMPLING,
        ledger=Ledger(device="cpu", num_devices=1, attempt=0),
        count_flops=lambda phase, rollouts, *, step: {},
        seed=1,
        overlap=overlap,
    )


def weights(learner: Learner) -> Tensor:
    models = learner.models().values()
    return torch.cat([p.detach().flatten() for model in models for p in model.parameters()])


def in_one_thread(recipe: Recipe, *, steps: int) -> Iterator[tuple[list[Rollout], dict]]:
    """One-step-off-policy training written out without threads: the next step's answers are drawn
    just before the update."""
    trainer = make_trainer(recipe)  # For its parts only.
    learner, engine, renderer = trainer.learner, trainer.engine, trainer.renderer

    def draw(step: int) -> list[Rollout]:
        prompts = trainer.prompts.batch(step)
        return sample(engine, renderer, prompts, SAMPLING, seed=1, step=step)

    rollouts = draw(1)
    for step in range(1, steps + 1):
        following = draw(step + 1)
        scores = trainer.reward.score(rollouts)
        trainer.scores.update([score.value for score in scores if score.value is not None])
        batch = collate(rollouts, scores, pad_id=renderer.pad_id)
        batch = learner.annotate(batch, step=step, score_std=trainer.scores.std)
        losses = learner.update(trainer.algorithm.assign_credit(batch), step=step)
        engine.load_weights(learner.policy_weights())
        yield rollouts, losses | {"sum": float(weights(learner).double().sum())}
        rollouts = following


@pytest.mark.parametrize("delay", ["update", "draw", "none"])
@pytest.mark.parametrize("algorithm", [PPO(importance_cap=2.0), GRPO(importance_cap=2.0)])
def test_threads_change_not_a_bit_whoever_is_slower(
    chat_policy_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: Any, delay: str
) -> None:
    recipe = make_recipe(chat_policy_path, algorithm, num_minibatches=2)
    expected = list(in_one_thread(recipe, steps=4))

    def slowed(function: Any) -> Any:
        def slow(*args: Any, **options: Any) -> Any:
            time.sleep(0.2)
            return function(*args, **options)

        return slow

    if delay == "update":
        monkeypatch.setattr(Learner, "update", slowed(Learner.update))
    elif delay == "draw":
        monkeypatch.setattr(HFEngine, "generate", slowed(HFEngine.generate))
    trainer = make_trainer(recipe)
    for result, (rollouts, losses) in zip(trainer.steps(start=1, stop=4), expected, strict=True):
        assert list(result.rollouts) == rollouts
        found = result.metrics | {"sum": float(weights(trainer.learner).double().sum())}
        assert {name: found[name] for name in losses} == losses


def test_the_first_step_is_on_policy_and_later_ones_are_weighted(chat_policy_path: Path) -> None:
    recipe = make_recipe(chat_policy_path, GRPO(importance_cap=2.0), rate=1e-2)
    first, *later = [result.metrics for result in make_trainer(recipe).steps(start=1, stop=4)]
    assert first["importance/weight"] == pytest.approx(1, abs=1e-4)
    assert first["importance/effective_sample_size"] == pytest.approx(1, abs=1e-4)
    assert first["engine/logprob_gap"] < 1e-4
    for metrics in later:
        assert 0 < metrics["importance/effective_sample_size"] < 0.9999
        assert 0 <= metrics["importance/capped"] < 1
        assert metrics["engine/logprob_gap"] > 1e-3


def test_overlap_learns_what_training_without_it_learns(chat_policy_path: Path) -> None:
    found = {}
    for overlap, cap in ((False, 0.0), (True, 2.0)):
        recipe = make_recipe(chat_policy_path, GRPO(importance_cap=cap), rate=1e-2)
        trainer = make_trainer(recipe, overlap=overlap)
        trainer.sampling = replace(SAMPLING, num_samples=8)
        rewards = [result.metrics["reward/mean"] for result in trainer.steps(start=1, stop=25)]
        found[overlap] = sum(rewards[-5:]) / 5
        assert rewards[0] < 0.6
    assert found[False] > 0.85
    assert found[True] > 0.85
