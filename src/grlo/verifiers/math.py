"""Mathematical answers against the true one, by math-verify in processes that can be killed."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from grlo.interfaces import BuildContext
from grlo.settings import require
from grlo.types import Prompt, Score
from grlo.verifiers.extraction import final_answer
from grlo.verifiers.worker_pool import WorkerDiedError, WorkerPool, WorkerTimeoutError

_MAX_CHARACTERS = 4000
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class MathSettings:
    """How mathematical answers are graded."""

    name: str = "math"
    seconds: float = 5.0
    """Limit of the comparison of one answer."""
    num_workers: int = 0
    """Processes that compare answers; 0 is one for each core that this process may use."""
    memory_bytes: int = 1 << 30
    """What a process may take on top of what it starts with."""

    def __post_init__(self) -> None:
        require(self.seconds > 0, "seconds must be positive")
        require(self.num_workers >= 0, "num_workers must not be negative")
        require(self.memory_bytes > 0, "memory_bytes must be positive")

    def build(self, *, context: BuildContext) -> MathVerifier:
        return MathVerifier(self)


class MathVerifier:
    r"""Scores 1 when the final answer of a text is the prompt's reference, else 0.

    Where the answer stands is `extraction.final_answer`, what counts as the same is in
    `math_equivalence`. A comparison that takes longer than its limit, or ends its process twice,
    scores 0. Without a readable reference the answer is unscored.

    Args:
        settings: See `MathSettings`. Processes start when they are first needed.
    """

    def __init__(self, settings: MathSettings | None = None) -> None:
        self._settings = settings or MathSettings()
        self.num_workers = self._settings.num_workers or len(os.sched_getaffinity(0))
        self._pool: WorkerPool | None = None
        self._lock = threading.Lock()

    def __call__(self, prompt: Prompt, text: str) -> Score:
        """See `grlo.interfaces.Verifier`."""
        gold = (prompt.reference or "").strip()
        if not gold:
            return Score(None, note="the problem has no reference answer")
        answer = final_answer(text)
        if answer is None:
            return Score(0.0, parts={"parsed": 0.0}, note="no answer found")
        if len(answer) > _MAX_CHARACTERS:
            note = f"the answer has {len(answer)} characters; at most {_MAX_CHARACTERS} are read"
            return Score(0.0, parts={"parsed": 0.0}, note=note, extracted=_shown(answer))
        try:
            verdict = self._workers().ask({"gold": gold, "answer": answer})
        except WorkerTimeoutError as error:
            return Score(0.0, parts={"parsed": 1.0}, note=str(error), extracted=answer)
        except WorkerDiedError:
            note = "the comparison ended its process twice, at the limit of memory or by a crash"
            return Score(0.0, parts={"parsed": 1.0}, note=note, extracted=answer)
        if verdict["equal"]:
            return Score(1.0, parts={"parsed": 1.0}, extracted=answer)
        if not verdict["gold_parsed"]:
            note = f"the reference answer {_shown(gold)!r} cannot be read"
            return Score(None, note=note, extracted=answer)
        note = f"expected {_shown(gold)}, found {_shown(answer)}"
        if not verdict["answer_parsed"]:
            note += ", which cannot be read"
        return Score(
            0.0, parts={"parsed": float(verdict["answer_parsed"])}, note=note, extracted=answer
        )

    def describe(self) -> dict[str, object]:
        """What decides about equality."""
        from importlib.metadata import version

        return {"math-verify": version("math-verify"), "seconds": self._settings.seconds}

    def close(self) -> None:
        """Ends the processes; a later call starts others."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _workers(self) -> WorkerPool:
        with self._lock:
            if self._pool is None:
                self._pool = WorkerPool(
                    "grlo.verifiers.math_worker",
                    num_workers=self.num_workers,
                    seconds=self._settings.seconds,
                    memory_bytes=self._settings.memory_bytes,
                )
            return self._pool


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
