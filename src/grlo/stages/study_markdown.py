"""The report of a study as a paper's appendix, in Markdown."""

from __future__ import annotations

from grlo.reporting.blocks import Figures
from grlo.reporting.blocks_markdown import markdown_text, section_markdown
from grlo.reporting.text import all_visible
from grlo.stages.study_sections import sections_of
from grlo.studies.findings import StudyFindings


def study_markdown(findings: StudyFindings) -> str:
    """The tables of the page with the same numbers, without charts and transcripts.

    Texts of the findings are escaped: none of them is markup, a link or a cell's end.
    """
    findings = all_visible(findings)
    lines = [f"# {markdown_text(findings.title)}", ""]
    if findings.question:
        lines += [markdown_text(findings.question), ""]
    for section in sections_of(findings):
        if any(not isinstance(block, Figures) for block in section.blocks):
            lines += section_markdown(section)
    return "\n".join(lines).rstrip() + "\n"
