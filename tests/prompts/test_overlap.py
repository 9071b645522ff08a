import random

import numpy as np
import pytest

from grlo.prompts.lexical import LexicalIndex
from grlo.prompts.overlap import OverlapIndex
from grlo.prompts.text import words

PROBLEM = (
    "A baker packs 48 rolls into boxes of six and sells every box for three coins. How many coins "
    "does she earn when two boxes fall into the river?"
)
OTHER = "Name the capital of a country whose flag shows a cedar tree and describe its harbour."


def index_of(*texts: str, groups: list[int] | None = None) -> OverlapIndex:
    return OverlapIndex([words(text) for text in texts], groups or [0] * len(texts))


def match_of(index: OverlapIndex, text: str, document: int = 0):
    return {match.document: match for match in index.matches(words(text))}.get(document)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find x, if 2x = 4.", "find X if 2x=4"),
        ("naïve café", "naive cafe"),
        ("The ﬁrst", "the first"),
        ("p\u0430ss the s\u0430lt", "pass the salt"),
        ("zero\u200bwidth", "zerowidth"),
        (r"\left( \dfrac{1}{2} \right)", r"(\frac{1}{2})"),
        ("2 \u00d7 3", "2 x 3"),
    ],
)
def test_texts_that_look_the_same_have_the_same_words(one, other):
    assert words(one) == words(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("2x = 4", "2x = 5"), ("the first", "the fist"), ("мир", "mir"), ("未来", "未")],
)
def test_texts_that_differ_have_other_words(one, other):
    assert words(one) != words(other)


def test_each_character_of_an_unspaced_script_is_a_word():
    assert words("今日は ok") == ["今", "日", "は", "ok"]


@pytest.mark.parametrize("text", ["", "\0\0", "\ud800 lone", "a" * 1_000_000, "\u0301" * 100_000])
def test_no_text_is_too_odd_to_have_words(text):
    assert isinstance(words(text), list)
    index_of(PROBLEM).matches(words(text))


def test_a_copy_is_exact_whatever_its_case_and_signs():
    match = match_of(index_of(OTHER, PROBLEM), PROBLEM.upper().replace("?", " ?!"), 1)
    assert match is not None
    assert match.exact
    assert match.contained
    assert match.coverage == 1
    assert match.jaccard == 1
    assert match.longest_run == len(words(PROBLEM))


def test_a_problem_inside_another_text_is_contained_and_not_exact():
    match = match_of(index_of(PROBLEM, OTHER), f"Please help me. {PROBLEM} Thanks a lot!")
    assert match is not None
    assert not match.exact
    assert match.contained


def test_a_short_problem_is_contained_only_as_whole_words_in_order():
    index = index_of("name the oldest rivers")
    assert match_of(index, "Can you name the oldest rivers of all?").contained
    assert match_of(index, "Can you name the rivers, the oldest?") is None
    assert match_of(index, "rename the oldest rivers") is None


def test_half_a_problem_is_neither_contained_nor_exact_and_its_run_is_what_is_shared():
    half = " ".join(PROBLEM.split()[:15])
    index = index_of(PROBLEM, OTHER)
    match = match_of(index, f"Solve: {half}, or guess.")
    assert (match.exact, match.contained) == (False, False)
    assert match.longest_run == 15
    assert index.run(match) == " ".join(words(half))
    assert 0.4 < match.coverage < 0.8


def test_a_run_is_as_long_as_a_slow_search_says():
    rng = random.Random(3)
    vocabulary = [f"w{number}" for number in range(30)]
    documents = [[rng.choice(vocabulary) for _ in range(40)] for _ in range(12)]
    index = OverlapIndex(documents, list(range(12)))
    for _ in range(60):
        source = rng.choice(documents)
        start = rng.randrange(0, 25)
        cut = source[start : start + rng.randrange(6, 16)]
        noise = [rng.choice(vocabulary) for _ in range(20)]
        text = noise[:10] + cut + noise[10:]
        found = {match.document: match.longest_run for match in index.matches(text)}
        for number, document in enumerate(documents):
            longest = longest_common_run(document, text)
            assert found.get(number, 0) == (longest if longest >= 8 else 0)


def longest_common_run(one: list[str], other: list[str]) -> int:
    lengths = np.zeros((len(one) + 1, len(other) + 1), dtype=int)
    for i, a in enumerate(one, start=1):
        for j, b in enumerate(other, start=1):
            if a == b:
                lengths[i, j] = lengths[i - 1, j - 1] + 1
    return int(lengths.max())


def test_coverage_without_rare_words_is_the_share_of_words_in_shared_five_grams():
    documents = [[f"d{n}w{i}" for i in range(20)] for n in range(3)]
    text = [*documents[1][:6], "x", *documents[1][10:14]]
    (match,) = OverlapIndex(documents, [0, 0, 0]).matches(text)
    assert (match.document, match.num_covered) == (1, 6)
    assert match.coverage == pytest.approx(6 / 20)


def test_numbers_and_variables_are_covered_and_are_no_words():
    index = index_of("add 1 2 3 4 5 6 x y now and then")
    match = match_of(index, "count 1 2 3 4 5 6 x y z")
    assert (match.num_covered, match.num_words_covered) == (8, 0)
    whole = match_of(index, "please add 1 2 3 4 5 6 x y now and then")
    assert (whole.num_covered, whole.num_words_covered) == (12, 4)


def test_common_words_cover_less_than_rare_ones():
    phrase = "please write a short story about"
    tales = [f"{phrase} {name} and {name}s" for name in ("foxes", "lamps", "tides", "clocks")]
    index = index_of(*tales)
    match = match_of(index, f"{phrase} mountains")
    assert match.coverage < match.num_covered / len(words(tales[0]))


def test_jaccard_is_that_of_the_sets_of_three_grams():
    a, b = words(PROBLEM), words(PROBLEM.replace("three coins", "four coins"))
    grams = [{tuple(t[i : i + 3]) for i in range(len(t) - 2)} for t in (a, b)]
    match = match_of(index_of(PROBLEM), " ".join(b))
    assert match.jaccard == pytest.approx(len(grams[0] & grams[1]) / len(grams[0] | grams[1]))


def test_what_three_problems_share_is_boilerplate_unless_it_is_all_of_one():
    head = "let f be a function such that for all real numbers x"
    problems = [f"{head} it holds that {tail}" for tail in ("one", "two", "three")]
    text = f"In school we let f be a function such that for all real numbers x we see {OTHER}"
    assert match_of(index_of(*problems), text).longest_run == 0
    in_three_benchmarks = index_of(*problems, groups=[0, 1, 2])
    assert match_of(in_three_benchmarks, text).longest_run == 0
    tokens = [words(problem) for problem in problems]
    of_one_problem = OverlapIndex(tokens, [0, 1, 2], problems=[5, 5, 5])
    assert match_of(of_one_problem, text).longest_run == 12
    whole = index_of(*problems, head)
    assert match_of(whole, text, document=3).contained


def test_background_is_the_share_of_problems_that_share_an_eight_gram_with_another():
    shared = "alpha beta gamma delta epsilon zeta eta theta"
    texts = [f"{shared} one", f"{shared} two", OTHER, PROBLEM]
    assert index_of(*texts).background() == {0: (0.5, 0.5)}
    thrice = [*texts, f"{shared} three"]
    assert index_of(*thrice).background() == {0: (0.6, 0.0)}
    both = index_of(*thrice, groups=[0, 1, 0, 0, 0]).background()
    assert both == {0: (0.5, 0.0), 1: (0.0, 0.0)}


def test_a_solution_does_not_make_boilerplate_of_what_its_question_says():
    shared = "alpha beta gamma delta epsilon zeta eta theta"
    tokens = [words(f"{shared} {tail}") for tail in ("one", "two", "three")]
    index = OverlapIndex(tokens, [0, 0, 0], problems=[0, 0, 1])
    assert index.background() == {0: (1.0, 1.0)}
    assert index.matches(words(f"so {shared} four"))[0].longest_run == 8
    alone = OverlapIndex(tokens[:2], [0, 0], problems=[0, 0])
    assert alone.background() == {0: (0.0, 0.0)}


def test_an_index_without_words_finds_nothing():
    assert index_of("", "?").matches(words(PROBLEM)) == []
    assert index_of(PROBLEM).matches([]) == []


def test_the_nearest_by_words_is_the_same_problem_in_another_order():
    index = LexicalIndex([words(PROBLEM), words(OTHER)])
    shuffled = words(PROBLEM)
    random.Random(0).shuffle(shuffled)
    (found,) = index.neighbours([shuffled], floor=0.1)
    assert found[0] > 0.95
    assert 1 not in found


def test_cosines_are_those_of_scikit_learn():
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = random.Random(1)
    words_of = {True: [f"w{number}" for number in range(800)], False: ["the", "of", "and", "a"]}
    documents = [[rng.choice(words_of[rng.random() < 0.7]) for _ in range(20)] for _ in range(600)]
    vectors = TfidfVectorizer(
        analyzer=lambda own: own, sublinear_tf=True, use_idf=False, norm=None
    ).fit(documents)
    frequency = (vectors.transform(documents) > 0).sum(axis=0)
    weights = np.log((600 + 1) / (np.asarray(frequency).ravel() + 0.5))
    matrix = vectors.transform(documents).toarray() * weights
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    is_common = np.asarray(frequency).ravel() > 30
    assert is_common.sum() == 4
    cosines = matrix @ (matrix * ~is_common).T
    for row, found in enumerate(LexicalIndex(documents).neighbours(documents, floor=0.05)):
        for document in range(600):
            assert found.get(document, 0.0) == pytest.approx(
                cosines[row, document] if cosines[row, document] >= 0.05 else 0.0, abs=1e-5
            )


def test_a_problem_inside_a_long_text_is_near_to_it():
    rng = random.Random(5)
    noise = [f"n{rng.randrange(5000)}" for _ in range(2000)]
    text = [*noise[:1000], *words(PROBLEM), *noise[1000:]]
    documents = [words(PROBLEM), words(OTHER), *([f"n{i}"] * 3 for i in range(5000))]
    (found,) = LexicalIndex(documents).neighbours([text], floor=0.5)
    assert 0 in found
