"""Where metrics go besides metrics.jsonl: TensorBoard, Weights & Biases and trackio.

A tracker fails loudly when it is opened and never stops training afterwards.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from grlo.errors import GrloError, MissingExtraError, RecipeError
from grlo.interfaces import Tracker
from grlo.rundir import RunDir
from grlo.types import Rollout, Score

_SECRET = re.compile(r"key|secret|passw|credential|token(?!iz)", re.I)


def open_trackers(
    names: Sequence[str], *, run_dir: Path, project: str, config: Mapping[str, Any]
) -> list[Tracker]:
    """Opens the named trackers.

    Args:
        names: Keys of `TRACKERS`.
        run_dir: The run; its name is the name of the tracker's run. A resumed run goes on in the
            tracker's run of before.
        project: Where the tracker groups runs.
        config: The recipe; secrets in it are replaced before anything leaves the process.

    Raises:
        RecipeError: There is no tracker of that name, or it cannot be opened.
        MissingExtraError: Its library is not installed.
    """
    if unknown := [name for name in names if name not in TRACKERS]:
        raise RecipeError(f"unknown tracker {unknown[0]!r}. Known: {', '.join(TRACKERS)}.")
    opened: list[Tracker] = []
    for name in names:
        try:
            opened.append(_Guarded(TRACKERS[name](run_dir, project, redacted(config)), name))
        except Exception as error:
            for tracker in opened:
                tracker.close()
            if isinstance(error, GrloError):
                raise
            raise RecipeError(
                f"tracker {name!r} cannot be opened ({error}). Mend it, or leave it out of "
                "trackers.names."
            ) from error
    return opened


def redacted(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the texts under secret-looking keys replaced; numbers stay."""
    return {str(key): _redacted(value, _SECRET.search(str(key))) for key, value in config.items()}


def _redacted(value: Any, is_secret: object) -> Any:
    if isinstance(value, Mapping):
        return redacted(value)
    if isinstance(value, list | tuple):
        return [_redacted(item, is_secret) for item in value]
    return "<redacted>" if is_secret and isinstance(value, str) else value


def sample_texts(rollouts: Sequence[Rollout], scores: Sequence[Score]) -> dict[str, str]:
    """Best, median and worst scored answer of a step, to be read."""
    scored = sorted(
        (score.value, index) for index, score in enumerate(scores) if score.value is not None
    )
    if not scored:
        return {}
    picks = {"best": scored[-1], "median": scored[len(scored) // 2], "worst": scored[0]}
    return {
        name: f"reward {value:.3f}\n\n{rollouts[index].prompt.messages[-1].content}\n\n"
        f"{rollouts[index].text}"
        for name, (value, index) in picks.items()
    }


class _Guarded:
    """Keeps a tracker's failures from the training; says the first one."""

    def __init__(self, inner: Tracker, name: str) -> None:
        self._inner, self._name = inner, name
        self.num_failures = 0

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._try(lambda: self._inner.log(metrics, step=step))

    def log_rollouts(
        self, rollouts: Sequence[Rollout], scores: Sequence[Score], *, step: int
    ) -> None:
        self._try(lambda: self._inner.log_rollouts(rollouts, scores, step=step))

    def close(self) -> None:
        self._try(self._inner.close)
        if self.num_failures > 1:
            print(f"tracker {self._name} failed {self.num_failures} times", file=sys.stderr)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.num_failures += 1
            if self.num_failures == 1:
                print(f"tracker {self._name} failed, training goes on: {error}", file=sys.stderr)


class _TensorBoard:
    def __init__(self, run_dir: Path, project: str, config: Mapping[str, Any]) -> None:
        module = _import("torch.utils.tensorboard", extra="tensorboard")
        self._writer = module.SummaryWriter(str(run_dir / "tensorboard"))
        recipe = json.dumps({"project": project, "recipe": config}, indent=1)
        self._writer.add_text("recipe", _verbatim(recipe))

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def log_rollouts(
        self, rollouts: Sequence[Rollout], scores: Sequence[Score], *, step: int
    ) -> None:
        for name, text in sample_texts(rollouts, scores).items():
            self._writer.add_text(f"rollouts/{name}", _verbatim(text), step)

    def close(self) -> None:
        self._writer.close()


class _WandbLike:
    """Weights & Biases, or trackio, which has the same calls."""

    def __init__(
        self, library: str, run_dir: Path, project: str, config: Mapping[str, Any]
    ) -> None:
        self._library = _import(library, extra=library)
        name = run_dir.resolve().name
        # recipe.json holds the time of creation: its hash is the identity of the run.
        recipe = RunDir.existing(run_dir).recipe_file.read_bytes()
        identity = hashlib.sha256(recipe).hexdigest()[:16]
        if library == "wandb":
            where = {"name": name, "id": identity, "dir": str(run_dir)}
        else:  # trackio knows runs by their names.
            where = {"name": f"{name}-{identity[:6]}"}
        self._library.init(project=project, config=dict(config), resume="allow", **where)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._library.log(dict(metrics), step=step)

    def log_rollouts(
        self, rollouts: Sequence[Rollout], scores: Sequence[Score], *, step: int
    ) -> None:
        texts = sample_texts(rollouts, scores)
        if not texts:
            return
        table = self._library.Table(
            columns=["which", "text"], data=[list(i) for i in texts.items()]
        )
        self._library.log({"rollouts": table}, step=step)

    def close(self) -> None:
        self._library.finish()


def _verbatim(text: str) -> str:
    """TensorBoard renders Markdown; four spaces keep the text as it is."""
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _import(module: str, *, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(extra, extra=extra) from error


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": lambda *arguments: _WandbLike("wandb", *arguments),
    "trackio": lambda *arguments: _WandbLike("trackio", *arguments),
}
