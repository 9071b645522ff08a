"""Nearest documents by the words that texts share: a fallback for embeddings, which it is not.

A text is cut into overlapping windows, so that a problem inside a long text is found, and each
window is compared with every document by the cosine of their TF-IDF vectors (Salton and Buckley
1988): order does not count, rare words count most, and words are cut to their first letters, which
makes one of "divide", "divided" and "dividing". It does not know that "car" is "automobile".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grlo.errors import MissingExtraError

_STEM = 7
"""Letters of a word that count."""
_WINDOWS = (32, 96)
"""Words in a window; windows begin half their length apart."""
_COMMON = 0.05
"""A word in a larger share of the documents adds to the length of vectors, not to products: it
weighs little, and most of the time would go there."""
_FEW = 20
"""Documents that may have a word without making it common."""
_ROWS = 4096
"""Windows in one product of matrices."""

_Span = tuple[int, int, int]
"""Index of a text, and where in its words a window begins and ends."""


class LexicalIndex:
    """TF-IDF vectors of documents.

    Args:
        tokens: Of each document.
    """

    kind = "lexical"

    def __init__(self, tokens: Sequence[Sequence[str]]) -> None:
        stems: dict[str, int] = {}
        ids = [
            np.array([stems.setdefault(word[:_STEM], len(stems)) for word in own], dtype=np.int64)
            for own in tokens
        ]
        self._stems = stems
        documents = len(tokens)
        frequency = np.zeros(len(stems))
        for own in ids:
            frequency[np.unique(own)] += 1
        self._weight = np.log((documents + 1) / (frequency + 0.5)).astype(np.float32)
        self._weight_unknown = float(np.log((documents + 1) / 0.5))
        self._is_common = frequency > max(_FEW, _COMMON * documents)
        whole = [(index, 0, len(own)) for index, own in enumerate(ids)]
        self._documents = self._vectors(ids, whole).T.tocsr()

    def neighbours(
        self, tokens: Sequence[Sequence[str]], *, floor: float
    ) -> list[dict[int, float]]:
        """By text the documents whose cosine with one of its windows is at least `floor`.

        Args:
            tokens: Of each text.
            floor: Cosines below are left out.
        """
        found: list[dict[int, float]] = [{} for _ in tokens]
        get = self._stems.get
        ids = [np.array([get(w[:_STEM], -1) for w in own], dtype=np.int64) for own in tokens]
        spans = [span for index, own in enumerate(ids) for span in _spans(index, len(own))]
        for start in range(0, len(spans), _ROWS):
            batch = spans[start : start + _ROWS]
            cosines = (self._vectors(ids, batch) @ self._documents).tocoo()
            near = cosines.data >= floor
            for row, document, cosine in zip(
                cosines.row[near].tolist(),
                cosines.col[near].tolist(),
                cosines.data[near].tolist(),
                strict=True,
            ):
                own = found[batch[row][0]]
                own[document] = max(own.get(document, 0.0), min(1.0, cosine))
        return found

    def _vectors(self, ids: Sequence[NDArray[np.int64]], spans: Sequence[_Span]) -> Any:
        """Rows of weights 1 + log(count), times the inverse document frequency, of unit length."""
        sparse = _sparse()
        parts = [ids[index][begin:end] for index, begin, end in spans]
        known = [part[part >= 0] for part in parts]
        columns = np.concatenate(known) if known else np.zeros(0, dtype=np.int64)
        starts = np.concatenate(([0], np.cumsum([len(part) for part in known], dtype=np.int64)))
        ones = np.ones(len(columns), dtype=np.float32)
        matrix = sparse.csr_matrix((ones, columns, starts), shape=(len(spans), len(self._stems)))
        matrix.sum_duplicates()
        matrix.data = (1 + np.log(matrix.data)) * self._weight[matrix.indices]
        squares = np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()
        num_unknown = np.array([np.count_nonzero(part < 0) for part in parts])
        lengths = np.sqrt(squares + num_unknown * self._weight_unknown**2)
        rows = np.repeat(np.arange(len(spans)), np.diff(matrix.indptr))
        matrix.data /= np.maximum(lengths, 1e-9)[rows]
        matrix.data[self._is_common[matrix.indices]] = 0
        matrix.eliminate_zeros()
        return matrix.astype(np.float32)


def _spans(index: int, length: int) -> list[_Span]:
    """The windows of a text: of each size several, or one that holds all of it."""
    spans: set[_Span] = set()
    for size in _WINDOWS:
        if length <= size * 3 // 2:
            spans.add((index, 0, length))
        else:
            spans |= {
                (index, begin, min(length, begin + size))
                for begin in range(0, length - size // 2, size // 2)
            }
    return sorted(spans)


def _sparse() -> Any:
    try:
        from scipy import sparse
    except ModuleNotFoundError as error:
        raise MissingExtraError("scipy", extra="curate") from error
    return sparse
