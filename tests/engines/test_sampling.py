"""Drawing tokens: exact cuts, no impossible tokens, numbers that depend on their counter only."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from grlo.engines.sampling import draw, stream_keys, uniforms


def splitmix64(state: int, count: int) -> list[int]:
    """The reference algorithm of Steele, Lea and Flood with Python integers."""
    numbers, mask = [], 2**64 - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(z ^ (z >> 31))
    return numbers


def test_uniforms_are_splitmix64() -> None:
    # First output for seed 1234567, as published with the algorithm's reference implementation.
    assert splitmix64(1234567, 1) == [6457827717110365317]
    for key in (0, 1, -5, 2**62 + 12345):
        expected = [number >> 11 for number in splitmix64(key % 2**64, 50)]
        drawn = uniforms(torch.full((50,), key), torch.arange(50)) * 2.0**53
        assert drawn.tolist() == expected


def test_streams_of_all_seeds_and_samples_differ() -> None:
    seeds = torch.arange(100).repeat_interleave(100)
    samples = torch.arange(100).repeat(100)
    assert len(stream_keys(seeds, samples).unique()) == 10_000


def brute_force(logits: list[float], temperature: float, top_p: float, top_k: int) -> list[float]:
    """Probabilities by sorting a list, one token at a time."""
    weights = [math.exp(x / temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: -weights[i])
    order = order[: top_k or None]
    total = sum(weights[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        if kept and mass >= top_p * total:
            break
        kept.append(i)
        mass += weights[i]
    return [weights[i] / mass if i in kept else 0.0 for i in range(len(logits))]


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.7, 0), (1.0, 5), (0.5, 5), (0.01, 0)])
def test_the_grid_of_uniforms_reproduces_the_cut_distribution(
    temperature: float, top_p: float, top_k: int
) -> None:
    torch.manual_seed(0)
    row = torch.randn(600) * 2
    num = 4000
    uniforms_R = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    tokens, logprobs = draw(
        row.expand(num, -1), uniforms_R, temperature=temperature, top_p=top_p, top_k=top_k
    )
    expected = torch.tensor(
        brute_force(row.tolist(), temperature, top_p, top_k), dtype=torch.float64
    )
    shares = torch.bincount(tokens, minlength=600).double() / num
    # Evenly spaced uniforms hit every token's interval to within one grid point.
    assert (shares - expected).abs().max() <= 1.001 / num
    torch.testing.assert_close(logprobs.double().exp(), expected[tokens], atol=1e-6, rtol=1e-5)


def test_ties_at_the_edge_keep_exactly_top_k_tokens() -> None:
    uniforms_R = torch.linspace(0, 0.9999, 1000, dtype=torch.float64)
    tokens, logprobs = draw(torch.zeros(1000, 50), uniforms_R, temperature=1.0, top_p=1.0, top_k=3)
    assert len(tokens.unique()) == 3
    torch.testing.assert_close(logprobs, torch.full((1000,), -math.log(3)))


@pytest.mark.parametrize("vocabulary", [5, 256, 257, 151_936])
def test_impossible_tokens_are_never_drawn(vocabulary: int) -> None:
    torch.manual_seed(0)
    logits = torch.full((64, vocabulary), float("-inf"))
    possible = torch.randint(vocabulary, (64, 3))
    logits.scatter_(1, possible, torch.randn(64, 3) * 20)
    for value in (0.0, 2.0**-53, 0.5, 1 - 2.0**-53):
        tokens, logprobs = draw(
            logits,
            torch.full((64,), value, dtype=torch.float64),
            temperature=1.0,
            top_p=1.0,
            top_k=0,
        )
        assert (tokens[:, None] == possible).any(1).all()
        assert torch.isfinite(logprobs).all()


def test_a_large_vocabulary_is_drawn_without_bias() -> None:
    # A plain float32 cumulative sum over 151,936 tokens cannot tell these apart.
    torch.manual_seed(0)
    vocabulary, num = 151_936, 512
    row = torch.randn(vocabulary)
    uniforms_R = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    tokens, _ = draw(row.expand(num, -1), uniforms_R, temperature=1.0, top_p=1.0, top_k=0)
    exact = row.double().softmax(-1).cumsum(-1)
    start = exact[tokens] - row.double().softmax(-1)[tokens]
    # The uniform lies in the interval of its token, to within the rounding of float32.
    assert (start - uniforms_R).max() < 1e-7
    assert (uniforms_R - exact[tokens]).max() < 1e-7


def test_temperature_zero_takes_the_most_probable_token() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, 4.0]])
    tokens, logprobs = draw(
        logits, torch.tensor([0.9, 0.9]).double(), temperature=0.0, top_p=0.3, top_k=1
    )
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).amax(-1))


def test_16_bit_logits_are_computed_in_float32() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    half = torch.full((4,), 0.5).double()

    def sample(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        return draw(logits_RV, half, temperature=0.9, top_p=1.0, top_k=0)

    torch.testing.assert_close(sample(logits), sample(logits.float()))
