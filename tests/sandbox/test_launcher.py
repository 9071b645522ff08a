"""Parts of the launcher that only rare circumstances need."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grlo.errors import SandboxError
from grlo.sandbox import Limits, Sandbox, SandboxSettings, launcher, open_sandbox
from grlo.sandbox.launcher import empty, free_user_ids, remove_stale_folders, scratch_folder


@pytest.mark.parametrize(
    ("uid_map", "first", "last"),
    [
        # The machine itself: ids that systemd's documentation calls unused.
        ("         0          0 4294967295\n", 1_879_048_192, 2_147_483_647),
        # A rootless container: below 65534, which is nobody, and above the dynamic users.
        ("0 1000 1\n1 100000 65536\n", 60_000, 65_533),
    ],
)
def test_user_ids_are_taken_from_those_that_are_free(uid_map: str, first: int, last: int):
    ids = free_user_ids(uid_map)
    assert len(ids) >= 1000
    assert first <= ids[0] <= ids[-1] <= last


@pytest.mark.parametrize("uid_map", ["0 1000 1\n", "", "0 100000 1000\n"])
def test_a_namespace_with_few_user_ids_has_none_to_spare(uid_map: str):
    assert not free_user_ids(uid_map)


def test_a_folder_is_emptied_however_deep_and_without_following_links(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "scratch").mkdir()
    (folder / "scratch" / "link").symlink_to(outside)
    os.mkfifo(folder / "scratch" / "fifo")
    before = os.getcwd()
    try:
        # Longer than any path may be.
        os.chdir(folder / "scratch")
        for _ in range(1000):
            os.mkdir("deep")
            os.chdir("deep")
        Path("file").write_text("x")
    finally:
        os.chdir(before)
    (folder / "scratch" / "deep").chmod(0)
    (folder / "scratch" / "wide").mkdir()
    for number in range(20):
        (folder / "scratch" / "wide" / str(number)).mkdir()
    empty(folder)
    os.chdir(before)
    assert not list(folder.iterdir())
    assert (outside / "kept").read_text() == "kept"


def test_folders_of_killed_launchers_are_removed_and_those_in_use_are_not(tmp_path: Path):
    stale = tmp_path / f"{launcher._SCRATCH_PREFIX}1-1"
    (stale / "scratch" / "deep").mkdir(parents=True)
    other = tmp_path / "another"
    other.mkdir()
    used = scratch_folder(str(tmp_path))
    remove_stale_folders(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted([other, used])


def test_a_killed_launcher_without_namespaces_leaves_nothing_once_another_starts(left_behind):
    try:
        landlock = open_sandbox(SandboxSettings(backend="landlock", num_workers=1))
    except SandboxError as error:
        pytest.skip(f"no landlock here: {error}")
    if not landlock.users():
        landlock.close()
        pytest.skip("only root has user ids to tell the processes of a program by")
    with landlock:
        process = landlock._workers[0]._process
        assert process is not None
        orphan = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(60)
time.sleep(60)
"""
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(landlock.run, orphan, limits=Limits(wall_seconds=1.5))
            deadline = time.monotonic() + 10
            while len(left_behind(landlock)) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            assert running.result().status == "timeout"
        deadline = time.monotonic() + 10  # The kernel takes killed processes away in its own time.
        while left_behind(landlock):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not list(Path(tempfile.gettempdir()).glob(f"{launcher._SCRATCH_PREFIX}{process.pid}-*"))


def test_programs_are_the_first_to_go_when_memory_runs_out(sandbox: Sandbox):
    process = sandbox._workers[-1]._process or sandbox._workers[0]._process
    assert process is not None
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"
