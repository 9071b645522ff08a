"""How many floating-point operations a device does in a second, measured."""

from __future__ import annotations

import time

import torch

from grlo.modeling.products import product

_SECONDS = 0.2
_REPETITIONS = 5
"""Of the largest product."""
_GROWS_BELOW = 0.01
"""Seconds of a product below which a larger one is tried."""
_LARGEST = 8192
"""Rows of the largest matrices: 0.8 GB for the three of them in float32."""


def measure_peak(device: str, dtype: torch.dtype) -> float:
    """The best rate of square matrix products, in FLOP/s: 2 n^3 operations in the least time.

    Matrices grow until a product takes 10 ms. On a CPU it is the rate of the threads
    that torch uses now. A measured peak is what this device reaches here, clocks, neighbours and
    threads included; data sheets promise more.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, ...
        dtype: Of the matrices.
    """
    # A generator of its own: the run's random numbers stay what they are.
    generator = torch.Generator(device).manual_seed(0)
    size, best, repetitions = 512, 0.0, 0
    matrices = _matrices(size, device, dtype, generator)
    _seconds_of_product(*matrices)  # The first call sets up libraries and threads.
    start = time.perf_counter()
    while repetitions < _REPETITIONS or time.perf_counter() - start < _SECONDS:
        seconds = _seconds_of_product(*matrices)
        best = max(best, 2 * size**3 / seconds)
        repetitions += 1
        if seconds < _GROWS_BELOW and size < _LARGEST:
            size, repetitions = 2 * size, 0
            matrices = _matrices(size, device, dtype, generator)
    del matrices
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()  # The models will want the memory in other sizes.
    return best


def _matrices(
    size: int, device: str, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two factors."""
    left, right = (
        torch.empty(size, size, device=device, dtype=dtype).uniform_(-1, 1, generator=generator)
        for _ in range(2)
    )
    return left, right


def _seconds_of_product(left: torch.Tensor, right: torch.Tensor) -> float:
    is_cuda = left.device.type == "cuda"
    if is_cuda:
        torch.cuda.synchronize(left.device)
    start = time.perf_counter()
    product(left, right)
    if is_cuda:
        torch.cuda.synchronize(left.device)
    return time.perf_counter() - start
