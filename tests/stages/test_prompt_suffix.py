"""`prompts.suffixes` reach what is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

import grlo
from grlo.errors import DataError, RecipeError
from grlo.recipe import load_recipe
from grlo.rollout import ChatRenderer
from grlo.stages.check import check
from grlo.stages.train import train
from grlo.stages.train_data import hash_prompts, load_prompts

NANO = Path(grlo.__file__).parent / "nano" / "recipe.toml"
SUFFIX = 'prompts.suffixes.model=" Answer in one sentence."'


def test_a_suffix_ends_every_prompt_of_a_run_and_makes_it_another_run() -> None:
    bare, suffixed = (load_recipe([NANO], overrides=o) for o in ((), (SUFFIX,)))
    renderer = ChatRenderer.from_pretrained(bare.policy.model, template=None)
    before, after = (load_prompts(recipe, renderer) for recipe in (bare, suffixed))
    assert [prompt.messages[-1].content for prompt in after] == [
        f"{prompt.messages[-1].content} Answer in one sentence." for prompt in before
    ]
    assert hash_prompts(before) != hash_prompts(after)


def test_check_measures_prompts_with_their_suffix(capsys: pytest.CaptureFixture[str]) -> None:
    check([NANO], overrides=[SUFFIX], weights=False)
    suffixed = capsys.readouterr().out
    check([NANO], weights=False)
    longest = [
        int(text.split("tokens: min ")[1].split("max ")[1].split()[0])
        for text in (capsys.readouterr().out, suffixed)
    ]
    assert longest[0] < longest[1]


def test_a_suffix_for_a_style_that_no_prompt_has_is_an_error(tmp_path: Path) -> None:
    wrong = ['prompts.suffixes.rule=" Box it."']
    with pytest.raises(DataError, match=r"suffixes\.rule: no prompt has this style; found model"):
        train(load_recipe([NANO], overrides=wrong), run_dir=tmp_path / "run")
    with pytest.raises(RecipeError, match=r"suffixes\.rule: no prompt has this style"):
        check([NANO], overrides=wrong, weights=False)
