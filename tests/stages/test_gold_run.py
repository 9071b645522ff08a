"""Whole runs with a gold signal and a shaped reward, stopped early, interrupted and resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from grlo.errors import DataError
from grlo.interfaces import BuildContext, Progress, silent
from grlo.recipe import dump_recipe, load_dumped, load_recipe
from grlo.rundir import RunDir
from grlo.stages.train import train
from grlo.types import Rollout, Score, Usage

RECIPE = """
seed = 3
[policy]
model = "{policy}"
compute_dtype = "float32"
gradient_checkpointing = false
[prompts]
sources = ["{folder}/prompts.jsonl"]
[sampling]
prompts_per_step = 2
samples_per_prompt = 2
max_tokens = 8
[reward]
name = "{module}:RisingSettings"
[algorithm]
name = "grpo"
[optimizer]
learning_rate = 1e-3
[training]
steps = 8
num_minibatches = 1
device = "cpu"
num_threads = 1
[checkpoint]
every = 4
keep_last = 1
"""
GOLD = """
[gold]
every = 1
stop_after = {stop_after}
sources = ["{folder}/held_out.jsonl"]
num_prompts = 3
samples_per_prompt = 2
[gold.reward]
name = "{module}:RisingSettings"
values = [0.1, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0]
"""
TIMES = ("time/", "tokens_per_second/")


@dataclass(frozen=True)
class RisingSettings:
    """A reward whose n-th call gives the n-th value, and so shows that its state is kept."""

    values: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)

    def build(self, *, context: BuildContext) -> Rising:
        return Rising(self.values)


class Rising:
    def __init__(self, values: Sequence[float]) -> None:
        self.values, self.calls = values, 0

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        self.calls += 1
        value = self.values[self.calls - 1]
        # A spread within the group, without which GRPO has nothing to learn from.
        return [Score(value + 0.001 * (index % 2)) for index in range(len(rollouts))]

    def state_dict(self) -> dict[str, float]:
        return {"calls": float(self.calls)}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.calls = int(state["calls"])

    def metrics(self) -> dict[str, float]:
        return {}

    def usage(self) -> Usage:
        return Usage()


@pytest.fixture
def make_recipe(tmp_path: Path, chat_policy_path: Path):
    for name, start in (("prompts", 0), ("held_out", 100)):
        rows = [{"prompt": f"Tell me about number {start + i}"} for i in range(5)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)

    def make(extra: str = "", *, stop_after: int = 3) -> Path:
        path = tmp_path / "recipe.toml"
        text = RECIPE + extra
        values = {
            "policy": chat_policy_path,
            "folder": tmp_path,
            "stop_after": stop_after,
            "module": __name__,
        }
        for key, value in values.items():
            text = text.replace("{" + key + "}", str(value))
        path.write_text(text)
        return path

    return make


def numerics(run: Path) -> list[dict[str, float]]:
    rows = RunDir(run).metrics()
    return [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in rows]


def test_a_run_stops_where_gold_has_fallen_and_keeps_the_checkpoint_with_the_best(
    make_recipe, tmp_path, capsys
):
    recipe = load_recipe([make_recipe(GOLD)])
    assert load_dumped(json.loads(json.dumps(dump_recipe(recipe)))) == recipe
    last = train(recipe, run_dir=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    # The best is step 2; steps 3, 4 and 5 lie below it.
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]
    assert last == run.checkpoint(5)
    assert [path.name for path in run.checkpoints()] == ["step_000002", "step_000005"]
    said = " ".join(capsys.readouterr().out.split())
    assert "stopped early: the training reward rose from 2" in said
    assert "step_000002" in said
    assert "gold against training reward" in run.report_file.read_text()
    assert "report.html" in said
    assert run.rollout_steps(kind="gold") == [1, 2, 3, 4, 5]
    scores = [row["score"] for row in run.rollouts(5, kind="gold")]
    assert scores == pytest.approx([0.2, 0.201] * 3)
    evaluations = [entry for entry in run.ledger() if entry.phase == "evaluate"]
    assert [entry.step for entry in evaluations] == [1, 2, 3, 4, 5]
    assert all(entry.tokens > 0 and entry.flops > 0 for entry in evaluations)
    for row in run.metrics():
        assert row["gold/num"] == 6
        assert row["gold/training_reward"] == row["reward/mean"]

    before = numerics(tmp_path / "run")
    assert train(recipe, run_dir=tmp_path / "run") == last
    assert "complete: stopped early after step 5" in " ".join(capsys.readouterr().out.split())
    assert numerics(tmp_path / "run") == before


def test_a_resumed_run_with_gold_and_shaping_equals_one_that_was_not_interrupted(
    make_recipe, tmp_path
):
    shaping = "[shaping]\nmissing_end_penalty = 0.5\nclip = 3.0\n"
    recipe = load_recipe([make_recipe(GOLD.replace("every = 1", "every = 3") + shaping)])
    train(recipe, run_dir=tmp_path / "whole")
    expected = numerics(tmp_path / "whole")
    assert [row["step"] for row in expected if "gold/mean" in row] == [3, 6, 8]
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    # What a kill after step 7 leaves: the checkpoint of step 6, whose gold was the best.
    shutil.rmtree(RunDir(tmp_path / "cut").checkpoint(8))
    assert [path.name for path in RunDir(tmp_path / "cut").checkpoints()] == ["step_000006"]
    train(recipe, run_dir=tmp_path / "cut")
    assert numerics(tmp_path / "cut") == expected
    for step in (3, 6, 8):
        one, other = (
            RunDir(tmp_path / name).rollouts(step, kind="gold") for name in ("whole", "cut")
        )
        assert one == other


def test_answers_that_never_end_lose_the_missing_end_penalty_in_a_run(make_recipe, tmp_path):
    shaping = '[shaping]\nmissing_end_penalty = 0.25\nunit = "absolute"\n'
    recipe = load_recipe([make_recipe(shaping)])
    train(recipe, run_dir=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    rows = [row for step in run.rollout_steps() for row in run.rollouts(step)]
    assert {row["finish_reason"] for row in rows} >= {"length"}
    for row in rows:
        is_cut = row["finish_reason"] == "length"
        assert row["score"] == pytest.approx(row["parts"]["unshaped"] - 0.25 * is_cut)


def test_without_stopping_gold_is_only_watched(make_recipe, tmp_path):
    recipe = load_recipe([make_recipe(GOLD, stop_after=0)])
    train(recipe, run_dir=tmp_path / "run")
    rows = RunDir(tmp_path / "run").metrics()
    assert [row["gold/parted"] for row in rows] == [0, 0, 1, 2, 3, 4, 5, 6]


def test_a_gold_reward_that_does_not_score_its_prompts_is_refused_before_training(
    make_recipe, tmp_path
):
    gold = GOLD.split("[gold.reward]")[0] + (
        '[gold.reward]\nname = "verified"\nverifier = "nano"\n'
    )
    with pytest.raises(DataError, match=r"gold: 5 prompts .* have the style 'model'"):
        train(load_recipe([make_recipe(gold)]), run_dir=tmp_path / "run")


def test_held_out_prompts_that_are_trained_on_are_reported(make_recipe, tmp_path, capsys):
    recipe = make_recipe(GOLD)
    shutil.copy(tmp_path / "prompts.jsonl", tmp_path / "held_out.jsonl")
    train(load_recipe([recipe]), run_dir=tmp_path / "run")
    assert "5 of 5 prompts are trained on" in capsys.readouterr().out
