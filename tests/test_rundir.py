"""The run directory: files that survive kills, and runs that cannot be mixed up."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys

import pytest

from grlo import rundir
from grlo.errors import CheckpointError, DataError, GrloError
from grlo.rundir import RunDir, append_jsonl, read_jsonl, write_atomic
from grlo.types import Completion, LedgerEntry, Message, Prompt, Rollout, Score

RECIPE = {"seed": 0, "training": {"steps": 3}}


def open_run(path, recipe=None, prompt_hash="abc"):
    return RunDir.create_or_open(path, recipe=recipe or RECIPE, prompt_hash=prompt_hash)


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [{"a": 1, "text": "line\u2028separator\n\x1b[0m é"}, {"b": [1.5, None]}]
    append_jsonl(tmp_path / "x.jsonl", rows[:1])
    append_jsonl(tmp_path / "x.jsonl", rows[1:])
    assert read_jsonl(tmp_path / "x.jsonl") == rows
    assert read_jsonl(tmp_path / "missing.jsonl") == []


@pytest.mark.parametrize("torn", ['{"a": 3', '{"a": 3}', "x" * 200_000, "\0" * 70_000 + "}\n"])
def test_a_torn_last_line_is_left_out_and_overwritten(tmp_path, torn):
    path = tmp_path / "x.jsonl"
    append_jsonl(path, [{"a": 1}, {"a": 2}])
    with path.open("a") as file:
        file.write(torn)
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    append_jsonl(path, [{"a": 4}])
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}, {"a": 4}]


def test_damage_elsewhere_is_named_by_file_and_line(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(DataError, match=r"x\.jsonl:2"):
        read_jsonl(tmp_path / "x.jsonl")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused_by_name(tmp_path, value):
    append_jsonl(tmp_path / "x.jsonl", [{"a": 1}])
    with pytest.raises(GrloError, match="policy/loss"):
        append_jsonl(tmp_path / "x.jsonl", [{"step": 1, "policy/loss": value}])
    assert read_jsonl(tmp_path / "x.jsonl") == [{"a": 1}]


def test_a_process_killed_while_it_writes_leaves_readable_files(tmp_path):
    code = """
import sys
from pathlib import Path
from grlo.rundir import append_jsonl, write_atomic
folder, number = Path(sys.argv[1]), 0
while True:
    append_jsonl(folder / "x.jsonl", [{"n": number, "pad": "y" * 5000}])
    write_atomic(folder / "state.json", '{"n": %d, "pad": "%s"}' % (number, "z" * 5000))
    number += 1
    print(number, flush=True)
"""
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(7):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        rows = read_jsonl(tmp_path / "x.jsonl")
        assert len(rows) >= 7
        assert json.loads((tmp_path / "state.json").read_text())["n"] >= 6


def run_limited(code: str, folder, *, limit: int) -> subprocess.CompletedProcess[str]:
    """Runs code in a process whose files cannot grow beyond `limit` bytes."""
    head = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from grlo.rundir import append_jsonl, write_atomic\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "folder = Path(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", head + code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_kill_in_the_middle_of_a_line_loses_that_line_only(tmp_path):
    append_jsonl(tmp_path / "x.jsonl", [{"n": 0}])
    # The kernel writes what fits and kills the process when it goes on.
    code = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "append_jsonl(folder / 'x.jsonl', [{'n': 1}, {'n': 2, 'pad': 'y' * 5000}])\n"
    )
    killed = run_limited(code, tmp_path, limit=1000)
    assert killed.returncode == -signal.SIGXFSZ, killed.stderr
    assert (tmp_path / "x.jsonl").stat().st_size == 1000
    assert read_jsonl(tmp_path / "x.jsonl") == [{"n": 0}, {"n": 1}]
    append_jsonl(tmp_path / "x.jsonl", [{"n": 3}])
    assert [row["n"] for row in read_jsonl(tmp_path / "x.jsonl")] == [0, 1, 3]


def test_a_row_that_only_half_fits_leaves_no_trace(tmp_path):
    append_jsonl(tmp_path / "x.jsonl", [{"n": 0}])
    write_atomic(tmp_path / "state", "old")
    before = (tmp_path / "x.jsonl").read_bytes()
    code = (
        "from grlo.errors import CheckpointError\n"
        "for write in (\n"
        "    lambda: append_jsonl(folder / 'x.jsonl', [{'pad': 'y' * 3000}] * 9),\n"
        "    lambda: write_atomic(folder / 'state', 'z' * 30000),\n"
        "):\n"
        "    try: write()\n"
        "    except CheckpointError as error: print(error)\n"
    )
    limited = run_limited(code, tmp_path, limit=20_000)
    assert limited.returncode == 0, limited.stderr
    assert limited.stdout.count("cannot write") == 2
    assert limited.stdout.count("the last checkpoint too, is intact") == 2
    assert (tmp_path / "x.jsonl").read_bytes() == before
    assert (tmp_path / "state").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "x.jsonl"]


def test_a_full_disk_is_a_clear_error_and_nothing_is_lost(tmp_path, monkeypatch):
    append_jsonl(tmp_path / "x.jsonl", [{"a": 1}])
    write_atomic(tmp_path / "state", "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(rundir.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"x\.jsonl: the disk is full"):
        append_jsonl(tmp_path / "x.jsonl", [{"a": 2}])
    with pytest.raises(CheckpointError, match="state: the disk is full"):
        write_atomic(tmp_path / "state", "new")
    assert read_jsonl(tmp_path / "x.jsonl") == [{"a": 1}]
    assert (tmp_path / "state").read_text() == "old"


def test_a_second_writer_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    with (
        open_run(tmp_path / "run"),
        pytest.raises(CheckpointError, match="another process"),
        open_run(tmp_path / "run"),
    ):
        pass
    with open_run(tmp_path / "run") as run:
        assert run.record()["recipe"] == RECIPE


def test_the_lock_of_another_process_dies_with_it(tmp_path):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from grlo.rundir import RunDir\n"
        f"with RunDir.create_or_open(Path(sys.argv[1]), recipe={RECIPE}, prompt_hash='abc'):\n"
        "    print('open', flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(CheckpointError, match="another process"):
            open_run(tmp_path / "run").__enter__()
        assert RunDir.existing(tmp_path / "run").metrics() == [], "readers need no lock"
    finally:
        holder.kill()
        holder.communicate()
    with open_run(tmp_path / "run"):
        pass


def test_a_start_killed_before_the_recipe_is_in_place_does_not_block_the_next(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from grlo.rundir import RunDir\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"with RunDir.create_or_open(Path(sys.argv[1]), recipe={RECIPE}, prompt_hash='abc'): ...\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((tmp_path / "run").glob(".*")), "the kill has left something behind"
    with open_run(tmp_path / "run") as run:
        assert run.record()["recipe"] == RECIPE
    assert not list((tmp_path / "run").glob(".*"))


def test_damaged_records_are_named(tmp_path):
    with open_run(tmp_path / "run") as run:
        append_jsonl(run.ledger_file, [{"step": 1}])
        with pytest.raises(DataError, match=r"ledger\.jsonl:1"):
            run.ledger()
        with pytest.raises(DataError, match="step 4; there are none yet"):
            run.rollouts(4)
    run.recipe_file.write_text('{"recipe": ')
    with pytest.raises(CheckpointError, match=r"recipe\.json is damaged"):
        open_run(tmp_path / "run").__enter__()


def test_the_commit_is_that_of_our_own_sources_and_says_whether_they_were_edited(
    tmp_path, monkeypatch
):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    source = tmp_path / "rundir.py"
    source.write_text("1")
    monkeypatch.setattr(rundir, "__file__", str(source))
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "of somebody else")
    assert rundir._commit() is None
    git("add", source)
    git("commit", "-q", "-m", "ours")
    commit = rundir._commit()
    assert commit is not None
    assert len(commit) == 40
    source.write_text("2")
    assert rundir._commit() == f"{commit}-dirty"


def test_another_recipe_is_refused_with_the_settings_that_differ(tmp_path):
    with open_run(tmp_path / "run"):
        pass
    other = {"seed": 1, "training": {"steps": 3}}
    with pytest.raises(CheckpointError, match=r"recipe\.seed: 0 -> 1") as caught:
        open_run(tmp_path / "run", recipe=other).__enter__()
    assert "training" not in str(caught.value)
    with pytest.raises(CheckpointError, match="prompt_hash"):
        open_run(tmp_path / "run", prompt_hash="other").__enter__()


def test_a_run_goes_on_under_other_prices_and_keeps_the_newest(tmp_path):
    plain = {"seed": 0, "training": {"steps": 3}}
    run, (cheap, dear) = (
        tmp_path / "run",
        [plain | {"prices": {"device_hour": price, "currency": "USD"}} for price in (1.0, 2.5)],
    )
    # The first is a recipe from before there were prices.
    for recipe in (plain, cheap, dear):
        with open_run(run, recipe=recipe) as opened:
            before = opened.record()
            assert before["recipe"] == recipe
    assert {"prompt_hash", "versions", "created"} <= before.keys()
    with pytest.raises(CheckpointError, match=r"recipe\.seed: 0 -> 1") as caught:
        open_run(run, recipe=cheap | {"seed": 1}).__enter__()
    assert "prices" not in str(caught.value)
    assert RunDir(run).record() == before, "a refused start changes nothing"


def test_the_peak_of_an_attempt_is_known_where_it_was_measured(tmp_path):
    with open_run(tmp_path / "run") as run:
        assert run.peaks() == {}
        run.append_environment(0, {"device": "cpu"})
        run.append_environment(1, {"device": "cpu", "peak_flops": 2e9})
        assert run.peaks() == {1: 2e9}


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(CheckpointError, match=r"thesis\.tex"):
        open_run(tmp_path).__enter__()
    with pytest.raises(CheckpointError, match="not a run directory"):
        RunDir.existing(tmp_path)


def rollout() -> Rollout:
    prompt = Prompt(id="p", messages=(Message("user", "Hi"),), source="f:1")
    return Rollout(prompt, 0, (1, 2), Completion((3,), (-0.5,), "stop"), "Hello")


def entry(**changes) -> LedgerEntry:
    values = {"step": 1, "phase": "update", "seconds": 2.0, "num_devices": 1, "device": "cpu"}
    return LedgerEntry(**(values | changes))


def test_truncation_forgets_later_steps_but_not_what_they_cost(tmp_path):
    with open_run(tmp_path / "run") as run:
        for step in (1, 2, 3):
            run.append_metrics(step, {"reward/mean": step})
            run.write_rollouts(step, [rollout()], [Score(1.0)])
            run.append_ledger([entry(step=step)])
        run.truncate_after(2)
        assert [row["step"] for row in run.metrics()] == [1, 2]
        assert run.rollout_steps() == [1, 2]
        assert [e.step for e in run.ledger()] == [1, 2, 3]
        assert run.next_attempt() == 1


def test_rollouts_are_written_whole_with_unscored_as_null(tmp_path):
    with open_run(tmp_path / "run") as run:
        run.write_rollouts(1, [rollout(), rollout()], [Score(0.5, {"raw": 2.0}), Score(None)])
        rows = run.rollouts(1)
    assert [row["score"] for row in rows] == [0.5, None]
    assert rows[0]["output"] == "Hello"
    assert rows[0]["input"] == [{"role": "user", "content": "Hi"}]
    assert rows[0]["parts"] == {"raw": 2.0}
