"""Which rows of training data hold which problems of benchmarks, and how sure that is.

Each pair of a row and a problem is looked at on several levels. A row with a hit whose verdict is
`drop` says what the problem says; `review` wants to be read.

| level | value | drop | review |
|---|---|---|---|
| `exact` | 1: the same words | always, from 4 words on | shorter |
| `contained` | 1: the problem stands in the row, word by word | from 8 words on | from 4 on |
| `ngram13` | words in the longest shared run, at least 13 | coverage from 0.25 on | else |
| `ngram8` | the same, from 8 to 12 | never | always |
| `coverage` | share of the problem in shared runs of 5 words | from 0.5 on, 8 tokens | never |
| `near_duplicate` | Jaccard similarity of 3-grams | from 0.5 on | from 0.3 on |
| `numbers` | cosine of numbers, where words are near (0.2) too | from 0.9 on, words 0.25 | 0.7 |
| `lexical` | cosine of TF-IDF vectors with a window of the row | from 0.7 on | from 0.5 on |
| `embedding` | cosine of embeddings of chunks | from 0.7 on, chat 0.8 | from 0.6 on, chat 0.7 |

Questions of benchmarks are looked for everywhere, worked solutions in answers alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from grlo.prompts.composition import has_code
from grlo.prompts.duplicates import near_duplicate_groups
from grlo.prompts.examples import Example
from grlo.prompts.lexical import LexicalIndex
from grlo.prompts.overlap import LONG, SHORT, Document, Match, OverlapIndex
from grlo.prompts.quantities import QuantityIndex
from grlo.prompts.text import words

Verdict = Literal["drop", "review"]

LEVELS = (
    "exact",
    "contained",
    "ngram13",
    "ngram8",
    "coverage",
    "near_duplicate",
    "numbers",
    "embedding",
    "lexical",
)
"""Surest first."""
COSINES: Mapping[str, tuple[float, float]] = {"lexical": (0.5, 0.7), "embedding": (0.6, 0.7)}
"""From which cosine on a pair is for review, and from which on for dropping."""
_CHAT_SURPLUS = 0.1
"""Embeddings of open questions lie nearer to each other than those of problems with one answer."""
FLOOR = 0.3
"""Cosines from which on a pair is remembered as a problem's nearest."""
_AGREEING: Mapping[str, tuple[float, float]] = {"lexical": (0.2, 0.25), "embedding": (0.4, 0.5)}
"""Cosines from which on numbers are looked at, and from which on they decide."""
_NUMBERS: tuple[float, float] = (0.7, 0.9)
_COVERED = 0.5
_SOME_COVERED = 0.25
_JACCARD: tuple[float, float] = (0.3, 0.5)
_FEW, _SEVERAL = 4, 8
_COPY = 0.4
"""Jaccard similarity of 3-grams from which on problems of two benchmarks are copies: MBPP+ adds a
test to MBPP's question."""
_PROBLEM_DOMAINS = ("math", "code", "science", "logic", "multiple_choice")
COMMON_ROWS = 5
"""A run of words that so many rows share with problems is a phrase of the rows, not a leak."""


class Encoder(Protocol):
    """Sentence embeddings (`grlo.prompts.embeddings`)."""

    def neighbours(self, texts: Sequence[str], *, floor: float) -> list[dict[int, float]]:
        """By text the documents whose cosine with one of its chunks is at least `floor`."""
        ...


@dataclass(frozen=True)
class AuditedText:
    """What of a row is looked at."""

    asked: str
    """All that the user and the system say."""
    answers: tuple[str, ...] = ()
    """All that the assistant says, before the end or as the answer."""


@dataclass(frozen=True)
class Hit:
    """A level on which a row and a document agree."""

    document: int
    """Position among the documents."""
    level: str
    value: float
    verdict: Verdict
    shared: str = ""
    """The longest run of words that both have, if there is one."""


@dataclass(frozen=True)
class Finding:
    """What one text has in common with the documents."""

    hits: tuple[Hit, ...] = ()
    nearest: tuple[tuple[int, float], ...] = ()
    """Documents and cosines from `FLOOR` on, hits or not."""


def audited_text(example: Example) -> AuditedText:
    """What of an example is looked at."""
    asked = [message.content for message in example.messages if message.role != "assistant"]
    said = [message.content for message in example.messages if message.role == "assistant"]
    return AuditedText("\n\n".join(asked), (*said, *example.answers))


class Auditor:
    """Looks for documents in texts.

    Args:
        documents: Questions and solutions of benchmarks.
        encoder: Embeddings of the documents; None compares words, which is called lexical.
    """

    def __init__(self, documents: Sequence[Document], *, encoder: Encoder | None = None) -> None:
        tokens = [words(document.text) for document in documents]
        self.documents = tuple(documents)
        self.num_tokens = tuple(map(len, tokens))
        self.benchmarks = tuple(dict.fromkeys(document.benchmark for document in documents))
        number = {name: index for index, name in enumerate(self.benchmarks)}
        groups = [number[document.benchmark] for document in documents]
        self._index = OverlapIndex(tokens, groups, problems=_problems(documents, tokens))
        self._is_code = [own.domain == "code" or has_code(own.text) for own in documents]
        self._lexical = LexicalIndex(tokens) if encoder is None else None
        self._quantities = QuantityIndex(tokens)
        self.encoder = encoder

    @property
    def level_of_cosines(self) -> str:
        """`embedding` or `lexical`."""
        return "lexical" if self.encoder is None else "embedding"

    def background(self) -> dict[str, tuple[float, float]]:
        """By benchmark the share of its problems that share an 8-gram with another one of it: all
        8-grams, and only those that are no boilerplate."""
        shares = self._index.background()
        return {self.benchmarks[group]: pair for group, pair in shares.items()}

    def findings(self, texts: Sequence[AuditedText]) -> list[Finding]:
        """What each text has in common with the documents."""
        parts = [(row, text, False) for row, own in enumerate(texts) for text in [own.asked]]
        parts += [(row, text, True) for row, own in enumerate(texts) for text in own.answers]
        tokens = [words(text) for _, text, _ in parts]
        floor = min(FLOOR, _AGREEING[self.level_of_cosines][0])
        if self._lexical is not None:
            near = self._lexical.neighbours(tokens, floor=floor)
        else:
            assert self.encoder is not None
            near = self.encoder.neighbours([text for _, text, _ in parts], floor=floor)
        hits: list[list[Hit]] = [[] for _ in texts]
        nearest: list[list[tuple[int, float]]] = [[] for _ in texts]
        for (row, _, is_answer), own, cosines in zip(parts, tokens, near, strict=True):
            for match in self._index.matches(own):
                if is_answer or not self._is_solution(match.document):
                    hits[row] += self._levels(match)
            cosines = {
                document: cosine
                for document, cosine in cosines.items()
                if is_answer or not self._is_solution(document)
            }
            nearest[row] += [
                (index, cosine) for index, cosine in cosines.items() if cosine >= FLOOR
            ]
            for document, cosine in cosines.items():
                hits[row] += self._nearness(document, cosine)
            hits[row] += self._agreement(own, cosines)
        return [
            Finding(tuple(_strongest(own)), tuple(pairs))
            for own, pairs in zip(hits, nearest, strict=True)
        ]

    def _is_solution(self, document: int) -> bool:
        return self.documents[document].part != "question"

    def _levels(self, match: Match) -> Iterable[Hit]:
        document, length = match.document, self.num_tokens[match.document]
        shared = self._index.run(match) if match.longest_run else ""
        if match.exact:
            yield Hit(document, "exact", 1.0, "drop" if length >= _FEW else "review")
        if match.contained and length >= _FEW:
            yield Hit(document, "contained", 1.0, "drop" if length >= _SEVERAL else "review")
        if match.longest_run >= LONG:
            verdict = "drop" if match.coverage >= _SOME_COVERED else "review"
            yield Hit(document, "ngram13", match.longest_run, verdict, shared)
        if match.longest_run >= SHORT:
            yield Hit(document, "ngram8", match.longest_run, "review", shared)
        several = match.num_covered >= _SEVERAL and match.num_words_covered >= _FEW
        if match.coverage >= _COVERED and several:
            yield Hit(document, "coverage", round(match.coverage, 4), "drop", shared)
        review, drop = _JACCARD
        if match.jaccard >= review and length >= _SEVERAL:
            verdict = "drop" if match.jaccard >= drop else "review"
            yield Hit(document, "near_duplicate", round(match.jaccard, 4), verdict, shared)

    def _nearness(self, document: int, cosine: float) -> Iterable[Hit]:
        level = self.level_of_cosines
        review, drop = COSINES[level]
        if level == "embedding" and self.documents[document].domain not in _PROBLEM_DOMAINS:
            review, drop = review + _CHAT_SURPLUS, drop + _CHAT_SURPLUS
        if cosine >= review and self.num_tokens[document] >= _FEW:
            yield Hit(document, level, round(cosine, 4), "drop" if cosine >= drop else "review")

    def _agreement(self, tokens: Sequence[str], cosines: Mapping[int, float]) -> Iterable[Hit]:
        least, sure = _AGREEING[self.level_of_cosines]
        # Programs are full of the same small numbers.
        candidates = [
            document
            for document, cosine in cosines.items()
            if cosine >= least and not self._is_code[document]
        ]
        review, drop = _NUMBERS
        for document, value in self._quantities.agreement(tokens, candidates).items():
            if value >= review:
                decides = value >= drop and cosines[document] >= sure
                yield Hit(document, "numbers", round(value, 4), "drop" if decides else "review")


def _problems(documents: Sequence[Document], tokens: Sequence[Sequence[str]]) -> list[int]:
    """The problem of each document, as a number: that of its item, and of the item's copies in
    other benchmarks."""
    items: dict[tuple[str, str], int] = {}
    for own in documents:
        items.setdefault((own.benchmark, own.item), len(items))
    questions = [index for index, own in enumerate(documents) if own.part == "question"]
    groups = near_duplicate_groups((tokens[index] for index in questions), threshold=_COPY)
    for group in groups:
        members = [documents[questions[index]] for index in group]
        number = items[members[0].benchmark, members[0].item]
        # One of each benchmark: puzzles of one benchmark that are alike are several problems.
        for own in {own.benchmark: own for own in reversed(members)}.values():
            items[own.benchmark, own.item] = number
    return [items[own.benchmark, own.item] for own in documents]


def _strongest(hits: Iterable[Hit]) -> list[Hit]:
    """One hit per document and level: that of the highest value, by documents."""
    best: dict[tuple[int, str], Hit] = {}
    for hit in hits:
        key = (hit.document, hit.level)
        if key not in best or hit.value > best[key].value:
            best[key] = hit
    return sorted(best.values(), key=lambda hit: (hit.document, LEVELS.index(hit.level)))


def without_common_phrases(
    findings: Sequence[Finding],
) -> tuple[list[Finding], dict[str, int]]:
    """Findings without short runs that many rows have, such as the head of every HTML page.

    Only hits on the levels `ngram8` and `ngram13` are taken away, and only where the same eight
    words begin the run in at least `COMMON_ROWS` rows and no other level speaks for the problem.

    Returns:
        The findings, and those words with the number of rows.
    """
    rows_of: dict[str, int] = {}
    for finding in findings:
        for phrase in {_phrase(hit) for hit in finding.hits if _is_weak(hit)}:
            rows_of[phrase] = rows_of.get(phrase, 0) + 1
    common = {phrase: rows for phrase, rows in rows_of.items() if rows >= COMMON_ROWS}
    cleaned = []
    for finding in findings:
        sure = {hit.document for hit in finding.hits if not _is_weak(hit)}
        kept = tuple(
            hit
            for hit in finding.hits
            if hit.document in sure or not (_is_weak(hit) and _phrase(hit) in common)
        )
        cleaned.append(replace(finding, hits=kept))
    return cleaned, dict(sorted(common.items(), key=lambda item: (-item[1], item[0])))


def _is_weak(hit: Hit) -> bool:
    return hit.level in ("ngram8", "ngram13")


def _phrase(hit: Hit) -> str:
    return " ".join(hit.shared.split(" ", SHORT)[:SHORT])
