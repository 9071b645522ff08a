"""Word tokens and their n-grams as numbers, the same in every process."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MAX_KNOWN = 1_000_000
_MAX_KEPT = 64
"""Letters of tokens that are remembered."""


class TokenHasher:
    """A 64-bit hash of each token; those met before are remembered, up to a bound."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, tokens: Sequence[str]) -> Hashes:
        """The hashes of a text's tokens, in order."""
        found = list(map(self._known.get, tokens))
        if None in found:
            if len(self._known) > _MAX_KNOWN:  # Bounds the memory of a long stream.
                self._known.clear()
            found = [self._hash(token) for token in tokens]
        return np.array(found, dtype=np.uint64)

    def _hash(self, token: str) -> int:
        known = self._known.get(token)
        if known is None:
            data = token.encode("utf-8", "surrogatepass")
            known = int.from_bytes(blake2b(data, digest_size=8).digest())
            if len(token) <= _MAX_KEPT:
                self._known[token] = known
        return known


def rolled(hashes: Hashes, n: int) -> Hashes:
    """A hash of each n-gram: a polynomial in 64-bit arithmetic."""
    total = np.zeros(max(0, len(hashes) - n + 1), dtype=np.uint64)
    for offset in range(n):
        total = total * _FACTOR + hashes[offset : offset + len(total)]
    return total
