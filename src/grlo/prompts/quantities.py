"""The numbers of a problem, which a paraphrase has to keep.

Who says a word problem in other words keeps its quantities, as figures or as words. Two texts whose
rare numbers agree, and that share some words besides, ask for the same more often than not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log, sqrt

_WINDOW = 160
"""Tokens of a text that are looked at together; windows begin half their length apart."""
_MIN_NUMBERS = 3
"""Different numbers that a document must have: fewer agree by chance."""
_MIN_WEIGHT = 8.0
"""Summed inverse document frequency that the shared numbers must have."""

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_TENS = "thirty forty fifty sixty seventy eighty ninety hundred"
_WORDS: Mapping[str, str] = {
    **{word: str(number) for number, word in enumerate(_UNITS.split())},
    **{word: str(number) for number, word in zip(range(30, 101, 10), _TENS.split(), strict=True)},
    "thousand": "1000",
    "dozen": "12",
    "pair": "2",
    "twice": "2",
    "double": "2",
    "thrice": "3",
    "triple": "3",
    "half": "1/2",
    "third": "1/3",
    "thirds": "1/3",
    "quarter": "1/4",
    "quarters": "1/4",
    "fifth": "1/5",
    "fifths": "1/5",
}


def quantities(tokens: Sequence[str]) -> list[str]:
    """The numbers among word tokens, those in English words among them."""
    return [
        _WORDS.get(token) or token.lstrip("0") or "0"
        for token in tokens
        if token in _WORDS or (token.isascii() and token.isdigit())
    ]


class QuantityIndex:
    """The numbers of documents.

    Args:
        tokens: Of each document.
    """

    def __init__(self, tokens: Sequence[Sequence[str]]) -> None:
        self._numbers = [frozenset(quantities(own)) for own in tokens]
        frequency = Counter(number for own in self._numbers for number in own)
        total = len(tokens) + 1
        self._unknown = log(2 * total)
        self._weights = {number: log(total / (n + 0.5)) for number, n in frequency.items()}
        self._sums = [sum(self._weights[number] for number in own) for own in self._numbers]

    def agreement(self, tokens: Sequence[str], documents: Sequence[int]) -> dict[int, float]:
        """By document the cosine of its numbers with those of the best window of a text.

        Numbers weigh the more the fewer documents have them (inverse document frequency). Documents
        with too few or too common numbers in common are left out.

        Args:
            tokens: Of the text.
            documents: Which ones to look at.
        """
        wanted = [index for index in documents if len(self._numbers[index]) >= _MIN_NUMBERS]
        best: dict[int, float] = {}
        if not wanted:
            return best
        for start in range(0, max(1, len(tokens) - _WINDOW // 2), _WINDOW // 2):
            own = frozenset(quantities(tokens[start : start + _WINDOW]))
            if len(own) < _MIN_NUMBERS:
                continue
            length = sum(self._weights.get(number, self._unknown) for number in own)
            for index in wanted:
                # Square roots of weights as entries, so that a product of entries is a weight.
                shared = sum(self._weights[number] for number in own & self._numbers[index])
                cosine = shared / sqrt(length * self._sums[index])
                if shared >= _MIN_WEIGHT and cosine > best.get(index, 0.0):
                    best[index] = min(1.0, cosine)
        return best
