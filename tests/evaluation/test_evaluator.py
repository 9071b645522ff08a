"""The evaluator on a fake model: what is counted, what is left out, what a kill cannot take."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grlo import __version__
from grlo.errors import DataError
from grlo.evaluation.evaluator import evaluate, gain, identify
from grlo.evaluation.respondents import Answer, OnAnswer, Spent
from grlo.evaluation.results import (
    BenchmarkResult,
    domain_scores,
    read_results,
    samples_file,
)
from grlo.interfaces import Benchmark, GradedSample, Progress, silent
from grlo.ledger import PhaseCost
from grlo.types import Message, Prompt, Rollout, SamplingParams, Score, Usage, Work

MODEL = {"path": "/somewhere", "weights_sha256": "abc"}


class Killed(BaseException):
    """What no handler of errors catches."""


class LetterModel:
    """Answers with random `y`s and `n`s, as its seeds say; counts what it is asked."""

    def __init__(
        self, *, block_size: int = 0, dies_after: int = 10**9, num_parallel: int = 1
    ) -> None:
        self.block_size, self.num_parallel = block_size, num_parallel
        self.asked: list[tuple[str, int]] = []
        self.conversations: list[tuple[Message, ...]] = []
        self.blocks: list[int] = []
        self._dies_after = dies_after

    def template(self, shots: Sequence[tuple[str, str]]) -> str:
        return "shots" if shots else "letters"

    def answer(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        draws: Sequence[int],
        shots: Sequence[tuple[str, str]],
        progress: Progress = silent,
        on_answer: OnAnswer,
    ) -> list[Answer]:
        self.blocks.append(len(prompts))
        answers = []
        for index, (prompt, seed, draw) in enumerate(zip(prompts, seeds, draws, strict=True)):
            if len(self.asked) == self._dies_after:
                raise Killed
            self.asked.append((prompt.messages[-1].content, draw))
            self.conversations.append(prompt.messages)
            rng = random.Random(seed)
            length = rng.randint(1, sampling.max_tokens + 1)
            text = "".join(rng.choice("yn") for _ in range(min(length, sampling.max_tokens) - 1))
            reason = "stop" if length <= sampling.max_tokens else "length"
            answers.append(Answer(text, reason, len(text) + 1))
            on_answer(index, answers[-1])
            progress(done=index + 1, total=len(prompts), tokens=index)
        return answers

    def spent(self) -> Spent:
        return Spent(tokens=7, work={"engine": Work(9, 11.0)}, usage=Usage(requests=1, dollars=0.5))


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
        sampling=SamplingParams(max_tokens=4, num_samples=3),
        source="made here",
        version="1",
    )


def run(
    benchmark: Benchmark, directory: Path, *, model: LetterModel | None = None, **options: Any
) -> BenchmarkResult:
    options = {"seed": 0, "model": MODEL, **options}
    return evaluate(model or LetterModel(), benchmark, directory=directory, **options)


def test_every_sample_is_kept_and_the_shares_are_those_of_the_samples(tmp_path: Path) -> None:
    result = run(make_benchmark(), tmp_path)
    samples = result.samples
    assert [(s.problem, s.draw, s.turn) for s in samples] == [
        (problem, draw, 0) for problem in range(6) for draw in range(3)
    ]
    assert result.num_problems == 6
    stopped = sum(sample.finish_reason == "stop" for sample in samples)
    assert 0 < stopped < 18
    assert result.stop_share == pytest.approx(stopped / 18)
    assert result.truncated_share == pytest.approx(1 - stopped / 18)
    assert result.mean_tokens == pytest.approx(sum(s.num_tokens for s in samples) / 18)
    assert result.mean_characters == pytest.approx(sum(len(s.text) for s in samples) / 18)
    assert result.score is not None
    assert result.score.value == pytest.approx(sum("y" in s.text for s in samples) / 18)
    assert result.parts["length"] == result.mean_characters
    assert result.extraction_failures is None, "nothing says what could be read"


def test_a_verifier_that_raises_leaves_its_samples_unscored_and_never_zero(tmp_path: Path) -> None:
    result = run(replace(make_benchmark(), verifier=fail_on_odd), tmp_path)
    odd = [sample for sample in result.samples if sample.problem % 2]
    assert result.num_unscored == len(odd) == 9
    assert all(sample.score.value is None for sample in odd)
    assert "ZeroDivisionError: no reference" in odd[0].score.note
    even = ["y" in sample.text for sample in result.samples if not sample.problem % 2]
    assert result.score is not None
    assert result.score.value == pytest.approx(sum(even) / 9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_none(tmp_path: Path, value: float) -> None:
    def verifier(prompt: Prompt, text: str) -> Score:
        return Score(value, parts={"bad": value, "good": 1.0}, note="oops")

    result = run(replace(make_benchmark(), verifier=verifier), tmp_path)
    assert result.num_unscored == 18
    assert result.parts == {"good": 1.0}
    assert result.samples[0].score.note == f"scored {value}; oops"


def test_pass_at_k_is_taken_over_the_scored_samples_of_each_problem(tmp_path: Path) -> None:
    benchmark = replace(make_benchmark(), verifier=fail_on_odd)
    result = run(benchmark, tmp_path)
    assert list(result.pass_at) == [1, 2, 3]
    assert result.score is not None
    assert result.pass_at[1] == pytest.approx(result.score.value)
    expected = []
    for problem in (0, 2, 4):
        right = ["y" in s.text for s in result.samples if s.problem == problem]
        expected += [any(pair) for pair in itertools.combinations(right, 2)]
    assert result.pass_at[2] == pytest.approx(sum(expected) / 9)
    graded = replace(benchmark, verifier=lambda prompt, text: Score(len(text) / 4))
    assert run(graded, tmp_path / "other").pass_at == {}, "there is no right or wrong"


def test_maj_at_k_is_that_of_the_first_k_samples_and_unread_answers_do_not_vote(
    tmp_path: Path,
) -> None:
    def verifier(prompt: Prompt, text: str) -> Score:
        if not text:
            return Score(0.0, parts={"parsed": 0.0}, extracted="never")
        return Score(float(text[0] == "y"), parts={"parsed": 1.0}, extracted=text[0])

    result = run(replace(make_benchmark(num=40), verifier=verifier), tmp_path)
    assert list(result.maj_at) == [1, 2, 3]
    right = 0
    for problem in range(40):
        votes = [s.text[0] for s in result.samples if s.problem == problem and s.text]
        winner = max(votes, key=votes.count) if votes else "none"  # The first among equals.
        right += winner == "y"
    assert result.maj_at[3] == pytest.approx(right / 40)
    unread = sum(not s.text for s in result.samples)
    assert unread > 0
    assert result.extraction_failures == pytest.approx(unread / 120)


def test_a_benchmark_without_any_score_has_none_and_takes_its_domain_out_of_the_average(
    tmp_path: Path,
) -> None:
    def broken(prompt: Prompt, text: str) -> Score:
        raise RuntimeError("sandbox is gone")

    results = [
        run(replace(make_benchmark(), verifier=broken), tmp_path),
        run(make_benchmark("b", "code"), tmp_path),
    ]
    assert results[0].score is None
    assert list(domain_scores(results)) == ["code"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["benchmarks"]["letters"]["score"] is None
    assert list(summary["averages"]["sampled"]) == ["code", "average"]


def test_domains_count_equally_and_so_do_the_benchmarks_in_one(tmp_path: Path) -> None:
    benchmarks = [make_benchmark("a"), make_benchmark("b", num=20), make_benchmark("c", "code")]
    results = [run(benchmark, tmp_path) for benchmark in benchmarks]
    values = [result.score.value for result in results if result.score]
    scores = domain_scores(results)
    assert scores["math"].value == pytest.approx((values[0] + values[1]) / 2)
    assert results[2].score is not None
    assert (scores["code"].low, scores["code"].high) == pytest.approx(
        (results[2].score.low, results[2].score.high)
    )
    averages = json.loads((tmp_path / "summary.json").read_text())["averages"]["sampled"]
    assert averages["average"]["value"] == pytest.approx(
        ((values[0] + values[1]) / 2 + values[2]) / 2
    )


def test_variants_and_scores_that_are_no_shares_stay_out_of_averages(tmp_path: Path) -> None:
    results = [
        run(make_benchmark("a"), tmp_path),
        run(replace(make_benchmark("b"), variant="greedy"), tmp_path),
        run(replace(make_benchmark("c"), unit="points"), tmp_path),
    ]
    assert results[0].score is not None
    assert domain_scores(results)["math"].value == results[0].score.value
    assert list(domain_scores(results, variant="greedy")) == ["math"]


def test_a_gain_is_paired_over_the_problems_that_both_models_have_scores_of(
    tmp_path: Path,
) -> None:
    class Grader:
        """One kind of grader, whatever it does today."""

        def __init__(self, grade: Any) -> None:
            self.grade = grade

        def __call__(self, prompt: Prompt, text: str) -> Score:
            return self.grade(prompt, text)

    benchmark = replace(make_benchmark(), verifier=Grader(count_y))
    before = run(benchmark, tmp_path / "0")
    after = run(replace(benchmark, verifier=Grader(fail_on_odd)), tmp_path / "1")
    same = gain(before, after, seed=0)
    assert (same.low, same.value, same.high) == (0, 0, 0), "equal answers where both are scored"
    opposite = Grader(lambda p, text: Score(float("y" not in text)))
    after = run(replace(benchmark, verifier=opposite), tmp_path / "2")
    assert before.score is not None
    assert gain(before, after, seed=0).value == pytest.approx(1 - 2 * before.score.value)
    with pytest.raises(ValueError, match="cannot be compared"):
        gain(before, run(make_benchmark("b"), tmp_path / "3"), seed=0)
    with pytest.raises(ValueError, match="cannot be compared"):
        gain(before, run(make_benchmark(), tmp_path / "4"), seed=0)


def test_progress_counts_answers_first_and_verdicts_then(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def record(*, done: int, total: int, tokens: int) -> None:
        seen.append((done, total))

    run(make_benchmark(), tmp_path, model=LetterModel(block_size=4), progress=record)
    assert seen == [(done, 18) for _ in range(2) for done in range(1, 19)]


def test_blocks_that_are_asked_at_a_time_end_with_the_same_bytes_and_draw_nothing_twice(
    tmp_path: Path,
) -> None:
    seen: list[tuple[int, int]] = []

    def record(*, done: int, total: int, tokens: int) -> None:
        seen.append((done, total))

    benchmark = make_benchmark()
    run(benchmark, tmp_path / "whole", model=LetterModel(block_size=4))
    with pytest.raises(Killed):
        run(
            benchmark,
            tmp_path / "cut",
            model=LetterModel(block_size=4, num_parallel=3, dies_after=10),
        )
    kept = (tmp_path / "cut" / "letters.partial.jsonl").exists()
    model = LetterModel(block_size=4, num_parallel=3)
    run(benchmark, tmp_path / "cut", model=model, progress=record)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert len(set(model.asked)) == len(model.asked) <= 18 - 4 * kept
    drawing = seen[: len(model.blocks)]
    assert drawing[-1] == (18, 18)
    assert [done for done, _ in drawing] == sorted(done for done, _ in drawing)


def test_the_seed_and_the_problem_decide_a_sample_and_not_its_company(tmp_path: Path) -> None:
    def texts(name: str, benchmark: Benchmark, seed: int = 0) -> dict[tuple[str, int], str]:
        samples = run(benchmark, tmp_path / name, seed=seed).samples
        return {(sample.prompt.id, sample.draw): sample.text for sample in samples}

    benchmark = make_benchmark()
    whole = texts("whole", benchmark)
    part = texts("part", replace(benchmark, prompts=benchmark.prompts[3:]))
    assert part == {key: text for key, text in whole.items() if int(key[0]) >= 3}
    assert texts("seed", benchmark, seed=1) != whole
    twice = run(replace(benchmark, prompts=benchmark.prompts[:1] * 2), tmp_path / "twice").samples
    assert [s.text for s in twice[:3]] == [whole["0", draw] for draw in range(3)]
    assert [s.text for s in twice[3:]] != [s.text for s in twice[:3]]


def test_what_a_call_costs_is_counted_with_the_judge(tmp_path: Path) -> None:
    class Judge:
        def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
            return [Score(float(len(rollout.text) > 1)) for rollout in rollouts]

        def state_dict(self) -> dict[str, float]:
            return {}

        def load_state_dict(self, state: Any) -> None: ...

        def metrics(self) -> dict[str, float]:
            return {}

        def usage(self) -> Usage:
            return Usage(requests=5, dollars=2.0)

    cost = PhaseCost()
    result = run(replace(make_benchmark(), verifier=Judge()), tmp_path, cost=cost)
    assert (cost.tokens, cost.work) == (7, {"engine": Work(9, 11.0)})
    assert cost.usage == Usage(requests=6, dollars=2.5)
    assert result.score is not None
    assert result.score.value == pytest.approx(sum(len(s.text) > 1 for s in result.samples) / 18)


# Later turns --------------------------------------------------------------------------------------


def test_follow_ups_are_asked_behind_the_answers_and_graded_as_samples_of_the_problem(
    tmp_path: Path,
) -> None:
    benchmark = make_benchmark(num=3)
    first = replace(benchmark.prompts[0], meta={"follow_ups": ["and then?", "and last?"]})
    benchmark = replace(benchmark, prompts=(first, *benchmark.prompts[1:]))
    model = LetterModel()
    result = run(benchmark, tmp_path, model=model)
    places = [(s.problem, s.draw, s.turn) for s in result.samples]
    assert places == [(0, d, t) for d in range(3) for t in range(3)] + [
        (p, d, 0) for p in (1, 2) for d in range(3)
    ]
    last = result.samples[2]
    contents = [message.content for message in last.prompt.messages]
    assert contents == [
        "letters 0",
        result.samples[0].text,
        "and then?",
        result.samples[1].text,
        "and last?",
    ]
    assert result.score is not None
    assert result.score.value == pytest.approx(sum("y" in s.text for s in result.samples) / 15)


# Kills and resumption -----------------------------------------------------------------------------


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("block_size", [0, 4])
def test_killed_again_and_again_it_ends_with_the_same_bytes_and_draws_nothing_twice(
    tmp_path: Path, block_size: int
) -> None:
    benchmark = make_benchmark()
    follows = replace(benchmark.prompts[4], meta={"follow_ups": ["more"]})
    benchmark = replace(benchmark, prompts=(*benchmark.prompts[:4], follows, benchmark.prompts[5]))
    run(benchmark, tmp_path / "whole", model=LetterModel(block_size=block_size))
    asked: list[tuple[str, int]] = []
    for _ in range(30):
        model = LetterModel(block_size=block_size, dies_after=5)
        try:
            run(benchmark, tmp_path / "cut", model=model)
        except Killed:
            kept = len(model.asked) if block_size == 0 else len(model.asked) // 4 * 4
            asked += model.asked[:kept]
            assert set(files(tmp_path / "cut")) == {"letters.partial.jsonl"}
        else:
            asked += model.asked
            break
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert len(asked) == len(set(asked)) == 21


def test_blocks_are_the_same_whether_or_not_a_call_was_cut_short(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(make_benchmark(), tmp_path, model=LetterModel(block_size=4, dies_after=10))
    model = LetterModel(block_size=4)
    run(make_benchmark(), tmp_path, model=model)
    assert model.blocks == [4, 4, 2]


def test_a_line_that_a_kill_has_torn_is_drawn_again(tmp_path: Path) -> None:
    run(make_benchmark(), tmp_path / "whole")
    for keep in (10, 5_000):
        with pytest.raises(Killed):
            run(make_benchmark(), tmp_path / "cut", model=LetterModel(dies_after=12))
        file = tmp_path / "cut" / "letters.partial.jsonl"
        file.write_bytes(file.read_bytes()[:keep][:-3])
        run(make_benchmark(), tmp_path / "cut")
        assert files(tmp_path / "cut") == files(tmp_path / "whole")
        for path in (tmp_path / "cut").iterdir():
            path.unlink()


def test_verdicts_are_kept_too(tmp_path: Path) -> None:
    calls = 0

    def dying(prompt: Prompt, text: str) -> Score:
        nonlocal calls
        calls += 1
        if calls == 300:
            raise Killed
        return count_y(prompt, text)

    benchmark = replace(make_benchmark(num=100), verifier=dying)
    with pytest.raises(Killed):
        run(benchmark, tmp_path)
    model = LetterModel()
    run(benchmark, tmp_path, model=model)
    assert model.asked == []
    assert calls == 300 + 300 - 256, "only those of the last, unfinished 256 are repeated"


def test_what_is_finished_is_read_back_without_a_question(tmp_path: Path) -> None:
    first = run(make_benchmark(), tmp_path)
    model = LetterModel()
    again = run(make_benchmark(), tmp_path, model=model)
    assert model.asked == []
    assert again.score == first.score
    assert again.identity == first.identity
    assert [s.text for s in again.samples] == [s.text for s in first.samples]
    (read,) = read_results(tmp_path)
    assert read == again


def test_samples_that_are_damaged_or_gone_are_drawn_again(tmp_path: Path) -> None:
    run(make_benchmark(), tmp_path)
    file = samples_file(tmp_path, "letters")
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="changed or lost"):
        read_results(tmp_path)
    run(make_benchmark(), tmp_path)
    assert file.read_bytes() == whole
    file.unlink()
    run(make_benchmark(), tmp_path)
    assert file.read_bytes() == whole


def test_failed_requests_are_unscored_and_asked_again_by_the_next_call(tmp_path: Path) -> None:
    class Flaky(LetterModel):
        is_up = False

        def answer(self, prompts: Sequence[Prompt], *args: Any, **options: Any) -> list[Answer]:
            note = options.pop("on_answer")
            found = super().answer(prompts, *args, on_answer=lambda *_: None, **options)
            for index, prompt in enumerate(prompts):
                if prompt.id == "2" and not self.is_up:
                    found[index] = Answer("", "failed", 0, note="HTTP 500")
                note(index, found[index])
            return found

    result = run(make_benchmark(), tmp_path, model=Flaky())
    assert (result.num_failed, result.num_unscored) == (3, 3)
    assert {s.score.note for s in result.samples if s.problem == 2} == {"HTTP 500"}
    assert result.mean_tokens == pytest.approx(
        sum(s.num_tokens for s in result.samples if s.problem != 2) / 15
    )
    up = Flaky()
    up.is_up = True
    run(make_benchmark(), tmp_path, model=up)
    assert [draw for _, draw in up.asked] == [0, 1, 2]
    run(make_benchmark(), tmp_path / "whole")
    assert (tmp_path / "letters.jsonl").read_bytes() == (
        tmp_path / "whole" / "letters.jsonl"
    ).read_bytes()


def test_a_judge_that_comes_later_grades_the_answers_that_are_there(tmp_path: Path) -> None:
    answered = replace(make_benchmark(), verifier=None)
    result = run(answered, tmp_path)
    assert result.score is None
    assert "no judge was given" in result.samples[0].score.note

    class Judge:
        def __call__(self, prompt: Prompt, text: str) -> Score:
            return count_y(prompt, text)

        def describe(self) -> dict[str, object]:
            return {"judge": "me"}

    model = LetterModel()
    result = run(replace(answered, verifier=Judge()), tmp_path, model=model)
    assert model.asked == []
    assert result.score is not None
    assert result.identity.grader == {"grlo": __version__, "name": "Judge", "judge": "me"}


# Identity -----------------------------------------------------------------------------------------


def test_results_of_another_model_or_protocol_are_neither_taken_nor_lost(tmp_path: Path) -> None:
    benchmark = make_benchmark()
    run(benchmark, tmp_path)
    before = files(tmp_path)
    prompts = benchmark.prompts
    changed = {
        "identity.version": replace(benchmark, version="2"),
        "identity.sampling": replace(
            benchmark, sampling=replace(benchmark.sampling, temperature=0.0)
        ),
        "identity.problems_sha256": replace(benchmark, prompts=prompts[:-1]),
        "identity.data_sha256": replace(benchmark, data_sha256="another"),
        "identity.variant": replace(benchmark, variant="greedy"),
    }
    for field, other in changed.items():
        with pytest.raises(
            DataError, match=rf"(?s)another model or protocol.*{field}.*--overwrite"
        ):
            run(other, tmp_path)
    with pytest.raises(DataError, match=r"identity\.seed: 0 there, 1 now"):
        run(benchmark, tmp_path, seed=1)
    with pytest.raises(DataError, match=r"model\.weights_sha256: 'abc' there, 'def' now"):
        evaluate(
            LetterModel(),
            benchmark,
            seed=0,
            directory=tmp_path,
            model={**MODEL, "weights_sha256": "def"},
        )
    assert files(tmp_path) == before
    run(benchmark, tmp_path, seed=1, overwrite=True)
    assert files(tmp_path) != before


def test_the_reference_and_the_fields_of_a_problem_are_part_of_its_identity() -> None:
    benchmark = make_benchmark()
    prompts = benchmark.prompts
    others = [
        replace(prompts[0], reference="n"),
        replace(prompts[0], meta={"k": 9}),
        replace(prompts[0], messages=(Message("user", "else"),)),
    ]
    hashes = {identify(benchmark, "", seed=0).problems_sha256}
    for other in others:
        changed = replace(benchmark, prompts=(other, *prompts[1:]))
        hashes.add(identify(changed, "", seed=0).problems_sha256)
    shots = replace(benchmark, shots=(("q", "a"),))
    hashes.add(identify(shots, "", seed=0).problems_sha256)
    assert len(hashes) == 5


def test_an_unfinished_evaluation_of_another_protocol_is_not_lost_either(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(make_benchmark(), tmp_path, model=LetterModel(dies_after=3))
    before = files(tmp_path)
    with pytest.raises(DataError, match=r"partial\.jsonl is of another"):
        run(make_benchmark(), tmp_path, seed=1)
    assert files(tmp_path) == before
    run(make_benchmark(), tmp_path, seed=1, overwrite=True)


def test_the_summary_says_what_was_run_and_keeps_other_benchmarks(tmp_path: Path) -> None:
    for name in "ab":
        run(make_benchmark(name), tmp_path, seed=3)
    summary = json.loads((tmp_path / "summary.json").read_text())["benchmarks"]
    assert set(summary) == {"a", "b"}
    identity = summary["a"]["identity"]
    assert identity["version"] == "1"
    assert identity["seed"] == 3
    assert identity["template"] == "letters"
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(rows) == summary["a"]["num_samples"] == 18
    assert rows[0]["input"] == [{"role": "user", "content": "a 0"}]


def test_a_file_that_is_no_summary_is_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"arms": {}}')
    with pytest.raises(DataError, match=r"summary\.json is no summary of an evaluation"):
        run(make_benchmark(), tmp_path)


# Private problems ---------------------------------------------------------------------------------


def test_nothing_of_a_private_problem_is_written_where_it_can_be_read(tmp_path: Path) -> None:
    def verifier(prompt: Prompt, text: str) -> Score:
        asked = prompt.messages[-1].content
        details = {"asked": asked}
        return Score(1.0, {"parsed": 1.0}, note=f"of {asked}", extracted=asked, details=details)

    class Parrot(LetterModel):
        def answer(self, prompts: Sequence[Prompt], *args: Any, **options: Any) -> list[Answer]:
            return [Answer(f"You ask: {p.messages[-1].content}", "stop", 3) for p in prompts]

    benchmark = replace(make_benchmark("secret"), verifier=verifier, is_private=True)
    benchmark = replace(benchmark, name="letters")
    result = run(benchmark, tmp_path / "whole", model=Parrot(block_size=4))
    assert result.samples[0].text == "You ask: secret 0"
    assert all(b"secret" not in content for content in files(tmp_path / "whole").values())
    (read,) = read_results(tmp_path / "whole")
    assert read.samples[0].text == "You ask: secret 0"
    assert read.samples[0].score.value == 1

    def dying(prompt: Prompt, text: str) -> Score:
        raise Killed

    with pytest.raises(Killed):
        run(replace(benchmark, verifier=dying), tmp_path / "cut", model=Parrot(block_size=4))
    assert all(b"secret" not in content for content in files(tmp_path / "cut").values())
    run(benchmark, tmp_path / "cut", model=LetterModel(dies_after=0))
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_numbers_of_its_own_are_those_of_the_benchmark(tmp_path: Path) -> None:
    def numbers(samples: Sequence[GradedSample]) -> dict[str, float]:
        return {"longest": float(max(len(sample.text) for sample in samples))}

    result = run(replace(make_benchmark(), numbers=numbers), tmp_path)
    assert result.numbers == {"longest": max(len(s.text) for s in result.samples)}
    assert json.loads((tmp_path / "summary.json").read_text())["benchmarks"]["letters"][
        "numbers"
    ] == dict(result.numbers)
