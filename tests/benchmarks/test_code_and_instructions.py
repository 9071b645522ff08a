"""Benchmarks that run or check what a model writes: counts, true answers, others' answers."""

from __future__ import annotations

import base64
import json
import pickle
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from code_problems import fenced, needs_sandbox, solution
from grlo import registry
from grlo.benchmarks.humaneval import HUMANEVAL
from grlo.benchmarks.humaneval_plus import HUMANEVAL_PLUS
from grlo.benchmarks.ifbench import IFBENCH
from grlo.benchmarks.ifeval import IFEVAL, instruction_numbers
from grlo.benchmarks.livecodebench import LIVECODEBENCH, livecodebench_row, unpacked
from grlo.benchmarks.mbpp import MBPP
from grlo.benchmarks.mbpp_plus import MBPP_PLUS
from grlo.benchmarks.shots import SHOTS
from grlo.benchmarks.spec import DataPlaces
from grlo.grading import grade_all
from grlo.interfaces import Benchmark, GradedSample
from grlo.types import Message, Prompt, Score
from grlo.verifiers.code import CodeVerifier

CODE = {
    spec.name: (spec, count)
    for spec, count in [
        (HUMANEVAL, 164),
        (HUMANEVAL_PLUS, 164),
        (MBPP, 427),
        (MBPP_PLUS, 378),
    ]
}
TOO_LARGE = {"mbpp_plus": 1}
"""Problems whose true result is larger than a program may send back."""
DEFAULT_PROBLEMS = 10


@pytest.fixture(params=CODE)
def code(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[Benchmark]:
    loaded = CODE[request.param][0].load(DataPlaces(folder=data_dir))
    yield loaded
    registry.close(loaded.verifier)


def graded(benchmark: Benchmark, answers: list[tuple[Prompt, str]]) -> list[Score]:
    return grade_all(benchmark.verifier, answers)  # type: ignore[arg-type]


def check_solutions(benchmark: Benchmark, count: int) -> None:
    prompts = random.Random(0).sample(list(benchmark.prompts), count or len(benchmark.prompts))
    found = graded(benchmark, [(prompt, fenced(solution(prompt))) for prompt in prompts])
    failed = [p.source for p, score in zip(prompts, found, strict=True) if score.value != 1]
    assert len(failed) <= TOO_LARGE.get(benchmark.name, 0), failed
    others = prompts[1:] + prompts[:1]
    pairs = zip(prompts, others, strict=True)
    found = graded(benchmark, [(one, fenced(solution(other))) for one, other in pairs])
    right = sum(score.value or 0 for score in found)
    print(f"{benchmark.name}: {len(prompts)} solutions, {right:g} right for another problem")
    # Two problems can ask for the same function; chance is otherwise nil.
    assert right <= len(prompts) / 200 + 1


def test_there_are_as_many_problems_as_the_source_says(code: Benchmark) -> None:
    assert len(code.prompts) == CODE[code.name][1]
    assert code.data_sha256 in CODE[code.name][0].data.known
    assert "fenced code block" in code.prompts[0].messages[-1].content


@pytest.mark.long
@needs_sandbox
def test_solutions_pass_and_fail_for_other_problems(code: Benchmark) -> None:
    check_solutions(code, DEFAULT_PROBLEMS)


@needs_sandbox
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_solutions_pass_and_fail_for_other_problems(code: Benchmark) -> None:
    check_solutions(code, 0)


@needs_sandbox
def test_the_examples_run(data_dir: Path) -> None:
    """What the examples answer is right by tests of our own."""
    tests = {
        "count_vowels": ['assert count_vowels("banana") == 3', 'assert count_vowels("") == 0'],
        "running_total": ["assert running_total([1, 2, 3]) == [1, 3, 6]"],
        "second_largest": ["assert second_largest([4, 4, 2]) == 2"],
        "words_of_length": ['assert words_of_length("a cat and a cat", 3) == ["cat", "and"]'],
    }
    verifier = CodeVerifier()
    for (question, answer), (name, asserts) in zip(SHOTS["code"], tests.items(), strict=True):
        assert name in question
        prompt = Prompt(id=name, messages=(Message("user", question),), meta={"test_list": asserts})
        assert verifier(prompt, answer).value == 1, name
    verifier.close()


# LiveCodeBench ------------------------------------------------------------------------------------


def packed(tests: list[dict[str, str]], protocol: int = 4) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests), protocol))).decode()


def contest_row(**changes: Any) -> dict[str, Any]:
    row = {
        "question_content": "Read a number, print its double.",
        "contest_date": "2024-09-01T00:00:00",
        "question_id": "x1",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
        "private_test_cases": packed([{"input": "5\n", "output": "10\n", "testtype": "stdin"}]),
        "starter_code": "",
        "metadata": "{}",
    }
    return row | changes


@needs_sandbox
def test_hidden_tests_count(tmp_path: Path) -> None:
    file = tmp_path / "livecodebench.jsonl"
    function = contest_row(
        question_id="x2",
        starter_code="class Solution:\n    def twice(self, n: int) -> int:\n        ",
        metadata=json.dumps({"func_name": "twice"}),
        public_test_cases=json.dumps([{"input": "2", "output": "4", "testtype": "functional"}]),
        private_test_cases=packed([{"input": "5", "output": "10", "testtype": "functional"}]),
    )
    early = contest_row(question_id="x0", contest_date="2023-05-01T00:00:00")
    rows = [contest_row(), function, early]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = LIVECODEBENCH.load(DataPlaces(folder=tmp_path))
    program, method = benchmark.prompts
    answers = [
        (program, fenced("print(2 * int(input()))")),
        (program, fenced("print(4)")),
        (method, fenced("class Solution:\n    def twice(self, n):\n        return 2 * n")),
        (method, fenced("class Solution:\n    def twice(self, n):\n        return 4")),
    ]
    assert [score.value for score in graded(benchmark, answers)] == [1, 0, 1, 0]
    registry.close(benchmark.verifier)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickled_string_is_read_without_running_it(protocol: int) -> None:
    tests = [{"input": "ä\n", "output": "x" * 70_000}]
    assert json.loads(unpacked(packed(tests, protocol))) == tests


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("it ran",))


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (base64.b64encode(zlib.compress(pickle.dumps(Bomb()))).decode(), "is not read"),
        (base64.b64encode(zlib.compress(pickle.dumps(["a", "b"]))).decode(), "is not read"),
        ("not base64!", "neither JSON nor packed"),
        (base64.b64encode(b"no zlib").decode(), "neither JSON nor packed"),
    ],
)
def test_other_pickles_are_refused(
    written: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=reason):
        livecodebench_row(contest_row(private_test_cases=written), source="f:1")
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question_content": None}, "question_content is missing"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "has no tests"),
        ({"public_test_cases": "{}"}, "no list of objects"),
        ({"metadata": "{"}, "metadata is no JSON"),
    ],
)
def test_malformed_problems_say_what_is_wrong(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        livecodebench_row(contest_row(**changes), source="f:1")


# Instructions -------------------------------------------------------------------------------------


def test_prompts_with_instructions_are_all_there(data_dir: Path) -> None:
    places = DataPlaces(folder=data_dir)
    assert len(IFEVAL.load(places).prompts) == 541
    ifbench = IFBENCH.load(places)
    assert len(ifbench.prompts) == 294
    assert ifbench.data_sha256 in IFBENCH.data.known


def test_answers_that_follow_are_right_and_answers_to_other_prompts_are_not(
    data_dir: Path,
) -> None:
    """Prompts that ask only for what a program can write: the gold answers of IFEval."""
    benchmark = IFEVAL.load(DataPlaces(folder=data_dir))
    writers = {
        "detectable_format:json_format": lambda given: '{"a": "b"}',
        "punctuation:no_comma": lambda given: "one two three",
        "change_case:english_lowercase": lambda given: "these are words in the english language",
        "change_case:english_capital": lambda given: "THESE ARE WORDS IN THE ENGLISH LANGUAGE",
        "startend:quotation": lambda given: '"quoted"',
        "detectable_format:title": lambda given: "<<a title>>",
        "startend:end_checker": lambda given: f"words {given['end_phrase']}",
        "keywords:existence": lambda given: " ".join(given["keywords"]),
        "detectable_format:number_bullet_lists": lambda given: "\n".join(
            f"* point {n}" for n in range(int(given["num_bullets"]))
        ),
        "detectable_content:number_placeholders": lambda given: " ".join(
            f"[slot {n}]" for n in range(int(given["num_placeholders"]))
        ),
    }
    written = []
    for prompt in benchmark.prompts:
        names: Any = prompt.meta["instruction_id_list"]
        arguments: Any = prompt.meta["kwargs"]
        if len(names) == 1 and names[0] in writers:
            written.append((prompt, names[0], writers[names[0]](arguments[0])))
    assert len(written) > 60
    found = graded(benchmark, [(prompt, text) for prompt, _, text in written])
    assert [score.value for score in found] == [1] * len(written)
    others = written[len(written) // 2 :] + written[: len(written) // 2]
    swapped = graded(
        benchmark, [(one[0], other[2]) for one, other in zip(written, others, strict=True)]
    )
    share = sum(score.value or 0 for score in swapped) / len(written)
    # Chance: the other answer was written for the same kind of instruction, or has no comma.
    easy = {"punctuation:no_comma", "change_case:english_lowercase"}
    lucky = sum(a[1] == b[1] or a[1] in easy for a, b in zip(written, others, strict=True))
    assert share <= lucky / len(written)
    assert share < 0.5


def test_the_four_accuracies_are_those_of_the_paper() -> None:
    def sample(strict: list[bool], loose: list[bool]) -> GradedSample:
        score = Score(float(all(strict)), details={"strict": strict, "loose": loose})
        prompt = Prompt(id="p", messages=())
        return GradedSample(prompt, 0, 0, 0, "", "stop", 1, score)

    samples = [
        sample([True, False], [True, True]),
        sample([True], [True]),
        sample([False, False, False], [False, True, False]),
    ]
    assert instruction_numbers(samples) == {
        "prompt_loose": pytest.approx(2 / 3),
        "instruction_strict": pytest.approx(2 / 6),
        "instruction_loose": pytest.approx(4 / 6),
    }
    failed = GradedSample(Prompt(id="p", messages=()), 0, 0, 0, "", "failed", 0, Score(None))
    assert instruction_numbers([failed]) == {}
