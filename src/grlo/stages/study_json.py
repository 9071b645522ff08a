"""The findings of a study as JSON, for other programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from grlo.reporting.text import all_visible
from grlo.studies.findings import StudyFindings

FORMAT = 1
"""Changes when a key changes its meaning or goes; new keys leave it."""


def findings_json(findings: StudyFindings) -> dict[str, Any]:
    """Everything but the transcripts, under the names of `StudyFindings` and its parts.

    Numbers that are not finite, such as the ends of an interval of one problem, are null; keys are
    texts; characters that cannot be seen are spelled out, as in every report.
    """
    found = {
        item.name: _plain(getattr(findings, item.name))
        for item in fields(findings)
        if item.name != "transcripts"
    }
    return {"format": FORMAT, **all_visible(found)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)
