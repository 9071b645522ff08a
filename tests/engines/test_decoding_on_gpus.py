"""What a GPU does in decoding, replaying steps and reading stretches, draws what others draw."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import flash_reference
from grlo.engines import decoding
from grlo.engines.cuda_graphs import Graphs
from grlo.engines.decode_cache import RowCache
from grlo.engines.decoding import Decoding, make_jobs
from grlo.engines.hf import HFEngine
from grlo.errors import EngineError
from grlo.inference import evaluating
from grlo.interfaces import ignore, silent
from grlo.modeling import flash_kernels
from grlo.types import Completion
from tiny_policies import CLASSES, SAMPLING, some_prompts, tiny


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


def require_equal(
    found: Sequence[Completion | None], expected: Sequence[Completion | None]
) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert other is not None
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "shares_prompts", lambda model: False)
    monkeypatch.setattr(decoding, "steps_between_looks", lambda device_type: 4)
    monkeypatch.setattr(decoding, "_COLUMNS", 8)


def attend_to_stretches(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    numbers: Tensor,
    first: Tensor,
    count: Tensor,
    *,
    longest: int,
    scale: float,
) -> Tensor:
    """What the kernel of a GPU does, query by query."""
    assert numbers.tolist() == list(range(len(query) + 1))
    assert int(first[-1]) >= int(first[-2])
    assert int(count.max()) <= longest
    assert int(count.min()) > 0
    assert {x.dtype for x in (numbers, first, count)} == {torch.int32}
    pairs = zip(first.tolist(), count.tolist(), strict=False)
    stretches = [
        (slice(row, row + 1), slice(start, start + length))
        for row, (start, length) in enumerate(pairs)
    ]
    return flash_reference.forward(query, key, value, stretches, is_causal=False, scale=scale)[0]


@pytest.fixture
def with_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "reads_stretches", lambda model: True)
    monkeypatch.setattr(flash_kernels, "attend_to_stretches", attend_to_stretches)


@pytest.mark.parametrize("name", ["qwen3", "llama"])
@pytest.mark.parametrize("max_rows", [36, 16, 7])
def test_replayed_steps_draw_what_others_draw(name: str, max_rows: int, as_on_a_gpu: None) -> None:
    model = tiny(name)
    replay = StandIn()
    expected = drawn(model, None, max_rows=max_rows, max_tokens=40)
    results = drawn(model, replay, max_rows=max_rows, max_tokens=40)
    assert replay.num_replays > 20
    assert len(replay.sizes) > 1
    require_equal(results, expected)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("max_rows", [36, 16, 7])
def test_stretches_draw_what_masked_columns_draw(
    name: str, max_rows: int, as_on_a_gpu: None, request: pytest.FixtureRequest
) -> None:
    """Rows join, finish, move and are shifted; replayed, of every number of rows once."""
    model = tiny(name)
    expected = drawn(model, None, max_rows=max_rows, max_tokens=40)
    request.getfixturevalue("with_stretches")
    replay = StandIn()
    require_equal(drawn(model, None, max_rows=max_rows, max_tokens=40), expected)
    require_equal(drawn(model, replay, max_rows=max_rows, max_tokens=40), expected)
    assert replay.num_replays > 20
    assert len(replay.recorded) == len(replay.sizes) > 1


def test_the_kernel_takes_what_it_is_given() -> None:
    """The call fits this version's operator: types, shapes and the order of arguments."""
    query = torch.empty(3, 8, 64, dtype=torch.bfloat16, device="meta")
    key = torch.empty(3 * 20, 2, 64, dtype=torch.bfloat16, device="meta")
    numbers = torch.empty(4, dtype=torch.int32, device="meta")
    output = flash_kernels.attend_to_stretches(
        query, key, key, numbers, numbers, numbers[:3], longest=20, scale=1.0
    )
    assert output.shape == query.shape
    assert output.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_size", [8, 64, 128, 256])
def test_a_trial_tells_rounding_from_a_mistake(
    monkeypatch: pytest.MonkeyPatch, head_size: int, dtype: torch.dtype
) -> None:
    def reads_on(*args: Tensor, longest: int, scale: float) -> Tensor:
        *others, first, _ = args
        return attend_to_stretches(*others, first, first.diff(), longest=longest, scale=scale)

    cpu = torch.device("cpu")
    for other, is_right in ((attend_to_stretches, True), (reads_on, False)):
        monkeypatch.setattr(flash_kernels, "attend_to_stretches", other)
        assert flash_kernels._attends_to_stretches(cpu, dtype, head_size) == is_right


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
def test_a_gpu_reads_stretches() -> None:
    """Log-probabilities of what was drawn are those of one pass over the whole rows."""
    assert flash_kernels.reads_stretches(torch.device("cuda", 0), torch.bfloat16, 8)
    model = tiny().cuda().to(torch.bfloat16)
    prompts = some_prompts()
    drawn = HFEngine(model, max_rows=7).generate(prompts, SAMPLING, seeds=range(9))
    for place, completion in enumerate(drawn):
        prompt = prompts[place // SAMPLING.num_samples]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *completion.tokens]], device="cuda")).logits
        logprobs = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        expected = logprobs[range(len(completion.tokens)), completion.tokens]
        difference = torch.tensor(completion.logprobs) - expected.cpu()
        assert difference.abs().mean() < 0.05


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
