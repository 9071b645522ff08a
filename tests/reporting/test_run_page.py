"""The page of a run: what is drawn of which metrics, what is said, and that no text is markup."""

from __future__ import annotations

import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from grlo.errors import CheckpointError
from grlo.reporting.look import looks
from grlo.reporting.run_page import MAX_CHARACTERS, MAX_POINTS, run_page
from grlo.rundir import RolloutKind, RunDir
from grlo.stages.report import report
from grlo.types import LedgerEntry

EVIL = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> \u202e\x1b[31m\ud800 & <b>"
RECIPE = {
    "policy": {"model": "folder/policy"},
    "algorithm": {"name": "ppo"},
    "reward": {"name": "reward_model", "model": "folder/<b>reward"},
    "training": {"steps": 40},
    "sampling": {"prompts_per_step": 2, "samples_per_prompt": 3},
}
ALL = {
    "gold against training reward": ("gold/mean", "gold/training_reward"),
    "length of answers, tokens": ("response/length_p50", "response/length_p95"),
    "shares of answers": ("response/truncated",),
    "correlation of score and length": ("watch/score_length_correlation",),
    "repetition and variety": ("watch/repetition", "watch/distinct_2"),
    "groups without spread, share": ("group/zero_spread",),
    "score by length of the answer": tuple(f"watch/score_by_length/{n}" for n in range(1, 11)),
    "KL, nats": ("policy/kl", "policy/approx_kl"),
    "entropy, nats": ("policy/entropy",),
    "gradient norm": ("policy/grad_norm",),
    "clipped tokens, share": ("policy/clip_fraction",),
    "variance of returns that the critic explains": ("critic/explained_variance",),
    "gap of log-probabilities, engine to learner, nats": ("engine/logprob_gap",),
    "tokens per second": ("tokens_per_second/total",),
    "seconds of a step": ("time/generate", "time/update"),
    "parts of the reward": ("reward/part/raw",),
    "added by shaping": ("reward/part/shaping/overlong",),
    "share of answers that shaping touched": ("reward/shaping/overlong",),
}


class Elements(HTMLParser):
    """Collects the names of elements, titles of charts and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.charts: list[str] = []
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.charts += [dict(attrs)["aria-label"] or ""] if tag == "svg" else []


def make_run(path: Path, rows: list[dict[str, Any]]) -> RunDir:
    path.mkdir()
    run = RunDir(path)
    run.recipe_file.write_text(json.dumps({"recipe": RECIPE}))
    for row in rows:
        run.append_metrics(row["step"], {k: v for k, v in row.items() if k != "step"})
    return run


def write_rollouts(
    run: RunDir,
    step: int,
    answers: list[tuple[str, float | None]],
    *,
    kind: RolloutKind = "rollouts",
) -> None:
    """Rows as a run has them; JSON may hold lone surrogates, as escapes."""
    rows = [
        {
            "step": step,
            "input": [{"role": "user", "content": f"question {EVIL}"}],
            "output": text,
            "score": value,
            "parts": {"<i>part": 1.0},
            "note": "<u>",
            "finish_reason": "stop",
            "num_tokens": number + 1,
        }
        for number, (text, value) in enumerate(answers)
    ]
    file = run.rollouts_file(step, kind=kind)
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def full_rows(count: int = 40) -> list[dict[str, Any]]:
    rng = random.Random(0)
    names = {name for metrics in ALL.values() for name in metrics}
    return [
        {"step": step, "reward/mean": rng.random(), "reward/std": 0.5}
        | {name: rng.random() for name in sorted(names)}
        for step in range(1, count + 1)
    ]


def test_every_plot_is_there_when_its_metrics_are(tmp_path):
    run = make_run(tmp_path / "run", full_rows())
    write_rollouts(run, 40, [("a", 1.0), ("b", 2.0)])
    charts = Elements(run_page(run)).charts
    assert set(charts) == {"reward", "score of each answer of step 40", *ALL}
    assert len(charts) == len(set(charts))


@pytest.mark.parametrize("missing", ALL)
def test_a_plot_without_metrics_is_left_out_and_the_others_stay(tmp_path, missing):
    rows = [
        {name: value for name, value in row.items() if name not in ALL[missing]}
        for row in full_rows(3)
    ]
    charts = Elements(run_page(make_run(tmp_path / "run", rows))).charts
    assert set(charts) == {"reward", *ALL} - {missing}


@pytest.mark.parametrize("rows", [[], [{"step": 1}], [{"step": 1, "reward/mean": 2.0}]])
def test_a_run_that_has_just_begun_has_a_page(tmp_path, rows):
    page = run_page(make_run(tmp_path / "run", rows))
    assert "folder/policy" in page
    assert f"{len(rows)} of 40" in page


def test_a_torn_line_of_a_run_that_is_going_is_no_hindrance(tmp_path):
    run = make_run(tmp_path / "run", full_rows(3))
    with run.metrics_file.open("a") as file:
        file.write('{"step": 4, "reward/me')
    assert "3 of 40" in run_page(run)


def test_what_models_and_recipes_write_never_becomes_markup(tmp_path):
    rows = [row | {"reward/part/<script>": 1.0} for row in full_rows(3)]
    run = make_run(tmp_path / "run", rows)
    write_rollouts(run, 3, [(EVIL, 3.0), ("middle", 2.0), ("worst", 1.0)])
    path = report(tmp_path / "run")
    page = path.read_text(encoding="utf-8")
    elements = Elements(page)
    assert not elements.names & {"script", "img", "b", "i", "u", "link", "iframe"}
    assert not any(name.startswith("on") for name in elements.attributes)
    assert not elements.attributes & {"src", "href"}
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "alert(1)" in page  # It is shown, as text.


def test_best_median_and_worst_are_those_of_the_last_step_and_unscored_ones_are_not(tmp_path):
    run = make_run(tmp_path / "run", full_rows(2))
    write_rollouts(run, 1, [("of an earlier step", 9.0)] * 3)
    answers = [("the middle", 2.0), ("the best", 5.0), ("no score", None), ("the worst", -1.0)]
    write_rollouts(run, 2, answers)
    page = run_page(run)
    positions = [page.index(text) for text in ("the best", "the middle", "the worst")]
    assert positions == sorted(positions)
    assert "no score" not in page
    assert "of an earlier step" not in page
    write_rollouts(run, 2, [("only one", 1.0)])
    assert run_page(run).count("only one") == 1


def test_answers_that_gold_scored_come_after_those_of_training(tmp_path):
    run = make_run(tmp_path / "run", full_rows(5))
    write_rollouts(run, 5, [("of training", 1.0)])
    write_rollouts(run, 2, [("of the first evaluation", 1.0)], kind="gold")
    write_rollouts(run, 4, [("of the last evaluation", 0.0)], kind="gold")
    page = run_page(run)
    assert page.index("of training") < page.index("of the last evaluation")
    assert "of the first evaluation" not in page


def test_long_answers_and_long_runs_are_cut_to_size(tmp_path):
    rows = [{"step": n, "reward/mean": n / 7, "reward/std": 1.0} for n in range(1, 2501)]
    run = make_run(tmp_path / "run", rows[:1])
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_rollouts(run, 2, [("x" * 10**6, 1.0)])
    page = run_page(run)
    assert f"{10**6 - MAX_CHARACTERS:,} more characters" in page
    assert "means of 5 steps each" in page
    assert len(page) < 40 * (3 * MAX_POINTS + MAX_CHARACTERS)


def test_utilisation_energy_and_money_are_shown_where_they_are_known(tmp_path):
    run = make_run(tmp_path / "run", [])
    entry = LedgerEntry(
        1, "update", 3600.0, 2, "cpu", tokens=5, flops=3.6e12, energy_joules=3600.0 * 7
    )
    run.append_ledger([entry])
    page = run_page(run)
    assert "<td>7.00</td>" in page
    assert "MFU" not in page
    assert "EUR" not in page
    run.append_environment(0, {"peak_flops": 2e9})
    prices = {"device_hour": 1.5, "currency": "EUR<b>"}
    run.recipe_file.write_text(json.dumps({"recipe": RECIPE | {"prices": prices}}))
    page = run_page(run)
    cells = page.partition("Cost so far")[2].partition("</table>")[0]
    for text in ("MFU, %", "Wh", "EUR&lt;b&gt;", "<td>25.0</td>", "<td>3.0000</td>"):
        assert text in cells


def test_costs_add_up_by_phase(tmp_path):
    run = make_run(tmp_path / "run", full_rows(2))
    run.append_ledger(
        [
            LedgerEntry(step=1, phase="generate", seconds=90.0, num_devices=1, device="cpu"),
            LedgerEntry(step=1, phase="update", seconds=30.0, num_devices=1, device="cpu"),
        ]
    )
    page = run_page(run)
    assert "1 min 30 s" in page
    assert "75.0" in page


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a run directory"):
        report(tmp_path)


# Where to look ------------------------------------------------------------------------------------


def steps(**curves: Any) -> list[dict[str, Any]]:
    """30 steps with metrics as functions of the step."""
    return [
        {"step": n, **{k.replace("__", "/"): curve(n) for k, curve in curves.items()}}
        for n in range(1, 31)
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            steps(watch__score_length_correlation=lambda n: 0.62 if n > 20 else 0.0),
            "look: score and length correlate 0.62 in the last 10 steps",
        ),
        (
            steps(response__length_p50=lambda n: 10 if n <= 15 else 40),
            "look: the median answer went from 10 to 40 tokens",
        ),
        (
            steps(response__truncated=lambda n: 0.25 if n > 10 else 0),
            "look: 25.0% of the answers were cut by the limit in the last 10 steps",
        ),
        (
            steps(watch__distinct_2=lambda n: 0.4 if n <= 15 else 0.1),
            "look: the share of distinct 2-grams fell from 0.4 to 0.1",
        ),
        (
            steps(policy__entropy=lambda n: 2.0 if n <= 15 else 0.1),
            "look: the entropy of the policy fell from 2 to 0.1",
        ),
        (
            steps(policy__grad_norm=lambda n: 50.0 if n == 17 else 1.0),
            "look: the gradient norm reached 50 in step 17; its median is 1",
        ),
        (
            steps(critic__explained_variance=lambda n: -0.5),
            "look: the critic explains nothing of the returns (-0.50) in the last 10 steps",
        ),
        (
            steps(reward__shaping__overlong=lambda n: 0.8),
            "look: the penalty overlong touched 80% of the answers in the last 10 steps",
        ),
        (
            steps(
                gold__mean=lambda n: 1 - abs(n - 10) / 20,
                gold__training_reward=lambda n: n / 10,
                gold__parted=lambda n: max(0, n - 10),
            ),
            "look: gold fell from 1 (step 10) to 0 (step 30) while the training reward rose from "
            "1 to 3",
        ),
    ],
)
def test_what_stands_out_is_said_with_its_number_and_nothing_else(rows, said):
    assert looks(rows) == [said]


def test_a_disagreement_of_engine_and_learner_is_worth_a_look():
    (said,) = looks(steps(engine__logprob_gap=lambda n: 0.2))
    assert said.startswith("look: engine and learner disagree by 0.2 nats a token")


def test_an_ordinary_run_and_no_run_have_nothing_that_stands_out():
    ordinary = steps(
        watch__score_length_correlation=lambda n: 0.2 * math.sin(n),
        response__length_p50=lambda n: 100 + n,
        response__truncated=lambda n: 0.01,
        watch__distinct_2=lambda n: 0.4,
        policy__entropy=lambda n: 1.0 - n / 60,
        policy__grad_norm=lambda n: 1.0 + math.cos(n) / 2,
        gold__mean=lambda n: n / 30,
        gold__training_reward=lambda n: n / 10,
        gold__parted=lambda n: 0.0,
        critic__explained_variance=lambda n: 0.3,
        engine__logprob_gap=lambda n: 0.004,
    )
    assert looks(ordinary) == []
    assert looks([]) == []
    assert looks([{"step": 1}]) == []
