"""Whether a text holds a benchmark's problem: equal, contained, in shared n-grams, nearly equal.

N-grams are of word tokens (`grlo.prompts.text`). An n-gram of 8 that several problems share is
boilerplate ("find the number of ordered pairs of"): a run of shared words has to hold one that is
not. N-grams of 13 are those of Brown et al. 2020 (arXiv:2005.14165,
appendix C), n-grams of 8 those of Chowdhery et al. 2022 (arXiv:2204.02311, section 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grlo.prompts.grams import Hashes, TokenHasher, rolled

SHORT, LONG = 8, 13
"""Lengths of shared runs of words that are told apart."""
_COVER = 5
_SHINGLE = 3
BOILERPLATE = 3
"""An n-gram in so many problems, of whatever benchmarks, is boilerplate."""
MAX_TOKENS = 200_000
"""Tokens of a text that are looked at."""


@dataclass(frozen=True)
class Document:
    """A text of a benchmark that is looked for."""

    benchmark: str
    item: str
    """Id of the problem in the benchmark."""
    text: str
    part: str = "question"
    """`question`, or `solution` where the benchmark has worked ones."""
    domain: str = ""
    """Of the benchmark, where it is known."""
    is_private: bool = False
    """Its text is not to be shown."""


@dataclass(frozen=True)
class Match:
    """What a text and a document share."""

    document: int
    """Position in the index."""
    exact: bool
    """The same tokens."""
    contained: bool
    """The document's tokens stand in the text as they are, one after the other."""
    longest_run: int
    """Most tokens in a row that both have, where they hold more than boilerplate; from 8 on."""
    run_start: int
    """Position in the document at which that run begins."""
    num_covered: int
    """Tokens of the document that lie in a run of five or more shared ones."""
    num_words_covered: int
    """Those of them that have two letters or more: neither numbers nor variables."""
    coverage: float
    """Share of the document's tokens that do, a token weighing the more the rarer it is among all
    documents (its inverse document frequency): "a step-by-step guide to" weighs little."""
    jaccard: float
    """Jaccard similarity of the sets of word 3-grams (Broder 1997), which MinHash estimates; 0
    where coverage is below 0.2, where it is not computed."""


class OverlapIndex:
    """Documents that texts are looked up in.

    Args:
        tokens: Of each document.
        groups: Benchmark of each document, as a number.
        problems: Problem of each document, as a number: a question, its solutions and its copies in
            other benchmarks have the same. None takes every document for a problem.
    """

    def __init__(
        self,
        tokens: Sequence[Sequence[str]],
        groups: Sequence[int],
        *,
        problems: Sequence[int] | None = None,
    ) -> None:
        self._groups = np.asarray(groups)
        self._problems = np.arange(len(tokens)) if problems is None else np.asarray(problems)
        self._hash = TokenHasher()
        self._tokens = [tuple(own) for own in tokens]
        self._lengths = np.array([len(own) for own in tokens], dtype=np.int64)
        self._starts = np.concatenate(([0], np.cumsum(self._lengths)[:-1])).astype(np.int64)
        hashes = self._hash([token for own in tokens for token in own])
        self._document_at = np.repeat(np.arange(len(tokens), dtype=np.int32), self._lengths)
        self._is_word = np.array(
            [len(token) > 1 and token.isalpha() for own in tokens for token in own], dtype=np.bool_
        )
        self._weights = self._inverse_frequencies(hashes)
        self._total_weights = np.bincount(self._document_at, self._weights, len(tokens))
        self._cover = self._grams(hashes, _COVER)
        self._runs = self._grams(hashes, SHORT)
        at = self._document_at[self._runs[1]]
        self._is_rare = _num_labels((self._runs[0],), self._problems[at]) < BOILERPLATE
        self._num_sharing = _num_labels((self._runs[0], self._groups[at]), self._problems[at])
        self._whole: dict[int, list[int]] = {}
        self._short: dict[int, dict[int, list[int]]] = {}
        for index, own in enumerate(self._tokens):
            key = self._key(own)
            self._whole.setdefault(key, []).append(index)
            if 0 < len(own) < SHORT:
                self._short.setdefault(len(own), {}).setdefault(key, []).append(index)

    def matches(self, tokens: Sequence[str]) -> list[Match]:
        """The documents that share a run of five tokens or more with a text, or are it.

        Args:
            tokens: Of the text; the first `MAX_TOKENS` are looked at.
        """
        tokens = tokens[:MAX_TOKENS]
        if not tokens:
            return []
        hashes = self._hash(tokens)
        exact = set(self._whole.get(self._key(tokens), ()))
        contained = exact | self._contained_short(hashes)
        covered = self._covered(hashes)
        runs, whole = self._longest_runs(hashes)
        contained |= whole
        found = []
        for document in sorted({*contained, *covered, *runs}):
            run, start = runs.get(document, (0, 0))
            length = int(self._lengths[document])
            num_covered, num_words, share = covered.get(document, (0, 0, 0.0))
            if document in contained:
                num_covered, share = length, 1.0
            found.append(
                Match(
                    document=document,
                    exact=document in exact,
                    contained=document in contained,
                    longest_run=run,
                    run_start=start,
                    num_covered=num_covered,
                    num_words_covered=num_words,
                    coverage=share,
                    jaccard=self._jaccard(document, tokens) if share >= 0.2 else 0.0,
                )
            )
        return found

    def run(self, match: Match) -> str:
        """The words of a match's longest run."""
        start, end = match.run_start, match.run_start + match.longest_run
        return " ".join(self._tokens[match.document][start:end])

    def background(self) -> dict[int, tuple[float, float]]:
        """By group the share of its problems that share an 8-gram with another one of it.

        That is what texts of the genre share by chance: with boilerplate, and without it.
        """
        documents = self._document_at[self._runs[1]]
        problems, groups = self._problems[documents], self._groups[documents]
        shares = {}
        for group in np.unique(self._groups).tolist():
            total = len(np.unique(self._problems[self._groups == group]))
            shared = (groups == group) & (self._num_sharing > 1)
            both = [
                len(np.unique(problems[shared & kept])) / total
                for kept in (np.ones_like(self._is_rare), self._is_rare)
            ]
            shares[group] = (both[0], both[1])
        return shares

    # Tokens and n-grams as hashes -----------------------------------------------------------------

    def _inverse_frequencies(self, hashes: Hashes) -> NDArray[np.float64]:
        """Of each token of the documents, log((documents + 1) / documents with it)."""
        _, token_at = np.unique(hashes, return_inverse=True)
        num_documents = len(self._lengths)
        in_document = np.unique(token_at.astype(np.int64) * num_documents + self._document_at)
        frequency = np.bincount(in_document // max(1, num_documents))
        return np.log((num_documents + 1) / frequency)[token_at]

    def _key(self, tokens: Sequence[str]) -> int:
        return int(rolled(self._hash(tokens), len(tokens))[0]) if tokens else 0

    def _grams(self, hashes: Hashes, n: int) -> tuple[Hashes, NDArray[np.int64]]:
        """Hashes of all n-grams within documents in ascending order, and where each stands."""
        hashed = rolled(hashes, n)
        positions = np.arange(len(hashed))
        documents = self._document_at[positions]
        positions = positions[documents == self._document_at[positions + n - 1]]
        hashed = hashed[positions]
        order = np.argsort(hashed, kind="stable")
        return hashed[order], positions[order]

    # Kinds of agreement ---------------------------------------------------------------------------

    @staticmethod
    def _look_up(
        rolled: Hashes, grams: tuple[Hashes, NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of all pairs of equal n-grams the position in the text and the index into `grams`."""
        low = np.searchsorted(grams[0], rolled, side="left")
        counts = np.searchsorted(grams[0], rolled, side="right") - low
        at = np.repeat(np.arange(len(rolled)), counts)
        within = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
        return at, np.repeat(low, counts) + within

    def _contained_short(self, hashes: Hashes) -> set[int]:
        """Documents of fewer tokens than the shortest run, which stand in the text."""
        found: set[int] = set()
        for length, documents in self._short.items():
            for key in set(rolled(hashes, length).tolist()) & documents.keys():
                found.update(documents[key])
        return found

    def _covered(self, hashes: Hashes) -> dict[int, tuple[int, int, float]]:
        """By document how many of its tokens lie in a run of five or more shared ones, how many of
        these are words, and their share of the document's weight."""
        _, entries = self._look_up(np.unique(rolled(hashes, _COVER)), self._cover)
        starts = self._cover[1][entries]
        covered = np.unique((starts[:, None] + np.arange(_COVER)).ravel())
        documents, first, counts = np.unique(
            self._document_at[covered], return_index=True, return_counts=True
        )
        if not len(documents):
            return {}
        shares = np.add.reduceat(self._weights[covered], first) / self._total_weights[documents]
        num_words = np.add.reduceat(self._is_word[covered], first, dtype=np.int64)
        found = zip(counts.tolist(), num_words.tolist(), shares.tolist(), strict=True)
        return dict(zip(documents.tolist(), found, strict=True))

    def _longest_runs(self, hashes: Hashes) -> tuple[dict[int, tuple[int, int]], set[int]]:
        """By document the longest run that is more than boilerplate, as its length and where in the
        document it begins; and the documents that are one run from end to end."""
        at, entries = self._look_up(rolled(hashes, SHORT), self._runs)
        if not len(at):
            return {}, set()
        positions, rare = self._runs[1][entries], self._is_rare[entries]
        documents, diagonal = self._document_at[positions], positions - at
        order = np.lexsort((at, diagonal, documents))
        at, rare, documents, diagonal, positions = (
            array[order] for array in (at, rare, documents, diagonal, positions)
        )
        is_next = (np.diff(at) == 1) & (np.diff(diagonal) == 0) & (np.diff(documents) == 0)
        begins = np.flatnonzero(np.concatenate(([True], ~is_next)))
        lengths = np.diff(np.append(begins, len(at))) + SHORT - 1
        has_rare = np.logical_or.reduceat(rare, begins)
        longest: dict[int, tuple[int, int]] = {}
        whole: set[int] = set()
        for begin, length, more_than_boilerplate in zip(begins, lengths, has_rare, strict=True):
            document = int(documents[begin])
            start = int(positions[begin] - self._starts[document])
            if length == self._lengths[document]:
                whole.add(document)
            if more_than_boilerplate and int(length) > longest.get(document, (0, 0))[0]:
                longest[document] = (int(length), start)
        return longest, whole

    def _jaccard(self, document: int, tokens: Sequence[str]) -> float:
        own, other = _shingles(self._tokens[document]), _shingles(tokens)
        return len(own & other) / len(own | other)


def _num_labels(keys: tuple[NDArray[Any], ...], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each entry how many different labels there are among the entries with its keys."""
    if not len(labels):
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort((labels, *reversed(keys)))
    is_new_key = np.zeros(len(order), dtype=np.bool_)
    is_new_key[0] = True
    for key in keys:
        is_new_key[1:] |= key[order][1:] != key[order][:-1]
    is_new_label = is_new_key.copy()
    is_new_label[1:] |= labels[order][1:] != labels[order][:-1]
    counts = np.add.reduceat(is_new_label, np.flatnonzero(is_new_key), dtype=np.int64)
    of_entry = np.empty(len(order), dtype=np.int64)
    of_entry[order] = counts[np.cumsum(is_new_key) - 1]
    return of_entry


def _shingles(tokens: Sequence[str]) -> set[tuple[str, ...]]:
    n = min(_SHINGLE, len(tokens))
    return {tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)}
