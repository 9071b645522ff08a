"""Worker processes: killed at their limit, started again, and gone when their owner is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grlo.verifiers.worker_pool import (
    WorkerDiedError,
    WorkerPool,
    WorkerStartError,
    WorkerTimeoutError,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

WORKER = """
import os, signal, sys, time
from grlo.verifiers.worker_process import end_with_parent, serve

def answer(request):
    match request["do"]:
        case "echo":
            return {"said": request["what"], "pid": os.getpid()}
        case "print":
            print("x" * 1000, flush=True)
            os.write(1, b"not JSON")
            return {"said": "printed"}
        case "sleep":
            time.sleep(request["seconds"])
            return {"said": "slept"}
        case "spin":
            return {"said": len(str(9 ** 9 ** 9))}
        case "die":
            os._exit(3)
        case "die once":
            if not os.path.exists(request["mark"]):
                open(request["mark"], "w").close()
                os.kill(os.getpid(), signal.SIGSEGV)
            return {"said": "alive"}
        case "fill":
            return {"said": len(bytearray(request["bytes"]))}
        case "modules":
            return {"said": sorted({"torch", "transformers", "numpy"} & set(sys.modules))}

if __name__ == "__main__":
    end_with_parent()
    serve(answer)
"""


@pytest.fixture(autouse=True)
def _module(tmp_path_factory, monkeypatch) -> None:
    folder = tmp_path_factory.mktemp("workers")
    (folder / "pool_test_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(folder)


def make_pool(*, num_workers: int = 2, seconds: float = 10.0) -> WorkerPool:
    return WorkerPool(
        "pool_test_worker", num_workers=num_workers, seconds=seconds, memory_bytes=200_000_000
    )


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = make_pool()
    yield pool
    pool.close()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def children() -> list[int]:
    """Running processes of a test worker that this process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == os.getpid() and b"pool_test_worker" in command:
            found.append(int(folder.name))
    return [pid for pid in found if is_alive(pid)]


def wait_until(condition, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_no_process_runs_before_the_first_request_and_none_after_close(pool: WorkerPool) -> None:
    assert children() == []
    pool.ask({"do": "echo", "what": 1})
    assert len(children()) == 1
    pool.close()
    assert children() == []


def test_a_worker_answers_many_requests_and_loads_nothing_heavy(pool: WorkerPool) -> None:
    replies = [pool.ask({"do": "echo", "what": number}) for number in range(5)]
    assert [reply["said"] for reply in replies] == list(range(5))
    assert len({reply["pid"] for reply in replies}) == 1
    assert pool.ask({"do": "modules"})["said"] == []


def test_any_text_reaches_the_worker_as_it_is(pool: WorkerPool) -> None:
    for text in ("", "\n\r\x00\u2028", "\ud800", "ä" * 100_000):
        assert pool.ask({"do": "echo", "what": text})["said"] == text


def test_what_a_worker_prints_is_not_taken_for_a_reply(pool: WorkerPool) -> None:
    assert pool.ask({"do": "print"})["said"] == "printed"
    assert pool.ask({"do": "echo", "what": "next"})["said"] == "next"


@pytest.mark.parametrize("request_", [{"do": "sleep", "seconds": 60}, {"do": "spin"}])
def test_a_request_beyond_its_limit_costs_its_limit_and_a_worker(request_) -> None:
    pool = make_pool(num_workers=1, seconds=0.5)
    first = pool.ask({"do": "echo", "what": 0})["pid"]
    start = time.monotonic()
    with pytest.raises(WorkerTimeoutError, match=r"took longer than 0\.5 s"):
        pool.ask(request_)
    assert time.monotonic() - start < 3
    assert not is_alive(first)
    assert pool.ask({"do": "echo", "what": 0})["pid"] != first
    pool.close()


def test_a_crash_is_asked_again_of_a_fresh_worker(pool: WorkerPool, tmp_path) -> None:
    request = {"do": "die once", "mark": str(tmp_path / "mark")}
    assert pool.ask(request)["said"] == "alive"


def test_two_crashes_are_an_error_and_the_pool_goes_on(pool: WorkerPool) -> None:
    with pytest.raises(WorkerDiedError):
        pool.ask({"do": "die"})
    assert pool.ask({"do": "echo", "what": 1})["said"] == 1


def test_memory_beyond_the_limit_ends_the_worker(pool: WorkerPool) -> None:
    assert pool.ask({"do": "fill", "bytes": 100_000_000})["said"] == 100_000_000
    with pytest.raises(WorkerDiedError):
        pool.ask({"do": "fill", "bytes": 400_000_000})
    assert pool.ask({"do": "echo", "what": 1})["said"] == 1


def test_a_worker_that_cannot_start_says_why() -> None:
    pool = WorkerPool("no_such_worker", num_workers=1, seconds=5, memory_bytes=1 << 28)
    with pytest.raises(WorkerStartError, match="no_such_worker"):
        pool.ask({"do": "echo", "what": 1})
    pool.close()


def test_many_threads_share_few_workers_and_get_their_own_replies(pool: WorkerPool) -> None:
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda n: pool.ask({"do": "echo", "what": n}), range(200)))
    assert [reply["said"] for reply in replies] == list(range(200))
    assert len({reply["pid"] for reply in replies}) <= 2


def test_workers_outlive_the_thread_that_asked_first(pool: WorkerPool) -> None:
    pids: list[int] = []
    for _ in range(2):
        thread = threading.Thread(
            target=lambda: pids.append(pool.ask({"do": "echo", "what": 0})["pid"])
        )
        thread.start()
        thread.join()
        time.sleep(0.1)
    assert pids[0] == pids[1]


def test_closing_ends_requests_under_way(pool: WorkerPool) -> None:
    pool.ask({"do": "echo", "what": 0})
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            pool.ask({"do": "sleep", "seconds": 60})
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    pool.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert children() == []
    with pytest.raises(RuntimeError, match="closed"):
        pool.ask({"do": "echo", "what": 0})


OWNER = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from grlo.verifiers.worker_pool import WorkerPool

pool = WorkerPool("pool_test_worker", num_workers=2, seconds=30, memory_bytes=1 << 28)
print(pool.ask({"do": "echo", "what": 0})["pid"], flush=True)
if sys.argv[2] != "exit":
    threading.Thread(target=lambda: pool.ask({"do": "spin"}), daemon=True).start()
    time.sleep(60)
"""


@pytest.mark.parametrize(("how", "number"), [("exit", 0), ("kill", signal.SIGKILL), ("kill", 15)])
def test_no_worker_outlives_the_process_that_started_it(how, number) -> None:
    folder = next(path for path in sys.path if Path(path, "pool_test_worker.py").exists())
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), folder, how],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert owner.stdout is not None
    worker = int(owner.stdout.readline())
    if how == "kill":
        time.sleep(0.5)
        assert is_alive(worker)
        owner.send_signal(number)
    owner.wait(20)
    owner.stdout.close()
    assert wait_until(lambda: not is_alive(worker))
