"""Which texts say nearly the same.

Two texts are as similar as the Jaccard similarity of their sets of word 3-grams (Broder 1997, "On
the resemblance and containment of documents"). Candidates come from MinHash signatures cut into
bands (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3) by datasketch, and
the similarity of each is then computed exactly: bands can miss a pair, never invent one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grlo.errors import MissingExtraError
from grlo.settings import require

MAX_GRAMS = 20_000
"""3-grams of a text that are compared, from its beginning."""
_N = 3
_MAX_MISSED = 0.01
# Texts of one template are candidates of each other without being near duplicates: this bound keeps
# a file of them from taking quadratic time.
_MAX_VERIFIED = 100

_Grams = NDArray[np.uint64]


class NearDuplicates:
    """Texts seen so far, in which those nearly equal to a new one are found.

    A pair whose similarity is `threshold` + 0.05 (or half-way from `threshold` to 1, where that is
    nearer) is missed with a probability below 1 %; more similar ones less often.

    Args:
        threshold: Least Jaccard similarity of near duplicates, in (0, 1].
        num_perm: Longest signature.
        seed: Of the hash functions.

    Raises:
        MissingExtraError: datasketch is not installed.
    """

    def __init__(self, *, threshold: float = 0.8, num_perm: int = 128, seed: int = 0) -> None:
        require(0 < threshold <= 1, "threshold must lie in (0, 1]")
        require(num_perm > 0, "num_perm must be positive")
        try:
            from datasketch import MinHash, MinHashLSH
        except ModuleNotFoundError as error:
            raise MissingExtraError("datasketch", extra="curate") from error
        self.threshold = threshold
        self.num_bands, self.num_rows = bands_and_rows(threshold, num_perm)
        length = self.num_bands * self.num_rows
        self._index: Any = MinHashLSH(num_perm=length, params=(self.num_bands, self.num_rows))
        # Grams are hashed already; signatures take 32 bits of them.
        self._empty: Any = MinHash(num_perm=length, seed=seed, hashfunc=int)
        self._keys: list[int] = []
        self._grams: list[_Grams] = []

    def find_or_add(self, key: int, tokens: Sequence[str]) -> tuple[int, float] | None:
        """The key of an earlier text that is nearly equal, with their similarity.

        Of several candidates the nearest is returned. Without one the text is remembered under its
        key, and the answer is None. A text without tokens says nothing: it is neither found nor
        remembered.

        Args:
            key: Of the text; the caller's number for it.
            tokens: Of the text, folded as far as spellings shall not count (`text.words`).
        """
        return self._look_up(key, tokens, keep_found=False)

    def _look_up(
        self, key: int, tokens: Sequence[str], *, keep_found: bool
    ) -> tuple[int, float] | None:
        """As `find_or_add`; `keep_found` remembers near duplicates too, unless they are equal."""
        if not tokens:
            return None
        grams = _gram_set(tokens)
        signature = self._empty.copy()
        signature.update_batch((grams >> np.uint64(32)).tolist())
        candidates = sorted(self._index.query(signature))[:_MAX_VERIFIED]
        similarities = [_jaccard(self._grams[index], grams) for index in candidates]
        best = max(similarities, default=0.0)
        found = None
        if best >= self.threshold:
            found = (self._keys[candidates[similarities.index(best)]], best)
        if found is None or (keep_found and best < 1):
            self._index.insert(len(self._keys), signature, check_duplication=False)
            self._keys.append(key)
            self._grams.append(grams)
        return found


def near_duplicate_groups(
    tokens: Iterable[Sequence[str]], *, threshold: float = 0.8
) -> list[list[int]]:
    """Positions of texts that say nearly the same, in groups of two or more.

    A text joins the group of an earlier text that it is nearly equal to, so two members of a group
    may be less similar than `threshold`. Groups are in the order of their first members.
    """
    index = NearDuplicates(threshold=threshold)
    first_of: dict[int, int] = {}
    groups: dict[int, list[int]] = {}
    for position, own in enumerate(tokens):
        found = index._look_up(position, own, keep_found=True)
        first = position if found is None else first_of[found[0]]
        first_of[position] = first
        groups.setdefault(first, []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def bands_and_rows(threshold: float, num_perm: int) -> tuple[int, int]:
    """Number of bands and rows of each that find candidates at a threshold.

    A pair of similarity s shares none of b bands of r rows with probability (1 - s^r)^b. The rows
    are the most (so the fewest false candidates) for which that stays below 1 % a little above the
    threshold, at `NearDuplicates`' similarity. datasketch's own choice weighs the areas of both
    errors instead: at 0.8 it takes 9 bands of 13 rows, which miss 31 % of the pairs at 0.85.

    Raises:
        ValueError: `num_perm` is too small for the threshold.
    """
    similarity = min(threshold + 0.05, (threshold + 1) / 2)
    for num_rows in range(num_perm, 0, -1):
        num_bands = num_perm // num_rows
        if (1 - similarity**num_rows) ** num_bands < _MAX_MISSED:
            return num_bands, num_rows
    raise ValueError(
        f"num_perm {num_perm} is too small: more than 1 % of the pairs would be missed at a "
        f"similarity of {similarity:.2f}"
    )


def _gram_set(tokens: Sequence[str]) -> _Grams:
    """Hashes of a text's 3-grams, ascending; of a shorter text that of all its tokens."""
    tokens = tokens[: MAX_GRAMS + _N - 1]
    n = min(_N, len(tokens))
    grams = {"\x1f".join(tokens[at : at + n]) for at in range(len(tokens) - n + 1)}
    hashes = [
        int.from_bytes(blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        for gram in grams
    ]
    return np.sort(np.array(hashes, dtype=np.uint64))


def _jaccard(first: _Grams, second: _Grams) -> float:
    short, long = sorted((first, second), key=len)
    shared = int((long[np.minimum(np.searchsorted(long, short), len(long) - 1)] == short).sum())
    return shared / (len(first) + len(second) - shared)
