"""The progress bar."""

from __future__ import annotations

import pytest

from grlo.interfaces import silent
from grlo.progress import progress_bar


def test_nothing_is_written_when_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("sampling") as progress:
        progress(done=1, total=2, tokens=10)
    assert progress is silent
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_label_counts_and_speed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("sampling") as progress:
        progress(done=1, total=2, tokens=10)
    written = capfd.readouterr().err
    assert "sampling" in written
    assert "1/2" in written
    assert "tokens/s" in written
