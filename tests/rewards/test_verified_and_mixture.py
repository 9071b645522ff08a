"""Rewards by verifiers, and sums of rewards routed by the style of the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from grlo.errors import DataError, RecipeError, RewardError
from grlo.interfaces import BuildContext
from grlo.recipe import dump_recipe, format_recipe, load_dumped, load_recipe
from grlo.rewards import single_rewards, style_problems
from grlo.rewards.mixture import MixtureReward, MixtureSettings
from grlo.rewards.verified import VerifiedSettings
from grlo.types import Completion, Message, Prompt, Rollout, Score, Usage

CONTEXT = BuildContext(device="cpu", seed=0)


def rollout(text: str, *, style: str = "rule") -> Rollout:
    prompt = Prompt(id=text, messages=(Message("user", "?"),), style=style, source=f"f:{text}")
    completion = Completion(tokens=(1,), logprobs=(0.0,), finish_reason="stop")
    return Rollout(prompt=prompt, group=0, prompt_tokens=(0,), completion=completion, text=text)


@dataclass(frozen=True)
class ByText:
    """Grades the answer that says so."""

    def build(self, *, context: BuildContext) -> ByText:
        return self

    def __call__(self, prompt: Prompt, text: str) -> Score:
        match text:
            case "right":
                return Score(1.0, parts={"parsed": 1.0}, extracted="42")
            case "half":
                return Score(0.5, parts={"parsed": 1.0}, extracted="4")
            case "wrong":
                return Score(0.0, parts={"parsed": 1.0}, note="not 42", extracted="41")
            case "unreadable":
                return Score(0.0, parts={"parsed": 0.0}, note="no answer")
            case "unscored":
                return Score(None, note="no reference")
        raise OSError("the disk is gone")


def test_verdicts_are_worth_what_the_settings_say() -> None:
    reward = VerifiedSettings(ByText(), right=2.0, wrong=-1.0, unparsed=-0.5).build(context=CONTEXT)
    texts = ["right", "half", "wrong", "unreadable", "unscored", "breaks"]
    scores = reward.score([rollout(text) for text in texts])
    assert [score.value for score in scores] == [2.0, 0.5, -1.0, -0.5, None, None]
    assert [score.extracted for score in scores[:3]] == ["42", "4", "41"]
    assert scores[1].parts == {"score": 0.5, "parsed": 1.0}
    assert scores[5].note == "the verifier failed: OSError: the disk is gone"
    metrics = reward.metrics()
    assert metrics.pop("answers_per_second/verifier") > 0
    assert metrics == {"reward/unscored": 2 / 6, "reward/unparsed": 1 / 6}


def test_unreadable_answers_are_worth_as_much_as_wrong_ones_by_default() -> None:
    reward = VerifiedSettings(ByText(), wrong=-1.0).build(context=CONTEXT)
    assert reward.score([rollout("unreadable")])[0].value == -1.0


def test_a_verifier_takes_no_statistics() -> None:
    reward = VerifiedSettings(ByText()).build(context=CONTEXT)
    reward.load_state_dict(reward.state_dict())
    with pytest.raises(RewardError, match="the checkpoint has the statistics count"):
        reward.load_state_dict({"count": 3})


class Constant:
    """A reward that gives one value, counts its rollouts and says what it cost."""

    def __init__(self, value: float | None, *, dollars: float = 0.0) -> None:
        self.value, self.dollars, self.seen = value, dollars, 0.0
        self.texts: list[str] = []

    def score(self, rollouts: Sequence[Rollout], *, progress: Any = None) -> list[Score]:
        self.texts += [r.text for r in rollouts]
        self.seen += len(rollouts)
        progress(done=len(rollouts), total=len(rollouts), tokens=0)
        note = "" if self.value is not None else "broken"
        return [Score(self.value, parts={"raw": 7.0}, note=note) for _ in rollouts]

    def state_dict(self) -> dict[str, float]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.seen = state["seen"]

    def metrics(self) -> dict[str, float]:
        return {"reward/seen": self.seen, "answers_per_second/verifier": 0.5}

    def usage(self) -> Usage:
        return Usage(requests=1, dollars=self.dollars)


ROUTES = {"model": {"quality": 1.0}, "rule": {"correct": 2.0, "quality": 0.1}}


def test_every_row_gets_the_weighted_sum_of_its_style() -> None:
    quality, correct = Constant(10.0, dollars=0.5), Constant(0.5, dollars=0.25)
    mixture = MixtureReward({"quality": quality, "correct": correct}, routes=ROUTES)
    rollouts = [rollout("a", style="model"), rollout("b"), rollout("c", style="model")]
    told: list[tuple[int, int]] = []
    scores = mixture.score(
        rollouts, progress=lambda *, done, total, tokens: told.append((done, total))
    )
    assert [score.value for score in scores] == pytest.approx([10.0, 2 * 0.5 + 0.1 * 10.0, 10.0])
    assert scores[1].parts == {
        "quality": 10.0,
        "quality/raw": 7.0,
        "correct": 0.5,
        "correct/raw": 7.0,
    }
    assert (quality.texts, correct.texts) == (["a", "b", "c"], ["b"])
    assert told == [(3, 4), (4, 4)]
    assert mixture.metrics() == {
        "reward/quality/seen": 3.0,
        "answers_per_second/quality/verifier": 0.5,
        "reward/correct/seen": 1.0,
        "answers_per_second/correct/verifier": 0.5,
    }
    assert mixture.usage() == Usage(requests=2, dollars=0.75)


def test_a_row_is_unscored_only_if_one_of_its_own_parts_fails() -> None:
    parts = {"quality": Constant(1.0), "correct": Constant(None)}
    mixture = MixtureReward(parts, routes=ROUTES)
    scores = mixture.score([rollout("a"), rollout("b", style="model")])
    assert [score.value for score in scores] == [None, 1.0]
    assert scores[0].note == "correct: broken"
    assert scores[0].parts["quality"] == 1.0


def test_statistics_of_parts_come_back_to_their_parts() -> None:
    before = MixtureReward({"a": Constant(1.0), "b": Constant(1.0)}, routes={"x": {"a": 1, "b": 1}})
    before.score([rollout("1", style="x")])
    before._parts["b"].load_state_dict({"seen": 5.0})
    after = MixtureReward({"a": Constant(1.0), "b": Constant(1.0)}, routes={"x": {"a": 1, "b": 1}})
    after.load_state_dict(before.state_dict())
    assert after.state_dict() == {"a/seen": 1.0, "b/seen": 5.0}


def test_a_mixture_knows_which_part_sees_which_style() -> None:
    settings = MixtureSettings(parts={"quality": object(), "correct": object()}, routes=ROUTES)
    found = {part.key: part.styles for part in single_rewards(settings)}
    assert found == {
        "reward.parts.quality": ("model", "rule"),
        "reward.parts.correct": ("rule",),
    }


@pytest.mark.parametrize(
    ("routes", "problem"),
    [
        ({}, "at least one style"),
        ({"rule": {}}, "routes.rule names no part"),
        ({"rule": {"quality": 1.0, "corect": 1.0}}, "names the part 'corect'"),
        ({"rule": {"quality": 1.0, "correct": 0.0}}, "a weight other than 0"),
        ({"rule": {"quality": 1.0}}, "no route uses the parts correct"),
    ],
)
def test_routes_that_make_no_sense_are_refused(routes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        MixtureSettings(parts={"quality": object(), "correct": object()}, routes=routes)


def test_a_style_without_a_route_is_found_before_training() -> None:
    settings = MixtureSettings(parts={"quality": object(), "correct": object()}, routes=ROUTES)
    prompts = [rollout(text, style=style).prompt for text, style in (("a", "rule"), ("b", "judge"))]
    (problem,) = style_problems(settings, prompts)
    assert "1 prompts (first: f:b) have the style 'judge'" in problem
    assert "it scores model, rule" in problem


RECIPE = """
[policy]
model = "nano:base"
[prompts]
sources = ["mixed.jsonl"]
[reward]
name = "mixture"
[reward.parts.quality]
name = "reward_model"
model = "nano:reward_model"
standardize = true
[reward.parts.correct]
name = "verified"
verifier = "nano"
[reward.routes]
model = { quality = 1.0 }
rule = { correct = 3.0 }
[sampling]
prompts_per_step = 4
samples_per_prompt = 2
max_tokens = 12
[algorithm]
name = "grpo"
[training]
steps = 1
num_minibatches = 1
device = "cpu"
num_threads = 1
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    import grlo.nano

    assets = Path(grlo.nano.__file__).parent / "assets"
    lines = [
        line
        for name in ("prompts", "math_prompts")
        for line in (assets / f"{name}.jsonl").read_text().splitlines()[:4]
    ]
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines) + "\n")
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def test_a_mixed_recipe_survives_being_written(recipe_file: Path) -> None:
    import json
    import tomllib

    recipe = load_recipe([recipe_file])
    assert load_dumped(json.loads(json.dumps(dump_recipe(recipe)))) == recipe
    assert load_dumped(tomllib.loads(format_recipe(recipe))) == recipe


def test_problems_of_parts_are_named_with_their_keys(recipe_file: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(
            [recipe_file],
            overrides=[
                "reward.parts.quality.modl=x",
                "reward.parts.correct.verifier=mth",
                "reward.parts.third=3",
                "reward.routes.model.quality=much",
            ],
        )
    message = str(caught.value)
    for line in (
        "reward.parts.quality.modl (--set): unknown key",
        "Did you mean 'reward.parts.quality.model'?",
        "reward.parts.correct.verifier.name: unknown verifier 'mth'. Did you mean 'math'?",
        "reward.parts.third: found 3; expected a table with a `name`",
        'reward.routes.model.quality (--set): found "much", expected a valid number',
    ):
        assert line in message


def test_a_mixed_step_trains_on_both_kinds_of_rows(recipe_file: Path, tmp_path: Path) -> None:
    from grlo.rundir import RunDir, read_jsonl
    from grlo.stages.train import train

    train(load_recipe([recipe_file]), run_dir=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    rows = read_jsonl(run.rollouts_file(1))
    parts = {row["style"]: set(row["parts"]) for row in rows}
    assert parts["model"] == {"quality", "quality/raw"}
    assert parts["rule"] == {"correct", "correct/score", "correct/attempt"}
    metrics = run.metrics()[0]
    assert {"reward/part/quality", "reward/part/correct", "reward/quality/truncated"} <= set(
        metrics
    )


def test_a_row_without_a_reward_fails_before_models_are_loaded(
    recipe_file: Path, tmp_path: Path
) -> None:
    from grlo.stages.check import check
    from grlo.stages.train import train

    routes = ["reward.routes.rule=none", "reward.parts.correct=none"]
    with pytest.raises(RecipeError, match="have the style 'rule', which the reward does not score"):
        check([recipe_file], overrides=routes, weights=False)
    with pytest.raises(DataError, match="have the style 'rule'"):
        train(load_recipe([recipe_file], overrides=routes), run_dir=tmp_path / "run")


class Counting(ByText):
    """Says that several threads may call it, and counts their calls."""

    num_workers = 2

    def __call__(self, prompt: Prompt, text: str) -> Score:
        CALLS.append(text)
        return super().__call__(prompt, text)


CALLS: list[str] = []


@pytest.mark.parametrize("drawn_on", ["cuda:0", "elsewhere", "cpu", ""])
def test_answers_are_verified_while_others_are_drawn_on_other_devices(drawn_on: str) -> None:
    rollouts = [rollout(text) for text in ("right", "wrong", "half")]
    rollouts.append(rollouts[0])
    plain = VerifiedSettings(Counting()).build(context=CONTEXT).score(rollouts)
    parts = {"a": VerifiedSettings(Counting()).build(context=CONTEXT)}
    reward = MixtureReward(parts, routes={"rule": {"a": 1.0}})
    CALLS.clear()
    reward.begin(rollouts[:2], drawn_on=drawn_on)
    begun = 2 if drawn_on in ("cuda:0", "elsewhere") else 0
    assert len(CALLS) == begun
    scores = reward.score(rollouts)
    assert sorted(CALLS) == ["half", "right", "wrong"], "each answer is verified once"
    assert [score.value for score in scores] == [score.value for score in plain]
    reward.score(rollouts)
    assert len(CALLS) == 6, "verdicts are those of one call"


def test_equal_conversations_with_other_references_have_verdicts_of_their_own() -> None:
    @dataclass(frozen=True)
    class ByReference(ByText):
        def __call__(self, prompt: Prompt, text: str) -> Score:
            return Score(float(text == prompt.reference))

    one, other = rollout("4"), rollout("4")
    one = replace(one, prompt=replace(one.prompt, reference="4"))
    other = replace(other, prompt=replace(other.prompt, reference="5"))
    assert one.prompt.id == other.prompt.id
    reward = VerifiedSettings(ByReference()).build(context=CONTEXT)
    assert [score.value for score in reward.score([one, other])] == [1.0, 0.0]


def test_a_verifier_for_one_thread_is_not_called_from_another() -> None:
    reward = VerifiedSettings(ByText()).build(context=CONTEXT)
    reward.begin([rollout("right")], drawn_on="cuda:0")
    assert not reward._begun
