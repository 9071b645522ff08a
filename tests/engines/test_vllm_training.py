"""vLLM in training: it draws from the learner's newest weights, and a check notices if it does not.

Most of it needs vLLM (a CPU build is enough): `make test-vllm`. Runs are steps of the miniature in
float32, where engine and learner differ by rounding alone.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import grlo.nano
from grlo.engines import vllm as vllm_engine
from grlo.engines.hf import HFEngine
from grlo.engines.vllm import VLLMEngine, VLLMEngineSettings
from grlo.errors import EngineError, MissingExtraError
from grlo.interfaces import BuildContext
from grlo.recipe import load_recipe
from grlo.rollout import ChatRenderer
from grlo.rundir import Row, RunDir
from grlo.settings import Recipe
from grlo.stages.models import load_named_engine
from grlo.stages.train import train
from grlo.stages.train_data import load_prompts
from grlo.stages.train_parts import build_trainer
from grlo.types import Completion, SamplingParams

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"
)
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")

pytestmark = pytest.mark.timeout(900)  # vLLM is a long time in starting on a busy machine.

ROUNDING = 1e-4
"""Mean gap in nats; it was 5e-7 where this was written."""
STALE = 5e-3
"""Weights that are one update old: 2e-2 there."""
NANO = Path(grlo.nano.__file__).parent / "recipe.toml"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONTEXT = BuildContext(device=DEVICE, seed=0)
SETTINGS = VLLMEngineSettings(dtype="float32", cache_gib=0.25, enforce_eager=True)
GREEDY = SamplingParams(max_tokens=20, temperature=0.0)


def recipe(*overrides: str, steps: int = 3) -> Recipe:
    return load_recipe(
        [NANO],
        overrides=[
            "engine.name=vllm",
            "engine.cache_gib=0.25",
            "engine.enforce_eager=true",
            f"training.device={DEVICE}",
            f"training.steps={steps}",
            "optimizer.warmup_steps=0",
            "sampling.prompts_per_step=8",
            *overrides,
        ],
    )


def gaps(rows: list[Row]) -> list[float]:
    return [row["engine/logprob_gap"] for row in rows]


def tokens_of(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.tokens for completion in completions]


def renderer_of(settings: Recipe) -> ChatRenderer:
    return ChatRenderer.from_pretrained(settings.policy.model)


# Whole steps --------------------------------------------------------------------------------------


@needs_vllm
@pytest.mark.skipif(DEVICE == "cuda", reason="each process needs a GPU of its own")
@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_two_processes_draw_from_the_newest_weights_each_or_together(
    tmp_path: Path, tensor_parallel: int
) -> None:
    overrides = {
        "engine.name": "vllm",
        "engine.cache_gib": "0.25",
        "engine.enforce_eager": "true",
        "engine.tensor_parallel": str(tensor_parallel),
        "training.steps": "2",
        "optimizer.warmup_steps": "0",
        "sampling.prompts_per_step": "8",
    }
    command = [sys.executable, "-m", "grlo", "train", str(NANO), "--devices", "2"]
    command += ["--run", str(tmp_path / "run")]
    for key, value in overrides.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    rows = RunDir(tmp_path / "run").metrics()
    assert len(rows) == 2
    assert max(gaps(rows)) < ROUNDING


@needs_vllm
def test_every_step_draws_from_the_newest_weights_and_so_does_a_resumed_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = recipe()
    last = train(settings, run_dir=tmp_path / "run")
    rows = RunDir(tmp_path / "run").metrics()
    assert len(rows) == 3
    assert max(gaps(rows)) < ROUNDING
    assert all(row["policy/grad_norm"] > 0 for row in rows)
    assert "warning" not in capsys.readouterr().out

    renderer = renderer_of(settings)
    trainer = build_trainer(
        settings,
        renderer=renderer,
        prompts=load_prompts(settings, renderer),
        device=DEVICE,
        resume_from=last,
    )
    try:
        (result,) = trainer.steps(start=4, stop=4)
    finally:
        trainer.engine.close()
    assert result.metrics["engine/logprob_gap"] < ROUNDING


@needs_vllm
def test_a_sync_that_is_left_out_shows_in_the_gap_and_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = VLLMEngineSettings.build

    def build_deaf(*args: object, **kwargs: object) -> VLLMEngine:
        engine = build(*args, **kwargs)  # type: ignore[arg-type]
        monkeypatch.setattr(engine, "load_weights", lambda named_tensors: None)
        return engine

    monkeypatch.setattr(VLLMEngineSettings, "build", build_deaf)
    train(recipe(), run_dir=tmp_path / "run")
    first, *others = gaps(RunDir(tmp_path / "run").metrics())
    assert first < ROUNDING
    assert min(others) > STALE
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: step 2: engine and learner differ")


@needs_vllm
@needs_peft
def test_adapters_are_merged_into_what_the_engine_is_given(tmp_path: Path) -> None:
    settings = recipe("policy.lora={rank=4}", "optimizer.learning_rate=1e-2", steps=2)
    last = train(settings, run_dir=tmp_path / "run")
    assert max(gaps(RunDir(tmp_path / "run").metrics())) < ROUNDING
    renderer = renderer_of(settings)
    trainer = build_trainer(
        settings,
        renderer=renderer,
        prompts=load_prompts(settings, renderer),
        device=DEVICE,
        resume_from=last,
    )
    try:
        (result,) = trainer.steps(start=3, stop=3)
    finally:
        trainer.engine.close()
    assert result.metrics["engine/logprob_gap"] < ROUNDING


# The engine of a module ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def module() -> Qwen3ForCausalLM:
    """A model that is on no disk and does not know its own architecture's name."""
    config = Qwen3Config(
        vocab_size=259,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(5)
    model = Qwen3ForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    return model.train()


@pytest.fixture(scope="module")
def renderer(chat_policy_path: Path) -> ChatRenderer:
    return ChatRenderer.from_pretrained(str(chat_policy_path))


@needs_vllm
@needs_peft
def test_a_saved_adapter_is_evaluated_as_the_transformers_engine_does(
    module: Qwen3ForCausalLM, renderer: ChatRenderer, tmp_path: Path
) -> None:
    import peft

    module.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(
        copy.deepcopy(module),
        peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear"),
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    answers = []
    for name in ("hf", "vllm"):
        engine = load_named_engine(
            name, str(tmp_path / "adapter"), renderer, device=DEVICE, dtype="float32", seed=0
        )
        answers.append(tokens_of(engine.generate([[1, 2, 3], [4]], GREEDY, seeds=[0, 1])))
        engine.close()
    assert answers[0] == answers[1]
    base = HFEngine(module).generate([[1, 2, 3], [4]], GREEDY, seeds=[0, 1])
    assert answers[0] != tokens_of(base)


@pytest.fixture(scope="module")
def engine(module: Qwen3ForCausalLM, renderer: ChatRenderer) -> Iterator[VLLMEngine]:
    engine = SETTINGS.build(
        module, context=replace(CONTEXT, save_tokenizer=renderer.save_tokenizer)
    )
    yield engine
    engine.close()


@needs_vllm
def test_an_engine_that_was_just_built_has_the_modules_weights(
    engine: VLLMEngine, module: Qwen3ForCausalLM
) -> None:
    prompts = [[i, 2, 3, i] for i in range(20)]
    ours = engine.generate(prompts, GREEDY, seeds=range(20))
    theirs = HFEngine(module).generate(prompts, GREEDY, seeds=range(20))
    assert tokens_of(ours) == tokens_of(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert not list(Path(tempfile.gettempdir()).glob("grlo_vllm_*"))


@needs_vllm
def test_stop_texts_work_with_the_policys_tokenizer(
    engine: VLLMEngine, renderer: ChatRenderer
) -> None:
    prompts = [[33 + i, 2, 3] for i in range(30)]
    whole = engine.generate(prompts, GREEDY, seeds=range(30))
    texts = {renderer.tokenizer.decode(list(c.tokens[5:7])) for c in whole}
    texts = tuple(sorted(text for text in texts if text.isascii() and len(text) == 2))
    assert texts
    stopped = engine.generate(prompts, replace(GREEDY, stop_texts=texts), seeds=range(30))
    assert any(len(c.tokens) <= 7 and c.finish_reason == "stop" for c in stopped)


@needs_vllm
def test_samples_of_a_group_share_the_keys_and_values_of_their_prompt(
    engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached: dict[str, int] = {}
    step = engine._engine.step

    def observed() -> list[object]:
        outputs = step()
        cached.update({output.request_id: output.num_cached_tokens for output in outputs})
        return outputs

    monkeypatch.setattr(engine._engine, "step", observed)
    sampling = SamplingParams(max_tokens=4, num_samples=6)
    engine.generate([[7] * 300, [8] * 300], sampling, seeds=[0, 1])
    # Blocks of at most 128 tokens are shared whole; the first sample of each prompt computes them.
    assert len(cached) == 12
    assert sum(num >= 256 for num in cached.values()) >= 10


# Sleep --------------------------------------------------------------------------------------------


@pytest.fixture
def told(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What vLLM is told, in order. Its scheduler sleeps on a CPU too; only no memory is given back.

    A scheduler of which any part is asleep draws nothing.
    """
    calls: list[str] = []

    def record(name: str, describe: Callable[..., str]) -> None:
        original = getattr(engine._engine, name)

        def call(*args: object, **kwargs: object) -> object:
            calls.append(describe(*args, **kwargs))
            return original(*args, **kwargs)

        monkeypatch.setattr(engine._engine, name, call)

    record("sleep", lambda level: f"sleep {level}")
    record("wake_up", lambda tags: f"wake {' '.join(tags)}")
    record("collective_rpc", lambda method, **_: method)
    record("add_request", lambda *_: "draw")
    monkeypatch.setattr(engine, "_sleeps", True)
    engine.sleep()
    yield calls
    engine._wake("weights", "kv_cache")


@needs_vllm
def test_it_sleeps_between_calls_and_wakes_in_stages(
    engine: VLLMEngine, module: Qwen3ForCausalLM, told: list[str]
) -> None:
    first = engine.generate([[1, 2]], GREEDY, seeds=[0])
    engine.load_weights(module.named_parameters())
    second = engine.generate([[1, 2]], GREEDY, seeds=[0])
    # As an evaluation does: no new weights in between.
    third = engine.generate([[1, 2]], GREEDY, seeds=[0])
    assert told == [
        "sleep 1",
        *("wake weights", "wake kv_cache", "draw", "sleep 1"),
        *("wake weights", "reload_weights"),
        *("wake kv_cache", "draw", "sleep 1"),
        *("wake weights", "wake kv_cache", "draw", "sleep 1"),
    ]
    assert first == second == third


@needs_vllm
def test_it_sleeps_after_an_interruption_and_not_at_all_without_prompts(
    engine: VLLMEngine, told: list[str]
) -> None:
    def interrupt(index: int, completion: Completion) -> None:
        raise KeyboardInterrupt

    told.clear()
    assert engine.generate([], GREEDY, seeds=[]) == []
    assert told == []
    whole = engine.generate([[1, 2]], GREEDY, seeds=[0])
    with pytest.raises(KeyboardInterrupt):
        engine.generate([[1, 2], [3]], GREEDY, seeds=[0, 1], on_completion=interrupt)
    assert told[-1] == "sleep 1"
    assert engine.generate([[1, 2]], GREEDY, seeds=[0]) == whole


@needs_vllm
def test_a_gpu_that_is_full_is_named_when_the_cache_does_not_fit_any_more(
    engine: VLLMEngine, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wake = engine._engine.wake_up

    def full(tags: list[str]) -> None:
        if tags == ["kv_cache"]:
            raise RuntimeError("CUDA Error: out of memory")
        wake(tags=tags)

    with monkeypatch.context() as patch:
        patch.setattr(engine._engine, "wake_up", full)
        with pytest.raises(EngineError, match=r"its kv_cache again .*engine\.cache_gib"):
            engine.generate([[1, 2]], GREEDY, seeds=[0])
    assert len(engine.generate([[1, 2]], GREEDY, seeds=[0])) == 1


# Without vLLM -------------------------------------------------------------------------------------


def test_several_gpus_are_refused_in_training(
    module: Qwen3ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(EngineError, match=r"tensor_parallel = 2.*Set it to 1"):
        replace(SETTINGS, tensor_parallel=2).build(module, context=CONTEXT)


def test_processes_must_divide_among_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: object())
    spread = replace(SETTINGS, tensor_parallel=2)
    spread.check_training(num_ranks=4)
    with pytest.raises(EngineError, match="of which there are 3"):
        spread.check_training(num_ranks=3)


def test_a_module_without_vllm_is_told_what_to_install(
    module: Qwen3ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'grlo\[vllm\]'"):
        SETTINGS.build(module, context=CONTEXT)


def test_what_the_optimizers_will_take_is_left_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * gib, 80 * gib))
    context = BuildContext(device="cuda", seed=0, reserved_bytes=20 * gib)
    assert vllm_engine._free_share(context) == pytest.approx(0.5)
    with pytest.raises(EngineError, match=r"80\.0 GiB 60\.0 are free.*will take 60\.0"):
        vllm_engine._free_share(replace(context, reserved_bytes=60 * gib))
