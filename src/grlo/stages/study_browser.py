"""The transcripts of a study's report: what arms answered to the same problems, side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from grlo.reporting.html import heading
from grlo.stages.study_words import labels, word
from grlo.studies.findings import StudyFindings, Transcript, TranscriptGroup

SORTS: Mapping[str, str] = {
    "order": "order of the benchmark",
    "reward": "reward, right",
    "reward_change": "change of reward",
    "length": "length, right",
    "length_change": "change of length",
    "verdict_change": "change of score",
}
"""Orders, as `browser.js` knows them."""
_CHANGES = {
    "": "any",
    "right": "became right (score rose)",
    "wrong": "became wrong (score fell)",
    "same": "same score",
    "unscored": "without a score",
}
# Character -> escape of JSON, so that no text can end the element that holds it.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def browser_script() -> str:
    """The script that works the browser."""
    return files("grlo.reporting").joinpath("browser.js").read_text(encoding="utf-8")


def browser_html(findings: StudyFindings) -> str:
    """The section of the page; empty without transcripts. Problems of private benchmarks stay out.

    The script shows it: what it shows lies beside it as JSON and reaches the page as text only.
    """
    private = {facts.name for facts in findings.benchmarks if facts.is_private}
    groups = [group for group in findings.transcripts if group.benchmark not in private]
    if not groups:
        return ""
    answered = {answer.arm for group in groups for answer in group.answers}
    named = {k: v for k, v in labels(findings.arms).items() if k in answered}
    named |= {name: name for name in sorted(answered - named.keys())}
    data = {
        "arms": list(named),
        "labels": list(named.values()),
        "groups": [_group(group) for group in groups],
    }
    return (
        f'<section id="transcripts">{heading("Transcripts")}'
        "<p>The first answers of two arms to the same problems, picked before anybody looked at "
        "them: evenly spaced over each benchmark.</p>"
        # Not in <noscript>: a script may also be kept from running by whoever serves the page.
        '<p id="browser-off">The transcripts need JavaScript, which does not run here. The script '
        "is part of this page and asks for nothing.</p>"
        f'<div id="browser" hidden>{_controls(findings, groups, named)}'
        '<p id="browser-count" role="status" aria-live="polite"></p>'
        '<div id="browser-list" tabindex="-1"></div>'
        f"{_pager()}</div>"
        f'<script type="application/json" id="browser-data">{json_text(data)}</script></section>'
    )


def json_text(value: Any) -> str:
    """JSON that may stand in a page: no text in it can end its element or begin another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def _group(group: TranscriptGroup) -> dict[str, Any]:
    return {
        "benchmark": group.benchmark,
        "domain": group.domain,
        "problem": group.problem,
        "question": group.question,
        "reference": group.reference,
        "answers": {answer.arm: _answer(answer) for answer in group.answers},
    }


def _answer(answer: Transcript) -> dict[str, Any]:
    return {
        "text": answer.text,
        "score": _finite(answer.score),
        "reward": _finite(answer.reward),
        "tokens": answer.tokens,
        "end": answer.finish_reason,
        "note": answer.note,
    }


def _finite(number: float | None) -> float | None:
    """JSON has no other numbers."""
    return number if number is not None and math.isfinite(number) else None


# Controls -----------------------------------------------------------------------------------------


def _controls(
    findings: StudyFindings, groups: list[TranscriptGroup], named: Mapping[str, str]
) -> str:
    left = findings.base if findings.base in named else next(iter(named))
    treated = [a.name for a in findings.arms if a.role == "treatment" and a.name in named]
    others = [name for name in named if name != left]
    right = next(iter([*treated, *others, left]))
    domains = dict.fromkeys(group.domain for group in groups)
    benchmarks = dict.fromkeys(group.benchmark for group in groups)
    has_rewards = any(a.reward is not None for group in groups for a in group.answers)
    sorts = {k: v for k, v in SORTS.items() if has_rewards or not k.startswith("reward")}
    return (
        '<form class="controls" id="browser-controls">'
        + _select("left", "Left", named, chosen=left)
        + _select("right", "Right", named, chosen=right)
        + _select("domain", "Domain", {"": "all", **{name: word(name) for name in domains}})
        + _select("benchmark", "Benchmark", {"": "all", **{name: name for name in benchmarks}})
        + _select("change", "From left to right", _CHANGES)
        + _select("sort", "Sort by", sorts)
        + _select("direction", "Direction", {"down": "highest first", "up": "lowest first"})
        + '<label class="search">Search in questions and answers'
        '<input type="search" name="search" autocomplete="off" spellcheck="false"></label>'
        "</form>"
    )


def _select(name: str, label: str, options: Mapping[str, str], *, chosen: str = "") -> str:
    return (
        f'<label>{escape(label)}<select name="{name}">{_options(options.items(), chosen)}</select>'
        "</label>"
    )


def _options(options: Iterable[tuple[str, str]], chosen: str) -> str:
    return "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>'
        f"{escape(text)}</option>"
        for value, text in options
    )


def _pager() -> str:
    return (
        '<div class="pager"><button type="button" id="browser-back">Back</button>'
        '<span id="browser-page"></span>'
        '<button type="button" id="browser-next">Next</button></div>'
    )
