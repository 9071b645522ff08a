import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from grlo.benchmarks.spec import DataPlaces
from grlo.cli import app
from grlo.errors import DataError, RecipeError
from grlo.stages import auditing, prompts_audit
from grlo.stages.audited import load_against, problem_text

PROBLEM = (
    "A gardener plants 12 rows of tulips with nine bulbs each, and mice eat a third of them. How "
    "many tulips are left to bloom in April?"
)
OTHER = "Which river is crossed by the oldest stone bridge of the northern province, and where?"
CLEAN = "Explain in detail how a lighthouse keeper used to spend a winter night."


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def problems(tmp_path):
    rows = [
        {"id": "p1", "question": PROBLEM, "answer": "72", "solution": "none"},
        {"id": "p2", "question": OTHER, "answer": "x", "choices": None},
    ]
    return write(tmp_path / "exam.jsonl", rows)


@pytest.fixture
def prompts(tmp_path):
    lines = [
        json.dumps({"prompt": CLEAN}),
        json.dumps({"prompt": f"My homework: {PROBLEM} Help!"}),
        '{"prompt": broken',
        json.dumps({"prompt": [{"role": "user", "content": OTHER}]}),
        json.dumps({"prompt": "Sing.", "note": "kept é"}, ensure_ascii=False),
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def audit(file, *values, out, **options):
    return prompts_audit.audit(file, values, DataPlaces(), out=out, say=lambda _: None, **options)


def test_hits_name_row_benchmark_item_level_value_and_verdict(prompts, problems, tmp_path):
    out = tmp_path / "out"
    audit(prompts, problems, out=out)
    hits = read(out / "hits.jsonl")
    assert {(hit["row"], hit["benchmark"], hit["item"]) for hit in hits} == {
        (1, "exam", "p1"),
        (3, "exam", "p2"),
    }
    assert {hit["level"] for hit in hits if hit["row"] == 3} >= {"exact", "ngram13", "lexical"}
    assert all(hit["verdict"] in ("drop", "review") for hit in hits)
    contained = next(hit for hit in hits if hit["row"] == 1 and hit["level"] == "contained")
    assert (contained["value"], contained["verdict"]) == (1.0, "drop")


def test_the_summary_counts_problems_rows_and_malformed_ones(prompts, problems, tmp_path):
    out = tmp_path / "out"
    audit(prompts, problems, out=out)
    summary = json.loads((out / "audit.json").read_text())
    assert (summary["rows"], summary["malformed_rows"], summary["rows_drop"]) == (5, 1, 2)
    (exam,) = summary["benchmarks"]
    assert exam["levels"]["exact"] == {"problems": 1, "share": 0.5, "rows": 1}
    assert exam["levels"]["contained"]["problems"] == 2
    assert exam["problems_drop"] == 2
    assert exam["verdict"] == "2 of 2 problems are in the data"
    assert summary["planted"]["verbatim"]["dropped"] == 2
    assert summary["method"] == "lexical"


def test_the_page_shows_hits_side_by_side_and_says_that_it_is_lexical(prompts, problems, tmp_path):
    out = tmp_path / "out"
    audit(prompts, problems, out=out)
    page = (out / "audit.html").read_text(encoding="utf-8")
    assert page.count(PROBLEM) >= 2
    assert "lexical: shared words" in page
    assert "<script" not in page


def test_clean_data_has_no_hits_and_says_so(problems, tmp_path):
    file = write(tmp_path / "clean.jsonl", [{"prompt": CLEAN}])
    result = audit(file, problems, out=tmp_path / "out")
    assert result.rows == []
    assert (tmp_path / "out" / "hits.jsonl").read_text() == ""
    summary = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert summary["benchmarks"][0]["verdict"] == "no overlap found"


def test_remove_keeps_clean_rows_as_they_were_and_records_the_others(prompts, problems, tmp_path):
    out = tmp_path / "out"
    audit(prompts, problems, out=out, remove=True)
    kept = (out / "train.jsonl").read_bytes().splitlines()
    source = Path(prompts).read_bytes().splitlines()
    assert kept == [source[0], source[4]]
    dropped = read(out / "dropped.jsonl")
    assert [row["row"] for row in dropped] == [1, 2, 3]
    assert dropped[0]["reason"].startswith("overlap: exam p1")
    assert dropped[1]["reason"].startswith("malformed")
    assert [row["raw"].encode() for row in dropped] == source[1:4]
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["result"]["rows"], manifest["dropped"]) == (2, 3)
    with pytest.raises(RecipeError, match="needs another"):
        audit(prompts, problems, out=tmp_path, remove=True)


def test_answers_of_preferences_and_demonstrations_are_audited(problems, tmp_path):
    rows = [
        {"prompt": "Hm?", "chosen": "Yes.", "rejected": f"Rather: {PROBLEM}"},
        {"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": OTHER}]},
    ]
    audit(write(tmp_path / "pairs.jsonl", rows), problems, out=tmp_path / "out")
    assert {hit["row"] for hit in read(tmp_path / "out" / "hits.jsonl")} == {0, 1}


def test_worked_solutions_are_found_in_answers(tmp_path):
    solution = "Nine times twelve is one hundred and eight bulbs of which the mice leave two thirds"
    exam = write(
        tmp_path / "e.jsonl", [{"question": PROBLEM, "answer": "72", "solution": solution}]
    )
    row = {"prompt": "And?", "response": f"Well. {solution}."}
    audit(write(tmp_path / "d.jsonl", [row]), exam, out=tmp_path / "out")
    assert {hit["part"] for hit in read(tmp_path / "out" / "hits.jsonl")} == {"solution"}


def test_several_processes_find_what_one_finds(problems, tmp_path, monkeypatch):
    rows = [{"prompt": f"{CLEAN} Take number {n}."} for n in range(700)]
    rows[300] = {"prompt": PROBLEM}
    rows[699] = {"prompt": OTHER}
    file = write(tmp_path / "many.jsonl", rows)
    audit(file, problems, out=tmp_path / "one")
    monkeypatch.setattr(auditing, "PARALLEL_FROM", 1)
    audit(file, problems, out=tmp_path / "two")
    for name in ("hits.jsonl", "audit.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert {hit["row"] for hit in read(tmp_path / "one" / "hits.jsonl")} == {300, 699}


def test_a_benchmark_without_data_is_named_in_a_suite_and_an_error_by_itself(
    tmp_path, problems, monkeypatch
):
    monkeypatch.delenv("GRLO_DATA", raising=False)
    said = []
    places = DataPlaces(folder=tmp_path)
    # Nothing of the miniature needs a file, and no suite of it lacks one.
    against = load_against(["nano", problems], places, say=said.append)
    assert "exam" in [benchmark.name for benchmark in against.benchmarks]
    with pytest.raises(DataError, match="zebralogic"):
        load_against(["zebralogic"], places)
    monkeypatch.setitem(
        prompts_audit.load_against.__globals__["SUITES"],
        "half",
        type("Suite", (), {"names": ("zebralogic", "nano_math")})(),
    )
    against = load_against(["half"], places, say=said.append)
    assert [benchmark.name for benchmark in against.benchmarks] == ["nano_math"]
    assert "zebralogic is not audited" in against.missing[0]
    assert said[-1] == against.missing[0]


@pytest.mark.parametrize("value", ["nothing", "missing.jsonl", "gsm8"])
def test_an_unknown_benchmark_is_an_error_that_lists_what_there_is(value):
    with pytest.raises(RecipeError, match=f"{value}.*math500"):
        load_against([value], DataPlaces())


def test_a_file_with_an_unreadable_problem_is_refused(tmp_path):
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps({"question": PROBLEM, "answer": "1"}) + '\n{"question": 7}\n')
    with pytest.raises(DataError, match=r"exam.jsonl:2"):
        load_against([str(path)], DataPlaces())


def test_texts_of_problems_are_bare():
    assert problem_text({"question": "Which?", "choices": ["a", "b"]}) == "Which?\na\nb"
    assert problem_text({"puzzle": "Houses.", "question": "Houses. Answer as JSON."}) == "Houses."
    assert problem_text({"prompt": "Sort.", "test_list": ["assert f() == 1"]}) == "Sort."


def test_real_problems_are_bare_of_our_instructions(data_dir):
    names = ["math500", "humaneval", "mbpp", "zebralogic", "mmlu_redux", "scibench", "mt_bench"]
    against = load_against(names, DataPlaces(folder=data_dir))
    assert {benchmark.name for benchmark in against.benchmarks} == set(names)
    for document in against.documents:
        assert "fenced code block" not in document.text
        assert "The answer is in units of" not in document.text
        assert document.text.strip()
    number = {b.name: b.num_problems for b in against.benchmarks}
    questions = [document for document in against.documents if document.part == "question"]
    assert len(questions) == sum(number.values())


def test_the_command_takes_suites_files_and_positional_files(prompts, problems, tmp_path):
    out = tmp_path / "out"
    packed = tmp_path / "second.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps({"prompt": CLEAN}).encode()))
    arguments = ["prompts", "audit", prompts, problems, "--against", f"nano,{packed}"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    names = {own["name"] for own in json.loads((out / "audit.json").read_text())["benchmarks"]}
    assert names >= {"exam", "second", "nano_math"}
    assert {hit["row"] for hit in read(out / "hits.jsonl")} == {0, 1, 3}
