"""The report of a study as one page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from grlo.reporting.blocks import Section
from grlo.reporting.blocks_html import contents_html, section_html
from grlo.reporting.html import page
from grlo.reporting.text import all_visible
from grlo.stages.study_browser import browser_html, browser_script
from grlo.stages.study_sections import sections_of
from grlo.studies.findings import StudyFindings

_ON_PAPER = (
    '<p class="on-paper note">Parts that were folded and the transcripts are not printed; the page '
    "itself has them.</p>"
)


def study_page(findings: StudyFindings) -> str:
    """The page as HTML: one file that asks for nothing, the answer first.

    Sections without data are left out, so that a study of published rows only, one with a single
    seed and one that is not finished give a page as well. Every text is escaped, and what cannot
    be seen in it is spelled out.
    """
    findings = all_visible(findings)
    sections = sections_of(findings)
    browser = browser_html(findings)
    drawn = {section.key: section_html(section) for section in sections}
    if browser:
        drawn = _before(drawn, "protocol", "transcripts", browser)
    first = [key for key in drawn if key == "answer"]
    rest = [key for key in drawn if key not in first]
    contents = contents_html([(key, _title(key, sections)) for key in rest])
    style = files("grlo.reporting").joinpath("study.css").read_text(encoding="utf-8")
    return page(
        findings.title,
        [
            _head(findings),
            *(drawn[key] for key in first),
            contents,
            *(drawn[key] for key in rest),
            _ON_PAPER,
        ],
        wide=True,
        style=style,
        script=browser_script() if browser else "",
    )


def _head(findings: StudyFindings) -> str:
    question = f'<p class="question">{escape(findings.question)}</p>' if findings.question else ""
    arms, seeds = len(findings.arms), len(findings.seeds)
    facts = [
        f"{arms} arms" if arms else "",
        f"{seeds} seed{'s' if seeds > 1 else ''}" if arms else "",
        f"{len(findings.benchmarks)} benchmarks" if findings.benchmarks else "",
        f"{len(findings.published)} published rows" if findings.published else "",
    ]
    return f'{question}<p class="note">{escape(" · ".join(filter(None, facts)))}</p>'


def _before(drawn: dict[str, str], key: str, new: str, html: str) -> dict[str, str]:
    """The same with a section before another one, or at the end where that is not there."""
    found: dict[str, str] = {}
    for own, text in drawn.items():
        if own == key:
            found[new] = html
        found[own] = text
    found.setdefault(new, html)
    return found


def _title(key: str, sections: Sequence[Section]) -> str:
    own = next((section for section in sections if section.key == key), None)
    return "Transcripts" if own is None else own.short or own.title
