"""Shares of n-grams of tokens: how much a text repeats itself, how varied a set of texts is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def repeated_share(tokens: Sequence[int], *, n: int) -> float:
    """Share of a text's n-grams that occurred in it before: `1 - distinct / all`.

    A text with fewer than n tokens has no n-grams and repeats nothing: 0.
    """
    count = len(tokens) - n + 1
    return 1 - len(set(_ngrams(tokens, n))) / count if count > 0 else 0.0


def distinct_share(texts: Iterable[Sequence[int]], *, n: int) -> float | None:
    """Distinct n-grams of all texts together, divided by all n-grams (distinct-n, Li et al. 2016).

    It falls as more text is looked at, so only like amounts compare. None without any n-gram.
    """
    seen: set[tuple[int, ...]] = set()
    count = 0
    for tokens in texts:
        seen.update(_ngrams(tokens, n))
        count += max(0, len(tokens) - n + 1)
    return len(seen) / count if count else None


def _ngrams(tokens: Sequence[int], n: int) -> Iterator[tuple[int, ...]]:
    return zip(*(tokens[start:] for start in range(n)), strict=False)
