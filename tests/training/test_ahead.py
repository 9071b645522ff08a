"""Work in a second thread: its result, its time, its failures and its end."""

from __future__ import annotations

import threading
import time

import pytest

from grlo.interfaces import Progress
from grlo.training.ahead import beside


def test_the_work_runs_while_the_body_does_and_gives_its_result() -> None:
    body_has_begun = threading.Event()

    def work(progress: Progress) -> int:
        assert body_has_begun.wait(30), "the work was not beside the body"
        return 7

    with beside(work) as second:
        body_has_begun.set()
        assert second.result() == 7


def until_waited_for(progress: Progress, is_waited_for: threading.Event) -> None:
    """Work that reports until the report reaches whoever waits."""
    while not is_waited_for.wait(0.001):
        progress(done=1, total=2, tokens=0)


def test_overlapped_seconds_are_those_before_somebody_waits(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    has_begun, is_waited_for = threading.Event(), threading.Event()

    def work(progress: Progress) -> None:
        has_begun.set()
        until_waited_for(progress, is_waited_for)

    def seen(*, done: int, total: int, tokens: int) -> None:
        if not is_waited_for.is_set():
            clock[0] += 2  # The work goes on for two seconds while it is waited for.
            is_waited_for.set()

    with beside(work) as second:
        assert has_begun.wait(30)
        clock[0] += 5  # The body takes five seconds.
        second.result(progress=seen)
    assert clock[0] == 107
    assert second.overlapped_seconds == 5.0


def test_work_that_ends_before_the_body_has_overlapped_as_a_whole(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def work(progress: Progress) -> None:
        clock[0] += 3

    with beside(work) as second:
        second.result()
        clock[0] += 10
        second.result()
    assert second.overlapped_seconds == 3.0


def test_what_the_work_raises_is_raised_where_its_result_is_asked_for() -> None:
    def work(progress: Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), beside(work) as second:
        second.result()


def test_a_body_that_fails_ends_the_work_at_its_next_report() -> None:
    has_ended = threading.Event()

    def work(progress: Progress) -> None:
        try:
            while True:
                progress(done=0, total=1, tokens=0)
        finally:
            has_ended.set()

    with pytest.raises(KeyError), beside(work):
        raise KeyError
    assert has_ended.is_set()


def test_progress_is_told_only_while_the_work_is_waited_for() -> None:
    told: list[int] = []
    has_reported, is_waited_for = threading.Event(), threading.Event()

    def tell(*, done: int, total: int, tokens: int) -> None:
        told.append(done)
        is_waited_for.set()

    def work(progress: Progress) -> None:
        progress(done=0, total=2, tokens=0)
        has_reported.set()
        until_waited_for(progress, is_waited_for)

    with beside(work) as second:
        assert has_reported.wait(30)
        assert told == []
        second.result(progress=tell)
    assert set(told) == {1}
