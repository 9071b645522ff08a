"""The sections of a study's report in their order, the same for the page and for Markdown."""

from __future__ import annotations

from grlo.reporting.blocks import Section
from grlo.stages.study_ability import elicitation_section, over_optimisation_section
from grlo.stages.study_beside import beside_section
from grlo.stages.study_context import (
    data_section,
    failures_section,
    looks_section,
    protocol_section,
)
from grlo.stages.study_costs import cost_section, efficiency_section
from grlo.stages.study_curves import curves_section
from grlo.stages.study_parts import parts_section
from grlo.stages.study_scores import answer_section, arms_section, notes_section, results_section
from grlo.studies.findings import StudyFindings


def sections_of(findings: StudyFindings) -> list[Section]:
    """Those that have something to say, the answer first."""
    sections = [
        answer_section(findings),
        notes_section(findings),
        arms_section(findings),
        results_section(findings),
        efficiency_section(findings),
        curves_section(findings),
        parts_section(findings),
        elicitation_section(findings),
        over_optimisation_section(findings),
        cost_section(findings),
        beside_section(findings),
        data_section(findings),
        looks_section(findings),
        failures_section(findings),
        protocol_section(findings),
    ]
    return [section for section in sections if section.blocks]
