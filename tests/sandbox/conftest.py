"""A sandbox of the strongest backend, opened once; tests skip where none can be made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from grlo.sandbox import Sandbox, SandboxSettings, open_sandbox


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    if shutil.which("bwrap") is None:
        pytest.skip("bwrap is not installed: apt-get install bubblewrap")
    with open_sandbox(SandboxSettings(backend="bubblewrap", num_workers=2)) as sandbox:
        yield sandbox
