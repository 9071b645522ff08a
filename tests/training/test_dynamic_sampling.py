"""Dynamic sampling: groups without spread are replaced by further prompts, exactly resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest
import torch

from grlo.errors import RewardError
from grlo.ledger import Ledger
from grlo.training.metrics import informative_groups
from grlo.training.trainer import Trainer
from grlo.types import Completion, Message, Prompt, Rollout, SamplingParams, Score, Usage, Work

NUM_SAMPLES = 2


class Prompts:
    """Two prompts a draw, named after it: `1a`, `1b`, `2a`, ..."""

    def batch(self, step: int) -> list[Prompt]:
        return [Prompt(f"{step}{x}", (Message("user", f"{step}{x}"),)) for x in "ab"]


class Renderer:
    stop_ids, pad_id = (0,), 0

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return (7,)

    def decode(self, tokens: Sequence[int]) -> str:
        return ""


class Engine:
    """Remembers the seeds that it was given."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def generate(self, prompts, sampling, *, seeds, progress, on_completion) -> list[Completion]:
        self.seeds += seeds
        completion = Completion(tokens=(5, 0), logprobs=(-1.0, -1.0), finish_reason="stop")
        return [completion] * (len(prompts) * sampling.num_samples)

    def load_weights(self, named_tensors: object) -> None: ...


class Reward:
    """Spread only for the prompts that are named."""

    def __init__(self, informative: str, *, unscored: str = "") -> None:
        self.informative, self.unscored = informative.split(), unscored.split()
        self.latest: dict[str, float] = {}

    def score(self, rollouts: Sequence[Rollout], *, progress: object) -> list[Score]:
        self.latest = {"reward/draw": float(rollouts[0].prompt.id[0])}
        if "3a" in {rollout.prompt.id for rollout in rollouts}:
            self.latest["reward/third"] = 5.0
        scores = []
        for index, rollout in enumerate(rollouts):
            is_first = index % NUM_SAMPLES == 0
            if rollout.prompt.id in self.unscored and is_first:
                scores.append(Score(None, note="broken"))
            else:
                scores.append(Score(float(rollout.prompt.id in self.informative and is_first)))
        return scores

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None: ...

    def metrics(self) -> dict[str, float]:
        return dict(self.latest)

    def usage(self) -> Usage:
        return Usage()


class Learner:
    """Keeps the groups that it is given."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    def annotate(self, batch: Any, *, step: int, score_std: float) -> Any:
        return batch

    def rows_to_read(self, batch: Any) -> torch.Tensor:
        return torch.arange(len(batch.groups_B))

    def update(self, batch: Any, *, step: int, progress: object) -> dict[str, float]:
        self.groups.append(batch.groups_B.tolist())
        return {}

    def policy_weights(self) -> list[object]:
        return []


class Algorithm:
    def assign_credit(self, batch: Any) -> Any:
        return batch


MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def make_trainer() -> MakeTrainer:
    def make(reward: Reward, *, max_draws: int) -> Trainer:
        return Trainer(
            prompts=Prompts(),
            renderer=cast(Any, Renderer()),
            engine=cast(Any, Engine()),
            reward=cast(Any, reward),
            algorithm=cast(Any, Algorithm()),
            learner=cast(Any, Learner()),
            sampling=SamplingParams(max_tokens=2, num_samples=NUM_SAMPLES),
            ledger=Ledger(device="cpu", num_devices=1, attempt=0),
            count_flops=lambda phase, rollouts, *, step: {},
            seed=0,
            max_draws=max_draws,
        )

    return make


def drawn(result: Any) -> list[str]:
    return [rollout.prompt.id for rollout in result.rollouts[::NUM_SAMPLES]]


def test_prompts_are_drawn_until_enough_groups_have_spread(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Reward("1b 3a 3b 4a 4b"), max_draws=4)
    (result,) = trainer.steps(start=1, stop=1)
    assert drawn(result) == ["1a", "1b", "2a", "2b", "3a", "3b"]
    # Of 1b, 3a and 3b the first two are wanted; their groups are 1 and 4 of the step.
    assert cast(Any, trainer.learner).groups == [[1, 1, 4, 4]]
    assert [rollout.group for rollout in result.rollouts[::2]] == [0, 1, 2, 3, 4, 5]
    assert [cost.phase for cost in result.costs].count("generate") == 3
    assert sum(cost.tokens for cost in result.costs if cost.phase == "generate") == 6 * 2 * 2


def test_a_prompt_that_comes_again_within_a_step_has_other_seeds(
    make_trainer: MakeTrainer,
) -> None:
    class Same(Prompts):
        def batch(self, step: int) -> list[Prompt]:
            return super().batch(1)

    trainer = make_trainer(Reward(""), max_draws=3)
    trainer.prompts = Same()
    list(trainer.steps(start=1, stop=2))
    seeds = cast(Any, trainer.engine).seeds
    assert len(set(seeds)) == len(seeds) == 2 * 3 * 2


def test_the_next_step_goes_on_in_the_stream_of_prompts(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Reward("2a 2b 3a 3b 4a 4b"), max_draws=4)
    first, second = trainer.steps(start=1, stop=2)
    assert (drawn(first), drawn(second)) == (["1a", "1b", "2a", "2b"], ["3a", "3b"])


def test_what_there_is_is_trained_on_when_draws_run_out(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Reward("2b"), max_draws=3)
    (result,) = trainer.steps(start=1, stop=1)
    assert result.metrics["sampling/kept_groups"] == 1
    assert len(drawn(result)) == 6


def test_metrics_say_what_became_of_every_group(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Reward("1b 3a 3b"), max_draws=4)
    (result,) = trainer.steps(start=1, stop=1)
    found = {k.split("/")[1]: v for k, v in result.metrics.items() if k.startswith("sampling/")}
    # 1a, 2a and 2b have no spread; 3b has, but is one more than the two that are wanted.
    assert found == {"draws": 3, "drawn_groups": 6, "kept_groups": 2, "dropped_zero_spread": 3}
    # Every second sample of the three groups with spread scores 1.
    assert result.metrics["reward/mean"] == 3 / 12


def test_metrics_of_the_reward_are_means_over_the_draws_that_have_them(
    make_trainer: MakeTrainer,
) -> None:
    trainer = make_trainer(Reward("1b 3a 3b"), max_draws=4)
    (result,) = trainer.steps(start=1, stop=1)
    assert result.metrics["reward/draw"] == (1 + 2 + 3) / 3
    assert result.metrics["reward/third"] == 5


def test_a_step_with_nothing_to_learn_from_changes_no_weights(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Reward("5b"), max_draws=2)
    results = list(trainer.steps(start=1, stop=3))
    assert [result.metrics["sampling/kept_groups"] for result in results] == [0, 0, 1]
    assert [len(result.rollouts) for result in results] == [8, 8, 8]
    assert cast(Any, trainer.learner).groups == [[1, 1]]
    assert {cost.phase for cost in results[0].costs} == {"generate", "score"}
    assert trainer.num_idle_steps == 0


@pytest.mark.parametrize("resumed_after", [0, 1, 2])
def test_several_steps_on_end_with_nothing_to_learn_from_stop_the_run(
    make_trainer: MakeTrainer, resumed_after: int
) -> None:
    """Also when the run was interrupted in between."""
    trainer = make_trainer(Reward("1a"), max_draws=2)
    list(trainer.steps(start=1, stop=1 + resumed_after))
    resumed = make_trainer(Reward("1a"), max_draws=2)
    resumed.load_state_dict(trainer.state_dict())
    with pytest.raises(
        RewardError, match=r"steps 2 to 4 changed nothing: .* \(the mean of step 4 is 0\)"
    ):
        list(resumed.steps(start=2 + resumed_after, stop=9))


def test_a_sample_without_a_score_is_no_spread(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Reward("1a 2a 2b", unscored="1a"), max_draws=2)
    (result,) = trainer.steps(start=1, stop=1)
    assert result.metrics["sampling/kept_groups"] == 2
    assert cast(Any, trainer.learner).groups == [[2, 2, 3, 3]]


def test_a_resumed_trainer_draws_what_an_uninterrupted_one_does(make_trainer: MakeTrainer) -> None:
    informative = "2a 2b 3a 5b 6a 7a 7b"
    whole = make_trainer(Reward(informative), max_draws=4)
    expected = [drawn(result) for result in whole.steps(start=1, stop=3)]
    before = make_trainer(Reward(informative), max_draws=4)
    list(before.steps(start=1, stop=1))
    after = make_trainer(Reward(informative), max_draws=4)
    after.load_state_dict(before.state_dict())
    assert [drawn(result) for result in after.steps(start=2, stop=3)] == expected[1:]


def test_without_dynamic_sampling_every_group_is_kept(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Reward("1a"), max_draws=1)
    (result,) = trainer.steps(start=3, stop=3)
    assert drawn(result) == ["3a", "3b"], "a step is a draw"
    assert cast(Any, trainer.learner).groups == [[0, 0, 1, 1]]
    assert not any(name.startswith("sampling/") for name in result.metrics)


def test_answers_without_a_score_are_not_charged_to_the_update(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Reward("1a", unscored="1b"), max_draws=1)
    counted: dict[str, int] = {}

    def count(phase: str, rollouts: Sequence[Rollout], *, step: int) -> dict[str, Work]:
        counted[phase] = len(rollouts)
        return {}

    trainer.count_flops = count
    (result,) = trainer.steps(start=1, stop=1)
    # Two prompts with two answers of two tokens; one answer has no score.
    assert counted == {"generate": 4, "score": 4, "annotate": 3, "update": 3, "sync": 0}
    tokens = {cost.phase: cost.tokens for cost in result.costs}
    assert (tokens["generate"], tokens["score"], tokens["update"]) == (4 * 2, 4 * 3, 3 * 3)


def test_unlike_penalties_are_no_spread() -> None:
    prompt = Prompt("p", (Message("user", "?"),))
    completion = Completion(tokens=(0,), logprobs=(0.0,), finish_reason="stop")
    rollouts = [Rollout(prompt, group, (7,), completion, "") for group in (0, 0, 1, 1, 2, 2)]
    scores = [
        *(Score(-0.1, parts={"unshaped": 0.0}), Score(-0.4, parts={"unshaped": 0.0})),
        *(Score(0.5, parts={"unshaped": 1.0}), Score(0.5, parts={"unshaped": 0.5})),
        *(Score(1.0), Score(0.0)),
    ]
    assert informative_groups(rollouts, scores) == [1, 2]
