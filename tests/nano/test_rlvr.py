"""In-domain RL on the miniature: verifiable rewards raise held-out mathematics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import grlo.nano
from grlo.benchmarks.loading import choose, load_benchmarks
from grlo.evaluation.evaluator import gain
from grlo.recipe import load_recipe
from grlo.stages.evaluate import run_benchmarks
from grlo.stages.respondents import ModelChoice
from grlo.stages.train import train

RECIPE = Path(grlo.nano.__file__).parent / "rlvr_recipe.toml"


@pytest.mark.long
def test_a_few_steps_of_rlvr_raise_mathematics_that_was_held_out(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = load_recipe([RECIPE], overrides=["training.steps=10"])
    train(recipe, run_dir=tmp_path / "run")
    models = {"before": recipe.policy.model, "after": str(tmp_path / "run")}
    results = {
        name: run_benchmarks(
            ModelChoice(model, device="cpu"),
            load_benchmarks(choose(suite=None, names=["nano_math_dev"])),
            out=tmp_path / name,
        )[0]
        for name, model in models.items()
    }
    difference = gain(results["before"], results["after"], seed=0)
    assert difference.low > 0.3
    assert results["after"].num_unscored == 0
