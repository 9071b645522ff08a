"""What prompts are about: vectors, clusters of them, and a map to look at.

Without a sentence encoder, vectors are latent semantic analysis (Deerwester et al. 1990): TF-IDF of
words, reduced by a truncated singular value decomposition. All of it is scikit-learn's, on one
thread, so that the same texts and seed give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grlo.errors import MissingExtraError
from grlo.prompts.embeddings import SentenceEncoder, Vectors

_CHARACTERS = 2000
"""Of a text, from its beginning, that say what it is about."""
_DIMENSIONS = 100
_MAX_WORDS = 50_000
_TERMS = 4
"""Words that name a topic."""
_BLOCK = 2048


@dataclass(frozen=True)
class Topics:
    """Texts in clusters."""

    vectors: Vectors
    """Unit vectors [texts, dimensions]."""
    cluster: NDArray[np.int64]
    """Of each text."""
    names: tuple[str, ...]
    """Of each cluster: its most telling words."""
    is_lexical: bool
    """Whether vectors are of words."""
    counts: Any
    """TF-IDF as a sparse matrix [texts, shared words]; None where no text has a word that counts.
    Rows have unit length, words of one text alone included, which have no column."""

    @property
    def method(self) -> str:
        """In words."""
        return "shared words (TF-IDF)" if self.is_lexical else "sentence embeddings"


def find_topics(
    texts: Sequence[str], *, num_topics: int, seed: int, encoder: SentenceEncoder | None = None
) -> Topics:
    """Clusters texts by what they are about (k-means in mini-batches, Sculley 2010).

    Args:
        texts: At least one.
        num_topics: Number of clusters, at most one per text; 0 takes one for 40 texts, 8 to 500.
        seed: Of decomposition and clusters.
        encoder: Sentence embeddings; None takes words.

    Raises:
        MissingExtraError: Needs the extra `curate`.
    """
    cluster_module, text_module, limits = _sklearn()
    texts = [text[:_CHARACTERS] for text in texts]
    num_topics = min(num_topics or min(500, max(8, len(texts) // 40)), len(texts))
    vectorizer = text_module.TfidfVectorizer(
        sublinear_tf=True,
        stop_words="english",
        max_df=0.5 if len(texts) > 20 else 1.0,
        token_pattern=r"(?u)\b[^\W\d_]{2,}\b",
        dtype=np.float32,
    )
    with limits(1):
        try:
            counts = vectorizer.fit_transform(texts)
            counts, words = _shared_words(counts, vectorizer.get_feature_names_out())
        except ValueError:  # No text has a word that counts.
            counts, words = None, np.array([], dtype=object)
        vectors = _reduced(counts, len(texts), seed) if encoder is None else encoder.encode(texts)
        clusters = cluster_module.MiniBatchKMeans(
            num_topics, random_state=seed, n_init=3, batch_size=2048, max_iter=50
        ).fit(vectors)
    labels = clusters.labels_.astype(np.int64)
    names = _names(counts, words, labels, num_topics)
    return Topics(vectors, labels, names, is_lexical=encoder is None, counts=counts)


SAME_WORDS, SAME_MEANING = 0.7, 0.9
"""Cosines of TF-IDF and of sentence embeddings from which on texts ask for the same. Latent
semantic analysis is not asked: in it a story about one hero is equal to a story about another."""


def semantic_duplicates(
    topics: Topics, *, threshold: float | None = None
) -> dict[int, tuple[int, float]]:
    """Texts that ask for what an earlier one of their cluster does: text -> (that one, cosine).

    The earlier one is itself kept, as in SemDeDup (Abbas et al. 2023, arXiv:2303.09540).

    Args:
        topics: Vectors and clusters.
        threshold: Least cosine; None is `SAME_WORDS` or `SAME_MEANING`.
    """
    if threshold is None:
        threshold = SAME_WORDS if topics.is_lexical else SAME_MEANING
    vectors = topics.counts if topics.is_lexical else topics.vectors
    found: dict[int, tuple[int, float]] = {}
    if vectors is None:
        return found
    for number in range(len(topics.names)):
        members = np.flatnonzero(topics.cluster == number)
        own = vectors[members]
        for start in range(0, len(members), _BLOCK):
            block = own[start : start + _BLOCK]
            for row, column, cosine in _near(block, own[: start + block.shape[0]], threshold):
                later, earlier = int(members[start + row]), int(members[column])
                if earlier < later and later not in found and earlier not in found:
                    found[later] = (earlier, cosine)
    return found


def _near(block: Any, others: Any, threshold: float) -> list[tuple[int, int, float]]:
    """Pairs of rows with a cosine of at least `threshold`, by their order."""
    cosines = block @ others.T
    if not isinstance(cosines, np.ndarray):
        cosines = cosines.tocoo()
        near = cosines.data >= threshold
        triples = zip(cosines.row[near], cosines.col[near], cosines.data[near], strict=True)
    else:
        rows, columns = np.nonzero(cosines >= threshold)
        triples = zip(rows, columns, cosines[rows, columns], strict=True)
    return sorted((int(row), int(column), float(cosine)) for row, column, cosine in triples)


def topic_map(topics: Topics, *, seed: int, most: int = 2000) -> tuple[NDArray[Any], Vectors]:
    """Texts as points of a plane in which near ones are alike (t-SNE, van der Maaten 2008).

    Args:
        topics: Vectors.
        seed: Of the drawing and of which texts are drawn.
        most: How many texts are drawn.

    Returns:
        Which texts, and where they lie, [texts, 2].
    """
    _, _, limits = _sklearn()
    from sklearn.manifold import TSNE

    chosen = np.arange(len(topics.vectors))
    if len(chosen) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, most, replace=False))
    if len(chosen) < 5:
        return chosen, np.zeros((len(chosen), 2), dtype=np.float32)
    with limits(1):
        points = TSNE(
            random_state=seed, init="random", perplexity=min(30, (len(chosen) - 1) / 3)
        ).fit_transform(topics.vectors[chosen])
    return chosen, points


def _shared_words(counts: Any, words: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
    """Without words of one text alone: they count in the length of its vector and nowhere else."""
    frequency = np.bincount(counts.indices, minlength=len(words))
    order = np.argsort(-frequency, kind="stable")[:_MAX_WORDS]
    kept = np.sort(order[frequency[order] > 1])
    if not len(kept):
        return counts, words
    return counts[:, kept], words[kept]


def _reduced(counts: Any, num_texts: int, seed: int) -> Vectors:
    from sklearn.decomposition import TruncatedSVD

    dimensions = min(_DIMENSIONS, min(counts.shape) - 1) if counts is not None else 0
    if dimensions < 1:
        return np.ones((num_texts, 1), dtype=np.float32)
    reduced = TruncatedSVD(dimensions, random_state=seed).fit_transform(counts)
    lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
    # A text without known words is near to none.
    return (reduced / np.maximum(lengths, 1e-6)).astype(np.float32)


def _names(
    counts: Any, words: NDArray[Any], labels: NDArray[np.int64], num_topics: int
) -> tuple[str, ...]:
    """The words that weigh most in a cluster, compared with all texts."""
    if counts is None:
        return ("",) * num_topics
    everywhere = np.asarray(counts.mean(axis=0)).ravel()
    names = []
    for number in range(num_topics):
        own = counts[np.flatnonzero(labels == number)]
        if not own.shape[0]:
            names.append("")
            continue
        weight = np.asarray(own.mean(axis=0)).ravel() - everywhere
        order = np.argsort(-weight, kind="stable")[:_TERMS]
        names.append(", ".join(str(words[index]) for index in order if weight[index] > 0))
    return tuple(names)


def _sklearn() -> tuple[Any, Any, Any]:
    try:
        from sklearn import cluster
        from sklearn.feature_extraction import text
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError as error:
        raise MissingExtraError("sklearn", extra="curate") from error
    return cluster, text, threadpool_limits
