"""Attention in parts against attention of every row by itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from grlo import packed
from grlo import shared_prefix_attention as module
from grlo.shared_prefix_attention import LONG, shared_prefix_attention

SCALE = 0.3
Rows = Sequence[Sequence[int]]


def tokens(first: int, count: int) -> list[int]:
    return [(first * 7 + place * 3) % 97 for place in range(count)]


PROMPT, OTHER = tokens(1, 20), tokens(2, 9)
LAYOUTS: dict[str, Rows] = {
    "one token": [[5]],
    "one row": [tokens(1, 30)],
    "a group of equal lengths": [PROMPT + tokens(a, 16) for a in range(3, 7)],
    "unlike lengths": [PROMPT + tokens(a, a * a) for a in range(3, 9)],
    "groups and rows by themselves": [
        *(PROMPT + tokens(a, 10 + a) for a in range(3, 6)),
        tokens(40, 12),
        *(OTHER + tokens(a, 5 * a) for a in range(3, 6)),
    ],
    "answers that begin alike": [
        PROMPT + tokens(3, 8),
        PROMPT + tokens(3, 8) + tokens(4, 5),
        PROMPT + tokens(3, 8) + tokens(4, 3) + tokens(9, 30),
        PROMPT + tokens(5, 8),
    ],
    "a row that is the beginning of the next": [PROMPT, PROMPT + tokens(3, 4)],
    "long rows": [PROMPT + tokens(3, LONG + 5), PROMPT + tokens(4, LONG + 90)],
}


def pack(rows: Rows) -> packed.Packing:
    shared = [0]
    for one, other in pairwise(rows):
        most = min(len(one), len(other) - 1)
        shared.append(next((n for n in range(most) if one[n] != other[n]), most))
    return packed.pack(rows, shared=shared)


def states(packing: packed.Packing, *, heads: int = 4, kv_heads: int = 2) -> list[Tensor]:
    torch.manual_seed(0)
    size = len(packing.tokens_N)
    return [torch.randn(size, h, 8, requires_grad=True) for h in (heads, kv_heads, kv_heads)]


def row_by_row(query: Tensor, key: Tensor, value: Tensor, packing: packed.Packing) -> Tensor:
    """Every row's attention in float64, with autograd's gradients."""
    output = torch.zeros_like(query, dtype=torch.float64)
    for index_T, last in zip(packing.index_BT, packing.last_B, strict=True):
        row = index_T[: last + 1]
        q, k, v = (x.double()[row].transpose(0, 1) for x in (query, key, value))
        k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))
        attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=SCALE)
        output = output.index_copy(0, row, attended.transpose(0, 1))
    return output


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_outputs_and_gradients_are_those_of_rows_by_themselves(name: str, kv_heads: int) -> None:
    packing = pack(LAYOUTS[name])
    ours, theirs = (states(packing, kv_heads=kv_heads) for _ in range(2))
    output = shared_prefix_attention(*ours, packing.division, scale=SCALE)
    expected = row_by_row(*theirs, packing)
    torch.testing.assert_close(output, expected.float(), atol=2e-6, rtol=1e-5)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    expected.backward(upstream.double())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_token_is_computed_once(name: str) -> None:
    packing = pack(LAYOUTS[name])
    division = packing.division
    times_N = torch.zeros(len(packing.tokens_N))
    for grid in division.grids:
        grid.add_once(torch.ones(grid.index_RC.shape), times_N)
    assert times_N.tolist() == [1.0] * len(times_N)
    behind_N = torch.zeros(len(times_N))
    for prefix in division.prefixes:
        behind_N[prefix.stop : prefix.end] += 1
    assert behind_N.max() <= 1


def test_a_prefix_is_what_the_whole_group_shares() -> None:
    """The second and third row begin alike for longer than the prompt, the fourth does not."""
    (prefix,) = pack(LAYOUTS["answers that begin alike"]).division.prefixes
    assert (prefix.start, prefix.stop, prefix.end) == (0, 20, 20 + 8 + 5 + 30 + 8)


def test_stretches_of_unlike_length_stand_in_grids_of_their_own() -> None:
    rows = [tokens(a, length) for a, length in enumerate((100, 95, 50, 45, 10), 1)]
    division = packed.pack(rows, shared=[0] * 5).division
    assert [tuple(grid.index_RC.shape) for grid in division.grids] == [(2, 100), (2, 50), (1, 10)]
    assert [grid.span is not None for grid in division.grids] == [False, False, True]


def test_selective_recomputation_keeps_what_it_is_given() -> None:
    """Results that are kept for the backward pass must not be written to."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    packing = pack(LAYOUTS["unlike lengths"])
    plain, again = states(packing), states(packing)
    expected = shared_prefix_attention(*plain, packing.division, scale=SCALE)
    output = checkpoint(
        lambda *qkv: shared_prefix_attention(*qkv, packing.division, scale=SCALE),
        *again,
        use_reentrant=False,
        context_fn=lambda: create_selective_checkpoint_contexts([flash]),
    )
    assert isinstance(output, Tensor)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    output.backward(upstream)
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one.grad, other.grad)  # pyright: ignore[reportArgumentType]


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _without_normalizer(*args: object, **options: object) -> tuple[Tensor, Tensor]:
    output, _ = _flash(*args, **options)
    return output, torch.zeros(output.shape[:3])


def _refuse(*args: object, **options: object) -> tuple[Tensor, Tensor]:
    raise RuntimeError("Expected query, key and value of as many heads")


@pytest.mark.parametrize("other", [_without_normalizer, _refuse])
def test_a_kernel_that_does_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, other: object
) -> None:
    """The kernel is private to torch: another version's may differ."""
    assert module.is_for(torch.zeros(1))
    assert not module.is_for(torch.zeros(1, dtype=torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not module.is_for(torch.zeros(1))
    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", other)
    module._kernel_will_do.cache_clear()
    try:
        assert not module.is_for(torch.zeros(1))
    finally:
        module._kernel_will_do.cache_clear()
