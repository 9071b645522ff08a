"""verl ends when its launcher is told to, or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grlo.launchers.verl import process

SLEEPER = """
import os, time
from pathlib import Path
Path("pid.partial").write_text(str(os.getpid()))
Path("pid.partial").rename("pid")
try:
    time.sleep(300)
finally:
    Path("ended").write_text("")
"""
LAUNCHER = """
import sys
from pathlib import Path
from grlo.launchers.verl.folder import VerlFolder
from grlo.launchers.verl.process import run_verl
run_verl(VerlFolder(Path(sys.argv[1])), attempt=0, ray_address=None, watch=lambda: None)
"""


def wait_for(path: Path) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < until, f"{path.name} has not come"
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal to orphans is Linux's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_verl_is_interrupted_with_its_launcher(tmp_path, number):
    package = tmp_path / "stand_in" / "verl" / "trainer"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "main_ppo.py").write_text(SLEEPER)
    source = str(Path(process.__file__).parents[3])
    path = os.pathsep.join([str(tmp_path / "stand_in"), source])
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path)], env=dict(os.environ, PYTHONPATH=path)
    )
    wait_for(tmp_path / "pid")
    launcher.send_signal(number)
    launcher.wait(120)
    if number == signal.SIGTERM:  # It has waited for verl, and ends by itself.
        assert launcher.returncode != -signal.SIGTERM
        assert (tmp_path / "ended").exists()
    wait_for(tmp_path / "ended")
