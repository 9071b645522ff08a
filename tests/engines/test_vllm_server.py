"""vLLM's own server as the engine: the same answers, and weights that follow the learner's.

Most of it starts a server of vLLM on this machine (a CPU build is enough): `make test-vllm`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import grlo.nano
from grlo.engines.hf import HFEngine
from grlo.engines.vllm_server import VLLMServerEngine, VLLMServerEngineSettings
from grlo.errors import EngineError
from grlo.interfaces import BuildContext
from grlo.recipe import load_recipe
from grlo.rundir import RunDir
from grlo.settings import Recipe
from grlo.stages.train import train
from grlo.types import Completion, SamplingParams

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"
)

pytestmark = pytest.mark.timeout(900)  # A server is a long time in starting on a busy machine.
NANO = Path(grlo.nano.__file__).parent
CONTEXT = BuildContext(device="cpu", seed=0)
TOLERANCE = 1e-4
SAMPLING = SamplingParams(max_tokens=20, num_samples=4, temperature=0.7, stop=(0, 11, 12, 13))
PROMPTS = [[5, 6, 7], [8], [300, 301, 302, 303, 304]]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the miniature's base model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    on_cpu = [] if torch.cuda.is_available() else ["--no-enable-chunked-prefill"]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(NANO / "assets" / "base"), "--dtype", "float32"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--enable-scale-out", "--logprobs-mode", "processed_logprobs"),
        *("--enforce-eager", "--kv-cache-memory-bytes", str(2**28), *on_cpu),
    ]
    environment = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("w") as stream:
        server = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while not is_healthy(url):
            assert server.poll() is None, log.read_text()[-3000:]
            time.sleep(1)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """The base model with other weights than the server has started from."""
    model = AutoModelForCausalLM.from_pretrained(NANO / "assets" / "base", dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


@pytest.fixture
def engine(url: str, model: PreTrainedModel, tmp_path: Path) -> VLLMServerEngine:
    settings = VLLMServerEngineSettings(url=url, weights_folder=str(tmp_path), dtype="float32")
    engine = settings.build(model, context=CONTEXT)
    assert not list(tmp_path.iterdir())
    return engine


def recipe(url: str, folder: Path) -> Recipe:
    return load_recipe(
        [NANO / "recipe.toml"],
        overrides=[
            "engine.name=vllm_server",
            f"engine.url='{url}'",
            f"engine.weights_folder='{folder}'",
            "training.steps=3",
            "optimizer.warmup_steps=0",
            "sampling.prompts_per_step=8",
        ],
    )


def tokens_of(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.tokens for completion in completions]


@needs_vllm
def test_its_answers_and_logprobs_are_those_of_the_weights_it_was_given(
    engine: VLLMServerEngine, model: PreTrainedModel
) -> None:
    greedy = replace(SAMPLING, temperature=0.0, num_samples=1)
    ours = engine.generate(PROMPTS, greedy, seeds=range(3))
    theirs = HFEngine(model).generate(PROMPTS, greedy, seeds=range(3))
    assert tokens_of(ours) == tokens_of(theirs)
    drawn = engine.generate(PROMPTS, SAMPLING, seeds=range(3))
    assert len(set(tokens_of(drawn))) > 6
    for index, completion in enumerate(drawn):
        prompt = PROMPTS[index // 4]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *completion.tokens]])).logits[0]
        rows = (logits[len(prompt) - 1 : -1].double() / 0.7).log_softmax(-1)
        expected = rows.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        assert completion.logprobs == pytest.approx(expected.tolist(), abs=TOLERANCE)
        *before, last = completion.tokens
        assert not set(before) & set(SAMPLING.stop)
        assert (last in SAMPLING.stop) == (completion.finish_reason == "stop")


@needs_vllm
def test_a_sample_depends_on_its_seed_and_number_alone(engine: VLLMServerEngine) -> None:
    whole = tokens_of(engine.generate(PROMPTS, SAMPLING, seeds=range(3)))
    fewer = engine.generate(PROMPTS[::-1], replace(SAMPLING, num_samples=2), seeds=[2, 1, 0])
    assert tokens_of(fewer) == [whole[4 * i + j] for i in (2, 1, 0) for j in range(2)]


@needs_vllm
def test_completions_are_told_with_their_places_and_after_an_interruption_it_starts_afresh(
    engine: VLLMServerEngine,
) -> None:
    told: dict[int, Completion] = {}
    calls: list[tuple[int, int, int]] = []
    whole = engine.generate(
        PROMPTS,
        SAMPLING,
        seeds=range(3),
        on_completion=told.__setitem__,
        progress=lambda *, done, total, tokens: calls.append((done, total, tokens)),
    )
    assert [told[index] for index in range(12)] == whole
    assert calls[-1] == (12, 12, sum(len(c.tokens) for c in whole))

    def interrupt(index: int, completion: Completion) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS, SAMPLING, seeds=range(3), on_completion=interrupt)
    assert engine.generate(PROMPTS, SAMPLING, seeds=range(3)) == whole


@needs_vllm
def test_weights_of_another_sender_are_noticed(engine: VLLMServerEngine) -> None:
    engine._ask("/update_weight_version", {"new_version": "another run's"})
    with pytest.raises(EngineError, match="other weights than it was given"):
        engine.generate(PROMPTS, SAMPLING, seeds=range(3))


@needs_vllm
def test_training_draws_from_the_newest_weights_and_shows_a_sync_that_is_left_out(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()

    def gaps(name: str) -> list[float]:
        train(recipe(url, folder), run_dir=tmp_path / name)
        return [row["engine/logprob_gap"] for row in RunDir(tmp_path / name).metrics()]

    assert max(gaps("synced")) < TOLERANCE
    assert "warning" not in capsys.readouterr().out
    assert not list(folder.iterdir())

    build = VLLMServerEngineSettings.build

    def build_deaf(*args: Any, **kwargs: Any) -> VLLMServerEngine:
        engine = build(*args, **kwargs)
        monkeypatch.setattr(engine, "load_weights", lambda named_tensors: None)
        return engine

    monkeypatch.setattr(VLLMServerEngineSettings, "build", build_deaf)
    first, *others = gaps("deaf")
    assert first < TOLERANCE
    assert min(others) > 5e-3
    assert "warning: step 2: engine and learner differ" in capsys.readouterr().out


# Without vLLM: a server that says of itself what a test wants -------------------------------------

SOUND = {"dtype": "torch.float32", "logprobs_mode": "processed_logprobs", "max_model_len": 64}


@pytest.fixture
def fake() -> Iterator[tuple[str, dict[str, Any]]]:
    """Its address, and the status and replies by path, which may be changed."""
    replies: dict[str, Any] = {"/server_info": {"vllm_config": {"model_config": dict(SOUND)}}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self.send_response(200 if path in replies else 404)
            self.end_headers()
            self.wfile.write(json.dumps(replies.get(path, {"detail": "Not Found"})).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", replies
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"logprobs_mode": "raw_logprobs"}, "--logprobs-mode processed_logprobs"),
        ({"dtype": "torch.bfloat16"}, "--dtype float32"),
    ],
)
def test_a_server_that_was_started_otherwise_is_told_how_to_be(
    fake: tuple[str, dict[str, Any]],
    model: PreTrainedModel,
    tmp_path: Path,
    change: dict[str, str],
    reason: str,
) -> None:
    url, replies = fake
    replies["/server_info"]["vllm_config"]["model_config"] |= change
    settings = VLLMServerEngineSettings(url=url, weights_folder=str(tmp_path), dtype="float32")
    with pytest.raises(EngineError, match=f"Start it with {reason}"):
        settings.build(model, context=CONTEXT)


def test_a_server_without_its_endpoints_for_development_is_told_how_to_have_them(
    fake: tuple[str, dict[str, Any]], model: PreTrainedModel, tmp_path: Path
) -> None:
    url, replies = fake
    replies.clear()
    settings = VLLMServerEngineSettings(url=url, weights_folder=str(tmp_path))
    with pytest.raises(EngineError, match="VLLM_SERVER_DEV_MODE=1"):
        settings.build(model, context=CONTEXT)


def test_a_server_that_is_not_there_is_named(model: PreTrainedModel, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        settings = VLLMServerEngineSettings(url=url, weights_folder=str(tmp_path))
        with pytest.raises(EngineError, match=f"{url}/server_info.*no reply"):
            settings.build(model, context=CONTEXT)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"url": ""}, "engine.url = ''"),
        ({"url": "gpu-host:8000"}, "engine.url = 'gpu-host:8000'"),
        ({"weights_folder": "relative"}, "engine.weights_folder = 'relative'"),
        ({"weights_folder": "/is/not/there"}, "engine.weights_folder = '/is/not/there'"),
    ],
)
def test_settings_that_lead_nowhere_are_refused_by_check(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    sound = VLLMServerEngineSettings(url="http://h:1", weights_folder=str(tmp_path))
    sound.check_training()
    with pytest.raises(EngineError, match=reason):
        replace(sound, **change).check_training()  # type: ignore[arg-type]
