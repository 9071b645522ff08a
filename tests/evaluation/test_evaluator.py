"""The evaluator on a fake engine: what is counted, what is left out, what comes back from disk."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from grlo.errors import DataError
from grlo.evaluation.evaluator import (
    domain_scores,
    evaluate,
    gain,
    identify,
    read_result,
    write_results,
)
from grlo.interfaces import Benchmark, Progress, silent
from grlo.types import Completion, Message, Prompt, SamplingParams, Score

if TYPE_CHECKING:
    from torch import Tensor

STOP = 0
MODEL = {"path": "/somewhere", "weights_sha256": "abc"}


class LetterRenderer:
    """One token per character; 0 ends an answer."""

    stop_ids: tuple[int, ...] = (STOP,)
    pad_id = STOP

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(ord(character) for character in messages[-1].content)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(token) for token in tokens if token != STOP)


class LetterEngine:
    """Answers with random `y`s and `n`s, as long as the seed says; counts its calls."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.stop: tuple[int, ...] = ()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        progress: Progress = silent,
    ) -> list[Completion]:
        self.num_calls += 1
        self.stop = sampling.stop
        completions = []
        for seed in seeds:
            rng = random.Random(seed)
            for _ in range(sampling.num_samples):
                length = rng.randint(1, sampling.max_tokens + 1)
                tokens = [ord(rng.choice("yn")) for _ in range(min(length, sampling.max_tokens))]
                if length <= sampling.max_tokens:
                    tokens[-1] = STOP
                completions.append(
                    Completion(
                        tokens=tuple(tokens),
                        logprobs=tuple(-rng.random() for _ in tokens),
                        finish_reason="stop" if tokens[-1] == STOP else "length",
                    )
                )
        progress(done=len(completions), total=len(completions), tokens=7)
        return completions

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        raise AssertionError("an evaluation never changes the model")

    def close(self) -> None: ...


def count_y(prompt: Prompt, text: str) -> Score:
    return Score(value=float("y" in text), parts={"length": float(len(text))})


def fail_on_odd(prompt: Prompt, text: str) -> Score:
    if int(prompt.id) % 2:
        raise ZeroDivisionError("no reference")
    return count_y(prompt, text)


def make_benchmark(name: str = "letters", domain: str = "math", num: int = 6) -> Benchmark:
    prompts = tuple(
        Prompt(id=str(i), messages=(Message("user", f"{name} {i}"),), reference="y", meta={"k": i})
        for i in range(num)
    )
    return Benchmark(
        name=name,
        domain=domain,
        prompts=prompts,
        verifier=count_y,
        sampling=SamplingParams(max_tokens=4, num_samples=3, stop=(77,)),
        source="made here",
        version="1",
    )


def test_every_sample_is_kept_and_the_shares_are_those_of_the_samples() -> None:
    engine = LetterEngine()
    (result,) = evaluate(engine, LetterRenderer(), [make_benchmark()], seed=0)
    assert engine.stop == (77, STOP), "the benchmark's own stop ids and those of the renderer"
    assert len(result.rollouts) == len(result.scores) == 18
    assert result.num_problems == 6
    stopped = sum(rollout.completion.tokens[-1] == STOP for rollout in result.rollouts)
    assert 0 < stopped < 18
    assert result.stop_share == pytest.approx(stopped / 18)
    assert result.truncated_share == pytest.approx(1 - stopped / 18)
    assert result.mean_tokens == pytest.approx(
        sum(len(rollout.completion.tokens) for rollout in result.rollouts) / 18
    )
    values = ["y" in rollout.text for rollout in result.rollouts]
    assert result.score is not None
    assert result.score.value == pytest.approx(sum(values) / 18)
    assert result.parts["length"] == pytest.approx(
        sum(len(rollout.text) for rollout in result.rollouts) / 18
    )


def test_a_verifier_that_raises_leaves_its_samples_unscored_and_never_zero() -> None:
    benchmark = replace(make_benchmark(), verifier=fail_on_odd)
    (result,) = evaluate(LetterEngine(), LetterRenderer(), [benchmark], seed=0)
    odd = [s for r, s in zip(result.rollouts, result.scores, strict=True) if int(r.prompt.id) % 2]
    assert result.num_unscored == len(odd) == 9
    assert all(score.value is None for score in odd)
    assert "ZeroDivisionError: no reference" in odd[0].note
    even = ["y" in r.text for r in result.rollouts if not int(r.prompt.id) % 2]
    assert result.score is not None
    assert result.score.value == pytest.approx(sum(even) / 9)


def test_pass_at_k_is_taken_over_the_scored_samples_of_each_problem(tmp_path: Path) -> None:
    benchmark = replace(make_benchmark(), verifier=fail_on_odd)
    (result,) = evaluate(LetterEngine(), LetterRenderer(), [benchmark], seed=0)
    assert list(result.pass_at) == [1, 2], "three samples do not say what four would do"
    assert result.score is not None
    assert result.pass_at[1] == pytest.approx(result.score.value)
    expected = []
    for problem in (0, 2, 4):
        right = ["y" in r.text for r in result.rollouts if r.group == problem]
        expected += [any(pair) for pair in itertools.combinations(right, 2)]
    assert result.pass_at[2] == pytest.approx(sum(expected) / 9)
    write_results([result], tmp_path, model=MODEL)
    entry = json.loads((tmp_path / "summary.json").read_text())["benchmarks"]["letters"]
    assert entry["pass_at"]["2"] == result.pass_at[2]

    graded = replace(benchmark, verifier=lambda prompt, text: Score(len(text) / 4))
    (result,) = evaluate(LetterEngine(), LetterRenderer(), [graded], seed=0)
    assert result.pass_at == {}, "there is no right or wrong"


def test_a_benchmark_without_any_score_has_none_and_takes_its_domain_out_of_the_average(
    tmp_path: Path,
) -> None:
    def broken(prompt: Prompt, text: str) -> Score:
        raise RuntimeError("sandbox is gone")

    benchmarks = [replace(make_benchmark(), verifier=broken), make_benchmark("b", "code")]
    results = evaluate(LetterEngine(), LetterRenderer(), benchmarks, seed=0)
    assert results[0].score is None
    assert list(domain_scores(results)) == ["code"]
    write_results(results, tmp_path, model=MODEL)
    assert (
        json.loads((tmp_path / "summary.json").read_text())["benchmarks"]["letters"]["score"]
        is None
    )


def test_domains_count_equally_and_so_do_the_benchmarks_in_one() -> None:
    benchmarks = [make_benchmark("a"), make_benchmark("b", num=20), make_benchmark("c", "code")]
    results = evaluate(LetterEngine(), LetterRenderer(), benchmarks, seed=0)
    values = [result.score.value for result in results if result.score]
    scores = domain_scores(results)
    assert scores["math"].value == pytest.approx((values[0] + values[1]) / 2)
    assert results[2].score is not None
    assert (scores["code"].low, scores["code"].high) == pytest.approx(
        (results[2].score.low, results[2].score.high)
    )
    assert scores["code"].value == pytest.approx(values[2])


def test_a_gain_is_paired_over_the_problems_that_both_models_have_scores_of() -> None:
    benchmark = make_benchmark()
    (before,) = evaluate(LetterEngine(), LetterRenderer(), [benchmark], seed=0)
    failing = replace(benchmark, verifier=fail_on_odd)
    (after,) = evaluate(LetterEngine(), LetterRenderer(), [failing], seed=0)
    same = gain(before, after, seed=0)
    assert (same.low, same.value, same.high) == (0, 0, 0), "equal answers where both are scored"
    opposite = replace(benchmark, verifier=lambda p, text: Score(float("y" not in text)))
    (after,) = evaluate(LetterEngine(), LetterRenderer(), [opposite], seed=0)
    assert before.score is not None
    assert gain(before, after, seed=0).value == pytest.approx(1 - 2 * before.score.value)
    (other,) = evaluate(LetterEngine(), LetterRenderer(), [make_benchmark("b")], seed=0)
    with pytest.raises(ValueError, match="cannot be compared"):
        gain(before, other, seed=0)


def test_progress_runs_over_all_benchmarks() -> None:
    seen: list[tuple[int, int]] = []

    def record(*, done: int, total: int, tokens: int) -> None:
        seen.append((done, total))

    benchmarks = [make_benchmark("a"), make_benchmark("b", num=2)]
    evaluate(LetterEngine(), LetterRenderer(), benchmarks, seed=0, progress=record)
    assert seen == [(18, 24), (24, 24)]


def test_the_seed_alone_decides_the_samples() -> None:
    def texts(seed: int, benchmarks: Sequence[Benchmark]) -> list[str]:
        results = evaluate(LetterEngine(), LetterRenderer(), benchmarks, seed=seed)
        return [rollout.text for rollout in results[-1].rollouts]

    alone = texts(0, [make_benchmark()])
    assert texts(0, [make_benchmark("other"), make_benchmark()]) == alone
    assert texts(1, [make_benchmark()]) != alone


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    benchmark = replace(make_benchmark(), verifier=fail_on_odd)
    (result,) = evaluate(LetterEngine(), LetterRenderer(), [benchmark], seed=5)
    write_results([result], tmp_path, model=MODEL)
    back = read_result(tmp_path, benchmark, LetterRenderer(), seed=5, model=MODEL)
    assert back is not None
    assert back.scores == result.scores
    assert back.score == result.score
    assert back.parts == result.parts
    assert back.identity == result.identity
    for ours, theirs in zip(back.rollouts, result.rollouts, strict=True):
        assert replace(ours.completion, logprobs=()) == replace(theirs.completion, logprobs=())
        assert ours.completion.logprobs == pytest.approx(theirs.completion.logprobs, abs=1e-5)
        assert (ours.prompt, ours.text, ours.prompt_tokens) == (
            theirs.prompt,
            theirs.text,
            theirs.prompt_tokens,
        )


def test_a_result_of_another_identity_is_not_taken_for_this_one(tmp_path: Path) -> None:
    benchmark, renderer = make_benchmark(), LetterRenderer()
    write_results(evaluate(LetterEngine(), renderer, [benchmark], seed=0), tmp_path, model=MODEL)

    class OtherTemplate(LetterRenderer):
        def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
            return (1, *super().encode(messages))

    prompts = benchmark.prompts
    changed = [
        replace(benchmark, version="2"),
        replace(benchmark, sampling=replace(benchmark.sampling, temperature=0.0)),
        replace(benchmark, prompts=prompts[:-1]),
        replace(benchmark, prompts=(replace(prompts[0], reference="n"), *prompts[1:])),
        replace(benchmark, prompts=(replace(prompts[0], meta={"k": 9}), *prompts[1:])),
    ]
    assert read_result(tmp_path, benchmark, renderer, seed=0, model=MODEL) is not None
    for other in changed:
        assert read_result(tmp_path, other, renderer, seed=0, model=MODEL) is None
    assert read_result(tmp_path, benchmark, renderer, seed=1, model=MODEL) is None
    assert read_result(tmp_path, benchmark, OtherTemplate(), seed=0, model=MODEL) is None
    other_model = {**MODEL, "weights_sha256": "def"}
    assert read_result(tmp_path, benchmark, renderer, seed=0, model=other_model) is None


def test_samples_that_are_damaged_or_gone_count_as_not_run(tmp_path: Path) -> None:
    benchmark, renderer = make_benchmark(), LetterRenderer()
    write_results(evaluate(LetterEngine(), renderer, [benchmark], seed=0), tmp_path, model=MODEL)
    file = tmp_path / "letters.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert read_result(tmp_path, benchmark, renderer, seed=0, model=MODEL) is None
    file.unlink()
    assert read_result(tmp_path, benchmark, renderer, seed=0, model=MODEL) is None


def test_the_summary_says_what_was_run_and_keeps_other_benchmarks(tmp_path: Path) -> None:
    first, second = make_benchmark("a"), make_benchmark("b")
    for benchmark in (first, second):
        results = evaluate(LetterEngine(), LetterRenderer(), [benchmark], seed=3)
        write_results(results, tmp_path, model=MODEL)
    summary = json.loads((tmp_path / "summary.json").read_text())["benchmarks"]
    assert set(summary) == {"a", "b"}
    identity = summary["a"]["identity"]
    assert identity["version"] == "1"
    assert identity["seed"] == 3
    assert identity["sampling"]["stop"] == [77, STOP]
    assert identity["problems"] == identify(first, LetterRenderer(), seed=0).problems
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(rows) == summary["a"]["num_samples"] == 18
    assert rows[0]["input"] == [{"role": "user", "content": "a 0"}]


def test_a_file_that_is_no_summary_is_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"arms": {}}')
    with pytest.raises(DataError, match=r"summary\.json is no summary of an evaluation"):
        read_result(tmp_path, make_benchmark(), LetterRenderer(), seed=0, model=MODEL)
