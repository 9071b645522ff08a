"""The output head in chunks against a softmax over all logits in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from grlo.training import output_head
from grlo.training.output_head import EntropyMode, chunk_rows, head_logprobs

N, D, V = 23, 12, 37


class Wrapped(nn.Module):
    """A head that is not a plain matrix, as adapters make it."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)


def inputs() -> tuple[nn.Linear, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(N, D)
    upstream, entropy_upstream = torch.randn(N), torch.randn(N)
    return (
        nn.Linear(D, V, bias=False),
        hidden,
        torch.randint(0, V, (N,)),
        upstream,
        entropy_upstream,
    )


def exact(temperature: float, *, with_entropy: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and the gradients of hidden states and weights."""
    head, hidden, targets, upstream, entropy_upstream = inputs()
    hidden, weight = (
        hidden.double().requires_grad_(),
        head.weight.detach().double().requires_grad_(),
    )
    logprobs = (hidden @ weight.T / temperature).log_softmax(-1)
    chosen = logprobs[torch.arange(N), targets]
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    loss = (upstream * chosen).sum() + with_entropy * (entropy_upstream * entropy).sum()
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return chosen.detach(), entropy.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("kind", [nn.Linear, Wrapped])
@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("mode", ["none", "detached", "gradient"])
def test_values_and_gradients_are_those_of_a_whole_softmax(
    kind: type,
    rows: int,
    temperature: float,
    mode: EntropyMode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output_head, "chunk_rows", lambda *_: rows)
    head, hidden, targets, upstream, entropy_upstream = inputs()
    hidden.requires_grad_()
    logprobs, entropy = head_logprobs(
        head if kind is nn.Linear else Wrapped(head),
        hidden,
        targets,
        vocab_size=V,
        temperature=temperature,
        entropy=mode,
    )
    loss = (upstream * logprobs).sum()
    if mode == "gradient":
        loss = loss + (entropy_upstream * entropy).sum()
    else:
        assert not entropy.requires_grad
    loss.backward()
    expected = exact(temperature, with_entropy=mode == "gradient")
    actual = logprobs.detach(), entropy.detach(), hidden.grad, head.weight.grad
    names = ("log-probabilities", "entropy", "hidden states", "weights")
    for name, ours, theirs in zip(names, actual, expected, strict=True):
        assert ours is not None
        if name == "entropy" and mode == "none":
            theirs = torch.zeros_like(theirs)
        torch.testing.assert_close(
            ours.double(), theirs, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_nothing_is_lost_where_one_token_is_all_but_certain() -> None:
    head = nn.Linear(D, V, bias=False)
    hidden, targets = 100 * torch.randn(N, D), torch.arange(N) % V
    logprobs, entropy = head_logprobs(
        head, hidden, targets, vocab_size=V, temperature=1.0, entropy="detached"
    )
    exact = (hidden.double() @ head.weight.double().T).log_softmax(-1)
    expected = -(exact.exp() * exact).sum(-1)
    assert (expected < 1e-3).sum() > 3, "the case is not met"
    certain = torch.stack([expected, entropy.double()])[:, expected > 1e-9]
    torch.testing.assert_close(certain[1], certain[0], rtol=1e-3, atol=2e-7)
    chosen = exact[torch.arange(N), targets]
    torch.testing.assert_close(logprobs.double(), chosen, rtol=1e-5, atol=1e-4)
    none, _ = head_logprobs(
        head, hidden[:0], targets[:0], vocab_size=V, temperature=1.0, entropy="none"
    )
    assert none.shape == (0,)


def test_a_frozen_head_takes_no_gradient_and_frozen_hidden_states_neither() -> None:
    head, hidden, targets, upstream, _ = inputs()
    head.requires_grad_(False)
    hidden.requires_grad_()
    options = {"vocab_size": V, "temperature": 1.0, "entropy": "none"}
    (upstream * head_logprobs(head, hidden, targets, **options)[0]).sum().backward()
    assert head.weight.grad is None
    torch.testing.assert_close(
        hidden.grad.double(), exact(1.0, with_entropy=False)[2], rtol=1e-4, atol=1e-5
    )
    head.requires_grad_(True)
    (upstream * head_logprobs(head, hidden.detach(), targets, **options)[0]).sum().backward()
    torch.testing.assert_close(
        head.weight.grad.double(), exact(1.0, with_entropy=False)[3], rtol=1e-4, atol=1e-5
    )


def test_under_autocast_products_are_of_bfloat16_and_gradients_of_float32() -> None:
    head, hidden, targets, upstream, _ = inputs()
    hidden.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprobs, _ = head_logprobs(
            head, hidden, targets, vocab_size=V, temperature=1.0, entropy="none"
        )
    assert logprobs.dtype == torch.float32
    (upstream * logprobs).sum().backward()
    expected = exact(1.0, with_entropy=False)
    assert not torch.allclose(logprobs.double(), expected[0], atol=1e-6), "bfloat16 was not used"
    torch.testing.assert_close(logprobs.double(), expected[0], rtol=0, atol=0.05)
    assert hidden.grad is not None
    assert head.weight.grad is not None
    assert hidden.grad.dtype == head.weight.grad.dtype == torch.float32
    torch.testing.assert_close(hidden.grad.double(), expected[2], rtol=0, atol=0.1)
    torch.testing.assert_close(head.weight.grad.double(), expected[3], rtol=0, atol=0.1)


def test_no_tensor_of_all_logits_is_ever_made() -> None:
    rows, vocab = 3000, 5000
    head = nn.Linear(4, vocab, bias=False)
    hidden = torch.randn(rows, 4, requires_grad=True)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        logprobs, _ = head_logprobs(
            head,
            hidden,
            torch.zeros(rows, dtype=torch.int64),
            vocab_size=vocab,
            temperature=1.0,
            entropy="detached",
        )
        logprobs.sum().backward()
    assert 0 < largest <= chunk_rows(vocab, "cpu") * vocab < rows * vocab


def test_chunks_are_bounded_by_memory_and_worth_a_product() -> None:
    assert chunk_rows(1024, "cpu") * 1024 == 2**20
    assert chunk_rows(151_936, "cpu") == 256
    assert chunk_rows(151_936, "cuda") * 151_936 <= 2**27
    assert chunk_rows(2**40, "cuda") == 1
