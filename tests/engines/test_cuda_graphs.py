"""Decode steps that are replayed draw what steps draw that are not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from grlo.engines import decoding
from grlo.engines.cuda_graphs import Graphs
from grlo.engines.decode_cache import RowCache
from grlo.engines.decoding import Decoding, make_jobs
from grlo.engines.hf import HFEngine
from grlo.errors import EngineError
from grlo.inference import evaluating
from grlo.interfaces import ignore, silent
from grlo.types import Completion
from tiny_policies import SAMPLING, some_prompts, tiny


class StandIn:
    """For CUDA graphs on a CPU: a replay does the work with what the host knew when it was
    recorded, and knows nothing of what the host has counted since."""

    def __init__(self) -> None:
        self.of: Decoding | None = None
        self.recorded: dict[Hashable, tuple[Callable[[], None], dict[str, object]]] = {}
        self.num_replays = 0
        self.sizes: set[int] = set()

    def __call__(self, name: tuple[int, Hashable], work: Callable[[], None]) -> None:
        assert self.of is not None
        cache = self.of.cache
        self.sizes.add(name[0])
        if name not in self.recorded:
            self.recorded[name] = work, dict(vars(cache))
            work()
            return
        self.num_replays += 1
        old_work, host = self.recorded[name]
        now, jobs = dict(vars(cache)), self.of.jobs
        vars(cache).update(host, _clock=None, _starts=None)
        self.of.jobs = []
        old_work()
        vars(cache).update(now)
        self.of.jobs = jobs


def drawn(
    model: PreTrainedModel, replay: StandIn | None, *, max_rows: int, max_tokens: int
) -> list[Completion | None]:
    sampling = replace(SAMPLING, max_tokens=max_tokens)
    jobs = make_jobs(some_prompts(), sampling, seeds=range(9))
    results: list[Completion | None] = [None] * len(jobs)
    with evaluating(model):
        decoder = Decoding(
            model,
            jobs,
            results,
            sampling,
            max_rows=max_rows,
            prefill_tokens=8192,
            progress=silent,
            on_completion=ignore,
            decode=None,
            replay=replay,
        )
        if replay is not None:
            replay.of = decoder
        assert isinstance(decoder.cache, RowCache)
        decoder.run()
    return results


@pytest.mark.parametrize("name", ["qwen3", "llama"])
@pytest.mark.parametrize("max_rows", [36, 16, 7])
def test_replayed_steps_draw_what_others_draw(
    name: str, max_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU.
    monkeypatch.setattr(decoding, "shares_prompts", lambda model: False)
    monkeypatch.setattr(decoding, "steps_between_looks", lambda device_type: 4)
    monkeypatch.setattr(decoding, "_COLUMNS", 8)
    model = tiny(name)
    replay = StandIn()
    expected = drawn(model, None, max_rows=max_rows, max_tokens=40)
    results = drawn(model, replay, max_rows=max_rows, max_tokens=40)
    assert replay.num_replays > 20
    assert len(replay.sizes) > 1
    for one, other in zip(expected, results, strict=True):
        assert one is not None
        assert other is not None
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_cpu_has_none() -> None:
    with pytest.raises(EngineError, match="for a GPU"):
        HFEngine(tiny(), cuda_graphs=True)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@needs_gpu
@pytest.mark.parametrize("max_rows", [0, 7])
def test_graphs_on_a_gpu_draw_what_is_drawn_without(
    max_rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny().cuda()
    sampling = replace(SAMPLING, max_tokens=200)
    plain, graphs = (
        HFEngine(model, max_rows=max_rows, cuda_graphs=on).generate(
            some_prompts(), sampling, seeds=range(9)
        )
        for on in (False, True)
    )
    assert "without CUDA graphs" not in capsys.readouterr().err
    for one, other in zip(plain, graphs, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


@needs_gpu
def test_what_cannot_be_recorded_is_done_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    graphs, count = Graphs(), torch.zeros(1, device="cuda")

    def work() -> None:
        count.add_(1)
        count.item()

    for _ in range(4):
        graphs("step", work)
    assert count.item() == 4
    assert "without CUDA graphs" in capsys.readouterr().err


@needs_gpu
def test_what_was_recorded_is_replayed_with_new_numbers() -> None:
    graphs, total, addend = Graphs(), torch.zeros(1, device="cuda"), torch.ones(1, device="cuda")
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        total.add_(copy.copy(addend))

    for number in range(5):
        addend.fill_(number)
        graphs("step", work)
    assert total.item() == 10
    assert calls == 2
