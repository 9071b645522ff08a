r"""LaTeX answers in one spelling: one way to write fractions, brackets, spaces, words and units."""

from __future__ import annotations

import re
from collections.abc import Callable

_UNICODE = {
    "\u2212": "-", "\u2013": "-", "\u00d7": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "\u222a": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "√": r"\sqrt", "²": "^{2}",
    "³": "^{3}", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "θ": r"\theta ",
    "∅": r"\emptyset ", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\uff0c": ",",
    "\uff08": "(", "\uff09": ")", "\u2032": "'", "¢": r"\text{ cents}",
}  # fmt: skip
_UNICODE_TABLE = str.maketrans(_UNICODE)


def _unspaced(bold: re.Match[str]) -> str:
    """Scanned formulas have bold numbers as \\mathbf{2 5 6}."""
    content = re.sub(r"(?<=[\d.]) +(?=[\d.])", "", bold.group(1))
    return content if "," in content else f"{{{content}}}"


def _joined(digits: re.Match[str]) -> str:
    return digits.group(1).replace(" ", "")


_SPELLINGS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\d)\s*(?:,\s*\\!|\{,\})\s*(?=\d{3})", ","),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"\\\$\s*(\d+(?:,\d{3})*(?:\.\d+)?)(?![\d^/])", r"\1\\text{ dollars}"),
        (r"\\\$|\\text\s*\{\s*\\?\$\s*\}|[$€£]", " "),
        (r"\\(?:left|right|big|Big|bigg|Bigg)[lr]?(?![A-Za-z])\s*\.?", ""),
        (r"\\(?:displaystyle|textstyle|limits|boxed|fbox|hline)(?![A-Za-z])", " "),
        (r"\\(?:text)?color\s*\{[^{}]*\}", " "),
        (r"\\(?:underline|boldsymbol|bm|mathit|mathnormal)\s*(?=\{)", ""),
        (r"\\(?:bf|rm|it|sf)(?![A-Za-z])\s*(?!\{)", " "),
        (r"(?<!\\)\\(?:[,;:! ]|quad(?![A-Za-z])|qquad(?![A-Za-z]))|~|\\hspace\s*\{[^{}]*\}", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"\\(?:mathbf|mathrm|mathsf|boldsymbol)\s*"
         r"\{([^{}A-Za-z\\]*(?:\\[A-Za-z]+[^{}A-Za-z\\]*)*)\}", _unspaced),
        (r"\\(?:mbox|textbf|textrm|textit|textsf|mathrm|mathbf|mathsf|bf|rm|emph)\s*(?=\{)",
         r"\\text"),
        (r"\\(?:leqslant|leq)(?![A-Za-z])", r"\\le "),
        (r"\\(?:geqslant|geq)(?![A-Za-z])", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\neq(?![A-Za-z])", r"\\ne "),
        (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset "),
        (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
        (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
        (r"\\lbrack(?![A-Za-z])", "["),
        (r"\\rbrack(?![A-Za-z])", "]"),
        (r"\\(?:langle)(?![A-Za-z])", "("),
        (r"\\(?:rangle)(?![A-Za-z])", ")"),
        (r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\var(epsilon|phi|theta|rho|sigma)(?![A-Za-z])", r"\\\1"),
        (r"\^\s*\{?\s*\\prime\s*\}?", "'"),
        (r"\\AA(?![A-Za-z])|\\mathring\s*\{\s*A\s*\}|\u212b", "Å"),
        (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
        (r"\\(?:colon)(?![A-Za-z])", ":"),
        (r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\{\s*\}\s*\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])",
         r"\\deg "),
        (r"(?<=\\deg )\s*(?:\\text\s*\{\s*)?([CF])(?![A-Za-z])\s*\}?", r"\\text{\1}"),
        (r"\\text\s*\{\s*[Ii]nfinity\s*\}|(?<![A-Za-z\\])[Ii]nfinity(?![A-Za-z])", r"\\infty "),
        (r"(?<=,)\s*(?:\.\.\.|\\[lc]?dotsc?(?![A-Za-z]))\s*(?=,)", r"\\ldots "),
        (r"\\\{\s*\\\}", r"\\emptyset "),
        (r"(?<=[\^_])\s*(-?\d{2,}|-\d)(?![\d.])", r"{\1}"),
        (r"\\text\s*\{\s*(?:and|or)\s*\}|\s(?:and|or)(?=\s)", " ; "),
        (r"\\text\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}", " ; "),
        (r"\\(?:lor|vee)(?![A-Za-z])", " ; "),
        (r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\\(?!frac|sqrt)[A-Za-z]+)\s*(?=[\dA-Za-z{\\])", r"\\frac{\1}"),
        (r"\\frac\s*([A-Za-z])\s*(?=[\dA-Za-z{\\])", r"\\frac{\1}"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\d|[A-Za-z]|\\(?!frac|sqrt|text)[A-Za-z]+)", r"\\frac\1{\2}"),
        (r"\\sqrt\s*(\d|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\bnp\.|\bmath\.|\bsp\.", ""),
        (r"(?<![A-Za-z\\])(?:arc|a)(sin|cos|tan)(?=\()", r"\\arc\1"),
        (r"(?<![A-Za-z\\])(sqrt)\(([^()]*)\)", r"\\sqrt{\2}"),
        (r"(?<![A-Za-z\\])(pi|infty)(?![A-Za-z])", r"\\\1 "),
        (r"\*\*", "^"),
        (r"(?<=\S)\*(?=\S)", r"\\cdot "),
        (r"(?<=\d)\.\s*(?=/)", ""),
        (r"\s+", " "),
        (r"(?<![\w.}])(\d{1,3}(?: \d{3})+)(?![\d/]| ?\\frac)", _joined),
    )
)  # fmt: skip
_NUMBER_AS_TEXT = re.compile(
    r"\\text\s*\{\s*\(?([-+]?\d[\d,]*(?:\.\d+)?)\s*\)?(\s[A-Za-z][^{}]*)?\s*\}"
)
_LEADING = re.compile(r"^(?:=|\\approx(?![A-Za-z])|\\simeq(?![A-Za-z]))\s*")
_SINGLE = re.compile(r"(?<!\\)\{([^{}\\])\}")
_WORDS = re.compile(r"\\text\s*\{([^{}]*)\}")
_PROSE = re.compile(r"[A-Za-z][A-Za-z .,'\u2019:-]*")


def normalised(latex: str) -> str:
    """An answer in the one spelling that the comparison knows; words stay in \\text{...}."""
    text = latex.strip()
    while text[:2] == "**" and text[-2:] == "**" and len(text) > 4:
        text = text[2:-2].strip()
    text = text.translate(_UNICODE_TABLE).rstrip("\\ ")
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = _LEADING.sub("", _without_ends(text))
    if number := _NUMBER_AS_TEXT.fullmatch(text):
        words = (number.group(2) or "").strip()
        text = number.group(1) + (f" \\text{{{words}}}" if words else "")
    return text


def squeezed(text: str) -> str:
    """A normalised answer without what changes nothing: spaces but for those between numbers, and
    braces around a single character. `2^{x+1}` keeps its braces, or it were `2^{x}+1`."""
    text = _WORDS.sub(r"\1", text)
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text).rstrip(".")
    while (shorter := _SINGLE.sub(r"\1", text)) != text:
        text = shorter
    return text


def words_of(text: str) -> str | None:
    """The words of an answer that is text, in lower case without articles; None for mathematics.

    Args:
        text: A normalised answer.
    """
    plain = _WORDS.sub(r"\1", text)
    is_marked = _WORDS.fullmatch(text) is not None
    stripped = plain.strip(" .()")
    # Two letters are a product or two points, but for "no".
    is_prose = _PROSE.fullmatch(stripped) and re.search("[A-Za-z]{3}|^[Nn]o$", stripped)
    if not (is_marked or is_prose):
        return None
    words = re.sub(r"[^\w\s:%]", " ", plain.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the")) or None


def _without_ends(text: str) -> str:
    text = text.strip()
    while text and text[-1] in ".,;:" and not text.endswith("\\,"):
        text = text[:-1].rstrip()
    while text.startswith("{") and matching(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def matching(text: str, start: int) -> int | None:
    """Where the bracket at `start` is closed; kinds of brackets may differ as in [0, 1)."""
    depth = 0
    for index in range(start, len(text)):
        if text[index] in "([{":
            depth += 1
        elif text[index] in ")]}":
            depth -= 1
            if depth == 0:
                return index
    return None


def split_at_top(text: str, separators: str) -> list[str]:
    """Parts of a text between separators (a regular expression) outside brackets."""
    parts: list[str] = []
    depth = start = 0
    pattern = re.compile(rf"\\begin\s*\{{|\\end\s*\{{|[(\[{{]|[)\]}}]|{separators}")
    for token in pattern.finditer(text):
        found = token.group()
        if found.startswith("\\begin"):
            depth += 2
        elif found.startswith("\\end"):
            pass
        elif found in ("(", "[", "{"):
            depth += 1
        elif found in (")", "]", "}"):
            depth -= 1
        elif depth <= 0:
            parts.append(text[start : token.start()])
            start = token.end()
    parts.append(text[start:])
    return [part.strip() for part in parts]
