"""Compiled layers against the plain ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from allocations import allocations
from grlo.interfaces import BuildContext
from grlo.memory.activations import saved_bytes
from grlo.model_shape import shape_from_config
from grlo.modeling import packed
from grlo.modeling.compiled_layers import compile_layers
from grlo.modeling.layers import use_fast_layers
from grlo.rewards.reward_model import RewardModelSettings
from grlo.sequence_scores import score_sequences
from grlo.settings import ModelSettings
from grlo.training.models import recompute_activations
from tiny_policies import CLASSES, VOCAB, needs_compiler, tiny


def model_of(kind: str, *, checkpointing: Any = False) -> PreTrainedModel:
    model = tiny(kind)
    model.set_attn_implementation(packed.ATTENTION)
    recompute_activations(model, ModelSettings(model="x", gradient_checkpointing=checkpointing))
    return use_fast_layers(model.train())


def some_rows(*lengths: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(VOCAB) for _ in range(length)] for length in lengths]


def hidden_states(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Tensor:
    trunk: Any = model.base_model
    return packed.packed_hidden_states(trunk, packed.pack(rows, shared=[0] * len(rows)))


def gradient(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Tensor:
    model.zero_grad()
    hidden_states(model, rows).float().square().mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@needs_compiler
@pytest.mark.long
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", CLASSES)
def test_gradients_are_those_of_plain_layers(kind: str, checkpointing: bool) -> None:
    """And other numbers of tokens compile nothing anew."""
    plain = model_of(kind, checkpointing=checkpointing)
    compiled = compile_layers(model_of(kind, checkpointing=checkpointing))
    first = some_rows(3, 4, 9)
    expected = gradient(plain, first)
    assert (gradient(compiled, first) - expected).norm() < 5e-6 * expected.norm()
    versions = counters["stats"]["unique_graphs"]
    assert versions
    for rows in (some_rows(2), some_rows(5, 1), some_rows(30, 31, 32, 33)):
        expected = gradient(plain, rows)
        assert (gradient(compiled, rows) - expected).norm() < 5e-6 * expected.norm()
    assert counters["stats"]["unique_graphs"] == versions


@needs_compiler
@pytest.mark.long
def test_reading_without_gradients_and_in_bfloat16() -> None:
    plain, compiled = model_of("qwen3"), compile_layers(model_of("qwen3"))
    rows = some_rows(6, 7)
    with torch.no_grad():
        torch.testing.assert_close(
            hidden_states(compiled, rows), hidden_states(plain, rows), atol=1e-5, rtol=1e-5
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, expected = hidden_states(compiled, rows), hidden_states(plain, rows)
    assert (found - expected).norm() < 0.02 * expected.norm()


@needs_compiler
@pytest.mark.long
def test_other_passes_are_not_compiled() -> None:
    """Decoding with its cache, and rows side by side."""
    plain, compiled = model_of("qwen3").eval(), compile_layers(model_of("qwen3")).eval()
    counters.clear()
    tokens_BT = torch.tensor(some_rows(5, 5))
    for model in (plain, compiled):
        model.config.use_cache = True
    found, expected = (
        model.generate(tokens_BT, max_new_tokens=4, do_sample=False, pad_token_id=0)
        for model in (compiled, plain)
    )
    assert torch.equal(found, expected)
    assert torch.equal(compiled(tokens_BT).logits, plain(tokens_BT).logits)
    assert not counters["stats"]["unique_graphs"]


@needs_compiler
@pytest.mark.long
@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_more_is_kept_than_is_estimated(checkpointing: bool) -> None:
    settings = ModelSettings(
        model="x", compute_dtype="float32", gradient_checkpointing=checkpointing
    )
    model = compile_layers(model_of("qwen3", checkpointing=checkpointing))
    rows = some_rows(*[40] * 8)
    gradient(model, rows)
    shape = shape_from_config(model.config.to_dict())
    estimate = saved_bytes(shape, settings, num_tokens=320, num_cells=320)
    kept = allocations(lambda: hidden_states(model, rows)).kept
    assert kept <= 1.05 * estimate


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "sdpa"}, "set attention = 'packed'"),
        ({"gradient_checkpointing": "selective"}, "not 'selective'"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSettings(model="x", compile=True, **options)


def test_a_model_without_layers_that_can_be_compiled_is_told_of() -> None:
    with pytest.warns(UserWarning, match=r"Linear has none of the layers.*runs as without"):
        compile_layers(torch.nn.Linear(2, 2))


@needs_compiler
@pytest.mark.long
def test_a_reward_model_compiles_all_layers_but_the_one_for_read_tokens(
    reward_model_path: Path,
) -> None:
    rows = [tuple(row) for row in some_rows(9, 14, 22, 30)]
    rows = [tuple(token % 20 + 1 for token in row) for row in rows]
    scores = []
    for compiles in (False, True):
        settings = RewardModelSettings(str(reward_model_path), template="plain", compile=compiles)
        model = settings.build(context=BuildContext(device="cpu", seed=0))._model
        counters.clear()
        scores.append(score_sequences(model, rows, tokens_per_batch=300))
        assert bool(counters["stats"]["unique_graphs"]) == compiles
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
