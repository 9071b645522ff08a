"""`grlo launch verl`: the recipe on verl, its run an ordinary run directory."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from pathlib import Path

from grlo.errors import CheckpointError
from grlo.launchers.verl.expression import Cluster
from grlo.launchers.verl.folder import VerlFolder
from grlo.launchers.verl.process import require_verl, run_verl
from grlo.recipe import dump_recipe
from grlo.reporting.live import LiveView
from grlo.rundir import RunDir
from grlo.settings import Recipe
from grlo.stages.export_verl import write_folder
from grlo.stages.import_verl import Bringing, open_run
from grlo.stages.report import report
from grlo.types import LedgerEntry


def launch_verl(
    recipe: Recipe, *, run_dir: Path, cluster: Cluster, ray_address: str | None = None
) -> Path:
    """Trains on verl, or goes on with the run that the directory holds.

    Args:
        recipe: What to do.
        run_dir: New folder, or one that holds a run of the same recipe; all nodes must see it.
        cluster: Nodes and GPUs.
        ray_address: Of a Ray cluster; None starts one on this machine.

    Returns:
        Folder of the last checkpoint, an ordinary Hugging Face model.

    Raises:
        RecipeError: verl cannot express the recipe.
        MissingExtraError: verl is not installed.
        EngineError: verl is of another version, or has failed.
    """
    version = require_verl()
    exported = _exported(recipe, run_dir=run_dir, cluster=cluster)
    with open_run(exported, run_dir, recipe=dump_recipe(recipe)) as run:
        bringing = Bringing(exported, run)
        # What an earlier start has left after its last look.
        done = max([0, *(result.step for result in bringing.steps()), *_recorded(run)])
        bringing.checkpoints()
        if done >= recipe.training.steps and run.checkpoints():
            print(f"{run_dir} is complete: {done} of {recipe.training.steps} steps.")
            return run.checkpoints()[-1]
        attempt = exported.next_attempt()
        start = max(exported.checkpoint_steps(), default=0)
        if start:
            print(f"resuming {run_dir} after step {start} of {recipe.training.steps}")
        else:
            run.record_origin(recipe.policy.model)
        facts = {"device": "cuda", "host": platform.node(), "platform": platform.platform()}
        run.append_environment(attempt, {**facts, "verl": version, "cluster": vars(cluster)})
        began = time.perf_counter()
        with LiveView(total_steps=recipe.training.steps, start_step=start) as view:

            def watch() -> None:
                for result in bringing.steps():
                    view.update(result)
                bringing.checkpoints()

            try:
                run_verl(exported, attempt=attempt, ray_address=ray_address, watch=watch)
            except KeyboardInterrupt:
                print("\nstopped. To resume, run the same command again.")
                raise
            finally:
                watch()
                seconds = time.perf_counter() - began
                run.append_ledger(_rest(run, attempt=attempt, seconds=seconds, cluster=cluster))
    if not run.checkpoints():
        raise CheckpointError(f"verl ended without a checkpoint; see {exported.path}/logs.")
    print(f"report: {report(run_dir)}")
    return run.checkpoints()[-1]


def _exported(recipe: Recipe, *, run_dir: Path, cluster: Cluster) -> VerlFolder:
    """The export of the run, written when it begins."""
    run = RunDir(run_dir)
    exported = VerlFolder(run.verl_dir.resolve())
    if not exported.record_file.is_file():
        if run.recipe_file.is_file():
            raise CheckpointError(
                f"{run_dir} holds a run of `grlo train`. Choose another --run for verl."
            )
        return write_folder(recipe, out=exported.path, cluster=cluster)
    if (before := exported.cluster()) != cluster:
        raise CheckpointError(
            f"{run_dir} was begun on {_in_words(before)}; this is {_in_words(cluster)}, and verl "
            "resumes from shards of the same number only. Start it on as many GPUs again."
        )
    return exported


def _in_words(cluster: Cluster) -> str:
    return (
        f"{cluster.nodes} x {cluster.gpus_per_node} GPUs with {cluster.reward_actors} x "
        f"{cluster.reward_gpus:g} for the reward"
    )


def _recorded(run: RunDir) -> list[int]:
    return [row["step"] for row in run.metrics()]


def _rest(run: RunDir, *, attempt: int, seconds: float, cluster: Cluster) -> Sequence[LedgerEntry]:
    """What of a start's time no step accounts for: loading, mostly."""
    own = [entry for entry in run.ledger() if entry.attempt == attempt]
    return [
        LedgerEntry(
            step=0,
            phase="load",
            seconds=max(0.0, seconds - sum(entry.seconds for entry in own)),
            num_devices=cluster.num_devices,
            device=next((entry.device for entry in own), "cuda"),
            attempt=attempt,
        )
    ]
