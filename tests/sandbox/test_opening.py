"""Which sandbox is opened, with which interpreter, and what is said when there is none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from grlo.errors import SandboxError
from grlo.sandbox import ACCEPT_UNSANDBOXED, Sandbox, SandboxSettings, open_sandbox, opening
from grlo.sandbox.interpreter import choose_interpreter
from grlo.sandbox.selftest import ATTACKS


def test_auto_takes_the_strongest_and_describes_it(sandbox: Sandbox):
    with open_sandbox() as opened:
        description = json.loads(json.dumps(opened.describe()))
    assert opened.backend == description["backend"] == "bubblewrap"
    assert description["version"].startswith("bubblewrap ")
    assert description["self_test"] == dict.fromkeys(ATTACKS, True)
    assert description["num_workers"] == opened.num_workers == len(os.sched_getaffinity(0))
    assert description["own_users"] == (os.getuid() == 0)
    assert any("kernel is shared" in line for line in description["not_enforced"])


def test_the_self_test_takes_a_few_seconds_at_most(sandbox: Sandbox):
    # A tenth of a second on an idle machine.
    assert sandbox.describe()["self_test_seconds"] < 5  # pyright: ignore[reportOperatorIssue]


def test_an_ordinary_user_has_a_sandbox_and_is_told_what_it_lacks(as_ordinary_user):
    description = as_ordinary_user(
        """
import json
from grlo.sandbox import open_sandbox
with open_sandbox() as sandbox:
    print(json.dumps(sandbox.describe()))
""",
        None,
    )
    assert description["backend"] == "bubblewrap"
    assert description["self_test"] == dict.fromkeys(ATTACKS, True)
    assert description["own_users"] is False
    assert any("user ids" in line for line in description["not_enforced"])


@pytest.mark.parametrize("sentence", ["", "yes", ACCEPT_UNSANDBOXED.lower()])
def test_nothing_runs_unsandboxed_without_the_sentence(sentence: str):
    settings = SandboxSettings(backend="none", accept_unsandboxed=sentence)
    with pytest.raises(SandboxError, match="I accept"):
        open_sandbox(settings)


def test_unsandboxed_programs_still_have_limits_and_are_described_as_unsandboxed():
    settings = SandboxSettings(backend="none", accept_unsandboxed=ACCEPT_UNSANDBOXED, num_workers=1)
    with open_sandbox(settings) as sandbox:
        description = sandbox.describe()
        result = sandbox.run("import os; print(os.listdir('.'))")
    assert result.stdout == b"[]\n"
    self_test = description["self_test"]
    assert isinstance(self_test, dict)
    assert self_test["memory"]
    assert self_test["number of processes"]
    assert not self_test["reading outside"]


def test_without_bubblewrap_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(opening.shutil, "which", lambda _: None)
    with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
        open_sandbox(SandboxSettings(backend="bubblewrap"))


def test_auto_never_ends_unsandboxed(monkeypatch):
    monkeypatch.setattr(opening.shutil, "which", lambda _: None)

    def no_landlock():
        raise SandboxError("the kernel has no landlock.")

    monkeypatch.setitem(opening._CONFIGURE, "landlock", no_landlock)
    # Not even with the sentence: that one is for the backend `none`.
    settings = SandboxSettings(accept_unsandboxed=ACCEPT_UNSANDBOXED)
    with pytest.raises(SandboxError, match="no landlock"):
        open_sandbox(settings)


def test_an_old_bubblewrap_is_named(tmp_path: Path, monkeypatch):
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bubblewrap 0.6.1\n")
    old.chmod(0o755)
    monkeypatch.setattr(opening.shutil, "which", lambda _: str(old))
    with pytest.raises(SandboxError, match=r"0\.6\.1.*0\.7"):
        open_sandbox(SandboxSettings(backend="bubblewrap"))


def test_an_attack_that_is_not_stopped_refuses_the_sandbox(sandbox: Sandbox, monkeypatch):
    # A filter that allows everything: `ret #k` with SECCOMP_RET_ALLOW.
    allow_all = bytes.fromhex("060000000000ff7f")
    monkeypatch.setattr(opening, "build_filter", lambda machine, namespaces: allow_all)
    with pytest.raises(SandboxError, match="not stopped at: system calls"):
        open_sandbox(SandboxSettings(backend="bubblewrap"))


def test_programs_run_in_the_interpreter_that_is_asked_for(sandbox: Sandbox):
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("no Python of the system")
    with open_sandbox(SandboxSettings(python=python, num_workers=1)) as opened:
        executable = opened.run("import sys; print(sys.executable)").stdout.decode().strip()
    assert executable == os.path.realpath(python) == opened.describe()["interpreter"]


def test_programs_run_in_the_same_version_as_this_process(sandbox: Sandbox):
    version = sandbox.run("import sys; print(sys.version)").stdout.decode().strip()
    assert version == sys.version


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false", "/usr/bin/env"])
def test_an_interpreter_that_is_none_is_named(python: str):
    with pytest.raises(SandboxError, match=python):
        open_sandbox(SandboxSettings(backend="bubblewrap", python=python))


def test_a_hidden_interpreter_is_refused_where_it_cannot_be_shown(tmp_path: Path, monkeypatch):
    if os.getuid() != 0:
        pytest.skip("only root has another user's eyes to think of")
    hidden = tmp_path / "closed" / "python3"
    hidden.parent.mkdir()
    hidden.parent.chmod(0o700)
    # realpath() of a link would lead out of the closed folder.
    hidden.write_bytes(Path(os.path.realpath(sys.executable)).read_bytes())
    hidden.chmod(0o755)
    monkeypatch.setattr("grlo.sandbox.interpreter._can_mount", lambda: False)
    with pytest.raises(SandboxError, match="other users cannot reach"):
        choose_interpreter(str(hidden), privileged=True)


def as_landlock_version(monkeypatch, version: int) -> None:
    """Uses no more of landlock than an older kernel has."""
    configure = opening._landlock
    monkeypatch.setitem(
        opening._CONFIGURE,
        "landlock",
        lambda: (f"landlock {version}", configure()[1] | {"landlock": version}),
    )


def test_landlock_of_older_kernels_does_for_root_and_not_for_users(monkeypatch):
    try:
        opening._landlock()
    except SandboxError as error:
        pytest.skip(str(error))
    settings = SandboxSettings(backend="landlock", num_workers=1)
    as_landlock_version(monkeypatch, 3)
    if os.getuid() == 0:
        open_sandbox(settings).close()
    else:
        with pytest.raises(SandboxError, match="other processes"):
            open_sandbox(settings)
    as_landlock_version(monkeypatch, 2)
    with pytest.raises(SandboxError, match="writing outside"):
        open_sandbox(settings)
