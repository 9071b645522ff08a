"""Costs of two ways of training as ratios, and in words what makes them unlike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from grlo.errors import DataError

_COSTS = ("prompts", "device_hours", "flops", "money")


@dataclass(frozen=True)
class CostRow:
    """What one way of training took; None where it is not known.

    Raises:
        DataError: A number is negative or not finite.
    """

    name: str
    source: str
    """Where the numbers come from: a run, or a table of a paper."""
    model: str | None = None
    parameters: float | None = None
    """Weights that multiply each token: of a mixture of experts the active ones."""
    hardware: str | None = None
    """Kind of device, such as `H200`; how many is part of the device-hours."""
    sampling: str | None = None
    """What is drawn for a prompt, such as `1 sample x 3072 tokens`."""
    prompts: float | None = None
    """Prompts that were trained on, repeated ones each time."""
    device_hours: float | None = None
    flops: float | None = None
    """Floating-point operations."""
    money: float | None = None
    """US dollars."""

    def __post_init__(self) -> None:
        for field in ("parameters", *_COSTS):
            value = getattr(self, field)
            if value is not None and not 0 <= value < math.inf:
                raise DataError(
                    f"{self.name}: {field} is {value}. Expected a finite number, 0 or more, or "
                    "None where it is not known."
                )


def ratios(one: CostRow, other: CostRow) -> Mapping[str, float]:
    """How many times the cost of `other` the cost of `one` is, for each cost that both have.

    A ratio is not to be quoted without the lines of `mismatches`, which say what else the two
    differ in. Costs of zero in `other` have none.

    Args:
        one: Above the line.
        other: Below it.

    Returns:
        `prompts`, `device_hours`, `flops`, `money` -> ratio.
    """
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in _COSTS}
    return {
        name: above / below
        for name, (above, below) in pairs.items()
        if above is not None and below is not None and below > 0
    }


def mismatches(one: CostRow, other: CostRow) -> list[str]:
    """One warning for each of model, hardware and sampling that differs or is not known.

    Operations per token are taken as proportional to the parameters (Kaplan et al. 2020, section
    2.1).

    Args:
        one: See `ratios`.
        other: See `ratios`.
    """
    consequences = {
        "model": _per_token(one, other),
        "hardware": "device-hours of unlike devices are not one unit",
        "sampling": "a prompt is not one unit of work in both",
    }
    return [
        f"{line}; {consequences[field]}"
        for field in consequences
        if (line := _mismatch(field, one, other))
    ]


def _mismatch(field: str, one: CostRow, other: CostRow) -> str:
    """What differs; empty for two that are known and equal."""
    values: tuple[str | None, str | None] = (getattr(one, field), getattr(other, field))
    unknown = [row.name for row, value in zip((one, other), values, strict=True) if not value]
    if unknown:
        known = [
            f"{row.name}: {value}" for row, value in zip((one, other), values, strict=True) if value
        ]
        return (
            f"not known to be {field}-matched: {field} of {' and '.join(unknown)} unknown"
            + "".join(f", {line}" for line in known)
        )
    if field == "model" and _differ(one.parameters, other.parameters) and values[0] == values[1]:
        return f"not model-matched: both named {values[0]}, of unlike sizes"
    return "" if values[0] == values[1] else f"not {field}-matched: {values[0]} against {values[1]}"


def _differ(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and one != other


def _per_token(one: CostRow, other: CostRow) -> str:
    if not one.parameters or not other.parameters:
        return "operations per token may differ by a factor that is not known"
    high, low = max(one.parameters, other.parameters), min(one.parameters, other.parameters)
    factor = f"{high / low:.2g}"
    return (
        "operations per token are about equal"
        if factor == "1"
        else f"operations per token differ about {factor}x"
    )
