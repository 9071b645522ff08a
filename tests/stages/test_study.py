"""A study from end to end on tiny random models: run, matched, killed, resumed, reported."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from grlo import cli
from grlo.errors import CheckpointError, DataError, GrloError, RecipeError
from grlo.rundir import RunDir
from grlo.stages import quickstart as quickstart_stage
from grlo.stages.report import report_folders
from grlo.stages.study import plan, study
from grlo.stages.study_job import run_job
from grlo.studies.layout import Job, StudyDir, jobs_of
from grlo.studies.loading import Study, load_study
from grlo.studies.spending import spent

RECIPE = """
[policy]
model = "policy"
compute_dtype = "float32"
gradient_checkpointing = false
[prompts]
sources = ["prompts.jsonl"]
[sampling]
prompts_per_step = 2
samples_per_prompt = 2
max_tokens = 6
[reward]
name = "reward_model"
model = "reward"
[algorithm]
name = "ppo"
[training]
steps = 2
num_minibatches = 1
device = "cpu"
"""
SFT = """
[policy]
model = "policy"
compute_dtype = "float32"
gradient_checkpointing = false
[data]
sources = ["demonstrations.jsonl"]
max_tokens = 60
[optimizer]
learning_rate = 1e-4
schedule = "linear"
[training]
num_epochs = 1
rows_per_step = 2
device = "cpu"
"""
STUDY = """
title = "A tiny study <script>"
question = "Does it transfer?"
seeds = [3]
[matching]
by = "flops"
to = "ppo"
[jobs]
parallel = 2
num_threads = 1
[evaluation]
benchmarks = ["tiny_world:chat", "tiny_world:math"]
base_samples = 4
[transcripts]
per_benchmark = 2
reward_of = "ppo"
[prices]
cpu = 7.2
[arms.base]
label = "base <b>"
role = "base"
model = "policy"
[arms.ppo]
label = "PPO"
role = "treatment"
trains = ["chat"]
recipes = ["recipe.toml"]
[arms.shuffled]
label = "shuffled"
role = "control"
trains = ["chat"]
recipes = ["recipe.toml"]
overrides = { reward = { name = "shuffled", model = "reward" } }
[arms.own]
label = "own samples"
role = "control"
recipes = ["sft.toml"]
own_samples = { recipes = ["recipe.toml"], samples_per_prompt = 2 }
[arms.half]
label = "half"
role = "stage"
recipes = ["recipe.toml"]
share = 0.5
[arms.two]
label = "two stages"
role = "baseline"
recipes = ["recipe.toml"]
overrides = { reward = { name = "random" }, algorithm = { name = "grpo" } }
starts_from = "half"
"""
PLUGIN = """
from functools import partial

from grlo.interfaces import Benchmark
from grlo.types import Message, Prompt, SamplingParams, Score


def grade(prompt, text):
    return Score(value=float(len(text) % 2), parts={"attempt": 1.0}, note="<script>")


def make(domain):
    prompts = tuple(
        Prompt(id=str(i), messages=(Message("user", f"</script><b>{domain}</b> [red] {i}"),))
        for i in range(3)
    )
    return Benchmark(
        domain, domain, prompts, grade, SamplingParams(max_tokens=6, num_samples=2), "here", "1"
    )


chat, math = (partial(make, domain) for domain in ("chat", "math"))
"""


@pytest.fixture
def tiny(tmp_path: Path, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of tiny random models; its file."""
    make_model("policy")
    make_model("reward", num_labels=1)
    names = ("owls", "bread", "the sea")
    rows = [{"prompt": f"Tell me of {name}."} for name in names]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"prompt": f"Tell me of {name}.", "response": name} for name in names]
    (tmp_path / "demonstrations.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "sft.toml").write_text(SFT)
    (tmp_path / "tiny_world.py").write_text(PLUGIN)
    (tmp_path / "study.toml").write_text(STUDY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # Arms are trained by other processes.
    return tmp_path / "study.toml"


class Ended:
    """Stands for a process of a job that has ended."""

    def __init__(self, code: int) -> None:
        self.returncode = code

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs jobs in this process, which saves each of them seconds of imports."""

    def start(study: Study, folder: StudyDir, job: Job) -> Ended:
        place = folder.job(job)
        place.path.mkdir(parents=True, exist_ok=True)
        with place.log_file.open("w") as log, contextlib.redirect_stdout(log):
            try:
                run_job(study, folder, job)
            except GrloError as error:
                log.write(f"error: {error}\n")
                return Ended(1)
        return Ended(0)

    monkeypatch.setattr("grlo.studies.running._start", start)


@pytest.mark.long
@pytest.mark.usefixtures("here")
def test_from_nothing_to_a_report_at_equal_cost_and_nothing_is_done_twice(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    found = study(tiny, out=out)
    shown = capsys.readouterr().out
    assert [arm.name for arm in found.arms] == ["base", "ppo", "shuffled", "own", "two"]
    assert "PPO" in shown
    assert shown.rstrip().endswith(str(out / "report.html"))
    arms = {arm.name: arm for arm in found.arms}

    # Every matched arm ends at the step that is nearest to what PPO has spent.
    folder = StudyDir(out)
    budget = spent([folder.job(Job("ppo", 3))])["flops"]
    assert arms["ppo"].match is None
    for name in ("shuffled", "own", "two"):
        match = arms[name].match
        assert match is not None
        assert match.budget == pytest.approx(budget)
        jobs = {"two": ["half", "two"]}.get(name, [name])
        total = spent([folder.job(Job(job, 3)) for job in jobs])["flops"]
        assert match.spent == pytest.approx(total)
        cost = arms[name].cost
        assert cost is not None
        assert cost.flops == pytest.approx(total)
        assert cost.money == pytest.approx(7.2 * cost.device_hours)
    # Without a reward model a step costs less, so that there are more of them.
    assert len(folder.job(Job("two", 3)).run.metrics()) > 1
    second = folder.job(Job("two", 3)).run.record()["recipe"]
    first = folder.job(Job("half", 3)).run
    assert second["policy"]["model"] == str(first.checkpoints()[-1])
    own = [json.loads(line) for line in (out / "arms/own/seed_3/own_samples.jsonl").open()]
    assert 0 < len(own) <= 6
    assert any(row["ends"] is False for row in own), "an answer of six tokens is cut"

    # Gains are of the same problems and seed, and their parts sum to them.
    for name in ("ppo", "own"):
        for domain in ("chat", "math"):
            gain = arms[name].domain_gains[domain].value
            before = arms["base"].domains[domain].value
            assert gain == pytest.approx(arms[name].domains[domain].value - before)
            parts = arms[name].decomposition[domain]
            total = parts.stopping + parts.format + parts.correctness
            assert total == pytest.approx(gain, abs=1e-12)
    assert arms["ppo"].elicitation["chat"].num_draws == 4
    assert arms["ppo"].transfer_domains == ("math",)

    page = (out / "report.html").read_text()
    assert "<b>" not in page
    assert "A tiny study &lt;script&gt;" in page
    assert page.count("<script") == 2, "the data and the browser"
    table = json.loads((out / "findings.json").read_text())
    assert table["arms"][1]["domains"]["math"]["value"] == arms["ppo"].domains["math"].value
    assert all(answer.reward is not None for t in found.transcripts for answer in t.answers)

    def fail(*args: object, **options: object) -> None:
        raise AssertionError("a finished job is started again")

    monkeypatch.setattr("grlo.studies.running._start", fail)
    again = study(tiny, out=out)
    assert again == found

    # A label may change; a setting may not.
    tiny.write_text(STUDY.replace('label = "PPO"', 'label = "open-ended"'))
    assert study(tiny, out=out).arms[1].label == "open-ended"
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("steps = 2", "steps = 3"))
    with pytest.raises(CheckpointError, match=r"recipe\.training\.steps: 2 -> 3"):
        study(tiny, out=out)
    (tmp_path / "recipe.toml").write_text(RECIPE)

    # The same folder as an appendix and for machines, and its evaluations beside each other.
    markdown = report_folders([out], form="md", out=None).read_text()
    assert markdown.startswith("# A tiny study")
    assert "<b>" not in markdown
    table = json.loads((out / "findings.json").read_text())
    again = json.loads(report_folders([out], form="json", out=None).read_text())
    assert again["arms"] == table["arms"]
    folders = [out / f"arms/{name}/seed_3/evaluation" for name in ("base", "ppo")]
    beside = report_folders(folders, form="html", out=tmp_path / "beside.html").read_text()
    assert "not matched in cost" in beside
    with pytest.raises(DataError, match="neither a run nor a study"):
        report_folders(folders[:1], form="html", out=None)


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    timed = ("time", "tokens_per")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


@pytest.mark.long
@pytest.mark.usefixtures("here")
def test_a_study_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    tiny: Path, tmp_path: Path
) -> None:
    text = STUDY.replace("base_samples = 4", "").replace('by = "flops"', 'by = "trained_tokens"')
    tiny.write_text(text[: text.index("[arms.half]")])
    out = tmp_path / "out"
    command = [sys.executable, "-m", "grlo", "study", str(tiny), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    marks = [
        "arms/ppo/seed_3/run/metrics.jsonl",
        "arms/shuffled/seed_3/run/metrics.jsonl",
        "arms/own/seed_3/own_samples.jsonl",
    ]
    for mark in marks:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 120
        while not (out / mark).exists() and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = study(tiny, out=out)
    fresh = study(tiny, out=tmp_path / "fresh")
    for one, other in zip(found.arms, fresh.arms, strict=True):
        assert one.domains == other.domains
        assert one.rewards == other.rewards
    for name in ("ppo", "own"):
        rows = [RunDir(o / f"arms/{name}/seed_3/run").metrics() for o in (out, tmp_path / "fresh")]
        kept = [
            [
                {k: v for k, v in row.items() if not k.startswith(("time", "tokens_per"))}
                for row in r
            ]
            for r in rows
        ]
        assert kept[0] == kept[1]


@pytest.mark.usefixtures("here")
def test_an_arm_that_fails_is_named_with_its_last_words_and_others_go_on(
    tiny: Path, tmp_path: Path
) -> None:
    text = STUDY.replace("base_samples = 4", "")
    text = text.replace(
        'model = "reward" } }', 'model = "reward" }, prompts = { sources = ["x.jsonl"] } }'
    )
    tiny.write_text(text[: text.index("[arms.own]")])
    (tmp_path / "x.jsonl").write_text('{"prompt": 7}\n')
    with pytest.raises(GrloError, match=r"(?s)1 jobs failed.*shuffled/seed_3 ended.*x\.jsonl:1"):
        study(tiny, out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Failures" in page
    assert "not finished with seed 3" in page
    # Mended, the same command does only what is missing.
    (tmp_path / "x.jsonl").write_text('{"prompt": "Tell me."}\n')
    found = study(tiny, out=tmp_path / "out")
    assert not found.failures
    assert found.arms[2].seeds == (3,)


@pytest.mark.long
def test_a_launcher_runs_the_arms(tiny: Path, tmp_path: Path) -> None:
    text = STUDY.replace("base_samples = 4", "").replace(
        "parallel = 2", 'parallel = 2\ncommand = "echo {name} >> launched; sh -c {quoted}"'
    )
    tiny.write_text(text[: text.index("[arms.shuffled]")])
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        study(tiny, out=tmp_path / "out")
    finally:
        os.chdir(before)
    assert sorted((tmp_path / "launched").read_text().split()) == ["base-seed_3", "ppo-seed_3"]


def test_the_plan_shows_every_job_and_runs_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(tiny, out=tmp_path / "out", seeds=[0, 1])
    shown = capsys.readouterr().out
    for job in ("base/pass_at_k", "ppo/seed_0", "two/seed_1"):
        assert job in shown
    assert not (tmp_path / "out").exists()
    names = [job.name for job in jobs_of(load_study(tiny))]
    assert names.index("half/seed_3") < names.index("two/seed_3")
    assert names.index("ppo/seed_3") < names.index("shuffled/seed_3")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('role = "base"\n', 'role = "control"\n', "exactly one arm has the role base"),
        ('starts_from = "half"', 'starts_from = "hlaf"', "there is no arm 'hlaf'"),
        ("share = 0.5", 'share = 0.5\nstarts_from = "two"', "a circle"),
        ('to = "ppo"', 'to = "base"', "matching.to: expected an arm with recipes"),
        ('to = "ppo"', "", "give either amount or to"),
        ('by = "flops"', 'by = "generated_tokens"', "fine-tuning generates no tokens"),
        ('reward_of = "ppo"', 'reward_of = "x"', "there is no trained arm 'x'"),
        (
            'model = "policy"\n',
            'model = "policy"\nrecipes = ["recipe.toml"]\n',
            "give either model",
        ),
        ('recipes = ["sft.toml"]', 'recipes = ["recipe.toml"]', "none of fine-tuning"),
        ('label = "PPO"', 'label = "PPO"\nlabl = 1', "unknown key"),
        ('recipes = ["recipe.toml"]\nshare', 'recipes = ["no.toml"]\nshare', "no.toml"),
        ("seeds = [3]", "seeds = [3, 3]", "seeds must differ"),
        ('name = "random"', 'name = "radnom"', "radnom"),
    ],
)
def test_a_mistake_in_a_study_is_found_before_anything_runs(
    tiny: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in STUDY
    tiny.write_text(STUDY.replace(old, new, 1) if "arms" not in old else STUDY.replace(old, new))
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_study(tiny)


@pytest.mark.usefixtures("here")
def test_a_first_stage_that_has_spent_everything_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    text = STUDY.replace("base_samples = 4", "").replace("share = 0.5\n", "")
    start, end = text.index("[arms.shuffled]"), text.index("[arms.half]")
    tiny.write_text(text[:start] + text[end:])
    with pytest.raises(GrloError, match="a smaller share, or set matched = false"):
        study(tiny, out=tmp_path / "out")


@pytest.mark.usefixtures("here")
def test_the_quickstart_is_a_study(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = STUDY.replace("base_samples = 4", "")
    tiny.write_text(text[: text.index("[arms.shuffled]")])
    quickstart_stage.quickstart(run_dir=tmp_path / "run", seed=5, path=tiny)
    shown = capsys.readouterr().out
    assert shown.startswith("Does it transfer?")
    assert "grlo chat " in shown
    assert (tmp_path / "run/arms/ppo/seed_5/run/recipe.json").is_file()


def test_the_recipes_in_the_package_are_those_among_the_recipes() -> None:
    shown = Path(__file__).parents[2] / "recipes"
    for own, name in (("recipe", "nano"), ("rlvr_recipe", "nano-rlvr"), ("sft_recipe", "nano-sft")):
        packaged = quickstart_stage.NANO / f"{own}.toml"
        assert packaged.read_bytes() == (shown / f"{name}.toml").read_bytes()


@pytest.mark.parametrize(
    "path",
    [quickstart_stage.STUDY, *sorted((Path(__file__).parents[2] / "recipes/studies").glob("*"))],
    ids=lambda path: path.stem,
)
def test_every_study_of_the_project_loads(path: Path) -> None:
    found = load_study(path).settings
    assert found.title
    if found.arms:
        assert any(arm.role == "control" for arm in found.arms.values()) or "ablation" in path.stem


def test_the_published_comparison_divides_what_the_paper_divides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = Path(__file__).parents[2] / "recipes"
    study(recipes / "studies" / "grlo-paper.toml", out=tmp_path / "paper")
    findings = json.loads((tmp_path / "paper" / "findings.json").read_text())
    ratio = next(r for r in findings["ratios"] if r["to"] == "General-Reasoner")
    assert ratio["of"] == "GRLO"
    assert ratio["ratios"]["prompts"] == pytest.approx(230_000 / 5_000)
    assert ratio["ratios"]["device_hours"] == pytest.approx(1_536 / 22.7)
    assert len(ratio["warnings"]) == 3, "neither model nor hardware nor sampling are matched"
    page = (tmp_path / "paper" / "report.html").read_text()
    assert "46.0 times the prompts (not like with like)" in page
    assert "67.7 times the device-hours (not like with like)" in page
    shown = capsys.readouterr().out
    assert "General-Reasoner, divided by GRLO: 46.0 times the prompts (not like with like)" in shown
    assert "\n- not hardware-matched" in shown


def test_seeds_and_jobs_come_from_the_command_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("grlo.stages.study.study", lambda path, **o: calls.append(o))
    run = CliRunner().invoke
    assert run(cli.app, f"study {tiny} --out o --seeds 4,5 --parallel 3".split()).exit_code == 0
    assert calls == [{"out": Path("o"), "seeds": [4, 5], "parallel": 3}]
    failed = run(cli.app, f"study {tiny} --out o --seeds four".split())
    assert isinstance(failed.exception, RecipeError)
