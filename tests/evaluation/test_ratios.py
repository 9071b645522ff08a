"""Ratios of costs, and the warnings without which they are not to be quoted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from grlo.errors import DataError
from grlo.evaluation.ratios import CostRow, mismatches, ratios

OURS = CostRow(
    name="ours",
    source="run",
    model="small-4B",
    parameters=4e9,
    hardware="H200",
    sampling="1 sample x 3072 tokens",
    prompts=1000,
    device_hours=8.0,
    flops=2e18,
)
THEIRS = CostRow(
    name="theirs",
    source="a table",
    model="large-7B",
    parameters=7.2e9,
    hardware="H100",
    sampling="8 samples x 8192 tokens",
    prompts=50_000,
    device_hours=2048.0,
    money=4000.0,
)


def test_a_ratio_is_there_for_every_cost_that_both_have() -> None:
    assert ratios(OURS, THEIRS) == pytest.approx({"prompts": 0.02, "device_hours": 8 / 2048})
    assert ratios(THEIRS, OURS) == pytest.approx({"prompts": 50, "device_hours": 256})


def test_a_cost_of_zero_divides_nothing_and_may_be_divided() -> None:
    free = replace(OURS, money=0.0)
    assert "money" not in ratios(THEIRS, free)
    assert ratios(free, THEIRS)["money"] == 0


def test_rows_of_one_kind_have_no_warnings() -> None:
    assert mismatches(OURS, replace(OURS, name="again", prompts=5, flops=None)) == []


def test_what_differs_is_named_with_both_values_and_what_it_means() -> None:
    assert mismatches(OURS, THEIRS) == [
        "not model-matched: small-4B against large-7B; operations per token differ about 1.8x",
        "not hardware-matched: H200 against H100; device-hours of unlike devices are not one unit",
        "not sampling-matched: 1 sample x 3072 tokens against 8 samples x 8192 tokens; a prompt is "
        "not one unit of work in both",
    ]
    assert "differ about 1.8x" in mismatches(THEIRS, OURS)[0], "the larger over the smaller"


@pytest.mark.parametrize("field", ["model", "hardware", "sampling"])
def test_what_is_not_known_does_not_count_as_equal(field: str) -> None:
    silent = replace(OURS, **{"name": "silent", field: None})
    (line,) = mismatches(OURS, silent)
    assert line.startswith(f"not known to be {field}-matched: {field} of silent unknown, ours: ")
    (line,) = mismatches(silent, replace(silent, name="mute"))
    assert line.startswith(f"not known to be {field}-matched: {field} of silent and mute unknown;")


def test_models_of_unknown_or_like_size_are_said_to_be_so() -> None:
    (line,) = mismatches(OURS, replace(OURS, model="other", parameters=None))
    assert line.endswith("operations per token may differ by a factor that is not known")
    (line,) = mismatches(OURS, replace(OURS, model="other", parameters=4.02e9))
    assert line.endswith("operations per token are about equal")


def test_one_name_with_two_sizes_is_no_match() -> None:
    (line,) = mismatches(OURS, replace(OURS, parameters=8e9))
    assert line == (
        "not model-matched: both named small-4B, of unlike sizes; operations per token differ "
        "about 2x"
    )


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize("field", ["parameters", "prompts", "device_hours", "flops", "money"])
def test_a_number_that_no_cost_can_be_is_refused(field: str, value: float) -> None:
    with pytest.raises(DataError, match=f"ours: {field} is {value}"):
        replace(OURS, **{field: value})
