"""The run directory: the only file that knows the names of files in a run.

JSONL files are appended line by line and survive a torn last line; everything else is written into
a temporary file and renamed into place.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from grlo.errors import CheckpointError, DataError, GrloError
from grlo.types import LedgerEntry, Rollout, Score

Row = dict[str, Any]
RolloutKind = Literal["rollouts", "gold"]
"""Folder of a run: what it trained on, or what the gold signal scored."""

EVALUATION_LEDGER = "ledger.jsonl"
"""Of an evaluation, in its folder."""
_LOCK = "run.lock"
_LOCK_POLL_SECONDS = 0.1
PARTIAL = ".partial"
"""Ending of what is being written and not yet whole."""
_FREE = ("recipe.prices.", "recipe.training.sharding")
"""Beginnings of keys that say nothing of what is trained: a run goes on under other ones."""


def append_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Appends rows in one write and syncs. A torn last line, left by a kill, is cut off first.

    Raises:
        GrloError: A value is NaN or infinite; nothing was appended.
        CheckpointError: The disk is full or refuses; the file is as it was.
    """
    data = "".join(_line(row) for row in rows).encode()
    if not data:
        return
    # Unbuffered: a buffer would try again, when it is closed, to write what did not fit.
    with _disk_errors(path), path.open("a+b", buffering=0) as file:
        whole = _whole_length(file)
        file.truncate(whole)
        try:
            written = 0
            while written < len(data):  # A disk that is nearly full takes a part.
                written += file.write(data[written:])
            os.fsync(file.fileno())
        except OSError:
            file.truncate(whole)
            raise
        if whole == 0:
            _sync_folder(path.parent)


def read_jsonl(path: Path) -> list[Row]:
    """The rows of a file; a last line that a kill has torn is left out, no file is no rows.

    Raises:
        DataError: A line that is not the last one is not JSON, or a line is no object.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # Behind the last newline: nothing, or torn.
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise DataError(
                f"{path}:{number}: not JSON ({error}). Restore or remove it."
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected an object, found {type(row).__name__}.")
        rows.append(row)
    return rows


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file that is, at any moment, either the old one or the new one.

    Raises:
        CheckpointError: The disk is full or refuses; the old file, if any, is untouched.
    """
    temporary = path.with_name(f".{path.name}{PARTIAL}")
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with suppress(OSError):  # Gives a full disk its room back.
                temporary.unlink()
            raise
        _sync_folder(path.parent)


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder of them, oldest first."""
    return sorted(path for path in folder.glob("step_*") if not path.name.endswith(PARTIAL))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run directory; None for any other folder."""
    run = RunDir(folder)
    checkpoints = run.checkpoints() if run.recipe_file.is_file() else []
    return checkpoints[-1] if checkpoints else None


@contextmanager
def locked(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Keeps other processes from writing a folder.

    Args:
        folder: What is to be written.
        patience: Seconds to wait for another process to end.

    Raises:
        CheckpointError: Another process is writing it.
    """
    until = time.monotonic() + patience
    # The kernel drops the lock with the process, however that ends.
    path = folder / _LOCK
    with _disk_errors(path):
        file = path.open("w")
    with file:
        with _disk_errors(path):
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() >= until:
                        raise CheckpointError(
                            f"another process is writing {folder}. Wait for it, or choose another "
                            "folder."
                        ) from error
                time.sleep(_LOCK_POLL_SECONDS)
        yield


class RunDir:
    """One run on disk. Open it with `create_or_open` to write, with the constructor to read.

    Args:
        path: Folder of the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.json"
        self.metrics_file = path / "metrics.jsonl"
        self.ledger_file = path / "ledger.jsonl"
        self.environment_file = path / "environment.jsonl"
        self.earlier_ledger_file = path / "earlier_ledger.jsonl"
        self.checkpoints_dir = path / "checkpoints"
        self.report_file = path / "report.html"
        self.verl_dir = path / "verl"

    @classmethod
    @contextmanager
    def create_or_open(
        cls,
        path: Path,
        *,
        recipe: Mapping[str, Any],
        prompt_hash: str,
        data: Sequence[Mapping[str, Any]] = (),
    ) -> Iterator[RunDir]:
        """A run to be written, locked against a second process.

        A run goes on under other prices and with another sharding; its record keeps the newest.

        Args:
            path: New or empty folder, or one with a run of the same recipe.
            recipe: The resolved recipe.
            prompt_hash: Hash of the prompts that the run draws from.
            data: Where these come from, recorded as `data` when the run begins.

        Raises:
            CheckpointError: The folder holds something else, a run of another recipe or other
                prompts, or a run that another process is writing.
        """
        run = cls(path)
        with _disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        with locked(run.path):
            record = {"recipe": recipe, "prompt_hash": prompt_hash}
            if run.recipe_file.exists():
                record = json.loads(json.dumps(record))
                run._require_same(record)
                before = run.record()
                if before["recipe"] != record["recipe"]:
                    run._write_record(before | {"recipe": record["recipe"]})
            else:
                run._require_empty()
                record |= {"data": list(data)}
                record |= {"versions": _versions(), "commit": _commit(), "created": time.time()}
                run._write_record(record)
            yield run

    @classmethod
    def existing(cls, path: Path) -> RunDir:
        """A run to be read.

        Raises:
            CheckpointError: The folder holds no run.
        """
        run = cls(path)
        if not run.recipe_file.is_file():
            raise CheckpointError(
                f"{path} is not a run directory: there is no {run.recipe_file.name}. "
                "Give the folder that `grlo train --run` wrote."
            )
        return run

    def rollouts_file(self, step: int, *, kind: RolloutKind = "rollouts") -> Path:
        return self.path / kind / f"step_{step:06d}.jsonl"

    def evaluation(self, step: int) -> Path:
        """Folder with the benchmark results of the policy after a step."""
        return self.path / "evaluations" / f"step_{step:06d}"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints_dir / f"step_{step:06d}"

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return list_checkpoints(self.checkpoints_dir)

    def record(self) -> Row:
        """recipe.json: the resolved recipe, hash of the prompts, versions and commit.

        Raises:
            CheckpointError: The file is damaged.
        """
        try:
            record = json.loads(self.recipe_file.read_bytes())
        except ValueError as error:
            raise CheckpointError(
                f"{self.recipe_file} is damaged ({error}). Restore it, or choose another --run."
            ) from error
        if not isinstance(record, dict):
            raise CheckpointError(f"{self.recipe_file}: expected an object, found {record!r}.")
        return record

    def peaks(self) -> dict[int, float]:
        """Attempt -> operations that its device was measured to do in a second, where it was."""
        rows = read_jsonl(self.environment_file)
        return {row["attempt"]: row["peak_flops"] for row in rows if row.get("peak_flops")}

    def metrics(self) -> list[Row]:
        """One row per step, oldest first."""
        return read_jsonl(self.metrics_file)

    def ledger(self) -> list[LedgerEntry]:
        """All entries of all attempts, oldest first.

        Raises:
            DataError: A row is not a ledger entry.
        """
        return [entry for _, entry in _ledger_entries(self.ledger_file)]

    def earlier_ledger(self) -> dict[str, list[LedgerEntry]]:
        """Entries of the runs that led to the model this run started from, by run, oldest first.

        Raises:
            DataError: A row is not a ledger entry.
        """
        stages: dict[str, list[LedgerEntry]] = {}
        for run, entry in _ledger_entries(self.earlier_ledger_file):
            stages.setdefault(run, []).append(entry)
        return stages

    def record_origin(self, model: str) -> None:
        """Keeps the costs of the run that a model is a checkpoint of, and of the runs before it.

        Costs of steps after the checkpoint are left out: the model does not rest on them.

        Args:
            model: What the run starts from; any other model than a checkpoint leaves nothing.
        """
        path = Path(model)
        origin = RunDir(path.parent.parent)
        if path not in origin.checkpoints() or not origin.recipe_file.is_file():
            return
        step = int(path.name.removeprefix("step_"))
        stages = origin.earlier_ledger()
        stages[str(origin.path)] = [entry for entry in origin.ledger() if entry.step <= step]
        rows = [{"run": run, **asdict(entry)} for run, stage in stages.items() for entry in stage]
        write_atomic(self.earlier_ledger_file, "".join(map(_line, rows)))

    def rollouts(self, step: int, *, kind: RolloutKind = "rollouts") -> list[Row]:
        """The rows of a step as `write_rollouts` wrote them.

        Raises:
            DataError: There are none of that step on disk.
        """
        steps = self.rollout_steps(kind=kind)
        if step not in steps:
            there = f"there are steps {steps[0]} to {steps[-1]}" if steps else "there are none yet"
            raise DataError(f"{self.path} holds no rollouts of step {step}; {there}.")
        return read_jsonl(self.rollouts_file(step, kind=kind))

    def rollout_steps(self, *, kind: RolloutKind = "rollouts") -> list[int]:
        """Steps whose rollouts are on disk, oldest first."""
        files = (self.path / kind).glob("step_*.jsonl")
        return sorted(int(file.stem.removeprefix("step_")) for file in files)

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        append_jsonl(self.metrics_file, [{"step": step, **metrics}])

    def append_environment(self, attempt: int, facts: Mapping[str, object]) -> None:
        """What a start of the run found: devices, versions and what plug-ins say of themselves."""
        row = {"attempt": attempt, "time": time.time(), **facts, "versions": _versions()}
        append_jsonl(self.environment_file, [row])

    def append_ledger(self, entries: Iterable[LedgerEntry]) -> None:
        append_jsonl(self.ledger_file, [asdict(entry) for entry in entries])

    def write_rollouts(
        self,
        step: int,
        rollouts: Sequence[Rollout],
        scores: Sequence[Score],
        *,
        kind: RolloutKind = "rollouts",
    ) -> None:
        """All rollouts of a step; `input, output, score, step` are verl's keys for its dumps.

        Args:
            step: Of training.
            rollouts: All of the step, or those of the gold signal.
            scores: One per rollout.
            kind: Which of the two.
        """
        rows = [
            {
                "step": step,
                "group": rollout.group,
                "input": [asdict(message) for message in rollout.prompt.messages],
                "output": rollout.text,
                "score": score.value,
                "parts": dict(score.parts),
                "note": score.note,
                "extracted": score.extracted,
                "details": dict(score.details),
                "reference": rollout.prompt.reference,
                "prompt_id": rollout.prompt.id,
                "domain": rollout.prompt.domain,
                "style": rollout.prompt.style,
                "source": rollout.prompt.source,
                "finish_reason": rollout.completion.finish_reason,
                "num_prompt_tokens": len(rollout.prompt_tokens),
                "num_tokens": len(rollout.completion.tokens),
            }
            for rollout, score in zip(rollouts, scores, strict=True)
        ]
        write_atomic(self.rollouts_file(step, kind=kind), "".join(map(_line, rows)))

    def truncate_after(self, step: int) -> None:
        """Forgets metrics, rollouts and evaluations of later steps: a resumed run makes them again.

        The ledger keeps everything: the lost work was paid for.
        """
        rows = self.metrics()
        if any(row["step"] > step for row in rows):
            kept = [row for row in rows if row["step"] <= step]
            write_atomic(self.metrics_file, "".join(map(_line, kept)))
        for kind in get_args(RolloutKind):
            for later in self.rollout_steps(kind=kind):
                if later > step:
                    file = self.rollouts_file(later, kind=kind)
                    with _disk_errors(file):
                        file.unlink()
        for folder in self.path.glob("evaluations/step_*"):
            if folder.name > self.evaluation(step).name:
                shutil.rmtree(folder)

    def next_attempt(self) -> int:
        """0 for the first start of the run, one more for every later one."""
        return max((entry.attempt + 1 for entry in self.ledger()), default=0)

    def _write_record(self, record: Mapping[str, Any]) -> None:
        write_atomic(self.recipe_file, json.dumps(record, indent=1, allow_nan=False) + "\n")

    def _require_same(self, record: Mapping[str, Any]) -> None:
        stored = {key: self.record().get(key) for key in record}
        before, now = dict(flatten(stored)), dict(flatten(record))
        changed = [
            f"  {key}: {before.get(key)!r} -> {now.get(key)!r}"
            for key in dict.fromkeys((*before, *now))
            if before.get(key) != now.get(key) and not key.startswith(_FREE)
        ]
        if changed:
            raise CheckpointError(
                f"{self.path} holds a run of another recipe; its settings and yours differ:\n"
                + "\n".join(changed)
                + "\nResume with the recipe of the run, or choose another --run."
            )

    def _require_empty(self) -> None:
        # A start that was killed at once leaves these two behind.
        ours = [_LOCK, f".{self.recipe_file.name}{PARTIAL}"]
        # What is written down for verl comes before the run that it makes.
        ours += [self.verl_dir.name, self.verl_dir.name + PARTIAL]
        others = sorted(p.name for p in self.path.iterdir() if p.name not in ours)
        if others:
            raise CheckpointError(
                f"{self.path} is not empty and holds no run (found {', '.join(others[:3])}). "
                "Choose a new or empty folder for --run."
            )


def evaluation_ledger(folder: Path) -> dict[str, list[LedgerEntry]]:
    """Entries of an evaluation by benchmark; empty if the folder holds none.

    Raises:
        DataError: A row is not a ledger entry.
    """
    benchmarks: dict[str, list[LedgerEntry]] = {}
    for benchmark, entry in _ledger_entries(folder / EVALUATION_LEDGER):
        benchmarks.setdefault(benchmark, []).append(entry)
    return benchmarks


def _ledger_entries(file: Path) -> list[tuple[str, LedgerEntry]]:
    """Entries with the run or benchmark that each came from; empty for a run's own."""
    entries = []
    for number, row in enumerate(read_jsonl(file), start=1):
        try:
            label = row.pop("run", row.pop("benchmark", ""))
            entries.append((label, LedgerEntry(**row)))
        except TypeError as error:
            raise DataError(f"{file}:{number}: no entry ({error}).") from error
    return entries


def _line(row: Mapping[str, object]) -> str:
    try:
        return json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"
    except ValueError as error:
        bad = [
            key for key, value in flatten(row) if isinstance(value, float) and value - value != 0
        ]
        raise GrloError(f"cannot record {', '.join(bad) or 'a row'}: {error}") from error


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of everything in nested tables."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _whole_length(file: BinaryIO) -> int:
    """Bytes up to the end of the last line that is whole, its newline included."""
    end = _line_end(file, before=file.seek(0, os.SEEK_END))
    start = _line_end(file, before=end - 1)
    file.seek(start)
    try:
        json.loads(file.read(end - start) or b"{}")
    except ValueError:
        return start
    return end


def _line_end(file: BinaryIO, *, before: int) -> int:
    """Bytes up to and including the last newline among the first `before` bytes."""
    position = before
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0


def _sync_folder(path: Path) -> None:
    """Makes the names in a folder durable, not only the bytes of its files."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise CheckpointError(
            f"cannot write {path}: {what}. What was complete before, the last checkpoint too, is "
            "intact; mend it and start the same command again to resume."
        ) from error


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("grlo", "torch", "transformers", "tokenizers", "peft"):
        # What is loaded may know more than its wheel: of torch, for which CUDA it was built.
        loaded = getattr(sys.modules.get(package), "__version__", "")
        try:
            versions[package] = str(loaded) or importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    """Commit of the source tree that the package runs from, if it is one; `-dirty` if edited."""
    source = Path(__file__)
    git = ["git", "-C", str(source.parent)]
    # A package installed below somebody's repository is not part of it.
    tracked = ["ls-files", "--error-unmatch", source.name]
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        subprocess.run([*git, *tracked], capture_output=True, timeout=10, check=True)
        result = subprocess.run(
            [*git, *describe], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
