"""Names, numbers and cells as every table of a study's report has them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from grlo.evaluation.stats import Estimate
from grlo.reporting.blocks import Cell, Interval
from grlo.reporting.figures import COLORS
from grlo.reporting.strips import scale
from grlo.reporting.tables import percent
from grlo.studies.findings import AVERAGE, ArmFindings, StudyFindings

NOTHING = Cell("-")
SHARE = "share"
"""Unit of scores that are shown in percent; others are shown as they are."""
_FEW_HOURS = 0.1
"""Device-hours below which they are told in seconds."""
PALETTE = (*COLORS[1:7], "#332288", "#882255", "#999933")
"""Of arms; the last three are of Tol's muted scheme, as yellow is not seen on white."""
COST_WORDS: Mapping[str, str] = {
    "prompts": "prompts",
    "device_hours": "device-hours",
    "flops": "FLOPs",
    "money": "money",
    "generated_tokens": "generated tokens",
    "trained_tokens": "trained tokens",
}


def labels(arms: Sequence[ArmFindings]) -> dict[str, str]:
    """Key of an arm -> its label, with the key behind it where two arms share one."""
    counts = Counter(arm.label for arm in arms)
    return {
        arm.name: arm.label if counts[arm.label] == 1 else f"{arm.label} ({arm.name})"
        for arm in arms
    }


def colors(arms: Sequence[ArmFindings], *, base: str) -> dict[str, str]:
    """Key of an arm -> its colour in every chart; grey is the base's."""
    others = [arm.name for arm in arms if arm.name != base]
    found = {name: PALETTE[n % len(PALETTE)] for n, name in enumerate(others)}
    return {base: COLORS[0], **found}


def shown_domains(findings: StudyFindings) -> list[str]:
    """`average`, where there are several domains, and the domains that any arm has a score in."""
    scored = {name for arm in findings.arms for name in arm.domains}
    found = [name for name in findings.domains if name in scored]
    return [AVERAGE, *found] if len(found) > 1 else found


def word(name: str) -> str:
    """A name of ours as a word."""
    return name.replace("_", " ")


def arm_cell(arm: ArmFindings, label: str) -> Cell:
    """The label of an arm, its role set apart."""
    return Cell(label, tags=(arm.role,))


def score_cell(estimate: Estimate | None, *, unit: str = SHARE, tags: tuple[str, ...] = ()) -> Cell:
    """A score with its interval."""
    if estimate is None:
        return Cell("-", tags=tags)
    value, low, high = (score(n, unit=unit) for n in (estimate.value, estimate.low, estimate.high))
    return Cell(value, beneath=f"[{low}, {high}]", tags=tags)


def gain_cell(
    gain: Estimate | None,
    *,
    unit: str = SHARE,
    tags: tuple[str, ...] = (),
    ends: tuple[float, float] | None = None,
) -> Cell:
    """A gain with its interval, and whether the interval leaves out zero.

    Args:
        gain: None where it is not known.
        unit: Of the score.
        tags: Of the cell.
        ends: Draws it on this scale, which is in points.
    """
    if gain is None:
        return Cell("-", tags=tags)
    factor, digits = (100, 1) if unit == SHARE else (1, 2)
    value, low, high = (factor * number for number in (gain.value, gain.low, gain.high))
    return Cell(
        f"{value:+.{digits}f}",
        beneath=f"[{low:+.{digits}f}, {high:+.{digits}f}]",
        tags=tags,
        tone="up" if low > 0 else "down" if high < 0 else "",
        strip=None if ends is None else Interval(value, low, high, ends),
    )


def gain_scale(gains: Sequence[Estimate]) -> tuple[float, float]:
    """One scale for several gains, in points."""
    return scale(100 * end for gain in gains for end in (gain.value, gain.low, gain.high))


def score(value: float, *, unit: str = SHARE) -> str:
    """A score in percent, or in its own unit with two decimals."""
    return percent(value) if unit == SHARE else f"{value:.2f}"


def number(value: float | None) -> str:
    """A number with three digits, or all of those before the point; `-` for none."""
    if value is None:
        return "-"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    if not math.isfinite(value) or not 1e-3 <= abs(value) < 1e9:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".removesuffix(".")


def device_time(hours: Iterable[float]) -> tuple[float, str]:
    """What several device-hours are multiplied by to be read, and what they are then."""
    is_short = max(hours, default=0.0) < _FEW_HOURS
    return (3600.0, "device-seconds") if is_short else (1.0, "device-hours")


def price(value: float | None) -> str:
    """An amount of money; its currency stands above it."""
    if value is None:
        return "-"
    return f"{value:,.2f}" if value >= 1 or not value else f"{value:.2g}"
