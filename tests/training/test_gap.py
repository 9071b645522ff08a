"""When a gap between engine and learner is more than rounding."""

from __future__ import annotations

import pytest

from grlo.training.gap import LIMITS, gap_problem


@pytest.mark.parametrize(
    ("gap", "dtypes", "is_wrong"),
    [
        (5e-7, ("float32", "float32"), False),
        (2e-2, ("float32", "float32"), True),
        # Either side rounds more coarsely: what it leaves is no fault.
        (4e-3, ("float32", "bfloat16"), False),
        (4e-3, ("bfloat16", "bfloat16"), False),
        (0.2, ("bfloat16", "float32"), True),
    ],
)
def test_a_gap_is_judged_by_the_coarser_of_the_two_types(
    gap: float, dtypes: tuple[str, ...], is_wrong: bool
) -> None:
    problem = gap_problem({"engine/logprob_gap": gap}, dtypes=dtypes)
    assert bool(problem) == is_wrong
    if is_wrong:
        assert f"{gap:.2g} nats" in problem
        assert f"{max(LIMITS[dtype] for dtype in dtypes):g}" in problem


def test_a_step_that_trained_on_nothing_has_no_gap() -> None:
    assert gap_problem({"reward/mean": 1.0}, dtypes=("float32",)) == ""
