"""What an audit could have caught: problems planted in disguise, and how many are found again."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from grlo.prompts.audit import AuditedText, Auditor
from grlo.prompts.overlap import Document
from grlo.seeding import derive_rng

_CARRIER_WORDS = 120
_FILLERS = ("certain", "given", "some", "other", "such", "own", "new", "same", "further", "usual")
# Cyrillic a, es, ie, o, er, ha and u.
_CYRILLIC = str.maketrans("aceopxy", "\u0430\u0441\u0435\u043e\u0440\u0445\u0443")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def _lightly_edited(text: str, rng: random.Random, _: Sequence[str]) -> str:
    """Every sixth word is another one."""
    parts = text.split(" ")
    for index in range(5, len(parts), 6):
        parts[index] = rng.choice(_FILLERS)
    return " ".join(parts)


def _other_numbers(text: str, rng: random.Random, _: Sequence[str]) -> str:
    return re.sub(r"\d+", lambda found: _other(found.group(), rng), text)


def _other(number: str, rng: random.Random) -> str:
    """Another number of as many digits."""
    digits = len(number)
    return str(rng.randrange(10 ** (digits - 1), 10**digits)) if digits < 20 else number[::-1]


def _reordered(text: str, rng: random.Random, _: Sequence[str]) -> str:
    """Sentences in another order; halves, where there is one sentence."""
    sentences = [part for part in _SENTENCE.split(text) if part.strip()]
    if len(sentences) < 2:
        parts = text.split(" ")
        sentences = [" ".join(parts[len(parts) // 2 :]), " ".join(parts[: len(parts) // 2])]
    else:
        last = sentences[-1]
        rng.shuffle(sentences)
        if sentences[-1] == last:
            sentences.insert(0, sentences.pop())
    return " ".join(sentences)


def _thinned(text: str, rng: random.Random, _: Sequence[str]) -> str:
    """A quarter of the words is missing."""
    return " ".join(part for part in text.split(" ") if rng.random() >= 0.25)


def _half(text: str, rng: random.Random, _: Sequence[str]) -> str:
    parts = text.split(" ")
    return " ".join(parts[: (len(parts) + 1) // 2])


def _look_alikes(text: str, rng: random.Random, _: Sequence[str]) -> str:
    """Cyrillic letters for Latin ones of the same shape."""
    return text.translate(_CYRILLIC)


def _embedded(text: str, rng: random.Random, carriers: Sequence[str]) -> str:
    """Between the beginnings of two other texts."""
    before, after = (" ".join(rng.choice(carriers).split()[:_CARRIER_WORDS]) for _ in range(2))
    return f"{before}\n\n{text}\n\n{after}"


DISGUISES: Mapping[str, Callable[[str, random.Random, Sequence[str]], str]] = {
    "verbatim": lambda text, rng, carriers: text,
    "every 6th word replaced": _lightly_edited,
    "other numbers": _other_numbers,
    "sentences re-ordered": _reordered,
    "a quarter of the words missing": _thinned,
    "first half only": _half,
    "Cyrillic look-alikes": _look_alikes,
    "embedded in longer text": _embedded,
    "embedded, a quarter missing": lambda text, rng, carriers: _embedded(
        _thinned(text, rng, carriers), rng, carriers
    ),
}


@dataclass(frozen=True)
class Recall:
    """How many planted problems were found again."""

    num_planted: int
    found: int
    """With any hit on the planted problem."""
    dropped: int
    """With a hit whose verdict is `drop`."""
    by_level: Mapping[str, int]


def planted_recall(
    auditor: Auditor, *, carriers: Sequence[str], seed: int, num_problems: int = 200
) -> dict[str, Recall]:
    """By disguise, how many of some problems an auditor finds.

    Args:
        auditor: Knows the problems.
        carriers: Other texts, in which problems are hidden; without any those two disguises are
            left out.
        seed: Draws problems and disguises.
        num_problems: How many of each disguise, drawn over all benchmarks.
    """
    questions = [
        index for index, document in enumerate(auditor.documents) if document.part == "question"
    ]
    rng = derive_rng(seed, "planted problems")
    chosen = sorted(rng.sample(questions, min(num_problems, len(questions))))
    recalls = {}
    for name, disguise in DISGUISES.items():
        if not carriers and name.startswith("embedded"):
            continue
        rng = derive_rng(seed, "planted", name)
        texts = [disguise(auditor.documents[index].text, rng, carriers) for index in chosen]
        recalls[name] = recall(auditor, [auditor.documents[index] for index in chosen], texts)
    return recalls


def recall(auditor: Auditor, planted: Sequence[Document], texts: Sequence[str]) -> Recall:
    """How many of some texts are found to hold what was planted in them.

    Copies of a problem in other benchmarks count as well.

    Args:
        auditor: Knows the problems.
        planted: Problem of each text.
        texts: Rows with planted problems.
    """
    findings = auditor.findings([AuditedText(text) for text in texts])
    found = dropped = 0
    by_level: dict[str, int] = {}
    for document, finding in zip(planted, findings, strict=True):
        own = _core(document.text)
        hits = [hit for hit in finding.hits if _core(auditor.documents[hit.document].text) == own]
        found += bool(hits)
        dropped += any(hit.verdict == "drop" for hit in hits)
        for level in {hit.level for hit in hits}:
            by_level[level] = by_level.get(level, 0) + 1
    return Recall(len(texts), found, dropped, by_level)


def _core(text: str) -> str:
    return " ".join(text.split())
