"""Pass rates of prompts: who is kept, round trip, interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def run(recipe: Recipe, out: Path, *, least: float = 0.01, most: float = 0.99) -> dict[str, float]:
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
    assert rates == {p.id: p.meta["pass_rate"] for p in [*kept, *dropped]}
    assert not (tmp_path / "out.partial.jsonl").exists()


def test_written_prompts_are_read_back_as_they_were(recipe: Recipe, tmp_path: Path) -> None:
    run(recipe, tmp_path / "out.jsonl", least=0, most=1)
    source = str(tmp_path / "prompts.jsonl")
    before = read_prompts(source, default_style="model", suffixes=recipe.prompts.suffixes)
    after = read_prompts(str(tmp_path / "out.jsonl"), default_style="model")
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
    (tmp_path / "out.partial.jsonl").write_text('{"identity": "another"}\n')
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
