"""What the comparison with TRL rests on: models that answer as long as they should, sums, marks."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch
from transformers import Qwen3ForCausalLM

from grlo.engines.hf import HFEngine
from grlo.types import SamplingParams

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import scaling
from beside_trl.cases import Case
from beside_trl.files import choose_stops, make_endless, make_files
from trl_step import summarize


def drawn_lengths(policy: Qwen3ForCausalLM, stop: tuple[int, ...]) -> list[int]:
    prompts = [[5, 6, 7 + index] for index in range(128)]
    sampling = SamplingParams(max_tokens=64, stop=stop)
    answers = HFEngine(policy).generate(prompts, sampling, seeds=range(1000, 1128))
    return [len(answer.tokens) for answer in answers]


def test_tokens_that_end_an_answer_are_never_drawn_from_an_endless_policy(tiny_policy):
    usual = drawn_lengths(tiny_policy, (0, 2))
    assert min(usual) < 64, "an ordinary random model draws them sometimes"
    make_endless(tiny_policy, (0, 2))
    assert set(drawn_lengths(tiny_policy, (0, 2))) == {64}


def test_chosen_stops_bring_new_answers_to_two_fifths_of_the_limit(tiny_policy):
    make_endless(tiny_policy, (0,))
    prompts = [[5, 6, 7 + index] for index in range(128)]
    stops = choose_stops(tiny_policy, prompts, max_tokens=64, rng=random.Random(0))
    assert fmean(drawn_lengths(tiny_policy, tuple(stops))) == pytest.approx(0.4 * 64, rel=0.25)


@pytest.fixture
def tiny_policy() -> Qwen3ForCausalLM:
    from transformers import Qwen3Config

    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=256,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            intermediate_size=96,
            tie_word_embeddings=True,
        )
    ).eval()


def test_the_miniature_is_compared_as_it_comes_with_the_package(tmp_path):
    make_files("nano", tmp_path, max_tokens=128)
    case = Case(model="nano", folder=str(tmp_path))
    assert (case.policy / "model.safetensors").exists()
    assert len(case.texts()) > 64
    assert not (tmp_path / "policy").exists()


def run(total: float, *, tokens: float, generation: float = 0.5) -> dict:
    phases = {"generation": generation, "scoring": 0.1, "training": 0.2, "total": total}
    return {
        "seconds": {"cpu": phases},
        "tokens": tokens,
        "flops": dict.fromkeys(phases, 6e9),
        "matrix_rates": {"a": 2e9, "b": 3e9},
    }


def test_ratios_are_of_neighbours_and_floors_at_the_best_rate_of_all():
    ours = [run(2.0, tokens=100), run(4.0, tokens=100), run(3.0, tokens=100)]
    trl = [run(6.0, tokens=200), run(8.0, tokens=200), run(15.0, tokens=200)]
    found = summarize(ours, trl, clock="cpu")
    assert found["total"]["ours"] == 3.0
    assert found["total"]["trl"] == 8.0
    assert found["total"]["ratio"] == [3.0, 2.0, 5.0]
    assert found["per token"]["ratio"] == [1.5, 1.0, 2.5]
    assert found["total"]["floor"] == {"ours": 2.0, "trl": 2.0}


def test_a_row_is_marked_where_speed_falls_faster_than_operations_per_token_grow():
    def cell(cpu: float, flops: float) -> dict:
        return {"cpu": cpu, "tokens": 100.0, "flops": flops}

    short, middle, long = (("0.9M", 8, 8, length) for length in (32, 64, 128))
    # Operations per token double at every step; speed halves, then falls to 0.4 of that.
    found = {short: cell(1.0, 1.0), middle: cell(2.0, 2.0), long: cell(5.0, 4.0)}
    assert scaling.falls(short, found, margin=0.15) == []
    assert scaling.falls(middle, found, margin=0.15) == []
    assert scaling.falls(long, found, margin=0.15) == ["FALLS with length"]
    assert scaling.falls(long, found, margin=0.3) == []


def test_the_grids_hold_every_length_group_batch_and_model():
    for full in (False, True):
        cells = scaling.grid(full=full)
        assert len(set(cells)) == len(cells)
        assert scaling.BASE in cells
        models, batches, groups, lengths = map(set, zip(*cells, strict=True))
        assert models == {"0.9M", "10M"}
        assert batches == set(scaling.BATCHES)
        assert groups == set(scaling.GROUPS)
        assert lengths == set(scaling.LENGTHS)
