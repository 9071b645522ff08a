"""Parts of a difference of scores: pure cases, sums, and formulas written out by another route."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Sequence
from fractions import Fraction

import pytest

from grlo.errors import DataError
from grlo.evaluation.decomposition import (
    Decomposition,
    decompose,
    score_of_ended,
)
from grlo.evaluation.stats import clustered_mean
from grlo.interfaces import GradedSample
from grlo.types import Prompt, Score

RIGHT = (1, 1, 1.0)
WRONG = (1, 1, 0.0)
UNREADABLE = (1, 0, 0.0)
CUT = (0, 0, 0.0)
Answer = tuple[int, int, float | None]
"""Whether it ends, whether it can be read, score."""


def answer(
    ended: int, readable: int | None, value: float | None, *, problem: int = 0, part: str = "parsed"
) -> GradedSample:
    return GradedSample(
        prompt=Prompt("p", ()),
        problem=problem,
        draw=0,
        turn=0,
        text="",
        finish_reason="stop" if ended else "length",
        num_tokens=1,
        score=Score(value, parts={} if readable is None else {part: float(readable)}),
    )


def answers(kinds: dict[Answer, int]) -> list[GradedSample]:
    return [answer(*kind) for kind, count in kinds.items() for _ in range(count)]


def random_answers(rng: random.Random, *, kinds: Sequence[tuple[int, int]]) -> list[GradedSample]:
    return [
        answer(*rng.choice(kinds), rng.choice([0.0, 0.25, 1.0])) for _ in range(rng.randint(1, 30))
    ]


def parts_of(found: Decomposition) -> tuple[float, float, float]:
    return found.stopping, found.format, found.correctness


def mean(samples: Sequence[GradedSample]) -> float:
    return statistics.fmean(s.score.value for s in samples if s.score.value is not None)


# Pure cases ---------------------------------------------------------------------------------------


def test_more_answers_that_end_and_are_otherwise_alike_are_all_stopping() -> None:
    before = answers({RIGHT: 1, WRONG: 2, UNREADABLE: 1, CUT: 12})
    after = answers({RIGHT: 3, WRONG: 6, UNREADABLE: 3, CUT: 4})
    assert parts_of(decompose(before, after)) == pytest.approx((2 / 16, 0, 0))


def test_more_answers_that_can_be_read_and_are_otherwise_alike_are_all_format() -> None:
    before = answers({RIGHT: 1, WRONG: 1, UNREADABLE: 4, CUT: 2})
    after = answers({RIGHT: 3, WRONG: 3, UNREADABLE: 0, CUT: 2})
    assert parts_of(decompose(before, after)) == pytest.approx((0, 2 / 8, 0))


def test_more_right_answers_among_those_that_can_be_read_are_all_correctness() -> None:
    before = answers({RIGHT: 1, WRONG: 3, UNREADABLE: 2, CUT: 2})
    after = answers({RIGHT: 3, WRONG: 1, UNREADABLE: 2, CUT: 2})
    assert parts_of(decompose(before, after)) == pytest.approx((0, 0, 2 / 8))


def test_a_model_against_itself_has_no_parts() -> None:
    own = answers({RIGHT: 2, WRONG: 3, CUT: 4})
    assert parts_of(decompose(own, own)) == (0, 0, 0)


def test_where_no_answer_ended_before_what_comes_with_those_that_do_is_all_stopping() -> None:
    before = answers({CUT: 8})
    after = answers({RIGHT: 3, WRONG: 2, UNREADABLE: 1, CUT: 2})
    assert parts_of(decompose(before, after)) == pytest.approx((3 / 8, 0, 0))


def test_where_no_answer_could_be_read_before_what_comes_with_readable_ones_is_all_format() -> None:
    before = answers({UNREADABLE: 8})
    after = answers({RIGHT: 3, WRONG: 2, UNREADABLE: 3})
    assert parts_of(decompose(before, after)) == pytest.approx((0, 3 / 8, 0))


def test_without_a_word_on_reading_all_answers_count_as_readable() -> None:
    before = [answer(1, None, 0.0), answer(1, None, 1.0), answer(0, None, 0.0)]
    after = [answer(1, None, 1.0), answer(1, None, 1.0), answer(0, None, 0.0)]
    assert parts_of(decompose(before, after)) == pytest.approx((0, 0, 1 / 3))


def test_an_attempt_counts_as_readable_where_the_grader_says_no_more() -> None:
    before = [answer(1, 0, 0.0, part="attempt"), answer(1, 1, 1.0, part="attempt")]
    after = [answer(1, 1, 1.0, part="attempt"), answer(1, 1, 1.0, part="attempt")]
    assert parts_of(decompose(before, after)) == pytest.approx((0, 0.5, 0))


def test_two_factors_that_change_at_once_share_what_they_make_together() -> None:
    # From 0.5 x 0.5 to 1 x 1: each alone adds 0.25, both 0.75.
    before = answers({RIGHT: 1, WRONG: 1, CUT: 2})
    after = answers({RIGHT: 4})
    assert parts_of(decompose(before, after)) == pytest.approx((0.375, 0, 0.375))


# All cases ----------------------------------------------------------------------------------------

KINDS = [(0, 0), (0, 1), (1, 0), (1, 1)]
SETS = [kinds for size in (1, 2, 3, 4) for kinds in itertools.combinations(KINDS, size)]


@pytest.mark.parametrize("seed", range(10))
def test_parts_sum_to_the_difference_and_change_signs_the_other_way_round(seed: int) -> None:
    rng = random.Random(seed)
    for kinds, others in itertools.product(SETS, SETS):
        before, after = (random_answers(rng, kinds=own) for own in (kinds, others))
        found, back = decompose(before, after), decompose(after, before)
        assert sum(parts_of(found)) == pytest.approx(mean(after) - mean(before), abs=1e-12)
        assert found.total == pytest.approx(mean(after) - mean(before), abs=1e-12)
        assert parts_of(back) == pytest.approx([-part for part in parts_of(found)], abs=1e-12)


def by_harsanyi(before: list[GradedSample], after: list[GradedSample]) -> list[Fraction]:
    """The parts from dividends: each interaction of factors is split equally between them."""

    def rate(samples: list[GradedSample], of: tuple, given: tuple) -> Fraction | None:
        rows = [(s.finish_reason == "stop", s.score.parts["parsed"] > 0) for s in samples]
        chosen = [row for row in rows if row[: len(given)] == given]
        hits = [row for row in chosen if row[: len(given) + 1] == (*given, *of)]
        return Fraction(len(hits), len(chosen)) if chosen else None

    def score(samples: list[GradedSample], kind: tuple) -> Fraction | None:
        values = [
            Fraction(s.score.value or 0)
            for s in samples
            if (s.finish_reason == "stop", s.score.parts["parsed"] > 0) == kind
        ]
        return sum(values, Fraction(0)) / len(values) if values else None

    def known(function, side: int, *args) -> Fraction:
        own, other = (before, after)[side], (before, after)[1 - side]
        for samples in (own, other):
            if (found := function(samples, *args)) is not None:
                return found
        return Fraction(0)

    def value(sides: Sequence[int]) -> Fraction:
        total = Fraction(0)
        for ended, readable in itertools.product((False, True), repeat=2):
            weight = known(rate, sides[0], (ended,), ())
            weight *= known(rate, sides[1], (readable,), (ended,))
            total += weight * known(score, sides[2], (ended, readable))
        return total

    parts = [Fraction(0)] * 3
    for chosen in itertools.product((0, 1), repeat=3):
        members = [factor for factor in range(3) if chosen[factor]]
        dividend = Fraction(0)
        for subset in itertools.product((0, 1), repeat=3):
            if all(one <= other for one, other in zip(subset, chosen, strict=True)):
                is_odd = (len(members) - sum(subset)) % 2
                dividend += -value(subset) if is_odd else value(subset)
        for factor in members:
            parts[factor] += dividend / len(members)
    return parts


@pytest.mark.parametrize("seed", range(2))
def test_the_parts_are_the_shapley_values_of_exact_fractions(seed: int) -> None:
    rng = random.Random(100 + seed)
    for kinds, others in itertools.product(SETS, SETS):
        before, after = (random_answers(rng, kinds=own) for own in (kinds, others))
        expected = [float(part) for part in by_harsanyi(before, after)]
        assert parts_of(decompose(before, after)) == pytest.approx(expected, abs=1e-12)


def test_the_order_of_samples_does_not_matter() -> None:
    rng = random.Random(7)
    before, after = (random_answers(rng, kinds=KINDS) for _ in range(2))
    found = decompose(before, after)
    for _ in range(5):
        rng.shuffle(before)
        rng.shuffle(after)
        assert decompose(before, after) == found


def test_unscored_answers_are_left_out() -> None:
    before, after = answers({RIGHT: 1, CUT: 3}), answers({RIGHT: 3, CUT: 1})
    unscored = answers({(1, 1, None): 5, (0, 0, None): 2})
    assert decompose(before + unscored, unscored + after) == decompose(before, after)
    for one, other in ((unscored, after), (before, unscored)):
        with pytest.raises(DataError, match="no answer has a score"):
            decompose(one, other)


# Answers that end ---------------------------------------------------------------------------------


def test_the_score_of_answers_that_end_is_clustered_by_problem() -> None:
    kinds = [(1, 1, 1.0), (1, 0, 0.0), (0, 0, 0.0), (1, 1, 1.0), (1, 1, None), (0, 1, 1.0)]
    samples = [answer(*kind, problem=index // 2) for index, kind in enumerate(kinds)]
    assert score_of_ended(samples) == clustered_mean([1.0, 0.0, 1.0], [0, 0, 1])
    assert score_of_ended(answers({CUT: 3})) is None
