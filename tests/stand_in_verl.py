"""A stand-in for verl, for tests of what starts it and reads what it leaves.

Made a package named `verl` it "trains" on an export: it answers by set phrases, asks our reward as
verl's workers do, and leaves logs and checkpoints where and as verl 0.9.1 leaves them (a log per
start, rows `{"step": ..., "data": {...}}`, folders `global_step_N`, a file that names the newest).
"""

from __future__ import annotations

from pathlib import Path

MAIN = """
import json, os, sys
from pathlib import Path

sys.path.insert(0, {tests!r})
from verl_parts import answers_of_step

from grlo.launchers.verl.folder import VerlFolder
from grlo.launchers.verl.scoring import Scorer

given = dict(word.lstrip("+-").split("=", 1) for word in sys.argv[1:])
folder = VerlFolder(Path(given["config-dir"]))
attempt = int(given["reward.reward_kwargs.attempt"])
log = given["ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH"]
assert log == str(folder.metrics_file(attempt))
print("ray address:", os.environ.get("RAY_ADDRESS"))
recipe = folder.recipe()
scorer = Scorer(folder, attempt=attempt, actor=0, device="cpu")
start = max(folder.checkpoint_steps(), default=0)
dies_after = int(os.environ.get("DIES_AFTER", 0))
with open(log, "w") as file:
    for step in range(start + 1, recipe.training.steps + 1):
        scores = scorer.score(answers_of_step(recipe, step))
        is_last = step == recipe.training.steps
        if step % recipe.checkpoint.every == 0 or is_last:
            (folder.actor_checkpoint(step)).mkdir(parents=True)
            (folder.checkpoints_dir / "latest_checkpointed_iteration.txt").write_text(str(step))
        data = {{
            "training/global_step": step,
            "actor/pg_loss": -0.25 * step,
            "actor/lr": 1e-4,
            "critic/vf_explained_var": float("nan"),
            "actor/perf/max_memory_allocated_gb": 2.0,
            "perf/throughput": 100.0,
            "timing_s/gen": 3.0,
            "timing_s/old_log_prob": 1.0,
            "timing_s/values": 0.5,
            "timing_s/update_critic": 1.0,
            "timing_s/update_actor": 2.0,
            "timing_s/update_weights": 0.25,
            "timing_s/step": 8.0,
        }}
        file.write(json.dumps({{"step": step, "data": data}}).replace("NaN", "null") + "\\n")
        file.flush()
        if step == dies_after and attempt == 0:
            print("a GPU fell off the bus")
            sys.exit(7)
"""

MERGER = """
import shutil, sys

target = sys.argv[sys.argv.index("--target_dir") + 1]
assert sys.argv[1:4] == ["merge", "--backend", "fsdp"]
shutil.copytree({model!r}, target)
"""


def write_stand_in(folder: Path, *, model: str) -> Path:
    """Writes the package; `folder` then belongs on the path of modules."""
    trainer, merger = folder / "verl" / "trainer", folder / "verl" / "model_merger"
    for package in (trainer, merger):
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
    (folder / "verl" / "__init__.py").write_text("")
    tests = str(Path(__file__).parent)
    (trainer / "main_ppo.py").write_text(MAIN.format(tests=tests))
    (merger / "__main__.py").write_text(MERGER.format(model=model))
    return folder
