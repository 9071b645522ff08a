"""Watching: correlations against scipy, n-grams by hand."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from grlo.training.watch import watch_metrics
from grlo.types import Completion, Prompt, Rollout, Score


def rollout(tokens) -> Rollout:
    completion = Completion(
        tokens=tuple(tokens), logprobs=(0.0,) * len(tokens), finish_reason="stop"
    )
    prompt = Prompt(id="p", messages=())
    return Rollout(prompt=prompt, group=0, prompt_tokens=(), completion=completion, text="")


def step(seed: int, count: int = 60, slope: float = 0.3) -> tuple[list[Rollout], list[Score]]:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 20) for _ in range(count)]
    rollouts = [rollout([rng.randrange(9) for _ in range(length)]) for length in lengths]
    return rollouts, [Score(slope * length + rng.gauss(-5, 2)) for length in lengths]


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.3])
def test_correlations_of_score_and_length_are_those_of_scipy(slope):
    rollouts, scores = step(0, slope=slope)
    metrics = watch_metrics(rollouts, scores)
    lengths = [len(r.completion.tokens) for r in rollouts]
    values = [score.value for score in scores]
    pearson, spearman = pearsonr(lengths, values), spearmanr(lengths, values)
    assert metrics["watch/score_length_correlation"] == pytest.approx(pearson.statistic)
    assert metrics["watch/score_length_rank_correlation"] == pytest.approx(spearman.statistic)


@pytest.mark.parametrize(
    ("lengths", "values"),
    [
        ([3, 3, 3], [1.0, 2.0, 3.0]),
        ([1, 2, 3], [0.5, 0.5, 0.5]),
        ([4], [1.0]),
        ([1, 2], [None] * 2),
    ],
)
def test_a_correlation_without_spread_is_left_out_rather_than_zero(lengths, values):
    metrics = watch_metrics([rollout(range(n)) for n in lengths], [Score(v) for v in values])
    assert not any(name.startswith("watch/score") for name in metrics)
    assert metrics["watch/distinct_1"] > 0


def test_scores_by_length_are_means_of_tenths_from_the_shortest_to_the_longest():
    lengths = random.Random(2).sample(range(1, 41), 40)
    scores = [Score(float(length**2)) for length in lengths]
    metrics = watch_metrics([rollout(range(n)) for n in lengths], scores)
    for tenth in range(10):
        expected = np.mean([n**2 for n in range(4 * tenth + 1, 4 * tenth + 5)])
        assert metrics[f"watch/score_by_length/{tenth + 1}"] == pytest.approx(expected)


def test_answers_of_one_length_have_one_score_in_all_tenths():
    scores = [Score(float(value)) for value in range(23)]
    metrics = watch_metrics([rollout((1, 2, 3))] * 23, scores)
    for tenth in range(1, 11):
        assert metrics[f"watch/score_by_length/{tenth}"] == pytest.approx(11.0)


def test_nine_scored_answers_have_no_tenths_and_unscored_ones_do_not_count():
    rollouts, scores = step(3, count=12)
    scores[2] = scores[5] = scores[7] = Score(None)
    metrics = watch_metrics(rollouts, scores)
    assert not any(name.startswith("watch/score_by_length") for name in metrics)
    kept = [i for i in range(12) if i not in (2, 5, 7)]
    expected = pearsonr(
        [len(rollouts[i].completion.tokens) for i in kept], [scores[i].value for i in kept]
    )
    assert metrics["watch/score_length_correlation"] == pytest.approx(expected.statistic)


def test_repetition_and_distinct_ngrams_are_those_counted_by_hand():
    # 4-grams of the first: 1212 2121 1212: one of three repeated; the second has none; the third
    # five times 7777: four of five repeated.
    rollouts = [rollout((1, 2, 1, 2, 1, 2)), rollout((1, 2)), rollout((7,) * 8)]
    metrics = watch_metrics(rollouts, [Score(0.0)] * 3)
    assert metrics["watch/repetition"] == pytest.approx((1 / 3 + 0 + 4 / 5) / 3)
    assert metrics["watch/distinct_1"] == pytest.approx(3 / 16)
    assert metrics["watch/distinct_2"] == pytest.approx(3 / (5 + 1 + 7))  # 12, 21, 77.


def test_empty_answers_have_no_distinct_ngrams_and_repeat_nothing():
    assert watch_metrics([rollout(())] * 2, [Score(1.0), Score(2.0)]) == {"watch/repetition": 0.0}


def test_the_order_of_the_rows_changes_no_metric():
    rollouts, scores = step(4)
    order = random.Random(5).sample(range(60), 60)
    mixed = watch_metrics([rollouts[i] for i in order], [scores[i] for i in order])
    plain = watch_metrics(rollouts, scores)
    assert mixed.keys() == plain.keys()
    for name, value in plain.items():
        assert mixed[name] == pytest.approx(value, rel=1e-12), name


def test_a_step_of_half_a_million_tokens_is_watched_in_seconds():
    tokens = np.random.default_rng(0).integers(150_000, size=(512, 1024)).tolist()
    rollouts = [rollout(row) for row in tokens]
    start = time.process_time()
    watch_metrics(rollouts, [Score(0.0)] * 512)
    assert time.process_time() - start < 5


def test_watching_imports_no_torch():
    code = "import sys, grlo.training.watch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
