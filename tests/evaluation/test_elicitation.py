"""What was elicited and what is new, and what answers would score if form did not matter."""

from __future__ import annotations

import math

import pytest

from grlo.evaluation.elicitation import elicitation
from grlo.evaluation.lenient import lenient_score
from grlo.interfaces import GradedSample
from grlo.types import FinishReason, Message, Prompt, Score


def sample(
    value: float | None,
    *,
    problem: int = 0,
    draw: int = 0,
    finish: FinishReason = "stop",
    read: bool | None = None,
    text: str = "",
    reference: str = "",
) -> GradedSample:
    prompt = Prompt(id="p", messages=(Message("user", "?"),), reference=reference)
    parts = {} if read is None else {"parsed": float(read)}
    return GradedSample(
        prompt=prompt,
        problem=problem,
        draw=draw,
        turn=0,
        text=text,
        finish_reason=finish,
        num_tokens=1,
        score=Score(value, parts=parts),
    )


def test_elicited_and_new_problems_are_told_apart() -> None:
    base = [
        sample(float(draw < right), problem=problem, draw=draw)
        for problem, right in enumerate((0, 1, 6, 8, 0))
        for draw in range(8)
    ]
    trained = [
        sample(value, problem=problem, draw=draw)
        for problem, values in enumerate(((1, 1), (1, 0), (1, 1), (0, 0), (0, 0)))
        for draw, value in enumerate(map(float, values))
    ]
    found = elicitation(base, trained)
    assert (found.num_new, found.num_elicited, found.num_kept, found.num_lost) == (1, 1, 1, 1)
    assert found.num_draws == 8
    assert found.trained_pass_at_1 == pytest.approx((1 + 0.5 + 1) / 5)
    assert found.base_pass_at[1] == pytest.approx((0 + 1 / 8 + 6 / 8 + 1 + 0) / 5)
    chance = 1 - math.comb(7, 4) / math.comb(8, 4)
    assert found.base_pass_at[4] == pytest.approx((0 + chance + 1 + 1 + 0) / 5)
    assert found.reached_at == 4


@pytest.mark.parametrize(
    ("text", "reference", "domain", "wanted"),
    [
        ("It makes 12 in all.", "7 + 5 = 12. The answer is 12.", "math", 1.0),
        ("12, or maybe 13", "12", "math", 0.0),
        ("about 1,200", "#### 1200", "math", 1.0),
        ("so 3.50", "3.5", "math", 1.0),
        ("I choose B then", "B", "science", 1.0),
        ("B is wrong, so C.", "B", "science", 0.0),
        ("return 12", "12", "code", None),
        ("anything", "a proof", "math", None),
        ("9" * 4000, "9", "math", 0.0),
    ],
)
def test_a_lenient_reading_takes_the_last_number_or_letter(
    text: str, reference: str, domain: str, wanted: float | None
) -> None:
    own = sample(0.0, text=text, reference=reference)
    assert lenient_score(own, domain=domain) == wanted


def test_a_lenient_reading_is_never_below_the_score() -> None:
    assert lenient_score(sample(1.0, text="no number", reference="4"), domain="math") == 1.0
    assert lenient_score(sample(None, text="4", reference="4"), domain="math") is None
