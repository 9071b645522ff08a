"""Rewards that begin with the first groups of a draw while the others are being drawn."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from grlo.interfaces import OnGroup, Reward
from grlo.types import Rollout


@contextmanager
def head_start(reward: Reward, *, drawn_on: str) -> Iterator[OnGroup | None]:
    """Has a reward begin, in a second thread, with the groups that the body hands over.

    When the body ends, what has been begun is brought to its end and what has not is left for
    `Reward.score`. So is what fails, where it is counted and told of. When the body fails, nothing
    is waited for: closing the reward ends what it is at.

    Args:
        reward: None is yielded unless it has a method `begin`.
        drawn_on: See `Reward`.
    """
    begin = getattr(reward, "begin", None)
    if begin is None:
        yield None
        return
    groups: queue.SimpleQueue[list[Rollout]] = queue.SimpleQueue()
    is_over = threading.Event()

    def work() -> None:
        while True:
            waiting = groups.get()
            while not groups.empty():  # Nobody else takes any.
                waiting = [*waiting, *groups.get()]
            if is_over.is_set():
                return
            try:
                begin(waiting, drawn_on=drawn_on)
            except Exception as error:
                print(
                    f"the reward could not begin while answers are drawn ({error}); it is asked "
                    "again when all are there.",
                    file=sys.stderr,
                )
                return

    thread = threading.Thread(target=work, name="head start", daemon=True)
    thread.start()
    try:
        yield groups.put
    finally:
        is_over.set()
        groups.put([])
    thread.join()
