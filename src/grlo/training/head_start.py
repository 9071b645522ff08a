"""Rewards that begin with the first groups of a draw while the others are being drawn."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from grlo.interfaces import OnGroup, Reward
from grlo.types import Rollout

_END = None


@contextmanager
def head_start(reward: Reward, *, drawn_on: str) -> Iterator[OnGroup | None]:
    """Has a reward begin, in a second thread, with the groups that the body hands over.

    When the body ends, what has been begun is brought to its end and what has not is left for
    `Reward.score`. So is what fails, where it is counted and told of.

    Args:
        reward: None is yielded unless it has a method `begin`.
        drawn_on: See `Reward`.
    """
    begin = getattr(reward, "begin", None)
    if begin is None:
        yield None
        return
    groups: queue.SimpleQueue[list[Rollout] | None] = queue.SimpleQueue()
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            waiting = _all_waiting(groups)
            if waiting is _END or is_over.is_set():
                return
            try:
                begin(waiting, drawn_on=drawn_on)
            except Exception as error:
                print(
                    f"the reward could not begin before all answers were drawn: {error}",
                    file=sys.stderr,
                )
                return

    thread = threading.Thread(target=work, name="head start")
    thread.start()
    try:
        yield groups.put
    finally:
        is_over.set()
        groups.put(_END)
        thread.join()


def _all_waiting(groups: queue.SimpleQueue[Any]) -> Sequence[Rollout] | None:
    """Waits for a group and takes those behind it along; None at the end."""
    rollouts: list[Rollout] = []
    group = groups.get()
    while True:
        if group is _END:
            return _END
        rollouts += group
        try:
            group = groups.get_nowait()
        except queue.Empty:
            return rollouts
