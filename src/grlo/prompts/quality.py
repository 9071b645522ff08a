"""What makes a text no prompt: symbols, repetitions, things that are referred to and missing.

Short lists of heuristics in the manner of Gopher's (Rae et al. 2021, arXiv:2112.11446, appendix
A1.1). Each function gives the reason in plain words, or None.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from grlo.prompts.languages import ADDRESS, has_english_words, is_code_or_maths

_MIN_LETTERS = 0.3
_AROUND = 120
"""Characters around a placeholder that may say it is what is asked about."""
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


def poor_text(text: str) -> str | None:
    """What is wrong with a text of a user, or None."""
    if _ONLY_ADDRESS.fullmatch(text):
        return "nothing but an address"
    characters = sum(map(len, _FILLING.sub("", text).split()))
    letters = sum(map(len, _ALNUM.findall(text)))
    if not text.isascii():  # Vowels of Indic scripts are marks.
        letters += sum(unicodedata.category(char) in ("Mn", "Mc") for char in text)
    if letters < _MIN_LETTERS * characters and not has_english_words(text):
        return f"mostly symbols: {letters / characters:.0%} letters and digits"
    run = _LONG_RUN.search(ADDRESS.sub(" ", text))
    # Numbers of cryptography are long; Base64 and its kind have few signs.
    is_run = run is not None and not run[0].isdigit() and sum(map(str.isalnum, run[0])) > 160
    if is_run or _ONE_CHARACTER.search(text):
        return "more than 200 characters in a row without a blank"
    if (repeated := repetition(text)) is not None:
        return repeated
    found = _PLACEHOLDER.search(text) or _LOUD_PLACEHOLDER.search(text)
    if found is None:
        return None
    before, behind = text[: found.start()], text[found.end() :]
    if _ABOUT_PLACEHOLDERS.search(before[-_AROUND:] + behind[:_AROUND]):
        return None
    if is_code_or_maths(before + behind):
        return None
    return f"a placeholder is left in: {short(found[0])}"


def repetition(text: str) -> str | None:
    """Whether one line or one word is most of a text."""
    lines = [line for line in map(str.strip, text.split("\n")) if any(map(str.isalpha, line))]
    if len(lines) >= 6:
        line, count = Counter(lines).most_common(1)[0]
        if 2 * count > len(lines):
            return f"one line {count} times: {short(line)}"
    own = text.lower().split()
    if len(own) >= 20:
        word, count = Counter(own).most_common(1)[0]
        if 2 * count > len(own) and any(map(str.isalnum, word)):
            return f"one word {count} times: {short(word)}"
    return None


def missing_text(text: str) -> str | None:
    """Whether a short text refers to something that does not come with it."""
    own = text.split(maxsplit=_FEW_WORDS)
    if len(own) > _FEW_WORDS:
        return None
    if (found := _ATTACHED.search(text)) and not _TALKS_OF_IT.search(text):
        return f"refers to what is not there: {short(found[0])}"
    found = _ABOVE.search(text)
    if (
        found
        and len(text[: found.start()].split()) < _LITTLE
        and not text[found.end() :].count("\n")
    ):
        return f"refers to what is not there: {short(found[0])}"
    found = _BELOW.search(text)
    if found and len(text[: found.start()].split()) < _LITTLE:
        behind = text[found.end() :]
        given = _GIVEN.split(behind, maxsplit=1)[1:]
        is_given = any(len(part.split()) >= _FEW_GIVEN or not part.isascii() for part in given)
        if not is_given and len(behind.split()) < _MANY_BEHIND:
            return f"refers to what is not there: {short(found[0])}"
    return None


def short(text: str) -> str:
    """The text on one line, cut."""
    text = " ".join(text[:200].split())
    return repr(text if len(text) <= 60 else text[:57] + "...")
