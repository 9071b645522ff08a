"""Which texts say nearly the same.

Two texts are as similar as the Jaccard similarity of their sets of word 3-grams (Broder 1997, "On
the resemblance and containment of documents"). Candidates come from MinHash signatures cut into
bands (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3), and the similarity
of each candidate is then computed exactly: the bands can miss a pair, never invent one.

Signatures and tables are ours, not datasketch's. Its index says which texts share a band and not
how many, so that among thousands of texts of one template near copies cannot be told from the
others without verifying all; and it keeps more than twice as much memory (docs/dependencies.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from grlo.prompts.grams import Hashes, TokenHasher, rolled
from grlo.settings import require

MAX_GRAMS = 20_000
"""3-grams of a text that are compared, from its beginning."""
_N = 3
_MAX_MISSED = 0.01
# Texts of one template share many bands without being near duplicates; these bounds keep a file of
# them from taking quadratic time. The candidates with the most bands in common are verified first.
_MAX_BUCKET = 500
_MAX_VERIFIED = 100
_CHUNK = 512


class NearDuplicates:
    """Texts seen so far, in which those nearly equal to a new one are found.

    A pair whose similarity is `threshold` + 0.05 (or half-way from `threshold` to 1, where that is
    nearer) is missed with a probability below 1 %; more similar ones less often. The same texts
    give the same answers in every process.

    Args:
        threshold: Least Jaccard similarity of near duplicates, in (0, 1].
        num_perm: Length of the signatures.
        seed: Of the hash functions.
    """

    def __init__(self, *, threshold: float = 0.8, num_perm: int = 128, seed: int = 0) -> None:
        require(0 < threshold <= 1, "threshold must lie in (0, 1]")
        require(num_perm > 0, "num_perm must be positive")
        self.threshold = threshold
        self.num_bands, self.num_rows = bands_and_rows(threshold, num_perm)
        num_hashes = self.num_bands * self.num_rows
        # The raw stream of PCG64 is the same in every version of numpy.
        raw = np.random.PCG64(seed).random_raw(3 * num_hashes).astype(np.uint64)
        high = (raw[: 2 * num_hashes] >> np.uint64(32)).astype(np.uint32)[:, None]
        self._factors = high[:num_hashes] | np.uint32(1)
        self._offsets = high[num_hashes:]
        self._band_factors = raw[2 * num_hashes :].reshape(self.num_bands, -1) | np.uint64(1)
        self._band_numbers = np.arange(self.num_bands, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        self._hash = TokenHasher()
        self._keys: list[int] = []
        self._grams: list[Hashes] = []
        self._buckets: dict[int, int | list[int]] = {}

    def find_or_add(self, key: int, tokens: Sequence[str]) -> tuple[int, float] | None:
        """The key of an earlier text that is nearly equal, with their similarity.

        Of several the one is returned that has the most bands in common. Without one the text is
        remembered under its key, and the answer is None. A text without tokens says nothing: it is
        neither found nor remembered.

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
        grams = self._gram_set(tokens)
        bands = self._bands(grams)
        found = self._find(grams, bands)
        if found is None or (keep_found and found[1] < 1):
            self._add(key, grams, bands)
        return found

    def _find(self, grams: Hashes, bands: list[int]) -> tuple[int, float] | None:
        shared: Counter[int] = Counter()
        for band in bands:
            bucket = self._buckets.get(band)
            if bucket is not None:
                shared.update((bucket,) if isinstance(bucket, int) else bucket)
        # Ties go to the earliest text, whatever order the bands were met in.
        ranked = sorted(shared, key=lambda index: (-shared[index], index))
        for index in ranked[:_MAX_VERIFIED]:
            similarity = _jaccard(self._grams[index], grams)
            if similarity >= self.threshold:
                return self._keys[index], similarity
        return None

    def _add(self, key: int, grams: Hashes, bands: list[int]) -> None:
        index = len(self._keys)
        self._keys.append(key)
        self._grams.append(grams)
        for band in bands:
            # Most buckets hold one text: a list for each would double the memory.
            bucket = self._buckets.setdefault(band, index)
            if isinstance(bucket, list):
                if len(bucket) < _MAX_BUCKET:
                    bucket.append(index)
            elif bucket != index:
                self._buckets[band] = [bucket, index]

    # From tokens to bands ------------------------------------------------------------------------

    def _gram_set(self, tokens: Sequence[str]) -> Hashes:
        """The hashes of a text's 3-grams, ascending; of a shorter text the gram of all tokens."""
        hashes = self._hash(tokens[: MAX_GRAMS + _N - 1])
        total = rolled(hashes, min(_N, len(hashes)))
        # The finalizer of SplitMix64: a polynomial alone keeps sums of tokens in its low bits.
        total = (total ^ (total >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        total = (total ^ (total >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.unique(total ^ (total >> np.uint64(31)))

    def _bands(self, grams: Hashes) -> list[int]:
        """One hash per band of the signature.

        Row i of the signature is the least a_i x + b_i mod 2^32 over the grams x, with odd a_i.
        """
        low = grams.astype(np.uint32)
        signature = np.full(len(self._factors), np.iinfo(np.uint32).max, dtype=np.uint32)
        for start in range(0, len(low), _CHUNK):  # A whole long text would leave the cache.
            hashed = self._factors * low[start : start + _CHUNK] + self._offsets
            np.minimum(signature, hashed.min(axis=1), out=signature)
        rows = signature.reshape(self.num_bands, -1).astype(np.uint64)
        return ((rows * self._band_factors).sum(axis=1) ^ self._band_numbers).tolist()


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


def _jaccard(first: Hashes, second: Hashes) -> float:
    short, long = sorted((first, second), key=len)
    shared = int((long[np.minimum(np.searchsorted(long, short), len(long) - 1)] == short).sum())
    return shared / (len(first) + len(second) - shared)
