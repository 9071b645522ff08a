"""The peak of a device is the best rate of matrix products that was measured."""

from __future__ import annotations

import pytest
import torch

from grlo import peak


@pytest.fixture
def products(monkeypatch) -> list[int]:
    """Sizes of the products that were timed; a size n takes 2 n^3 / 1e11 seconds, every third of
    them half of that."""
    sizes: list[int] = []

    def seconds(left: torch.Tensor, right: torch.Tensor) -> float:
        assert left.shape == right.shape
        sizes.append(len(left))
        return 2 * len(left) ** 3 / (2e11 if len(sizes) % 3 == 0 else 1e11)

    monkeypatch.setattr(peak, "_seconds_of_product", seconds)
    return sizes


def test_the_best_of_several_products_counts_and_they_grow_until_they_take_milliseconds(products):
    assert peak.measure_peak("cpu", torch.float32) == pytest.approx(2e11)
    assert products[:3] == [512, 512, 1024]
    assert set(products[2:]) == {1024}, "that takes 21 ms, or 11"
    assert len(products[2:]) >= 5


def test_a_real_product_is_timed_and_leaves_random_numbers_alone():
    state = torch.get_rng_state()
    for dtype in (torch.float32, torch.bfloat16):
        assert 1e6 < peak.measure_peak("cpu", dtype) < 1e15
    assert torch.equal(torch.get_rng_state(), state)
