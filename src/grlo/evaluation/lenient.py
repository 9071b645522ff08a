"""A lenient reading of answers: what they would score if form did not matter.

It tells a model that cannot do a task from one that does not put its answer where it is looked
for, and is never a score of its own: a number that happens to stand last counts as well.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from grlo.evaluation.results import WITHOUT_VOTE
from grlo.interfaces import GradedSample

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_LETTER = re.compile(r"\b([A-J])\b")
_MAX_CHARACTERS = 100_000
"""Of an answer, from its end."""


def lenient_score(sample: GradedSample, *, domain: str) -> float | None:
    """1 for a right answer, and for one whose last number is that of the reference.

    The reading is `flexible-extract` of lm-evaluation-harness's GSM8K: the last number of the text
    against the last one of the reference, as values. Where the reference is a single letter of a
    multiple choice it is the last capital letter that stands alone. None where the sample has no
    score, the reference is neither, or the domain is one of texts of their own.
    """
    score, reference = sample.score.value, (sample.prompt.reference or "").strip()
    if score is None or domain in WITHOUT_VOTE:
        return None
    if re.fullmatch(r"\(?[A-J]\)?", reference):
        wanted = reference.strip("()")
        found = _LETTER.findall(sample.text[-_MAX_CHARACTERS:])
        is_right = bool(found) and found[-1] == wanted
    elif (number := _last_number(reference)) is not None:
        is_right = _last_number(sample.text) == number
    else:
        return None
    return max(score, float(is_right))


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text[-_MAX_CHARACTERS:])
    if not found or len(found[-1]) > 50:
        return None
    try:
        return Decimal(found[-1].replace(",", ""))
    except InvalidOperation:
        return None
