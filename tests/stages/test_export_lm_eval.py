"""Exported tasks: whole, in order, and graded by a second opinion that agrees with ours."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from grlo import cli, registry
from grlo.benchmarks.loading import Choice, load_benchmarks
from grlo.benchmarks.spec import DataPlaces
from grlo.errors import RecipeError
from grlo.grading import grade_all
from grlo.interfaces import Benchmark
from grlo.stages.export_lm_eval import UTILS, _row, export_lm_eval


def utils_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lm_eval_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Loader(yaml.SafeLoader):
    """Functions stay names."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore


def export(tmp_path: Path, rows: list[dict[str, Any]], toml: str = "") -> dict[str, Any]:
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.toml").write_text(f'name = "own"\nfile = "own.jsonl"\n{toml}')
    out = tmp_path / "out"
    (task,) = export_lm_eval(Choice((str(tmp_path / "own.toml"),)), out=out)
    return yaml.load((out / f"{task}.yaml").read_text(), Loader)


def test_a_task_names_files_that_are_there_and_says_how_to_sample(tmp_path: Path) -> None:
    rows = [{"id": str(i), "question": f"{i}?", "answer": str(i)} for i in range(4)]
    own = "prompt = '{question} Box it.'\n[sampling]\nmax_tokens = 77\ntemperature = 0.7\n"
    own += "num_samples = 3\n"
    task = export(tmp_path, rows, own)
    assert task["task"] == "grlo_own"
    written = Path(task["dataset_kwargs"]["data_files"]["test"])
    problems = [json.loads(line) for line in written.read_text().splitlines()]
    assert [p["prompt"] for p in problems] == [f"{i}? Box it." for i in range(4)]
    assert [p["reference"] for p in problems] == ["0", "1", "2", "3"]
    assert task["generation_kwargs"] == {
        "until": [],
        "max_gen_toks": 77,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.95,
    }
    assert task["repeats"] == 3
    assert task["filter_list"] == [
        {"name": "all", "filter": [{"function": "take_first_k", "k": 3}]}
    ]
    module, _, function = task["process_results"].partition(".")
    copied = tmp_path / "out" / f"{module}.py"
    assert copied.read_text() == UTILS.read_text()
    assert callable(getattr(utils_of(copied), function))
    imports = [line for line in UTILS.read_text().splitlines() if line.startswith("import")]
    assert imports == ["import re"]
    assert "grlo_own" in (tmp_path / "out" / "README.md").read_text()


def test_hostile_text_survives(tmp_path: Path) -> None:
    text = 'a: "b" {{prompt}} {% raw %} \u2028 \x00 !function utils.x\n- c'
    task = export(tmp_path, [{"id": "1", "question": text, "answer": "1"}])
    written = Path(task["dataset_kwargs"]["data_files"]["test"])
    (problem,) = [json.loads(line) for line in written.read_text().splitlines()]
    assert problem["prompt"] == text
    assert task["doc_to_text"] == "{{prompt}}"


def test_examples_stand_before_problems_without_template(tmp_path: Path) -> None:
    rows = [{"id": "1", "question": "1 + 1?", "answer": "2"}]
    (tmp_path / "own.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (tmp_path / "own.toml").write_text('name = "own"\nfile = "own.jsonl"\nshots = "math"\n')
    choice = Choice((str(tmp_path / "own.toml"),), variants=("4-shot",))
    assert export_lm_eval(choice, out=tmp_path) == ["grlo_own_4_shot"]
    problem = json.loads((tmp_path / "grlo_own_4_shot.jsonl").read_text())
    assert problem["prompt"].count("Question:") == 5
    assert problem["prompt"].endswith("Question: 1 + 1?\n\nAnswer:")
    task = yaml.load((tmp_path / "grlo_own_4_shot.yaml").read_text(), Loader)
    assert "\nQuestion:" in task["generation_kwargs"]["until"]


def test_words_and_foreign_verifiers_are_left_out_rather_than_graded_as_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [{"id": "1", "question": "Colour?", "answer": "red"}]
    with pytest.raises(RecipeError, match="none of the benchmarks"):
        export(tmp_path, words, '[verifier]\nname = "choice"\n')
    assert "own is not exported: its answers in words" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_stands_in_the_readme_and_private_problems_nowhere(
    tmp_path: Path, data_dir: Path
) -> None:
    choice = Choice(("aime24", "ifbench", "gpqa_diamond"), places=DataPlaces(folder=data_dir))
    assert export_lm_eval(choice, out=tmp_path) == ["grlo_aime24"]
    readme = (tmp_path / "README.md").read_text()
    assert "- gpqa_diamond is not exported: its authors ask" in readme
    assert "- ifbench is not exported: its checks need our grader" in readme
    assert not list(tmp_path.glob("*gpqa*"))


def test_the_tolerance_of_a_benchmark_goes_with_its_rows(tmp_path: Path) -> None:
    row = {"id": "1", "question": "g?", "answer": "100", "unit": "m"}
    own = '[verifier]\nname = "choice"\nrelative_tolerance = 0.01\n'
    task = export(tmp_path, [row], own)
    problem = json.loads(Path(task["dataset_kwargs"]["data_files"]["test"]).read_text())
    grade = utils_of(UTILS).process_number
    assert grade(problem, ["\\boxed{100.9}"])["exact_match"] == 1
    assert grade(problem, ["\\boxed{104}"])["exact_match"] == 0


def test_the_score_is_the_mean_over_all_answers_to_a_problem() -> None:
    found = utils_of(UTILS).process_math(
        {"reference": "7"}, [["\\boxed{7}", "\\boxed{8}", "no idea", "The answer is 7."]]
    )
    assert found == {"exact_match": 0.5, "read": 0.75}


def test_exported_ids_are_those_by_which_a_benchmark_is_graded(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRLO_DATA", str(data_dir))
    export_lm_eval(Choice(("aime24",)), out=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "grlo_aime24.jsonl").open()]
    answers = [{"id": r["id"], "response": f"\\boxed{{{r['reference']}}}"} for r in rows]
    responses = tmp_path / "responses.jsonl"
    responses.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    words = ["grade", "aime24", str(responses), "--out", str(tmp_path / "verdicts.jsonl")]
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert result.exit_code == 0
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").open()]
    assert [verdict["score"] for verdict in verdicts] == [1.0] * 30


def test_private_judged_and_run_benchmarks_are_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("gpqa_diamond", "humaneval", "alpaca_eval", "ifeval", "zebralogic")
    with pytest.raises(RecipeError, match="none of the benchmarks"):
        export_lm_eval(Choice(names), out=tmp_path / "out")
    shown = capsys.readouterr().out
    for name in names:
        assert f"{name} is not exported: " in shown
    assert not (tmp_path / "out").exists()


def test_the_command_is_there(tmp_path: Path, data_dir: Path) -> None:
    words = ["export", "lm-eval", "--benchmarks", "aime24", "--data", str(data_dir)]
    result = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "grlo_aime24: 30 problems" in result.output


# A second opinion ---------------------------------------------------------------------------------


def verdicts(
    benchmark: Benchmark, function: Callable[..., dict[str, float]], texts: list[str]
) -> list[tuple[float, float]]:
    """Ours and theirs, of each answer that ours can grade."""
    answers = list(zip(benchmark.prompts, texts, strict=True))
    ours = [s.value for s in grade_all(benchmark.verifier, answers)]  # type: ignore[arg-type]
    theirs = [
        function(_row(prompt, benchmark), [[text]])["exact_match"] for prompt, text in answers
    ]
    return [(one, other) for one, other in zip(ours, theirs, strict=True) if one is not None]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "function", "least"),
    [
        ("math500", "process_math", 0.99),
        ("gsm8k", "process_math", 0.99),
        ("aime24", "process_math", 1.0),
        ("aime25", "process_math", 1.0),
        ("amc23", "process_math", 1.0),
        ("olympiadbench", "process_math", 0.97),
        ("minerva_math", "process_math", 0.97),
        ("mmlu_redux", "process_choice", 1.0),
        ("scibench", "process_number", 0.95),
    ],
)
def test_both_graders_agree_on_true_and_on_others_answers(
    data_dir: Path, name: str, function: str, least: float
) -> None:
    choice = Choice((name,), limit=200, places=DataPlaces(folder=data_dir))
    (benchmark,) = load_benchmarks(choice)
    grade = getattr(utils_of(UTILS), function)
    references = [str(prompt.reference) for prompt in benchmark.prompts]
    random.Random(0).shuffle(references)
    for own in ([str(prompt.reference) for prompt in benchmark.prompts], references):
        found = verdicts(benchmark, grade, [f"So it is \\boxed{{{r}}}." for r in own])
        share = sum(one == other for one, other in found) / len(found)
        print(f"{name}: {share:.3f} of {len(found)}")
        assert share >= least
    registry.close(benchmark.verifier)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a \\boxed{1} b \\boxed{\\frac{1}{2}} c", "\\frac{1}{2}"),
        ("The answer is 7.", "7"),
        ("\\boxed{never closed", None),
        ("<think>\\boxed{1}</think> The final answer is: 3", "3"),
        ("**Answer:** 204", "204"),
        ("Answer: 204", "204"),
        ("The answer is **7**.", "7"),
        ("204", None),
        ("", None),
    ],
)
def test_the_second_opinion_reads_answers_in_its_own_way(text: str, answer: str | None) -> None:
    assert utils_of(UTILS).final_answer(text) == answer


def test_a_number_set_as_text_is_read() -> None:
    doc = {"reference": "1.6", "tolerance": 0.05}
    for process in (utils_of(UTILS).process_number, utils_of(UTILS).process_math):
        assert process(doc, ["\\boxed{\\text{1.6}}"])["exact_match"] == 1
    near = utils_of(UTILS).process_number
    assert near(doc, ["\\boxed{1.6 \\text{ eV}}"])["exact_match"] == 1
