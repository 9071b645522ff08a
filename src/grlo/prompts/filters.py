"""Which rows are fit to be prompts: by length, turns, language, quality, safety and own patterns.

A rejected row carries the filter and the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grlo.prompts.languages import wrong_language
from grlo.prompts.quality import missing_text, poor_text, repetition
from grlo.prompts.safety import harm_in
from grlo.prompts.text import words
from grlo.settings import require
from grlo.types import Message

MAX_SCANNED = 20_000
"""Characters of a text, from its beginning, in which quality and safety are looked for."""
_MAX_COUNTED = 200_000


@dataclass(frozen=True)
class FilterSettings:
    """Which prompts are kept."""

    languages: tuple[str, ...] = ("en",)
    """ISO 639 codes of the languages that are kept, of what the users wrote; empty keeps any."""
    min_language_score: float = 0.4
    """Least probability with which one of them has to be found. Where the model is less sure, short
    texts, code and formulas pass, and so do texts with English function words where `en` is kept
    (short and English ones even where it is surer of another language, for there it errs)."""
    min_words: int = 3
    """Of all user turns together."""
    max_words: int = 2000
    """Of all messages together."""
    max_turns: int = 8
    """Most messages from the user."""
    quality: bool = True
    """Drops symbols without words, repetitions, long runs of characters, references to something
    that is not there, unfilled placeholders and bare addresses."""
    safety: bool = True
    """Drops plainly harmful requests, jailbreaks, explicit sexual content and private data. A net
    with wide meshes, by patterns: it is no moderation model, and what it lets through is not safe
    for that."""
    own: tuple[str, ...] = ()
    """Regular expressions of Python; a row is dropped when one is found in a message or answer (in
    its first 200,000 characters)."""

    def __post_init__(self) -> None:
        require(0 <= self.min_language_score <= 1, "min_language_score must lie in [0, 1]")
        require(self.min_words >= 0, "min_words must not be negative")
        require(self.max_words >= max(1, self.min_words), "max_words must not be below min_words")
        require(self.max_turns > 0, "max_turns must be positive")
        for pattern in self.own:
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"own: {pattern!r} is no regular expression: {error}") from error


@dataclass(frozen=True)
class Verdict:
    """Why a row is dropped."""

    filter: str
    """`length`, `turns`, `language`, `quality`, `safety` or `own`."""
    reason: str
    """In plain words, with the number where there is one."""


class Filters:
    """The filters that the settings ask for."""

    def __init__(self, settings: FilterSettings) -> None:
        self.settings = settings
        self._own = [re.compile(pattern) for pattern in settings.own]

    def reject(self, messages: Sequence[Message], answers: Sequence[str] = ()) -> Verdict | None:
        """What the first filter that rejects says, or None when all let the row pass.

        Args:
            messages: The prompt, best after `clean`.
            answers: Those that come with it. Quality looks for empty and repetitive ones, safety
                and own patterns look at them as at messages; the other filters do not.

        Raises:
            MissingExtraError: The extra `curate` is needed for texts beyond ASCII and languages.
        """
        asked = [message.content for message in messages if message.role == "user"]
        checks: tuple[tuple[str, Callable[[], str | None]], ...] = (
            ("length", lambda: self._length(messages)),
            ("turns", lambda: self._turns(len(asked))),
            ("language", lambda: self._language("\n".join(asked))),
            ("quality", lambda: self._quality(messages, asked, answers)),
            ("safety", lambda: self._safety(messages, answers)),
            ("own", lambda: self._own_patterns(messages, answers)),
        )
        for name, check in checks:
            reason = check()
            if reason is not None:
                return Verdict(name, reason)
        return None

    def _length(self, messages: Sequence[Message]) -> str | None:
        num_asked = num_all = 0
        for message in messages:
            count = len(words(message.content[:_MAX_COUNTED]))
            num_all += count
            num_asked += count if message.role == "user" else 0
        if num_asked < self.settings.min_words:
            return f"{_count(num_asked, 'word')}, fewer than {self.settings.min_words}"
        if num_all > self.settings.max_words:
            return f"{_count(num_all, 'word')}, more than {self.settings.max_words}"
        return None

    def _turns(self, num_turns: int) -> str | None:
        if num_turns <= self.settings.max_turns:
            return None
        return f"{num_turns} user turns, more than {self.settings.max_turns}"

    def _language(self, text: str) -> str | None:
        if not self.settings.languages:
            return None
        return wrong_language(
            text, wanted=self.settings.languages, least=self.settings.min_language_score
        )

    def _quality(
        self, messages: Sequence[Message], asked: Sequence[str], answers: Sequence[str]
    ) -> str | None:
        if not self.settings.quality:
            return None
        for text in asked:
            reason = poor_text(text[:MAX_SCANNED])
            if reason is not None:
                return reason
        # With earlier turns or a system message the reference may well be there.
        if len(messages) == 1 and asked and (missing := missing_text(asked[0])):
            return missing
        for answer in answers:
            if not answer.strip():
                return "an empty answer"
            reason = repetition(answer[:MAX_SCANNED])
            if reason is not None:
                return f"answer: {reason}"
        return None

    def _safety(self, messages: Sequence[Message], answers: Sequence[str]) -> str | None:
        if not self.settings.safety:
            return None
        for text in (*(message.content for message in messages), *answers):
            reason = harm_in(text[:MAX_SCANNED])
            if reason is not None:
                return reason
        return None

    def _own_patterns(self, messages: Sequence[Message], answers: Sequence[str]) -> str | None:
        for pattern in self._own:
            for text in (*(message.content for message in messages), *answers):
                if pattern.search(text[:_MAX_COUNTED]):
                    return f"matches {pattern.pattern!r}"
        return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
