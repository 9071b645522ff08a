"""Who judges is said in a TOML file; what a benchmark makes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import grlo.endpoint
from fake_endpoint import Answer, completion, error, serve
from grlo import registry
from grlo.benchmarks.loading import Choice
from grlo.benchmarks.spec import DataPlaces, Judging
from grlo.errors import GrloError, RecipeError
from grlo.interfaces import BuildContext
from grlo.rewards.reward_model import RewardModelSettings
from grlo.stages.evaluate import evaluate
from grlo.stages.judges import MakeJudge, load_judge
from grlo.stages.respondents import ModelChoice
from grlo.types import Completion, Message, Prompt, Rollout, Usage

GRADED, PAIRWISE = Judging("graded"), Judging("pairwise")
ID = re.compile(r"^Id of the case: ([0-9a-f]{16})$", re.MULTILINE)

REMOTE = """
[judge]
name = "judge"
{settings}
[judge.endpoint]
base_url = "{url}"
model = "m"
api_key_env = ""
retries = 0
{endpoint}
"""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grlo.endpoint, "_FIRST_WAIT_SECONDS", 0.01)


def blocks_of(body: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Id of the case, and what stands between its markers."""
    user = body["messages"][1]["content"]
    [nonce] = ID.findall(user)
    pattern = re.compile(rf"⟦BEGIN (.+?) {nonce}⟧\n(.*?)\n⟦END \1 {nonce}⟧", re.DOTALL)
    return nonce, dict(pattern.findall(user))


def says(key: str, verdict: Callable[[dict[str, str]], object]) -> Callable[..., Answer]:
    """A judge whose verdict is a function of what it is shown."""

    def answer(body: dict[str, Any], _: int) -> Answer:
        nonce, blocks = blocks_of(body)
        return completion(json.dumps({"id": nonce, key: verdict(blocks)}))

    return answer


def longer(blocks: dict[str, str]) -> str:
    a, b = len(blocks["ANSWER A"]), len(blocks["ANSWER B"])
    return "A" if a > b else "B" if b > a else "tie"


def load(
    tmp_path: Path, url: str, *, settings: str = "", endpoint: str = "", seed: int = 0
) -> MakeJudge:
    file = tmp_path / "judge.toml"
    file.write_text(REMOTE.format(url=url, settings=settings, endpoint=endpoint))
    make = load_judge(file, device="cpu", seed=seed)
    assert make is not None
    return make


def rollout(
    text: str, *, reference: str | None = None, meta: Any = None, turns: int = 1
) -> Rollout:
    messages = [Message("user", "q1")]
    for turn in range(1, turns):
        messages += [Message("assistant", f"a{turn}"), Message("user", f"q{turn + 1}")]
    prompt = Prompt("p", tuple(messages), reference=reference, meta=meta or {})
    return Rollout(prompt, 0, (), Completion((), (), "stop"), text)


# Files ----------------------------------------------------------------------------------------


def test_no_file_is_no_judge():
    assert load_judge(None, device="cpu", seed=0) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[judge", "not valid TOML"),
        ("", "judge: missing"),
        ('[judge]\nname = "judge"', "endpoint: missing"),
        ('[judge]\nname = "jugde"', "Did you mean 'judge'"),
        ('[judge]\nname = "shuffled"\nmodel = "m"', "expected 'judge' or 'reward_model'"),
        ('[judge]\nname = "verified"\nverifier = "math"', "expected 'judge' or 'reward_model'"),
        ('[judge]\nname = "reward_model"', "judge.model: missing"),
        ('[judge]\nname = "reward_model"\nmodel = "m"\nstandardize = true', "standardize"),
        ('[judge]\nname = "reward_model"\nmodle = "m"', "Did you mean 'judge.model'"),
        (REMOTE.format(url="http://h/v1", settings='mode = "pairwise"', endpoint=""), "judge.mode"),
        (
            REMOTE.format(url="http://h/v1", settings="scale = [0, 5]", endpoint=""),
            "the benchmark decides judge.scale",
        ),
        (REMOTE.format(url="h", settings="", endpoint=""), "base_url must be an address"),
        (REMOTE.format(url="http://h/v1", settings="", endpoint="cashe = 'c'"), "cache"),
    ],
)
def test_a_file_that_says_no_judge_is_refused_with_the_reason(
    tmp_path: Path, text: str, reason: str
):
    file = tmp_path / "judge.toml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=reason):
        load_judge(file, device="cpu", seed=0)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"nobody\.toml"):
        load_judge(tmp_path / "nobody.toml", device="cpu", seed=0)


# Grades ---------------------------------------------------------------------------------------


def test_grades_are_points_on_the_scale_of_the_benchmark(tmp_path: Path):
    with serve(says("grade", lambda blocks: int(blocks["ANSWER"]))) as server:
        make = load(tmp_path, server.url)
        judge = make(GRADED)
        assert [s.value for s in judge.score([rollout("1"), rollout("7"), rollout("10")])] == [
            1.0,
            7.0,
            10.0,
        ]
        assert getattr(judge, "unit", None) == "points"
        wide = make(Judging("graded", scale=(0, 20)))
        assert [s.value for s in wide.score([rollout("20")])] == [20.0]


def test_the_judge_sees_the_reference_of_the_turn_and_the_turns_before(tmp_path: Path):
    seen: list[dict[str, str]] = []

    def grade(blocks: dict[str, str]) -> int:
        seen.append(blocks)
        return 5

    meta = {"references": ["r1", "r2"]}
    with serve(says("grade", grade)) as server:
        judge = load(tmp_path, server.url, endpoint="concurrency = 1")(GRADED)
        judge.score([rollout("x", meta=meta), rollout("y", meta=meta, turns=2), rollout("z")])
    assert seen == [
        {"TURN 1, USER": "q1", "REFERENCE": "r1", "ANSWER": "x"},
        {
            "TURN 1, USER": "q1",
            "TURN 2, ASSISTANT": "a1",
            "TURN 3, USER": "q2",
            "REFERENCE": "r2",
            "ANSWER": "y",
        },
        {"TURN 1, USER": "q1", "ANSWER": "z"},
    ]


def test_a_failing_judge_leaves_answers_unscored_and_what_was_asked_is_counted(tmp_path: Path):
    def answer(body: dict[str, Any], _: int) -> Answer:
        nonce, blocks = blocks_of(body)
        if blocks["ANSWER"] == "bad":
            return error(503, "overloaded")
        return completion(json.dumps({"id": nonce, "grade": 10}), tokens=(100, 20))

    prices = "dollars_per_million_input = 10\ndollars_per_million_output = 100"
    with serve(answer) as server:
        judge = load(tmp_path, server.url, endpoint=prices)(GRADED)
        scores = judge.score([rollout("good"), rollout("bad")])
    assert [score.value for score in scores] == [10.0, None]
    assert "overloaded" in scores[1].note
    assert judge.usage() == Usage(
        requests=2, input_tokens=100, output_tokens=20, dollars=pytest.approx(0.003)
    )


# Games ----------------------------------------------------------------------------------------


def test_preferences_and_lengths_stand_beside_each_game(tmp_path: Path):
    with serve(says("better", longer)) as server:
        judge = load(tmp_path, server.url)(PAIRWISE)
        scores = judge.score(
            [
                rollout("longer one", reference="short"),
                rollout("s", reference="longer"),
                rollout("equal", reference="equal"),
            ]
        )
    assert getattr(judge, "unit", None) == "share"
    assert [score.value for score in scores] == [1.0, 0.0, 0.5]
    assert [
        (s.details["preference"], s.details["length"], s.details["reference_length"])
        for s in scores
    ] == [(2.0, 10, 5), (1.0, 1, 6), (1.5, 5, 5)]
    assert len(server.bodies) == 2 * 2, "both orders, and equal answers are not asked about"
    assert judge.usage().requests == 4


def test_orders_that_disagree_make_a_tie(tmp_path: Path):
    with serve(says("better", lambda blocks: "A")) as server:
        judge = load(tmp_path, server.url)(PAIRWISE)
        [score] = judge.score([rollout("one", reference="two")])
    assert score.value == 0.5
    assert score.details["preference"] == 1.5
    assert score.parts["inconsistent"] == 1


def test_an_answer_without_a_reference_is_not_judged(tmp_path: Path):
    with serve(says("better", longer)) as server:
        [score] = load(tmp_path, server.url)(PAIRWISE).score([rollout("one")])
    assert score.value is None
    assert score.details["preference"] is None
    assert "reference" in score.note


def test_only_what_was_judged_is_measured(tmp_path: Path):
    with serve(says("better", longer)) as server:
        judge = load(tmp_path, server.url, settings="strip_thoughts = true")(PAIRWISE)
        [score] = judge.score([rollout("<think>very long thought</think>\n\nyes", reference="no")])
    assert (score.value, score.details["length"], score.details["reference_length"]) == (1.0, 3, 2)


# What tells judges apart ------------------------------------------------------------------------


def test_judges_that_would_judge_differently_describe_themselves_differently(tmp_path: Path):
    with serve(says("grade", lambda blocks: 5)) as server:
        variants: list[dict[str, Any]] = [
            {},
            {"endpoint": "temperature = 0.5"},
            {"settings": 'instructions = "Be strict."'},
            {"settings": "strip_thoughts = true"},
            {"settings": "max_answer_chars = 100"},
        ]
        told = [registry.describe(load(tmp_path, server.url, **v)(GRADED)) for v in variants]
        told.append(registry.describe(load(tmp_path, server.url)(PAIRWISE)))
        told.append(registry.describe(load(tmp_path, server.url)(Judging("graded", (0, 5)))))
        again = registry.describe(load(tmp_path, server.url)(GRADED))
    assert len({json.dumps(one, sort_keys=True) for one in told}) == len(told)
    assert again == told[0]
    assert told[0]["judge"] == "m"


# Reward models ----------------------------------------------------------------------------------


def reward_model(tmp_path: Path, path: Path) -> MakeJudge:
    """Relative to the file."""
    (tmp_path / "rm").symlink_to(path)
    file = tmp_path / "judge.toml"
    file.write_text('[judge]\nname = "reward_model"\nmodel = "rm"\n')
    make = load_judge(file, device="cpu", seed=0)
    assert make is not None
    return make


def test_a_reward_model_grades_by_its_raw_score_and_compares_by_which_is_higher(
    tmp_path: Path, chat_reward_model_path: Path
):
    make = reward_model(tmp_path, chat_reward_model_path)
    graded, pairwise = make(GRADED), make(PAIRWISE)
    texts = ["yes", "no way", "perhaps it is"]
    settings = RewardModelSettings(model=str(chat_reward_model_path))
    alone = settings.build(context=BuildContext(device="cpu", seed=0))
    raw = alone.score_answers([((Message("user", "q1"),), text) for text in texts])
    assert [s.value for s in graded.score([rollout(text) for text in texts])] == pytest.approx(raw)
    assert getattr(graded, "unit", None) == "reward"
    games = [(a, b) for a in range(3) for b in range(3)]
    scores = pairwise.score([rollout(texts[a], reference=texts[b]) for a, b in games])
    values = [score.value for score in scores]
    for (a, b), value in zip(games, values, strict=True):
        assert value is not None
        assert (value > 0.5, value < 0.5) == (raw[a] > raw[b], raw[a] < raw[b])
    assert [s.details["preference"] for s in scores] == [1 + v for v in values if v is not None]
    assert pairwise.usage() == Usage()


def test_reward_models_with_other_weights_are_other_judges(
    tmp_path: Path, chat_reward_model_path: Path, make_model: Callable[..., Path]
):
    first = registry.describe(reward_model(tmp_path, chat_reward_model_path)(GRADED))
    (tmp_path / "rm").unlink()
    other = make_model("other_rm", num_labels=1)
    second = registry.describe(reward_model(tmp_path, other)(GRADED))
    assert first["weights_sha256"] != second["weights_sha256"]


def test_a_reward_model_that_is_not_there_is_named_before_anything_is_judged(tmp_path: Path):
    file = tmp_path / "judge.toml"
    file.write_text('[judge]\nname = "reward_model"\nmodel = "./nothing"\n')
    make = load_judge(file, device="cpu", seed=0)
    assert make is not None
    with pytest.raises(GrloError, match="nothing"):
        make(GRADED)


# The whole way ------------------------------------------------------------------------------------


def test_an_evaluation_is_judged_paid_and_written(
    tmp_path: Path, data_dir: Path, chat_policy_path: Path
):
    def verdict(body: dict[str, Any], _: int) -> Answer:
        nonce, blocks = blocks_of(body)
        said = {"grade": 7} if "ANSWER" in blocks else {"better": longer(blocks)}
        return completion(json.dumps({"id": nonce, **said}), tokens=(100, 10))

    choice = Choice(
        names=("alpaca_eval", "arena_hard", "mt_bench"),
        limit=4,
        max_tokens=3,
        places=DataPlaces(folder=data_dir),
    )
    prices = "dollars_per_million_input = 1000\ndollars_per_million_output = 0\nconcurrency = 4"
    with serve(verdict) as server:
        load(tmp_path, server.url, endpoint=prices)
        results = evaluate(
            ModelChoice(str(chat_policy_path), device="cpu"),
            choice,
            out=tmp_path / "out",
            seed=0,
            judge=tmp_path / "judge.toml",
        )
    alpaca, arena, mt_bench = results
    assert all(result.num_unscored == 0 for result in results)
    assert alpaca.score is not None
    assert (alpaca.score.value, alpaca.numbers["win_rate"]) == (0.0, 0.0), "nothing is shorter"
    assert arena.numbers["raw_score"] == 0
    assert mt_bench.score is not None
    assert (mt_bench.score.value, mt_bench.unit) == (7.0, "points")
    assert len(mt_bench.samples) == 8
    written = json.loads((tmp_path / "out" / "summary.json").read_text())["benchmarks"]
    assert "length_controlled_win_rate" in written["alpaca_eval"]["numbers"]
    assert written["mt_bench"]["identity"]["grader"]["judge"] == "m"
    rows = [
        json.loads(line)
        for line in (tmp_path / "out" / "alpaca_eval.jsonl").read_text().splitlines()
    ]
    assert {row["details"]["preference"] for row in rows} == {1.0}
    ledger = [
        json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()
    ]
    assert sum(entry["requests"] for entry in ledger) == len(server.bodies) == 4 * 2 + 4 * 2 + 8
    assert sum(entry["dollars"] for entry in ledger) == pytest.approx(24 * 0.1)
