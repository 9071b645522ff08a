"""What is said of processes that fail, and how an interrupt reaches the one that leads."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from grlo.stages.launching import LINES_SHOWN, _culprits, _in_words, _interrupt, without_devices


def failure(rank: int, code: int) -> ProcessFailure:
    return ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="none")


def test_the_end_of_the_log_of_a_process_that_failed_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "grlo_x" / "attempt_0" / "1" / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(100)) + "ValueError: boom\n")
    text = _in_words({1: failure(1, 1), 2: failure(2, -9)}, tmp_path)
    assert "process 1 failed (1)" in text
    assert "| ValueError: boom" in text
    assert f"| line {100 - LINES_SHOWN + 1}" in text
    assert f"| line {100 - LINES_SHOWN}\n" not in text
    assert "process 2 was ended by SIGKILL" in text
    assert text.endswith("The newest checkpoint is intact; the same command resumes.")


def test_those_that_have_only_lost_another_are_not_at_fault() -> None:
    failures = {0: failure(0, 3), 1: failure(1, -9), 2: failure(2, 3)}
    assert list(_culprits(failures)) == [1]
    lost = {0: failure(0, 3), 2: failure(2, 3)}
    assert list(_culprits(lost)) == [0, 2]


def test_an_interrupt_reaches_the_leader_and_before_there_is_one_the_command(
    tmp_path: Path,
) -> None:
    file = tmp_path / "leader"
    with pytest.raises(KeyboardInterrupt):
        _interrupt(file, signal.SIGINT, None)
    told: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    try:
        file.write_text(str(os.getpid()))
        _interrupt(file, signal.SIGINT, None)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == [signal.SIGINT]


def test_the_option_is_taken_out_of_the_command_with_its_value() -> None:
    words = ["train", "a.toml", "--devices", "2", "--set", "x=--devices", "--run", "2"]
    rest = ["train", "a.toml", "--set", "x=--devices", "--run", "2"]
    assert without_devices(words) == rest
    assert without_devices(["train", "--devices=4", "b.toml"]) == ["train", "b.toml"]
