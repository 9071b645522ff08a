"""Nearest documents by meaning: sentence embeddings of any local model or hub id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grlo.errors import MissingExtraError, ModelError
from grlo.rundir import write_atomic

_WORDS_PER_TOKEN = 0.6
"""Words that surely fit a token limit, for ordinary prose."""
_MAX_CHUNKS = 40
_BATCH = 64

Vectors = NDArray[np.float32]


class SentenceEncoder:
    """A sentence-transformers model (Reimers and Gurevych 2019, arXiv:1908.10084).

    A folder that is a plain Hugging Face encoder works too: its token vectors are averaged.

    Args:
        model: Folder or hub id.
        cache: Folder in which embeddings are kept, so that an interrupted run need not repeat them.

    Raises:
        MissingExtraError: Needs the extra `embeddings`.
        ModelError: There is no such model.
    """

    def __init__(self, model: str, *, cache: Path | None = None) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError as error:
            raise MissingExtraError("sentence_transformers", extra="embeddings") from error
        try:
            self._model: Any = SentenceTransformer(model, trust_remote_code=False)
        except Exception as error:  # The library and the hub client have no common base.
            raise ModelError(f"{model}: cannot be loaded as a sentence encoder: {error}") from error
        self.name = model
        self._cache = cache
        limit = int(getattr(self._model, "max_seq_length", None) or 256)
        self._chunk_words = max(16, int(_WORDS_PER_TOKEN * limit))

    def chunks(self, text: str) -> list[str]:
        """A text in overlapping parts, each of which the model reads as a whole."""
        words, size = text.split(), self._chunk_words
        if len(words) <= size:
            return [text]
        starts = range(0, max(1, len(words) - size // 2), size // 2)
        return [" ".join(words[start : start + size]) for start in list(starts)[:_MAX_CHUNKS]]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [texts, dimensions], of the beginning of each text that the model reads."""
        key = hashlib.sha256("\x1e".join([self.name, *texts]).encode("utf-8", "replace"))
        file = self._cache / f"{key.hexdigest()[:32]}.bin" if self._cache is not None else None
        if file is not None and file.is_file():
            stored = np.frombuffer(file.read_bytes(), dtype="<f4")
            if len(texts) and len(stored) % len(texts) == 0 and len(stored):
                return stored.reshape(len(texts), -1)
        vectors = self._model.encode(
            list(texts), batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        vectors = np.asarray(vectors, dtype="<f4")
        if file is not None:
            write_atomic(file, vectors.tobytes())
        return vectors


class DocumentEmbeddings:
    """Embeddings of documents in which texts look for their neighbours.

    Args:
        model: Of `SentenceEncoder`.
        documents: Texts.
        cache: Of `SentenceEncoder`.
    """

    def __init__(self, model: str, documents: Sequence[str], *, cache: Path | None = None) -> None:
        self._encoder = SentenceEncoder(model, cache=cache)
        self._owner, self._vectors = self._embed(documents)

    def neighbours(self, texts: Sequence[str], *, floor: float) -> list[dict[int, float]]:
        """By text the documents a chunk of which has a cosine of at least `floor` with one of its.

        Args:
            texts: Looked at as a whole, in chunks.
            floor: Cosines below are left out.
        """
        owners, vectors = self._embed(texts)
        found: list[dict[int, float]] = [{} for _ in texts]
        for start in range(0, len(vectors), 512):
            cosines = vectors[start : start + 512] @ self._vectors.T
            for row, column in np.argwhere(cosines >= floor).tolist():
                own, document = found[owners[start + row]], int(self._owner[column])
                cosine = min(1.0, float(cosines[row, column]))
                own[document] = max(own.get(document, 0.0), cosine)
        return found

    def _embed(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], Vectors]:
        parts = [self._encoder.chunks(text) for text in texts]
        owners = np.repeat(np.arange(len(texts)), [len(own) for own in parts])
        flat = [part for own in parts for part in own]
        blocks = [self._encoder.encode(flat[i : i + 1024]) for i in range(0, len(flat), 1024)]
        return owners, np.concatenate(blocks) if blocks else np.zeros((0, 1), dtype=np.float32)
