"""PPO with a value head on the policy's trunk learns on the miniature."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from grlo.recipe import load_recipe
from grlo.rundir import RunDir
from grlo.stages.train import train

RECIPE = Path(__file__).parents[2] / "recipes" / "nano.toml"
OVERRIDES = ["critic.model=none", "critic.share_trunk=true", "training.steps=8"]


def test_a_few_steps_raise_the_reward_and_the_head_learns_to_foresee_it(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    train(load_recipe([RECIPE], overrides=OVERRIDES), run_dir=tmp_path / "run")
    rows = RunDir(tmp_path / "run").metrics()
    rewards = [row["reward/mean"] for row in rows]
    # The miniature's scores have a standard deviation of about 2.
    assert statistics.fmean(rewards[-2:]) - statistics.fmean(rewards[:2]) > 2
    assert rows[-1]["critic/loss"] < rows[0]["critic/loss"]
