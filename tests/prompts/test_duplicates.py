from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest

from grlo.prompts import duplicates
from grlo.prompts.duplicates import (
    MAX_GRAMS,
    NearDuplicates,
    bands_and_rows,
    near_duplicate_groups,
)
from grlo.prompts.sources import read_prompts
from grlo.prompts.text import words


def _text(rng: random.Random, length: int) -> list[str]:
    return [f"w{rng.randrange(5000)}" for _ in range(length)]


def _changed(rng: random.Random, tokens: list[str], num_changes: int) -> list[str]:
    changed = list(tokens)
    for place in rng.sample(range(len(tokens)), num_changes):
        changed[place] = f"new{rng.randrange(10**9)}"
    return changed


def _jaccard(first: list[str], second: list[str]) -> float:
    a, b = ({tuple(own[at : at + 3]) for at in range(len(own) - 2)} for own in (first, second))
    return len(a & b) / len(a | b)


def test_the_similarity_is_the_jaccard_of_word_3_grams():
    rng = random.Random(0)
    for num_changes in range(6):
        first = _text(rng, 150)
        second = _changed(rng, first, num_changes)
        index = NearDuplicates(threshold=0.5)
        assert index.find_or_add(7, first) is None
        assert index.find_or_add(8, second) == (7, pytest.approx(_jaccard(first, second)))


def test_repeated_3_grams_count_once():
    index = NearDuplicates(threshold=0.5)
    index.find_or_add(1, ["a", "b", "c", "d"])
    assert index.find_or_add(2, ["a", "b", "c", "d"] * 2) == (1, pytest.approx(2 / 4))


def test_pairs_below_the_threshold_are_never_named():
    rng = random.Random(1)
    for _ in range(300):
        first = _text(rng, 60)
        second = _changed(rng, first, rng.randrange(1, 8))
        index = NearDuplicates(threshold=0.8)
        index.find_or_add(0, first)
        found = index.find_or_add(1, second)
        assert found is None or _jaccard(first, second) >= 0.8


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_fewer_than_1_percent_are_missed_a_little_above_the_threshold(threshold):
    # Texts of n grams of which s are shared: exact similarity s / (2n - s), here just above
    # threshold + 0.05, or halfway to 1.
    similarity = min(threshold + 0.05, (threshold + 1) / 2)
    num_pairs, length, missed = 3000, 200, 0
    rng = random.Random(2)
    for pair in range(num_pairs):
        first = _text(rng, length)
        num_tail = 0
        # A different tail of t tokens takes t of the n grams from each side.
        while (length - 2 - num_tail - 1) / (length - 2 + num_tail + 1) >= similarity:
            num_tail += 1
        second = first[: length - num_tail] + [f"tail{pair}-{at}" for at in range(num_tail)]
        assert _jaccard(first, second) == pytest.approx(similarity, abs=0.01)
        index = NearDuplicates(threshold=threshold, seed=pair)
        index.find_or_add(0, first)
        missed += index.find_or_add(1, second) is None
    # 1 % of 3,000 is 30; three standard deviations of a binomial more are 46.
    assert missed <= 46


def test_bands_miss_fewer_than_1_percent_and_one_row_more_would_not():
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 0.97, 1.0):
        num_bands, num_rows = bands_and_rows(threshold, 128)
        similarity = min(threshold + 0.05, (threshold + 1) / 2)
        assert num_bands * num_rows <= 128
        assert (1 - similarity**num_rows) ** num_bands < 0.01
        if num_rows < 128:
            assert (1 - similarity ** (num_rows + 1)) ** (128 // (num_rows + 1)) >= 0.01


def test_too_short_signatures_are_refused():
    with pytest.raises(ValueError, match="num_perm 4 is too small"):
        NearDuplicates(threshold=0.5, num_perm=4)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_a_threshold_outside_0_and_1_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must lie in"):
        NearDuplicates(threshold=threshold)


def test_short_texts_are_compared_whole():
    index = NearDuplicates()
    assert index.find_or_add(1, ["hello", "world"]) is None
    assert index.find_or_add(2, ["hello"]) is None
    assert index.find_or_add(3, ["world", "hello"]) is None
    assert index.find_or_add(4, ["hello", "world"]) == (1, 1.0)
    assert index.find_or_add(5, ["hello"]) == (2, 1.0)


def test_texts_without_tokens_are_no_duplicates_of_each_other():
    index = NearDuplicates()
    assert index.find_or_add(1, []) is None
    assert index.find_or_add(2, []) is None


def test_found_texts_are_not_remembered():
    rng = random.Random(3)
    first = _text(rng, 100)
    near = [*first[:93], *(f"x{at}" for at in range(7))]
    further = [*first[:86], *(f"y{at}" for at in range(7)), *near[93:]]
    assert _jaccard(first, near) > 0.8
    index = NearDuplicates()
    assert index.find_or_add(1, first) is None
    found = index.find_or_add(2, near)
    assert found is not None
    assert found[0] == 1
    assert _jaccard(first, further) < 0.8
    assert index.find_or_add(3, further) is None


def test_of_several_the_most_similar_is_named():
    rng = random.Random(4)
    base, tail = _text(rng, 265), _text(rng, 35)
    first, second = [*base, *_text(rng, 35)], [*base, *tail]
    third = [*base, *tail[:25]]
    assert _jaccard(first, second) < 0.8 < _jaccard(first, third) < _jaccard(second, third)
    for order in ((first, second), (second, first)):
        index = NearDuplicates()
        for own in order:
            assert index.find_or_add(int(own is second), own) is None
        assert index.find_or_add(3, third) == (1, pytest.approx(_jaccard(second, third)))


def test_groups_are_those_of_comparing_all_pairs():
    rng = random.Random(5)
    texts: list[list[str]] = []
    for _ in range(40):
        own = _text(rng, 120)
        texts += [own, *(_changed(rng, own, 1) for _ in range(rng.randrange(3)))]
    rng.shuffle(texts)
    expected: list[list[int]] = []
    for position, own in enumerate(texts):
        for group in expected:
            if any(_jaccard(own, texts[member]) >= 0.8 for member in group):
                group.append(position)
                break
        else:
            expected.append([position])
    assert near_duplicate_groups(texts, threshold=0.8) == [g for g in expected if len(g) > 1]


def test_groups_are_connected_through_their_members():
    rng = random.Random(6)
    first = _text(rng, 100)
    near = [*first[:93], *(f"x{at}" for at in range(7))]
    further = [*first[:86], *(f"y{at}" for at in range(7)), *near[93:]]
    assert _jaccard(first, further) < 0.8 <= _jaccard(near, further)
    lone = _text(rng, 100)
    assert near_duplicate_groups([lone, first, near, further], threshold=0.8) == [[1, 2, 3]]


def test_other_processes_with_other_hash_seeds_find_the_same():
    program = (
        "import json, random\n"
        "from grlo.prompts.duplicates import NearDuplicates\n"
        "rng = random.Random(0)\n"
        "index = NearDuplicates(threshold=0.6)\n"
        "texts = [[f'w{rng.randrange(30)}' for _ in range(40)] for _ in range(50)]\n"
        "for text in list(texts):\n"
        "    texts.append(text[:rng.randrange(25, 40)] + ['z'] * 3)\n"
        "found = [index.find_or_add(i, text) for i, text in enumerate(texts)]\n"
        "print(json.dumps(found))\n"
    )
    answers = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        answers.append(json.loads(run.stdout))
    assert answers[0] == answers[1]
    assert sum(found is not None for found in answers[0]) > 20


def test_only_the_first_grams_of_a_long_text_are_compared():
    tokens = [f"w{at}" for at in range(MAX_GRAMS + 2)]
    index = NearDuplicates()
    index.find_or_add(1, tokens)
    assert index.find_or_add(2, [*tokens, *(f"x{at}" for at in range(10 * MAX_GRAMS))]) == (1, 1.0)


def test_a_template_filled_many_times_takes_no_quadratic_time(monkeypatch):
    calls = 0

    def counted(first, second):
        nonlocal calls
        calls += 1
        return _exact(first, second)

    _exact = duplicates._jaccard
    monkeypatch.setattr(duplicates, "_jaccard", counted)
    # Similarity of about 0.7 between any two: candidates of each other, none near enough.
    rng = random.Random(7)
    template = _text(rng, 120)
    index = NearDuplicates()
    for key in range(700):
        assert index.find_or_add(key, [*template, *_text(rng, 24)]) is None
    assert 10 * 700 < calls <= 100 * 700


def test_odd_tokens_do_no_harm():
    index = NearDuplicates()
    odd = ["\ud800", "\x00", "", "a" * 1_000_000]
    assert index.find_or_add(1, odd) is None
    assert index.find_or_add(2, odd) == (1, 1.0)


def test_planted_copies_among_real_prompts_are_found(data_dir):
    prompts = read_prompts(str(data_dir / "grlo_train.jsonl"), default_style="model")
    texts = [words(prompt.messages[-1].content) for prompt in prompts]
    index = NearDuplicates()
    for key, own in enumerate(texts):
        assert index.find_or_add(key, own) is None
    for key, own in enumerate(texts):
        longer = [*own, "please"]
        assert index.find_or_add(-1, longer) == (key, pytest.approx(_jaccard(own, longer)))
