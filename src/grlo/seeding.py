"""Randomness as a function of (seed, purpose, step, index), so that runs can be resumed exactly."""

from __future__ import annotations

import hashlib
import random


def derive_seed(seed: int, *keys: str | int) -> int:
    """A 63-bit seed for one purpose.

    Args:
        seed: The recipe's seed.
        keys: What the seed is for, such as `"rollout", step, prompt.id`.

    Returns:
        A non-negative integer below 2**63; SHA-256 of the keys, so that neighbours are unrelated.
    """
    text = "\x1f".join([str(seed), *(f"{type(key).__name__}:{key}" for key in keys)])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_rng(seed: int, *keys: str | int) -> random.Random:
    """A standard-library generator seeded by `derive_seed`."""
    return random.Random(derive_seed(seed, *keys))
