"""Linear layers by oneDNN: the same numbers, wherever they are used."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from grlo.modeling import products

needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch without oneDNN"
)


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN whatever the processor is, for all products but those of nothing."""
    monkeypatch.setattr(products, "uses_onednn", lambda: True)
    monkeypatch.setattr(products, "_SMALL", 1)


def pair(bias: bool) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(24, 40, bias=bias)
    return plain, products.use_fast_products(nn.Sequential(copy.deepcopy(plain)))[0]  # type: ignore


def gradients(layer: nn.Linear, x: Tensor, upstream: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    output = layer(x)
    output.backward(upstream)
    assert x.grad is not None
    return [output.detach(), x.grad] + [p.grad for p in layer.parameters() if p.grad is not None]


@needs_onednn
@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (3, 5, 24), (0, 24)])
def test_outputs_and_gradients_are_those_of_a_float64_layer(
    bias: bool, shape: tuple[int, ...]
) -> None:
    plain, fast = pair(bias)
    assert type(fast) is products.FastLinear
    x = torch.randn(shape)
    # As attention leaves it: a view that is not contiguous.
    x = x.transpose(0, -2).contiguous().transpose(0, -2) if x.ndim == 3 else x
    upstream = torch.randn(*shape[:-1], 40)
    expected = gradients(plain.double(), x.double(), upstream.double())
    actual = gradients(fast, x, upstream)
    assert len(actual) == len(expected) == 3 + bias
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("is_trained", [False, True])
def test_products_too_small_to_gain_anything_are_left_to_the_blas(
    is_trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fast = pair(bias=True)
    left: list[int] = []

    def linear(x: Tensor, *others: Tensor | None) -> Tensor:
        left.append(len(x))
        return torch.nn.functional.linear(x, *others)

    monkeypatch.setattr(products, "linear", linear)
    monkeypatch.setattr(products, "_SMALL", 4 * 24 * 40)
    with torch.set_grad_enabled(is_trained):
        few, more = fast(torch.ones(3, 24)), fast(torch.ones(4, 24))
    assert left == [3]
    torch.testing.assert_close(few, more[:3])


@needs_onednn
@pytest.mark.usefixtures("forced")
def test_few_rows_are_computed_in_like_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = pair(bias=True)
    onednn = products._onednn
    seen: set[int] = set()

    def recorded(x: Tensor, *others: Tensor) -> Tensor:
        seen.add(len(x))
        return onednn(x, *others)

    monkeypatch.setattr(products, "_onednn", recorded)
    for rows in range(1, 49):
        x = torch.randn(rows, 1, 24).transpose(0, 1)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-5)
    assert seen == {16, 32, 48} | {1}, "views that need no filling keep their shape"


@needs_onednn
@pytest.mark.usefixtures("forced")
def test_a_frozen_layer_passes_gradients_through_and_keeps_none() -> None:
    _, fast = pair(bias=True)
    fast.requires_grad_(False)
    x = torch.randn(4, 24, requires_grad=True)
    fast(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, fast.weight.sum(0).expand(4, -1))
    assert fast.weight.grad is None


@needs_onednn
@pytest.mark.usefixtures("forced")
def test_other_types_and_autocast_compute_as_before() -> None:
    plain, fast = pair(bias=False)
    x = torch.randn(4, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fast(x), plain(x))
        assert fast(x).dtype == torch.bfloat16
    assert torch.equal(fast.double()(x.double()), plain.double()(x.double()))


@needs_onednn
@pytest.mark.usefixtures("forced")
def test_a_model_keeps_its_weights_names_and_subclasses() -> None:
    class Own(nn.Linear):
        pass

    model = nn.ModuleDict({"plain": nn.Linear(3, 3), "own": Own(3, 3)})
    before = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    products.use_fast_products(model)
    assert {n: id(t) for n, t in model.state_dict(keep_vars=True).items()} == before
    assert type(model["plain"]) is products.FastLinear
    assert type(model["own"]) is Own


@needs_onednn
@pytest.mark.usefixtures("forced")
def test_a_language_model_has_the_gradients_of_float64() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, tie_word_embeddings=True))
    exact = copy.deepcopy(model).double()
    products.use_fast_products(model)
    tokens = torch.randint(0, 64, (3, 9))
    for each in (model, exact):
        each(input_ids=tokens, labels=tokens).loss.backward()
    for (name, ours), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(
            ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: n + m
        )


@needs_onednn
@pytest.mark.usefixtures("forced")
def test_products_of_rectangular_matrices_are_right() -> None:
    left, right = torch.randn(5, 7), torch.randn(7, 3)
    torch.testing.assert_close(products.product(left, right), left @ right)


@pytest.mark.parametrize(("num_left", "num_right"), [(3, 8), (8, 3), (4, 4)])
def test_outer_products_are_summed_over_rows_whichever_is_wider(
    num_left: int, num_right: int
) -> None:
    left, right = torch.randn(7, num_left), torch.randn(7, num_right)
    expected = torch.einsum("ni,nj->ij", left.double(), right.double()).float()
    torch.testing.assert_close(products.outer(left, right), expected)


def test_the_choice_is_a_fact_of_the_machine() -> None:
    assert products.uses_onednn() is products.uses_onednn.__wrapped__()
