from math import log, sqrt

import pytest

from grlo.prompts.quantities import QuantityIndex, quantities
from grlo.prompts.text import words


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Seven cats and 12 dogs", ["7", "12"]),
        ("007 men", ["7"]),
        ("twice a dozen, then a half", ["2", "12", "1/2"]),
        ("ninety or a hundred", ["90", "100"]),
        ("0 zeros", ["0"]),
        ("someone often wonders, x2", []),
        ("", []),
    ],
)
def test_numbers_are_read_as_figures_and_as_words(text, numbers):
    assert quantities(words(text)) == numbers


def filler(n: int) -> list[list[str]]:
    return [words(f"there are {number} and {number + 1}") for number in range(200, 200 + n)]


def test_agreement_is_the_cosine_of_weighted_sets():
    documents = [words("buy 31 pens, 47 cups, 58 pins"), words("buy 5 pens"), *filler(40)]
    index = QuantityIndex(documents)
    # Numbers of one document each weigh alike; an unknown one weighs what a number of none would.
    weight, unknown = log((42 + 1) / 1.5), log(2 * (42 + 1))
    found = index.agreement(words("31 apples, 47 pears and 99 plums for 58"), [0, 1])
    assert found == {0: pytest.approx(3 * weight / sqrt(3 * weight * (3 * weight + unknown)))}
    assert index.agreement(words("31, 47 and 58"), [0]) == {0: pytest.approx(1.0)}


def test_documents_that_were_not_asked_for_are_left_out():
    index = QuantityIndex([words("31 47 58"), words("31 47 58"), *filler(40)])
    assert list(index.agreement(words("31 47 58"), [1])) == [1]


def test_few_or_common_numbers_agree_by_chance_and_are_left_out():
    common = [words("1 2 3") for _ in range(40)]
    assert QuantityIndex([words("1 2 3"), *common]).agreement(words("1 2 3"), [0]) == {}
    assert QuantityIndex([words("31 47"), *filler(40)]).agreement(words("31 47"), [0]) == {}


def test_numbers_that_lie_far_apart_in_a_text_do_not_agree():
    index = QuantityIndex([words("31 47 58"), *filler(40)])
    near = ["x"] * 300 + ["31", "47", "58"] + ["x"] * 300
    far = ["31"] + ["x"] * 300 + ["47"] + ["x"] * 300 + ["58"]
    assert index.agreement(near, [0]) == {0: pytest.approx(1.0)}
    assert index.agreement(far, [0]) == {}
