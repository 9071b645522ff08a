"""Pass rates of prompts: who is kept, round trip, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grlo.errors import DataError, RecipeError
from grlo.prompts.sources import read_prompts
from grlo.recipe import load_recipe
from grlo.settings import Recipe
from grlo.stages import pass_rate as stage

RECIPE = """
[policy]
model = "policy"
compute_dtype = "float32"
gradient_checkpointing = false
[prompts]
sources = ["prompts.jsonl"]
suffixes.rule = " Please."
[sampling]
samples_per_prompt = 2
max_tokens = 6
[reward]
name = "verified"
verifier = { name = "function", path = "rates:grade" }
[algorithm]
name = "grpo"
[training]
steps = 1
device = "cpu"
num_threads = 1
"""
PLUGIN = """
from grlo.types import Score

def grade(prompt, text):
    # Right always, never, or depending on the answer.
    kind = prompt.reference
    values = {"always": 1.0, "never": 0.0, "twice": 2.0, "broken": None}
    return Score(values.get(kind, len(text) % 2))
"""
REFERENCES = ("always", "never", "mixed", "always", "mixed", "never")


@pytest.fixture
def recipe(
    tmp_path: Path, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Recipe:
    make_model("policy")
    write_prompts(tmp_path, REFERENCES)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "rates.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(stage, "_CHUNK", 2)
    return load_recipe([tmp_path / "recipe.toml"])


def write_prompts(folder: Path, references: tuple[str, ...]) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Question {number}?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": reference},
            "extra_info": {"number": number},
        }
        for number, reference in enumerate(references)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(recipe: Recipe, out: Path, *, least: float = 0.01, most: float = 0.99) -> list[float]:
    return stage.pass_rate(recipe, out=out, num_samples=6, least=least, most=most)


def test_prompts_between_the_bounds_are_kept_and_the_others_too_in_their_file(
    recipe: Recipe, tmp_path: Path
) -> None:
    rates = run(recipe, tmp_path / "out.jsonl")
    kept = read_prompts(str(tmp_path / "out.jsonl"), default_style="model")
    dropped = read_prompts(str(tmp_path / "out.dropped.jsonl"), default_style="model")
    assert {p.reference for p in kept} == {"mixed"}
    assert [p.reference for p in dropped] == ["always", "never", "always", "never"]
    assert [p.meta["pass_rate"] for p in dropped] == [1.0, 0.0, 1.0, 0.0]
    assert all(0 < float(str(p.meta["pass_rate"])) < 1 and p.meta["samples"] == 6 for p in kept)
    of_number = {p.meta["number"]: p.meta["pass_rate"] for p in [*kept, *dropped]}
    assert rates == [of_number[number] for number in range(len(REFERENCES))]


def test_the_file_in_place_of_the_sources_gives_the_same_prompts(
    recipe: Recipe, tmp_path: Path
) -> None:
    run(recipe, tmp_path / "out.jsonl", least=0, most=1)
    source = str(tmp_path / "prompts.jsonl")
    before = read_prompts(source, default_style="model", suffixes=recipe.prompts.suffixes)
    out = str(tmp_path / "out.jsonl")
    after = read_prompts(out, default_style="model", suffixes=recipe.prompts.suffixes)
    assert before[0].messages[-1].content == "Question 0? Please."
    for one, other in zip(before, after, strict=True):
        assert (one.id, one.messages, one.reference) == (other.id, other.messages, other.reference)
        assert (one.style, one.domain) == (other.style, other.domain)
        assert one.meta["number"] == other.meta["number"]


def test_an_interrupted_call_goes_on_and_ends_with_the_same_rates(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(recipe, tmp_path / "whole.jsonl")
    original, asked = stage.sample, []

    def sample(engine, renderer, prompts, *args, **options):
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.extend(prompts)
        return original(engine, renderer, prompts, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "sample", sample)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()

    again: list[str] = []

    def count(engine, renderer, prompts, *args, **options):
        again.extend(prompt.id for prompt in prompts)
        return original(engine, renderer, prompts, *args, **options)

    monkeypatch.setattr(stage, "sample", count)
    assert run(recipe, tmp_path / "out.jsonl") == expected
    assert len(again) == 2
    assert not set(again) & {prompt.id for prompt in asked}
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_what_another_call_left_is_not_gone_on_from(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "out.rates.jsonl").write_text('{"identity": "another"}\n')
    with pytest.raises(DataError, match="left by a call with another policy"):
        run(recipe, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("reference", "problem"),
    [("twice", "are no pass rates"), ("broken", "none of 6 answers could be scored")],
)
def test_scores_that_are_no_rates_are_refused(
    recipe: Recipe, tmp_path: Path, reference: str, problem: str
) -> None:
    write_prompts(tmp_path, ("mixed", reference))
    with pytest.raises(DataError, match=problem):
        run(recipe, tmp_path / "out.jsonl")


def test_bounds_and_files_that_make_no_sense_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the bounds 0\.9 and 0\.1"):
        run(recipe, tmp_path / "out.jsonl", least=0.9, most=0.1)
    with pytest.raises(RecipeError, match=r"expected the name of a \.jsonl file"):
        run(recipe, tmp_path / "out.txt")


def test_other_bounds_need_no_further_sampling(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = run(recipe, tmp_path / "out.jsonl")
    monkeypatch.setattr(stage, "load_engine", None)
    assert run(recipe, tmp_path / "out.jsonl", least=1, most=1) == rates
    kept = read_prompts(str(tmp_path / "out.jsonl"), default_style="model")
    assert [prompt.reference for prompt in kept] == ["always", "always"]


def test_rates_of_other_weights_are_not_gone_on_from(
    recipe: Recipe, tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    run(recipe, tmp_path / "out.jsonl")
    make_model("policy", initializer_range=0.4)
    with pytest.raises(DataError, match="left by a call with another policy"):
        run(recipe, tmp_path / "out.jsonl")


def test_a_call_killed_while_it_samples_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    expected = run(recipe, tmp_path / "whole.jsonl")
    program = """
import os, signal, sys
from pathlib import Path
from grlo.recipe import load_recipe
from grlo.stages import pass_rate as stage

folder = Path(sys.argv[1])
original, calls = stage.sample, []
def sample(*args, **options):
    calls.append(0)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **options)
stage.sample, stage._CHUNK = sample, 2
recipe = load_recipe([folder / "recipe.toml"])
stage.pass_rate(recipe, out=folder / "out.jsonl", num_samples=6, least=0.01, most=0.99)
"""
    process = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    rates = tmp_path / "out.rates.jsonl"
    assert len(rates.read_text().splitlines()) == 1 + 4
    with rates.open("a") as file:
        file.write('{"key": "torn')
    assert run(recipe, tmp_path / "out.jsonl") == expected
    for name in ("out.jsonl", "out.dropped.jsonl", "out.rates.jsonl"):
        whole = tmp_path / name.replace("out", "whole")
        assert (tmp_path / name).read_bytes() == whole.read_bytes()


def test_repeated_rows_are_sampled_once_and_other_references_on_their_own(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"prompt": "How many?", "reward_model": {"style": "rule", "ground_truth": reference}}
        for reference in ("always", "never", "always")
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    original, asked = stage.sample, []

    def count(engine, renderer, prompts, *args, **options):
        asked.extend(prompt.reference for prompt in prompts)
        return original(engine, renderer, prompts, *args, **options)

    monkeypatch.setattr(stage, "sample", count)
    assert run(recipe, tmp_path / "out.jsonl", least=1, most=1) == [1, 0, 1]
    assert asked == ["always", "never"]
    assert len(read_prompts(str(tmp_path / "out.jsonl"), default_style="model")) == 2


def test_rows_that_could_not_be_written_are_refused_before_anything_is_sampled(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"prompt": "How many?", "reward_model": {"style": "rule", "ground_truth": "always"}}
    line = json.dumps({**row, "extra_info": {"weight": float("nan")}})
    (tmp_path / "prompts.jsonl").write_text(line + "\n")
    monkeypatch.setattr(stage, "load_engine", None)
    with pytest.raises(DataError, match=r"prompts\.jsonl:1: extra_info cannot be written as JSON"):
        run(recipe, tmp_path / "out.jsonl")


def test_the_bar_counts_prompts_also_of_an_earlier_call(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, int, int]] = []

    @contextmanager
    def progress_bar(label: str) -> Iterator[Callable[..., None]]:
        yield lambda *, done, total, tokens: shown.append((done, total, tokens))

    monkeypatch.setattr(stage, "progress_bar", progress_bar)
    run(recipe, tmp_path / "out.jsonl")
    lines = (tmp_path / "out.rates.jsonl").read_text().splitlines()
    assert shown == sorted(shown), "it never goes back"
    assert {total for _, total, _ in shown} == {len(REFERENCES)}
    assert shown[-1][0] == len(REFERENCES)
    shown.clear()
    (tmp_path / "out.rates.jsonl").write_text("".join(line + "\n" for line in lines[:5]))
    run(recipe, tmp_path / "out.jsonl")
    assert shown[0][0] >= 4
    assert shown[-1][0] == len(REFERENCES)
