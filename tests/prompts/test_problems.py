"""Problems of the uniform and native forms as prompts that verifiers can grade."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from grlo.errors import DataError
from grlo.prompts.problems import by_id, parse_problem, read_problems
from grlo.prompts.sources import prompt_id, read_prompts
from grlo.types import Message, Prompt

MATH = {
    "id": "set/7",
    "benchmark": "set",
    "kind": "math",
    "question": "What is 3 + 4?",
    "answer": "7",
    "solution": "3 + 4 = 7",
    "meta": {"level": 1, "unit": "apples", "kind": "hidden", "key": "not an id"},
}
CHOICE = {"id": 1, "kind": "mcq", "question": "Which?", "choices": ["x", "y", "z"], "answer": "b"}
HUMANEVAL = {
    "id": "a/0",
    "task_id": "HumanEval/0",
    "prompt": "def f(x):\n    '''Doubles x.'''\n",
    "entry_point": "f",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}
EVALPLUS = {
    "task_id": "HumanEval/0",
    "prompt": HUMANEVAL["prompt"],
    "entry_point": "f",
    "canonical_solution": "    return 2 * x\n",
    "base_input": [[2]],
    "plus_input": [[3]],
    "atol": 0,
}
MBPP = {"task_id": 11, "text": "Write f.", "code": "", "test_list": ["assert f(1) == 2"]}
SANITIZED = {"task_id": 12, "prompt": "Write g.", "test_list": ["assert g(1) == 2"]}
LEETCODE = {"id": "l/0", "problem": "Complete Solution.", "tests": {"functional": "check(f)"}}
IFEVAL = {
    "key": 1000,
    "prompt": "Write two paragraphs without a comma.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_paragraphs"],
    "kwargs": [{"num_words": None}, {"num_paragraphs": 2}],
}


def write(path: Path, rows: Sequence[object]) -> Path:
    text = "".join(
        row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) + "\n" for row in rows
    )
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def content(row: object) -> str:
    (message,) = parse_problem(row, source="x:1").messages
    assert message.role == "user"
    return message.content


def test_a_question_keeps_all_it_says_and_its_own_fields_win_over_those_of_its_meta() -> None:
    messages = (Message("user", "What is 3 + 4?"),)
    assert parse_problem(MATH, source="x:1") == Prompt(
        id=prompt_id(messages),
        messages=messages,
        domain="math",
        style="rule",
        reference="7",
        source="x:1",
        meta={
            "id": "set/7",
            "benchmark": "set",
            "kind": "math",
            "question": "What is 3 + 4?",
            "solution": "3 + 4 = 7",
            "level": 1,
            "unit": "apples",
        },
    )


def test_a_choice_shows_its_options_with_letters_and_has_the_letter_as_reference() -> None:
    assert content(CHOICE) == "Which?\n\nA. x\nB. y\nC. z"
    prompt = parse_problem(CHOICE, source="x:1")
    assert (prompt.reference, prompt.meta["choices"]) == ("B", ["x", "y", "z"])


@pytest.mark.parametrize(("answer", "reference"), [(27, "27"), (2.5, "2.5"), (None, None)])
def test_answers_that_are_numbers_become_text_and_none_stays_none(
    answer: object, reference: str | None
) -> None:
    assert parse_problem({**MATH, "answer": answer}, source="x:1").reference == reference


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        (HUMANEVAL, "def f(x):\n    '''Doubles x.'''"),
        (EVALPLUS, "def f(x):\n    '''Doubles x.'''"),
        (MBPP, "Write f."),
        (MBPP, "assert f(1) == 2"),
        (SANITIZED, "Write g."),
        (LEETCODE, "Complete Solution."),
        (IFEVAL, "Write two paragraphs without a comma."),
    ],
)
def test_native_rows_show_their_task_and_keep_their_fields_for_the_verifier(
    row: dict[str, object], shown: str
) -> None:
    prompt = parse_problem(row, source="x:1")
    assert shown in content(row)
    assert prompt.style == "rule"
    for name in row.keys() - {"kwargs", "id"}:
        assert prompt.meta[name] == row[name]


def test_the_tests_of_a_completion_are_not_shown() -> None:
    for row in (HUMANEVAL, EVALPLUS):
        assert "candidate" not in content(row)
        assert "return 2 * x" not in content(row)


def test_arguments_of_instructions_come_without_the_nulls_that_tables_fill_in() -> None:
    prompt = parse_problem(IFEVAL, source="x:1")
    assert prompt.meta["kwargs"] == [{}, {"num_paragraphs": 2}]
    assert prompt.domain == "instruction_following"


def test_columns_of_null_do_not_change_what_a_row_is() -> None:
    row = {**MATH, "choices": None, "instruction_id_list": None, "test_list": None, "key": None}
    assert parse_problem(row, source="x:1").messages == parse_problem(MATH, source="x").messages
    assert parse_problem(row, source="x:1").domain == "math"


def test_any_id_of_a_row_names_its_problem_and_the_first_is_the_id(tmp_path: Path) -> None:
    problems = read_problems(write(tmp_path / "p.jsonl.gz", [HUMANEVAL, MBPP, IFEVAL, MATH]))
    assert list(problems) == ["a/0", "HumanEval/0", "11", "1000", "set/7"]
    assert problems["a/0"] is problems["HumanEval/0"]
    assert [problems[name].meta["id"] for name in ("a/0", "11", "1000")] == ["a/0", 11, 1000]


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ({"id": "1"}, {"id": "1"}, "'1'"),
        ({"id": 1}, {"id": "1"}, "'1'"),
        ({"id": "a", "task_id": 2}, {"id": "2"}, "'2'"),
        ({"key": 5}, {"task_id": 5}, "'5'"),
    ],
)
def test_an_id_of_two_problems_is_an_error_with_both_lines(
    tmp_path: Path, first: dict[str, object], second: dict[str, object], shared: str
) -> None:
    rows = [{"question": f"q{n}", "answer": "1", **ids} for n, ids in enumerate((first, second))]
    path = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError, match=f"{path}:2: {shared} is also {path}:1"):
        read_problems(path)


def test_problems_without_ids_go_by_their_messages_and_equal_ones_are_one() -> None:
    def problem(text: str, reference: str) -> Prompt:
        messages = (Message("user", text),)
        return Prompt(prompt_id(messages), messages, reference=reference, source=text + reference)

    first, again, other = problem("a", "1"), problem("a", "1"), problem("b", "1")
    assert by_id([first, again, other]) == {first.id: first, other.id: other}
    with pytest.raises(DataError, match=r"a2: .* is also a1"):
        by_id([first, problem("a", "2")])


MALFORMED = [
    ("{broken\n", "Expecting property name"),
    ("[]\n", "is an empty list; expected an object"),
    ({"id": 1, "puzzle": "x"}, "is no problem: found the fields ['id', 'puzzle']"),
    ({**MATH, "id": None}, "has no id; expected one of id, task_id, key"),
    ({**MATH, "id": 1.5}, "id is a number; expected text or a whole number"),
    ({**MATH, "id": True}, "id is a boolean"),
    ({"id": 1, "question": "x"}, "has a question but no answer"),
    ({**MATH, "question": " "}, "question is empty"),
    ({**MATH, "question": "\ud800"}, "half of a surrogate pair"),
    ({**MATH, "answer": ["7"]}, "answer is a list"),
    ({**MATH, "meta": "x"}, "meta is a string"),
    ({**CHOICE, "answer": "D"}, "answer is 'D'; expected one of A, B, C"),
    ({**CHOICE, "answer": 1}, "answer is 1; expected one of A, B, C"),
    ({**CHOICE, "choices": ["x"]}, "choices is a list; expected a list of 2 to 26 options"),
    ({**CHOICE, "choices": ["x", None]}, "choices[1] is missing"),
    ({**MBPP, "test_list": []}, "test_list is an empty list"),
    ({**HUMANEVAL, "entry_point": 3}, "entry_point is a number"),
    ({**IFEVAL, "kwargs": [{}]}, "kwargs is a list; expected a list of 2 objects"),
    ({**IFEVAL, "instruction_id_list": "x"}, "instruction_id_list is a string"),
]


def test_all_malformed_rows_are_reported_with_line_and_reason(tmp_path: Path) -> None:
    rows = [json.dumps(row) + "\n" if not isinstance(row, str) else row for row, _ in MALFORMED]
    path = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError) as caught:
        read_problems(path)
    head, *lines = str(caught.value).split("\n")
    assert f"{len(MALFORMED)} problems are malformed" in head
    for number, (line, (_, reason)) in enumerate(zip(lines, MALFORMED, strict=False), start=1):
        assert line.startswith(f"  {path}:{number}: ")
        assert reason in line


def test_an_empty_file_of_problems_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        read_problems(write(tmp_path / "p.jsonl", []))


def test_problems_are_a_training_source_of_the_style_rule(tmp_path: Path) -> None:
    rows = [MATH, CHOICE, HUMANEVAL, MBPP, LEETCODE, IFEVAL]
    prompts = read_prompts(str(write(tmp_path / "p.jsonl", rows)), default_style="model")
    assert {prompt.style for prompt in prompts} == {"rule"}
    assert [prompt.reference for prompt in prompts] == ["7", "B", None, None, None, None]


def test_a_row_with_messages_or_a_reward_of_its_own_stays_a_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "a"}], "question": "b", "answer": "c"},
        {"messages": [{"role": "user", "content": "a"}], "question": "b", "answer": "c"},
        {"prompt": "a", "entry_point": "f", "test": "t", "reward_model": {"style": "taste"}},
    ]
    prompts = read_prompts(str(write(tmp_path / "p.jsonl", rows)), default_style="chat-2_x")
    assert [prompt.messages[0].content for prompt in prompts] == ["a", "a", "a"]
    assert [prompt.style for prompt in prompts] == ["chat-2_x", "chat-2_x", "taste"]


def test_the_suffix_of_its_style_ends_the_last_message_and_changes_the_id(tmp_path: Path) -> None:
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "last")]
    rows = [{"messages": [{"role": r, "content": c} for r, c in turns]}, MATH]
    source = str(write(tmp_path / "p.jsonl", rows))
    bare = read_prompts(source, default_style="model")
    suffixes = {"model": " Be brief.", "rule": "\n\nBox it."}
    prompts = read_prompts(source, default_style="model", suffixes=suffixes)
    assert [m.content for m in prompts[0].messages] == ["s", "u", "a", "last Be brief."]
    assert prompts[1].messages[0].content == "What is 3 + 4?\n\nBox it."
    only_rules = read_prompts(source, default_style="model", suffixes={"rule": "\n\nBox it."})
    assert (only_rules[0], only_rules[1]) == (bare[0], prompts[1])
    for before, after in zip(bare, prompts, strict=True):
        assert after.id == prompt_id(after.messages) != before.id
        assert (after.meta, after.reference) == (before.meta, before.reference)


@pytest.mark.parametrize(
    ("name", "num_problems", "num_without_answer"),
    [
        ("math_aime24.jsonl", 30, 0),
        ("math_math500.jsonl", 500, 0),
        ("math_olympiadbench_oe_to_en.jsonl", 675, 0),
        ("math_train_math7500.jsonl.gz", 7474, 4),
        ("mcq_mmlu_redux.jsonl.gz", 5700, 0),
        ("science_scibench.jsonl", 580, 0),
        ("code_humaneval.jsonl", 164, 164),
        ("code_mbpp_full.jsonl.gz", 974, 974),
        ("code_mbpp_sanitized.jsonl", 427, 427),
        ("code_leetcode_rllm_test.jsonl.gz", 200, 200),
        ("evalplus_HumanEvalPlus-Mini.jsonl.gz", 164, 164),
        ("evalplus_MbppPlus-NoExtreme.jsonl.gz", 378, 378),
        ("ifeval_input_data.jsonl", 541, 541),
    ],
)
def test_real_files_are_read_whole(
    data_dir: Path, name: str, num_problems: int, num_without_answer: int
) -> None:
    problems = read_problems(data_dir / name)
    distinct = {id(problem): problem for problem in problems.values()}.values()
    assert len(distinct) == num_problems
    assert sum(problem.reference is None for problem in distinct) == num_without_answer
