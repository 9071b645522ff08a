"""Attention in parts against attention of every row by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

import flash_reference
from grlo.modeling import attention_parts, packed
from grlo.modeling import shared_prefix_attention as module
from grlo.modeling.attention_parts import LONG, Bounds, Cells, Division, Part
from grlo.modeling.flash_kernels import Attended, CPUKernel, CUDAKernel, FlashKernel, States
from grlo.modeling.shared_prefix_attention import kernel_for, shared_prefix_attention
from grlo.settings import ModelSettings
from grlo.training.models import recompute_activations
from tiny_policies import tiny

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


def shared_of(rows: Rows) -> list[int]:
    shared = [0]
    for one, other in pairwise(rows):
        most = min(len(one), len(other) - 1)
        shared.append(next((n for n in range(most) if one[n] != other[n]), most))
    return shared


def pack(rows: Rows, *, device: str = "cpu") -> packed.Packing:
    return packed.pack(rows, shared=shared_of(rows), device=device)


def states(packing: packed.Packing, *, heads: int = 4, kv_heads: int = 2) -> list[Tensor]:
    torch.manual_seed(0)
    size = len(packing.tokens_N)
    return [torch.randn(size, h, 8, requires_grad=True) for h in (heads, kv_heads, kv_heads)]


def attend(
    states: Sequence[Tensor], division: Division, kernel: FlashKernel, *, scale: float = SCALE
) -> Tensor:
    query, key, value = states
    return shared_prefix_attention(query, key, value, division, kernel=kernel, scale=scale)


def row_by_row(
    states: Sequence[Tensor], packing: packed.Packing, *, scale: float = SCALE
) -> Tensor:
    """Every row's attention in float64, with autograd's gradients."""
    query, key, value = states
    output = torch.zeros_like(query, dtype=torch.float64)
    for index_T, last in zip(packing.index_BT, packing.last_B, strict=True):
        row = index_T[: last + 1]
        q, k, v = (x.double()[row].transpose(0, 1) for x in (query, key, value))
        k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))
        attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        output = output.index_copy(0, row, attended.transpose(0, 1))
    return output


def in_grids(rows: Rows) -> Division:
    return attention_parts.in_grids(
        [len(row) for row in rows], shared_of(rows), pack(rows).index_BT
    )


def end_to_end(rows: Rows) -> Division:
    """As for a GPU, on the CPU."""
    lengths = [len(row) for row in rows]
    index_BT = packed.pack(rows, shared=shared_of(rows)).index_BT
    return attention_parts.end_to_end(lengths, shared_of(rows), index_BT, device="cpu")


class EndToEndKernel:
    """What a GPU's kernel does with stretches end to end."""

    def forward(self, states: States, part: Part, scale: float) -> Attended:
        output, normalizer_NH = flash_reference.forward(
            *(x[0] for x in states), stretches(part), is_causal=part.is_causal, scale=scale
        )
        return output[None], normalizer_NH[None]

    def backward(
        self, upstream: Tensor, states: States, whole: Attended, part: Part, scale: float
    ) -> States:
        query, key, value = flash_reference.backward(
            *(x[0] for x in (upstream, *states, *whole)),
            stretches(part),
            is_causal=part.is_causal,
            scale=scale,
        )
        return query[None], key[None], value[None]


def stretches(part: Part) -> list[tuple[slice, slice]]:
    return list(zip(_slices(part.queries), _slices(part.keys), strict=True))


def _slices(cells: Cells) -> list[slice]:
    assert cells.bounds is not None
    starts_S = cells.bounds.starts_S
    assert starts_S.dtype == torch.int32
    assert cells.bounds.longest == int(starts_S.diff().max())
    return [slice(*pair) for pair in pairwise(starts_S.tolist())]


KINDS: dict[str, tuple[Callable[[Rows], Division], FlashKernel]] = {
    "grids": (in_grids, CPUKernel()),
    "end to end": (end_to_end, EndToEndKernel()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_outputs_and_gradients_are_those_of_rows_by_themselves(
    kind: str, name: str, kv_heads: int
) -> None:
    packing = pack(LAYOUTS[name])
    divide, kernel = KINDS[kind]
    ours, theirs = (states(packing, kv_heads=kv_heads) for _ in range(2))
    output = attend(ours, divide(LAYOUTS[name]), kernel)
    expected = row_by_row(theirs, packing)
    torch.testing.assert_close(output, expected.float(), atol=2e-6, rtol=1e-5)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    expected.backward(upstream.double())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_token_is_computed_once(kind: str, name: str) -> None:
    division = KINDS[kind][0](LAYOUTS[name])
    times_N, behind_N = torch.zeros(2, len(pack(LAYOUTS[name]).tokens_N))
    for part in division.own:
        part.queries.add_once(torch.ones_like(part.queries.spread(times_N)), times_N)
    assert times_N.tolist() == [1.0] * len(times_N)
    for part in division.behind:
        part.queries.add(torch.ones_like(part.queries.spread(behind_N)), behind_N)
    assert behind_N.max() <= 1


def test_a_prefix_is_what_the_whole_group_shares() -> None:
    """The second and third row begin alike for longer than the prompt, the fourth does not."""
    (part,) = in_grids(LAYOUTS["answers that begin alike"]).behind
    assert part.keys.span == slice(0, 20)
    assert part.queries.span == slice(20, 20 + 8 + 5 + 30 + 8)


def test_stretches_of_unlike_length_stand_in_grids_of_their_own() -> None:
    rows = [tokens(a, length) for a, length in enumerate((100, 95, 50, 45, 10), 1)]
    division = packed.pack(rows, shared=[0] * 5).division
    shapes = [tuple(p.queries.spread(torch.zeros(300)).shape) for p in division.own]
    assert shapes == [(2, 100), (2, 50), (1, 10)]
    assert [part.queries.span is not None for part in division.own] == [False, False, True]


def test_samples_of_a_prompt_lie_end_to_end_as_they_are_packed() -> None:
    """Nothing is copied for a single prompt; several have their answers gathered behind them."""
    group = LAYOUTS["a group of equal lengths"]
    division = end_to_end(group)
    (own,), (behind,) = division.own, division.behind
    assert own.queries.span == slice(0, 20 + 4 * 16)
    assert behind.queries.span == slice(20, 84)
    assert own.queries.bounds is not None
    assert behind.queries.bounds is not None
    assert own.queries.bounds.starts_S.tolist() == [0, 20, 36, 52, 68, 84]
    assert behind.queries.bounds.starts_S.tolist() == [0, 64]
    two = end_to_end([*group, *(OTHER + tokens(a, 5) for a in (8, 9))])
    assert two.own[0].queries.span == slice(0, 84 + 9 + 10)
    (behind,) = two.behind
    assert behind.queries.index_RC is not None
    assert behind.keys.index_RC is not None
    assert behind.queries.index_RC.tolist() == [[*range(20, 84), *range(93, 103)]]
    assert behind.keys.index_RC.tolist() == [[*range(20), *range(84, 93)]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parts_join_in_half_precision(dtype: torch.dtype) -> None:
    """Within the rounding of the type, of which the result has a few."""
    rows = LAYOUTS["groups and rows by themselves"]
    packing = pack(rows)
    plain = [x.detach().to(dtype) for x in states(packing)]
    ours, theirs = ([x.clone().requires_grad_() for x in plain] for _ in range(2))
    output = attend(ours, end_to_end(rows), EndToEndKernel())
    assert output.dtype == dtype
    expected = row_by_row(theirs, packing)
    limit = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.double(), expected, atol=limit, rtol=limit)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    expected.backward(upstream.double())
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert (one.grad - other.grad).norm() < limit * other.grad.norm()


def test_a_model_under_autocast_attends_as_in_a_padded_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU: norms of queries and keys give float32, the kernel takes bfloat16."""
    rows = LAYOUTS["groups and rows by themselves"]
    model = tiny()
    model.set_attn_implementation(packed.ATTENTION)
    division = end_to_end(rows)
    monkeypatch.setattr(packed, "divide", lambda *args, **options: division)
    seen: list[torch.dtype] = []
    found: list[tuple[Tensor, Tensor]] = []
    for kernel in (EndToEndKernel(), None):

        def choose(query: Tensor, kernel: FlashKernel | None = kernel) -> FlashKernel | None:
            seen.append(query.dtype)
            return kernel

        monkeypatch.setattr(module, "kernel_for", choose)
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden_ND = packed.packed_hidden_states(model.base_model, pack(rows))
        hidden_ND.float().square().mean().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((hidden_ND.detach().float(), torch.cat(gradients)))
    assert set(seen) == {torch.bfloat16}
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


class OwnNormalizer(EndToEndKernel):
    """Goes back by the log-sum-exp of the part instead of the whole's."""

    def backward(
        self, upstream: Tensor, states: States, whole: Attended, part: Part, scale: float
    ) -> States:
        output, _ = whole
        _, normalizer = self.forward(states, part, scale)
        return super().backward(upstream, states, (output, normalizer), part, scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_size", [8, 64, 80, 128, 256])
def test_a_trial_tells_rounding_from_a_mistake(
    monkeypatch: pytest.MonkeyPatch, head_size: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(module, "divide", attention_parts.end_to_end)
    cpu = torch.device("cpu")
    assert module._agrees(EndToEndKernel(), cpu, dtype, head_size)
    assert not module._agrees(OwnNormalizer(), cpu, dtype, head_size)


def test_values_of_another_size_than_queries_are_attended_to_all_the_same() -> None:
    """Those of latent attention (DeepSeek-V3) are; torch's flash kernels know of none."""
    torch.manual_seed(0)
    model = DeepseekV3ForCausalLM(
        DeepseekV3Config(
            vocab_size=97,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            kv_lora_rank=16,
            q_lora_rank=None,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
            first_k_dense_replace=2,
        )
    ).eval()
    rows = LAYOUTS["groups and rows by themselves"]
    expected = [model.model(torch.tensor([row])).last_hidden_state[0] for row in rows]
    model.set_attn_implementation(packed.ATTENTION)
    packing = pack(rows)
    hidden_ND = packed.packed_hidden_states(model.model, packing)
    for index_T, states_TD in zip(packing.index_BT, expected, strict=True):
        torch.testing.assert_close(
            hidden_ND[index_T[: len(states_TD)]], states_TD, atol=1e-5, rtol=1e-5
        )


def test_the_kernel_of_gpus_takes_what_it_is_given() -> None:
    """The call fits this version's operators: types, shapes and the order of arguments."""

    def row(*sizes: int) -> Cells:
        starts = torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device="meta")
        return Cells(span=slice(0, sum(sizes)), bounds=Bounds(starts, max(sizes)))

    def empty(length: int, heads: int) -> Tensor:
        return torch.empty(1, length, heads, 64, dtype=torch.bfloat16, device="meta")

    own = row(5, 3, 4)
    for part in (Part(own, own, True), Part(row(5, 7), row(3, 9), False)):
        query, key = empty(12, 4), empty(12, 2)
        states = query, key, key
        output, normalizer = CUDAKernel().forward(states, part, 1.0)
        assert output.shape == query.shape
        assert output.dtype == torch.bfloat16
        assert normalizer.shape == (1, 12, 4)
        assert normalizer.dtype == torch.float32
        gradients = CUDAKernel().backward(query, states, (output, normalizer), part, 1.0)
        assert [x.shape for x in gradients] == [x.shape for x in states]


@pytest.mark.parametrize("checkpointing", [False, True, "selective"])
def test_a_whole_pass_and_back_fits_the_kernel_of_gpus(
    monkeypatch: pytest.MonkeyPatch, checkpointing: Any
) -> None:
    """In shapes and types alone."""
    kernel, calls = CUDAKernel(), [0]
    forward = CUDAKernel.forward

    def counted(self: CUDAKernel, states: States, part: Part, scale: float) -> Attended:
        calls[0] += 1
        return forward(self, states, part, scale)

    monkeypatch.setattr(CUDAKernel, "forward", counted)
    monkeypatch.setattr(module, "kernel_for", lambda query: kernel)
    # Which knows of no device without memory.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)
    model: Any = torch.nn.Module.to(tiny().train(), "meta", torch.bfloat16)
    model.set_attn_implementation(packed.ATTENTION)
    recompute_activations(model, ModelSettings(model="x", gradient_checkpointing=checkpointing))
    packing = pack(LAYOUTS["groups and rows by themselves"], device="meta")
    hidden_ND = packed.packed_hidden_states(model.base_model, packing)
    hidden_ND.float().square().mean().backward()
    assert hidden_ND.shape == (len(packing.tokens_N), 32)
    assert all(p.grad is not None for p in model.base_model.parameters())
    # A call for rows and one for prompts, of each of two layers.
    assert calls[0] == (8 if checkpointing else 4)


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@cuda
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_gpu_computes_rows_by_themselves(name: str, head_size: int) -> None:
    packing = pack(LAYOUTS[name], device="cuda")
    plain = [
        x.detach().repeat(1, 1, head_size // 8).to("cuda", torch.bfloat16) for x in states(packing)
    ]
    ours, theirs = ([x.clone().requires_grad_() for x in plain] for _ in range(2))
    kernel = kernel_for(ours[0])
    assert isinstance(kernel, CUDAKernel)
    scale = SCALE * 8 / head_size
    output = attend(ours, packing.division, kernel, scale=scale)
    expected = row_by_row(theirs, packing, scale=scale)
    limit = 4 * torch.finfo(torch.bfloat16).eps
    torch.testing.assert_close(output.double(), expected, atol=limit, rtol=limit)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    expected.backward(upstream.double())
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        if other.grad.norm() < 1e-6 * upstream.norm():
            # The query and the key of a single token: a softmax over it is 1 whatever they are.
            assert name == "one token"
            assert one.grad.norm() < 1e-4 * upstream.norm()
        else:
            assert (one.grad - other.grad).norm() < limit * other.grad.norm()


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _without_normalizer(*args: object, **options: object) -> tuple[Tensor, Tensor]:
    output, _ = _flash(*args, **options)
    return output, torch.zeros(output.shape[:3])


def _refuse(*args: object, **options: object) -> tuple[Tensor, Tensor]:
    raise RuntimeError("Expected query, key and value of as many heads")


@pytest.fixture
def untried() -> Iterator[None]:
    module._will_do.cache_clear()
    yield
    module._will_do.cache_clear()


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (_without_normalizer, "its numbers are others"),
        (_refuse, "RuntimeError: Expected query, key and value of as many heads"),
    ],
)
def test_a_kernel_that_does_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, other: object, reason: str, untried: None
) -> None:
    """The kernel is private to torch: another version's may differ."""
    query = torch.zeros(1, 1, 8)
    assert kernel_for(query)
    assert not kernel_for(query.to(torch.bfloat16))
    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", other)
    module._will_do.cache_clear()
    with pytest.warns(UserWarning, match=rf"rows are padded for their attention.*\({reason}"):
        assert not kernel_for(query)


def test_a_way_back_by_another_normalizer_is_not_used(
    monkeypatch: pytest.MonkeyPatch, untried: None
) -> None:
    """Gradients by the part's own log-sum-exp are those of something else."""
    real = CPUKernel.backward

    def own(
        self: CPUKernel,
        upstream: Tensor,
        states: States,
        whole: Attended,
        part: Part,
        scale: float,
    ) -> States:
        _, normalizer = self.forward(states, part, scale)
        return real(self, upstream, states, (whole[0], normalizer), part, scale)

    monkeypatch.setattr(CPUKernel, "backward", own)
    with pytest.warns(UserWarning, match="float32 with heads of 8 in parts on cpu"):
        assert not kernel_for(torch.zeros(1, 1, 8))


@pytest.mark.parametrize("is_tried", [False, True])
def test_selective_recomputation_keeps_what_it_is_given(is_tried: bool, untried: None) -> None:
    """Kept results must not be written to. Nor may the first pass count operators by which the
    kernel is tried: they do not come again."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    packing = pack(LAYOUTS["unlike lengths"])

    def attention(*qkv: Tensor) -> Tensor:
        kernel = kernel_for(qkv[0])
        assert kernel is not None
        return attend(qkv, packing.division, kernel)

    plain, again = states(packing), states(packing)
    expected = attend(plain, packing.division, CPUKernel())
    if is_tried:
        assert kernel_for(again[0])
    output = checkpoint(
        attention,
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
