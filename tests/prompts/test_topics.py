import random

import numpy as np
import pytest

from grlo.prompts.topics import find_topics, semantic_duplicates, topic_map

SUBJECTS = {
    "sea": ["whale", "harbour", "tide", "sailor", "anchor", "wave", "coral", "reef", "gull"],
    "kitchen": ["oven", "butter", "flour", "pan", "spoon", "dough", "sugar", "kettle", "spice"],
    "court": ["judge", "lawyer", "verdict", "appeal", "statute", "jury", "crime", "trial", "plea"],
}


def texts(number: int) -> tuple[list[str], list[str]]:
    rng = random.Random(0)
    labels = [rng.choice(list(SUBJECTS)) for _ in range(number)]
    return [" ".join(rng.choices(SUBJECTS[label], k=12)) for label in labels], labels


def test_texts_of_one_subject_share_a_topic_that_is_named_by_its_words():
    own, labels = texts(150)
    topics = find_topics(own, num_topics=3, seed=0)
    subject_of = {}
    for label, cluster in zip(labels, topics.cluster.tolist(), strict=True):
        assert subject_of.setdefault(cluster, label) == label
    for cluster, label in subject_of.items():
        assert set(topics.names[cluster].split(", ")) <= set(SUBJECTS[label])
    assert np.allclose(np.linalg.norm(topics.vectors, axis=1), 1, atol=1e-4)


def test_the_same_seed_gives_the_same_topics():
    own, _ = texts(80)
    one, other = (find_topics(own, num_topics=4, seed=3) for _ in range(2))
    assert np.array_equal(one.vectors, other.vectors)
    assert np.array_equal(one.cluster, other.cluster)


def test_a_text_with_the_words_of_an_earlier_one_is_its_duplicate():
    own, _ = texts(60)
    shuffled = own[7].split()
    random.Random(1).shuffle(shuffled)
    topics = find_topics([*own, " ".join(shuffled)], num_topics=3, seed=0)
    found = semantic_duplicates(topics, threshold=0.999)
    assert found == {60: (7, pytest.approx(1.0, abs=1e-5))}


def test_the_earlier_text_of_a_pair_is_itself_kept():
    own, _ = texts(30)
    topics = find_topics([own[0], *own[1:], own[0], own[0]], num_topics=2, seed=0)
    found = semantic_duplicates(topics, threshold=0.999)
    assert {found[30][0], found[31][0]} == {0}


def test_the_threshold_decides():
    own = ["sail the red boat past the old harbour wall", "sail the red boat past a new bridge"] * 1
    topics = find_topics([*own, *texts(20)[0]], num_topics=1, seed=0)
    (cosine,) = [
        value for first, value in semantic_duplicates(topics, threshold=0.3).values() if first == 0
    ]
    assert 0.3 < cosine < 0.7
    assert 1 not in semantic_duplicates(topics, threshold=cosine + 0.01)


@pytest.mark.parametrize("own", [["a"], ["", ""], ["?!", "1 2"], ["same words here"] * 5])
def test_texts_that_say_little_are_no_error(own):
    topics = find_topics(own, num_topics=0, seed=0)
    assert len(topics.cluster) == len(own)
    semantic_duplicates(topics)
    chosen, points = topic_map(topics, seed=0)
    assert points.shape == (len(chosen), 2)


def test_a_map_draws_a_sample_of_a_large_set():
    own, _ = texts(60)
    chosen, points = topic_map(find_topics(own, num_topics=3, seed=0), seed=0, most=20)
    assert len(chosen) == 20 == len(points)
    assert np.isfinite(points).all()
