from collections import Counter

import pytest

from grlo.prompts.selection import Candidate, apportion, select

SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}


@pytest.mark.parametrize(
    ("size", "available", "taken"),
    [
        (10, {"a": 99, "b": 99, "c": 99}, {"a": 5, "b": 3, "c": 2}),
        (1, {"a": 99, "b": 99, "c": 99}, {"a": 1, "b": 0, "c": 0}),
        (7, {"a": 99, "b": 99, "c": 99}, {"a": 4, "b": 2, "c": 1}),
        (10, {"a": 1, "b": 99, "c": 99}, {"a": 1, "b": 5, "c": 4}),
        (10, {"a": 0, "b": 0, "c": 3}, {"a": 0, "b": 0, "c": 3}),
        (0, {"a": 9, "b": 9, "c": 9}, {"a": 0, "b": 0, "c": 0}),
    ],
)
def test_numbers_follow_shares_and_what_there_is(size, available, taken):
    assert apportion(size, SHARES, available) == taken


def test_a_share_of_nothing_gets_nothing_however_much_there_is():
    assert apportion(5, {"a": 1.0, "b": 0.0}, {"a": 2, "b": 9}) == {"a": 2, "b": 0}


def candidates(category: str, source: str, topics: list[int]) -> list[Candidate]:
    return [Candidate(category, source, topic) for topic in topics]


def choose(rows, size, *, seed=0, weights=None):
    weights = weights or {row.source: 1.0 for row in rows}
    return select(rows, size=size, shares=SHARES, weights=weights, seed=seed)


def test_categories_and_sources_get_their_parts():
    rows = [
        row
        for category in SHARES
        for source in ("x", "y")
        for row in candidates(category, source, [0] * 50)
    ]
    found = choose(rows, 40, weights={"x": 3.0, "y": 1.0})
    assert Counter(rows[index].category for index in found.chosen) == {"a": 20, "b": 12, "c": 8}
    assert Counter(rows[index].source for index in found.chosen) == {"x": 30, "y": 10}
    assert found.wanted == {"a": 20, "b": 12, "c": 8}


def test_every_topic_has_its_turn_before_one_has_two():
    rows = candidates("a", "x", [0] * 90 + list(range(1, 10)))
    shares = {"a": 1.0}
    found = select(rows, size=10, shares=shares, weights={"x": 1.0}, seed=0)
    assert Counter(rows[index].topic for index in found.chosen) == dict.fromkeys(range(10), 1)


def test_guesses_are_taken_when_there_is_nothing_else():
    sure = candidates("a", "x", [0] * 6)
    guesses = [Candidate("a", "x", topic, is_guess=True) for topic in range(1, 9)]
    found = select([*guesses, *sure], size=8, shares={"a": 1.0}, weights={"x": 1.0}, seed=0)
    assert set(range(8, 14)) < set(found.chosen)


def test_what_a_category_lacks_the_others_give_and_it_is_told():
    rows = candidates("a", "x", [0] * 2) + candidates("b", "x", [0] * 50)
    found = choose(rows, 20)
    assert found.taken == {"a": 2, "b": 18, "c": 0}
    assert found.wanted == {"a": 10, "b": 6, "c": 4}
    assert found.available == {"a": 2, "b": 50, "c": 0}


def test_the_seed_decides_and_decides_alike():
    rows = candidates("a", "x", [0] * 100)
    assert choose(rows, 10, seed=1) == choose(rows, 10, seed=1)
    assert choose(rows, 10, seed=1) != choose(rows, 10, seed=2)


def test_rows_of_other_categories_are_never_chosen():
    rows = candidates("z", "x", [0] * 5)
    assert choose(rows, 5).chosen == ()
