"""The projection adds up what was measured, and random models draw the lengths they promise."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from grlo.memory.plan import ENOUGH_TOKENS
from grlo.model_shape import ModelShape, forward_flops

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from one_gpu import published
from one_gpu.projection import Schedule, project, step_floor
from one_gpu.record import Record
from one_gpu.setup import Setup

SHAPE = ModelShape(
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_positions=4096,
)
SCHEDULE = Schedule(
    policy=SHAPE,
    critic=replace(SHAPE, num_labels=1),
    reward=replace(SHAPE, num_labels=1, num_layers=4),
    prompt_tokens=100,
    num_responses=600,
    num_steps=10,
)


def step(context: int, seconds: float, *, rows: int = 60, name: str = "engine") -> dict[str, Any]:
    return {
        "name": f"{name}, step at {context}",
        "context": context,
        "rows": rows,
        "step_seconds": seconds,
    }


def test_steps_of_decoding_are_projected_along_the_line_through_those_that_were_timed():
    rows = [step(100, 0.011), step(1100, 0.021), step(100, 9.0, rows=4)]
    hours = project(SCHEDULE, rows, length=400)
    # 10 batches of 400 steps, in the mean at context 300: 0.01 + 300 * 1e-5 seconds.
    assert hours["generate"] == pytest.approx(10 * 400 * 0.013 / 3600)
    assert hours["total"] is None, "scoring was not measured"
    graphs = [
        step(at, seconds / 2, name="engine, CUDA graphs")
        for at, seconds in ((100, 0.011), (1100, 0.021))
    ]
    faster = project(SCHEDULE, [*rows, *graphs], length=400)
    assert faster["generate"] == pytest.approx(hours["generate"] / 2), "the faster way counts"


def test_noise_does_not_project_negative_seconds():
    hours = project(SCHEDULE, [step(100, 0.02), step(1100, 0.01)], length=3000)
    assert hours["generate"] == pytest.approx(10 * 3000 * 0.015 / 3600)
    hours = project(SCHEDULE, [step(1000, 0.001), step(1100, 0.011)], length=100)
    assert hours["generate"] is not None
    assert hours["generate"] > 0


def test_models_are_projected_by_their_operations_at_the_measured_rate():
    rows = [
        {"name": "sorted batches of 8,192 tokens", "flops": 50.0, "seconds": 1.0},
        {"name": "sorted batches of 32,768 tokens", "flops": 200.0, "seconds": 2.0},
        {"name": "annotate", "flops": 60.0, "seconds": 3.0},
        {"name": "packed, checkpointing", "flops": 70.0, "seconds": 7.0},
        {"name": "packed, no checkpointing, micro-batch 4,096", "error": "broke"},
        {"name": "weights to the engine", "seconds": 5.0},
        step(100, 0.01),
        step(1100, 0.01),
    ]
    hours = project(SCHEDULE, rows, length=400)

    def read(shape: ModelShape) -> float:
        prompt = forward_flops(shape, num_tokens=100, num_outputs=0)
        return 600 * (prompt + forward_flops(shape, num_tokens=400, num_cached=100))

    both = read(SHAPE) + read(SCHEDULE.critic)
    assert hours["score"] == pytest.approx(read(SCHEDULE.reward) / 100 / 3600)
    assert hours["annotate"] == pytest.approx(both / 20 / 3600)
    assert hours["update"] == pytest.approx(3 * both / 10 / 3600)
    assert hours["sync"] == pytest.approx(10 * 5 / 3600)
    phases = ("generate", "score", "annotate", "update", "sync")
    assert hours["total"] == pytest.approx(sum(hours[phase] or 0.0 for phase in phases))
    alone = read(SCHEDULE.critic) / 20 + 3 * read(SCHEDULE.critic) / 10
    assert hours["critic-free"] == pytest.approx(hours["total"] - alone / 3600)
    assert hours["generate by vllm"] is None
    assert hours["floor"] is None, "the ceilings were not measured"


def test_a_step_of_decoding_takes_at_least_its_reads_or_its_products():
    reads = step_floor(SHAPE, num_rows=3, context=50, bandwidth=1.0, peak=float("inf"))
    weights = SHAPE.active_parameters + SHAPE.head_parameters
    assert reads == 2 * weights + 2 * 3 * 50 * SHAPE.cache_elements_per_token
    products = step_floor(SHAPE, num_rows=3, context=50, bandwidth=float("inf"), peak=1.0)
    assert products == 3 * forward_flops(SHAPE, num_tokens=1, num_cached=50)


def test_spread_lengths_have_a_mean_of_two_fifths_of_the_limit():
    setup = Setup(device="cpu", tiny=False, folder="")
    lengths = setup.spread_lengths(64)
    assert fmean(lengths) == pytest.approx(0.4 * 3072, rel=0.03)
    assert min(lengths) < 100
    assert max(lengths) == 3072


def test_shapes_are_those_of_the_models_they_stand_for():
    setup = Setup(device="cpu", tiny=False, folder="")
    assert setup.shape("policy").num_parameters == 4_022_468_096, "Qwen3-4B"
    assert setup.shape("reward").num_parameters == 7_504_928_768, "Llama-3.1-8B without its head"
    assert setup.shape("critic").head_parameters == 2560
    small = replace(setup, policy_kind="billion")
    assert small.shape("policy").num_parameters == 1_235_814_400, "Llama-3.2-1B"


def test_the_published_recipe_is_planned_to_fit_an_h200(monkeypatch):
    monkeypatch.setattr(Setup, "checkpoint", lambda self: "policy")
    monkeypatch.setattr(published, "free_bytes", lambda device: 139 * 2**30)
    plan, recipe = published.planned(Setup(device="cuda", tiny=False, folder=""))
    assert plan.fits
    assert plan.micro_batch_tokens >= ENOUGH_TOKENS
    assert plan.offload == ("reward_model",)
    assert recipe.training.micro_batch_tokens == plan.micro_batch_tokens


def test_a_section_goes_on_after_want_of_memory_and_after_an_error(tmp_path):
    record = Record("learning", tmp_path / "rows.jsonl", "cpu")
    with record.attempt("too large"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
    with record.attempt("broken"):
        raise ValueError("no such option")
    with record.attempt("fine"):
        record.add("fine", seconds=1.0)
    rows = [json.loads(line) for line in record.path.read_text().splitlines()]
    assert [row["name"] for row in rows] == ["too large", "broken", "fine"]
    assert rows[0]["out_of_memory"] == "CUDA out of memory"
    assert "error" not in rows[0], "want of memory is a finding, not a failure of the script"
    assert rows[1]["error"] == "ValueError: no such option"
