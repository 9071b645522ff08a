"""The folder of an export: the only file that knows the names in it.

Everything that verl's workers need lies here, and what verl leaves lies here too, so that it must
be on a disk that all nodes see under the same path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grlo.errors import CheckpointError
from grlo.launchers.verl.expression import Cluster
from grlo.recipe import load_dumped
from grlo.rundir import RolloutKind
from grlo.settings import Recipe

_FORMAT = 1


class VerlFolder:
    """An export, and what verl made of it.

    Args:
        path: Absolute.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_file = path / "export.json"
        self.config_file = path / "grlo.yaml"
        self.agent_loop_file = path / "agent_loop.yaml"
        self.script_file = path / "launch.sh"
        self.train_file = path / "train.parquet"
        self.held_out_file = path / "held_out.parquet"
        self.checkpoints_dir = path / "checkpoints"
        self._logs = path / "logs"

    def write_record(self, record: Mapping[str, Any]) -> None:
        text = json.dumps({"format": _FORMAT, **record}, indent=1, allow_nan=False)
        self.record_file.write_text(text + "\n")

    def record(self) -> dict[str, Any]:
        """What was exported: recipe, hash and origin of the prompts, the cluster.

        Raises:
            CheckpointError: The folder holds no export, or one of another version.
        """
        if not self.record_file.is_file():
            raise CheckpointError(
                f"{self.path} is no export for verl: there is no {self.record_file.name}. Give the "
                "folder that `grlo export verl --out` wrote."
            )
        record = json.loads(self.record_file.read_text())
        if record.get("format") != _FORMAT:
            raise CheckpointError(
                f"{self.record_file} has format {record.get('format')!r}, this version reads "
                f"{_FORMAT}. Export the recipe again."
            )
        return record

    def recipe(self) -> Recipe:
        return load_dumped(self.record()["recipe"])

    def cluster(self) -> Cluster:
        return Cluster(**self.record()["cluster"])

    def attempts(self) -> list[int]:
        """Numbers of the starts that have logged something, oldest first."""
        found = self._logs.glob("metrics_*.jsonl")
        return sorted(int(file.stem.removeprefix("metrics_")) for file in found)

    def next_attempt(self) -> int:
        return max(self.attempts(), default=-1) + 1

    def metrics_file(self, attempt: int) -> Path:
        """verl's own log of a start, one row per step."""
        return self._logs / f"metrics_{attempt}.jsonl"

    def console_file(self, attempt: int) -> Path:
        return self._logs / f"console_{attempt}.txt"

    def answers_file(self, attempt: int, step: int, split: RolloutKind, *, actor: int) -> Path:
        """What a reward actor was asked, and what it said."""
        return self.path / "answers" / f"attempt_{attempt}" / f"{split}_{step:06d}.{actor}.jsonl"

    def answers_files(self, attempt: int, step: int, split: RolloutKind) -> list[Path]:
        """Those of all actors."""
        folder = self.answers_file(attempt, step, split, actor=0).parent
        return sorted(folder.glob(f"{split}_{step:06d}.*.jsonl"))

    def checkpoint_steps(self) -> list[int]:
        """Steps of whole checkpoints of verl, oldest first."""
        tracker = self.checkpoints_dir / "latest_checkpointed_iteration.txt"
        latest = int(tracker.read_text()) if tracker.is_file() else 0
        found = self.checkpoints_dir.glob("global_step_*/actor")
        steps = (int(actor.parent.name.removeprefix("global_step_")) for actor in found)
        return sorted(step for step in steps if step <= latest)

    def actor_checkpoint(self, step: int) -> Path:
        return self.checkpoints_dir / f"global_step_{step}" / "actor"
