"""Evaluation, curation and verifiers on a Ray cluster of this machine: `make test-verl`, whose
environment has Ray."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import grlo.nano
from grlo import registry
from grlo.benchmarks.loading import choose, load_benchmarks
from grlo.errors import ClusterError, RecipeError
from grlo.evaluation.respondents import Answer
from grlo.grading import grade_all
from grlo.interfaces import BuildContext
from grlo.parallel import map_batches
from grlo.ray_cluster import RayCluster, RayWorkers
from grlo.rundir import read_jsonl
from grlo.stages import evaluation_on_ray
from grlo.stages.evaluate import evaluate
from grlo.stages.respondents import ModelChoice
from grlo.types import Message, Prompt
from grlo.verifiers.choice import ChoiceSettings
from grlo.verifiers.on_ray import RayVerifierSettings

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-verl")

BASE = Path(grlo.nano.__file__).parent / "assets" / "base"
TWO = RayCluster("local", 2)


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    # Workers know the package, not this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class Whereabouts:
    """Says which process it lives in; may lose it once."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def pid(self) -> int:
        return os.getpid()

    def dies_once(self, value: int) -> int:
        assert self._folder is not None
        mark = self._folder / str(value)
        if value == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)
        return value + 1

    def fails(self) -> None:
        raise RecipeError("not like this")


def test_calls_are_answered_by_other_processes_and_errors_come_back() -> None:
    workers = RayWorkers(Whereabouts, cluster=TWO)
    assert workers.num_workers == 2
    assert workers.call("pid") != os.getpid()
    with pytest.raises(RecipeError, match="not like this"):
        workers.call("fails")
    workers.close()


def test_a_call_whose_process_is_lost_is_repeated(tmp_path: Path) -> None:
    workers = RayWorkers(lambda: Whereabouts(tmp_path), cluster=TWO)
    assert [workers.call("dies_once", value) for value in range(6)] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "3").exists()
    workers.close()


def test_a_cluster_that_is_too_small_is_refused_at_once() -> None:
    with pytest.raises(ClusterError, match="has 2 CPUs; 3 are needed"):
        RayWorkers(Whereabouts, cluster=RayCluster("local", 3))
    with pytest.raises(ClusterError, match="has 0 GPUs; 1 are needed"):
        RayWorkers(Whereabouts, cluster=RayCluster("local"), num_gpus=1)


def squares(numbers: Sequence[int]) -> list[int]:
    return [number**2 for number in numbers]


def test_shards_of_curation_come_back_in_order() -> None:
    found = list(map_batches(squares, range(23), batch=3, cluster=TWO))
    assert found == [(number, number**2) for number in range(23)]


def test_verifiers_on_a_cluster_give_the_verdicts_of_one_here() -> None:
    context = BuildContext(device="cpu", seed=0)
    here = ChoiceSettings().build(context=context)
    there: Any = RayVerifierSettings(ChoiceSettings(), num_workers=2).build(context=context)
    prompt = Prompt(id="p", messages=(Message("user", "Which?"),), reference="B")
    answers = [(prompt, f"The answer is ({letter}).") for letter in "ABCDBBA"]
    assert there.num_workers == 2
    verdicts = grade_all(there, answers)
    assert verdicts == grade_all(here, answers)
    assert {verdict.value for verdict in verdicts} == {0.0, 1.0}
    assert registry.identity(there) == registry.identity(here)
    there.close()


def results_of(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Everything that an evaluation leaves but what it cost."""
    samples = {name: read_jsonl(folder / f"{name}.jsonl") for name in names}
    return {"summary": json.loads((folder / "summary.json").read_text()), **samples}


def kill_a_worker(killed: list[int]) -> None:
    """Ends the first process that is answering a block."""
    for _ in range(600):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                title = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::_Worker.call"):
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(int(folder.name))
                return
        time.sleep(0.05)


def test_an_evaluation_with_a_worker_killed_midway_is_that_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(9)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = tmp_path / "own.toml"
    own.write_text('file = "own.jsonl"\nverifier = "math"\nsampling = { max_tokens = 12 }\n')
    model, names = ModelChoice(str(BASE), device="cpu"), ["nano_math", "nano_chat", "own"]
    choice = choose(suite=None, names=[*names[:2], str(own)], limit=120)
    evaluate(model, choice, out=tmp_path / "here")
    killed: list[int] = []
    answer = evaluation_on_ray.RayModel.answer

    def watched(self: Any, *args: Any, **options: Any) -> list[Answer]:
        if not killed:
            killed.append(0)
            threading.Thread(target=kill_a_worker, args=(killed,), daemon=True).start()
        return answer(self, *args, **options)

    monkeypatch.setattr(evaluation_on_ray.RayModel, "answer", watched)
    evaluate(model, choice, out=tmp_path / "there", cluster=TWO)
    assert killed[1:], "no worker was found at work"
    assert results_of(tmp_path / "there", names) == results_of(tmp_path / "here", names)
    rows = read_jsonl(tmp_path / "there" / "nano_math.jsonl")
    places = [(row["problem"], row["draw"]) for row in rows]
    assert len(set(places)) == len(places) == 120 * 4
    entries = read_jsonl(tmp_path / "there" / "ledger.jsonl")
    assert {entry["num_devices"] for entry in entries} == {2}


def test_a_model_behind_an_endpoint_needs_no_cluster(tmp_path: Path) -> None:
    benchmarks = choose(suite=None, names=["nano_math"], limit=2)
    assert load_benchmarks(benchmarks)
    with pytest.raises(RecipeError, match="behind an endpoint"):
        evaluate(
            ModelChoice("m", base_url="http://localhost:1/v1"),
            benchmarks,
            out=tmp_path,
            cluster=TWO,
        )
