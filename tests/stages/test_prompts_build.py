import base64
import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from grlo.cli import app
from grlo.errors import DataError, RecipeError
from grlo.prompts.manifests import data_records
from grlo.prompts.preferences import read_preferences
from grlo.prompts.recipe import BuildRecipe
from grlo.prompts.sources import read_prompts
from grlo.recipe import load_recipe, load_settings
from grlo.stages import prompts_build
from grlo.stages.prompts_build import STEPS, build

WORDS = [
    "river",
    "stone",
    "lamp",
    "window",
    "garden",
    "winter",
    "paper",
    "copper",
    "bridge",
    "market",
    "island",
    "engine",
    "forest",
    "violin",
    "ladder",
    "pepper",
    "sailor",
    "anchor",
    "comet",
    "tunnel",
    "valley",
    "harbour",
    "mirror",
    "ribbon",
    "basket",
    "candle",
    "desert",
    "feather",
    "glacier",
    "hammer",
]


def question(number: int) -> str:
    """A clean prompt that is like no other."""
    own = random.Random(number).sample(WORDS, 8)
    return f"What is known about the {' and the '.join(own)} of region number {number}?"


def write(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def two_sources(tmp_path):
    """A recipe of two sources with one row for most reasons to drop one."""
    first = [{"prompt": question(n)} for n in range(30)]
    first[3] = {"prompt": question(2) + "!"}  # The same words.
    first[4] = {"prompt": "x"}
    first[5] = {
        "prompt": "Wie lange braucht man mit dem Zug von der Küste bis in die Berge hinauf?"
    }
    write(tmp_path / "first.jsonl", first)
    second = [
        {"messages": [{"role": "user", "content": question(100 + n)}], "note": n} for n in range(20)
    ]
    second[1] = {"prompt": question(7).replace("What is known", "What was known")}
    second[2] = {"prompt": "Write a poem of 5 lines about " + " ".join(WORDS[:9])}
    second[6] = {"prompt": [{"role": "user", "content": "Translate to English: " + question(61)}]}
    (tmp_path / "second.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in second).encode())
    )
    return recipe(
        tmp_path,
        """
        seed = 5
        [[sources]]
        file = "first.jsonl"
        [[sources]]
        file = "second.jsonl.gz"
        weight = 2.0
        style = "judge"
        """,
    )


def test_rows_pass_through_all_steps_and_the_account_adds_up(two_sources, tmp_path):
    result = build(two_sources, out=tmp_path / "out")
    dropped = {(r["source"], r["row"]): r for r in read(tmp_path / "out" / "dropped.jsonl")}
    steps = {place: row["step"] for place, row in dropped.items()}
    assert steps["first", 3] == "exact_duplicate"
    assert steps["first", 4] == "length"
    assert steps["first", 5] == "language"
    assert steps["second", 1] == "near_duplicate"
    assert "first row 2" in dropped["first", 3]["reason"]
    assert "first row 7" in dropped["second", 1]["reason"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["steps"][-1]["left"] == len(read(result)) == manifest["result"]["rows"]
    assert sum(step["dropped"] for step in manifest["steps"]) == len(dropped)
    assert [step["step"] for step in manifest["steps"]] == list(STEPS)
    assert len(dropped) + len(read(result)) == 50
    for source in manifest["sources"]:
        assert source["rows"] == source["kept"] + sum(source["dropped"].values())


def test_sources_are_named_with_the_hashes_of_their_files_and_rows(two_sources, tmp_path):
    two_sources.write_text(two_sources.read_text().replace("weight = 2.0", "limit = 3"))
    build(two_sources, out=tmp_path / "out")
    first, second = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]
    data = (tmp_path / "first.jsonl").read_bytes()
    assert first["sha256"] == first["rows_sha256"] == hashlib.sha256(data).hexdigest()
    packed = (tmp_path / "second.jsonl.gz").read_bytes()
    assert second["sha256"] == hashlib.sha256(packed).hexdigest()
    lines = gzip.decompress(packed).splitlines(keepends=True)[:3]
    assert second["rows_sha256"] == hashlib.sha256(b"".join(lines)).hexdigest()
    assert second["rows"] == 3


def test_conversations_of_several_turns_stay_whole_up_to_the_last_question(tmp_path):
    turns = [
        {"role": "user", "content": question(1)},
        {"role": "assistant", "content": "Little is known about that region."},
        {"role": "user", "content": "And which of these do people like most, and why?"},
        {"role": "assistant", "content": "The lamp."},
    ]
    long = [
        {"role": role, "content": question(n)} for n in range(9) for role in ("user", "assistant")
    ]
    rows = [{"conversation": turns}, {"conversation": long}, {"prompt": question(30)}]
    write(tmp_path / "rows.jsonl", rows)
    result = build(recipe(tmp_path, '[[sources]]\nfile = "rows.jsonl"'), out=tmp_path / "out")
    kept = {row["extra_info"]["source_row"]: row for row in read(result)}
    assert [turn["role"] for turn in kept[0]["prompt"]] == ["user", "assistant", "user"]
    assert kept[0]["extra_info"]["turns"] == 2
    (dropped,) = read(tmp_path / "out" / "dropped.jsonl")
    assert (dropped["row"], dropped["step"]) == (1, "turns")


def test_training_reads_the_result_with_styles_and_categories(two_sources, tmp_path):
    prompts = read_prompts(str(build(two_sources, out=tmp_path / "out")), default_style="x")
    styles = {prompt.style for prompt in prompts if prompt.meta["data_source"] == "second"}
    assert styles == {"judge"}
    by_text = {prompt.messages[-1].content: prompt for prompt in prompts}
    poem = next(prompt for text, prompt in by_text.items() if "poem" in text)
    assert poem.domain == "creative_and_problem_solving"
    assert by_text[question(8)].domain == "general_dialogue"
    assert by_text[question(8)].meta["source_row"] == 8
    assert next(p for t, p in by_text.items() if "Translate" in t).domain == "instruction_following"
    assert by_text[question(100)].meta["note"] == 0


def test_the_same_recipe_and_seed_give_the_same_bytes_in_any_place(two_sources, tmp_path):
    text = two_sources.read_text().replace("seed = 5", "seed = 5\nsize = 12")
    two_sources.write_text(text)
    build(two_sources, out=tmp_path / "one")
    other = tmp_path / "elsewhere"
    other.mkdir()
    for name in ("first.jsonl", "second.jsonl.gz", "recipe.toml"):
        (other / name).write_bytes((tmp_path / name).read_bytes())
    program = (
        "from pathlib import Path; from grlo.stages.prompts_build import build; import sys; "
        "build(Path(sys.argv[1]), out=Path(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(other / "recipe.toml"), str(tmp_path / "two")],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
        capture_output=True,
    )
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["card.html", "card.md", "dropped.jsonl", "manifest.json", "prompts.jsonl"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    two_sources.write_text(text.replace("seed = 5", "seed = 6"))
    build(two_sources, out=tmp_path / "three")
    one, three = (read(tmp_path / name / "prompts.jsonl") for name in ("one", "three"))
    assert one != three
    assert len(one) == len(three) == 12


def test_bad_rows_end_in_dropped_with_their_reason_and_bytes(tmp_path):
    deep: object = "x"
    for _ in range(300):
        deep = [deep]
    bad: list[bytes] = [
        b'{"prompt": "half \\ud800 pair"}',
        b'{"prompt": "raw \xff\xfe bytes"}',
        b"not json at all",
        b'{"other": 1}',
        b'{"prompt": {"deep": {"deeper": [1, 2]}}}',
        b'{"prompt": [{"role": "user", "content": ["nested"]}]}',
        json.dumps({"prompt": "deep", "extra_info": deep}).encode(),
        b"[1, 2, 3]",
        b'{"prompt": null}',
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        json.dumps({"prompt": "word " * 2_000_000}).encode(),
        json.dumps({"prompt": "a" * 10_000_000}).encode(),
        json.dumps({"prompt": "\0" * 1000}).encode(),
    ]
    nul = json.dumps({"prompt": "What\0 does a lighthouse\0 keeper do at night?"}).encode()
    good = json.dumps({"prompt": question(1)}).encode()
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([*bad, nul, good]) + b"\n")
    out = tmp_path / "out"
    build(recipe(tmp_path, '[[sources]]\nfile = "rows.jsonl"'), out=out)
    kept = read(out / "prompts.jsonl")
    texts = [row["prompt"][0]["content"] for row in kept]
    assert "What does a lighthouse keeper do at night?" in texts
    assert question(1) in texts
    dropped = read(out / "dropped.jsonl")
    kept_rows = {row["extra_info"]["source_row"] for row in kept}
    assert {row["row"] for row in dropped} == set(range(len(bad) + 2)) - kept_rows
    assert kept_rows <= {6, len(bad), len(bad) + 1}
    assert all(row["reason"] for row in dropped)
    for row in dropped:
        raw = row["raw"].encode() if "raw" in row else base64.b64decode(row["raw_base64"])
        assert raw == bad[row["row"]]
    reasons = {row["row"]: row["step"] for row in dropped}
    assert reasons[0] == reasons[1] == reasons[2] == reasons[3] == "malformed"
    assert reasons[10] == "length"


def test_several_processes_build_what_one_builds(two_sources, tmp_path, monkeypatch):
    write(tmp_path / "exam.jsonl", [{"id": "e", "question": question(8), "answer": "1"}])
    two_sources.write_text(two_sources.read_text() + '[overlap]\nagainst = ["exam.jsonl"]\n')
    build(two_sources, out=tmp_path / "one")
    monkeypatch.setattr(prompts_build, "PARALLEL_FROM", 1)
    build(two_sources, out=tmp_path / "two")
    for name in ("prompts.jsonl", "dropped.jsonl", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_selection_has_the_composition_that_was_asked_for(tmp_path):
    rows = [{"prompt": question(n)} for n in range(40)]
    rows += [
        {"prompt": f"Write a story about the {WORDS[n]} of {question(n)[20:60]}"} for n in range(20)
    ]
    write(tmp_path / "rows.jsonl", rows)
    text = """
    size = 20
    [[sources]]
    file = "rows.jsonl"
    [duplicates]
    near = 0
    semantic = 0
    [composition]
    general_dialogue = 0.5
    creative_and_problem_solving = 0.5
    instruction_following = 0
    other = 0
    """
    result = build(recipe(tmp_path, text), out=tmp_path / "out")
    counts = [row["ability"] for row in read(result)]
    assert counts.count("general_dialogue") == counts.count("creative_and_problem_solving") == 10
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["selection"]["general_dialogue"] == {"wanted": 10, "available": 40, "taken": 10}
    steps = {step["step"]: step["dropped"] for step in manifest["steps"]}
    assert steps["not_selected"] == 40
    assert len(read(tmp_path / "out" / "dropped.jsonl")) == 40


def test_rows_that_hold_a_problem_are_dropped_and_named(tmp_path):
    write(tmp_path / "rows.jsonl", [{"prompt": question(n)} for n in range(12)])
    write(tmp_path / "exam.jsonl", [{"id": "e1", "question": question(4), "answer": "none"}])
    text = '[[sources]]\nfile = "rows.jsonl"\n[overlap]\nagainst = ["exam.jsonl"]'
    build(recipe(tmp_path, text), out=tmp_path / "out")
    dropped = {row["row"]: row for row in read(tmp_path / "out" / "dropped.jsonl")}
    assert dropped[4]["step"] == "overlap"
    assert "exam e1: exact" in dropped[4]["reason"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["overlap"]["benchmarks"][0]["name"] == "exam"
    assert manifest["recipe"]["overlap"]["against"] == ["exam.jsonl"]


def test_preferences_pass_the_same_filters_and_stay_preferences(tmp_path):
    rows = [
        {"prompt": question(n), "chosen": f"It is {WORDS[n]}.", "rejected": f"No, {WORDS[n + 1]}."}
        for n in range(12)
    ]
    rows[2] = {**rows[2], "chosen": ""}
    rows[3] = {**rows[1]}
    rows[4] = {**rows[4], "rejected": question(77)}
    write(tmp_path / "pairs.jsonl", rows)
    write(tmp_path / "exam.jsonl", [{"id": "e", "question": question(77), "answer": "1"}])
    text = (
        'kind = "preferences"\n[[sources]]\nfile = "pairs.jsonl"\n'
        '[overlap]\nagainst = ["exam.jsonl"]'
    )
    result = build(recipe(tmp_path, text), out=tmp_path / "out")
    assert result.name == "preferences.jsonl"
    pairs = read_preferences(result)
    steps = {row["row"]: row["step"] for row in read(tmp_path / "out" / "dropped.jsonl")}
    assert (steps[2], steps[3], steps[4]) == ("quality", "exact_duplicate", "overlap")
    assert len(pairs) == 12 - len(steps)


def test_an_empty_result_is_an_error_that_says_where_the_rows_went(tmp_path):
    write(tmp_path / "rows.jsonl", [{"prompt": "x"}, {"prompt": "y"}])
    with pytest.raises(DataError, match=r"no row is left of 2: length 2.*dropped.jsonl"):
        build(recipe(tmp_path, '[[sources]]\nfile = "rows.jsonl"'), out=tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size = 5", "sources"),
        ('[[sources]]\nname = "x"', "either file or hub"),
        ('[[sources]]\nfile = "a"\nhub = "b"', "either file or hub"),
        ('[[sources]]\nfile = "a.jsonl"\nwieght = 2', "wieght"),
        ('[[sources]]\nfile = "a.jsonl"\n[composition]\nother = 0.5', "add up to 1"),
        ('[[sources]]\nfile = "a.jsonl"\n[filters]\nown = ["("]', "own"),
        ('[[sources]]\nfile = "a.jsonl"\n[overlap]\nagainst = ["nothing"]', "nothing"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_key(text, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        build(recipe(tmp_path, text), out=tmp_path / "out")


def test_a_recipe_of_a_prompt_set_is_not_one_of_a_run(two_sources):
    with pytest.raises(RecipeError, match="grlo prompts build"):
        load_recipe([two_sources])


def test_two_sources_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder / "rows.jsonl", [{"prompt": question(1)}])
    text = '[[sources]]\nfile = "a/rows.jsonl"\n[[sources]]\nfile = "b/rows.jsonl"'
    with pytest.raises(DataError, match="two sources have the name rows"):
        build(recipe(tmp_path, text), out=tmp_path / "out")


def test_the_card_shows_sources_steps_and_composition(two_sources, tmp_path):
    build(two_sources, out=tmp_path / "out")
    page = (tmp_path / "out" / "card.html").read_text(encoding="utf-8")
    for part in ("first", "near duplicate", "Map of topics", "published mix", "<svg"):
        assert part in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    markdown = (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    assert "| near duplicate | 1 |" in markdown


def test_a_built_file_has_a_record_that_notices_changes(two_sources, tmp_path):
    result = build(two_sources, out=tmp_path / "out")
    (record,) = data_records([str(result), "hub:x/y", str(tmp_path / "first.jsonl")])
    assert record["matches"]
    assert record["made_by"] == "grlo prompts build"
    result.write_text(result.read_text() + "\n")
    assert not data_records([str(result)])[0]["matches"]


def test_build_and_describe_are_commands(two_sources, tmp_path):
    runner = CliRunner()
    out = tmp_path / "out"
    built = runner.invoke(app, ["prompts", "build", str(two_sources), "--out", str(out)])
    assert built.exit_code == 0, built.output
    assert "near duplicate" in built.output
    about = tmp_path / "about"
    arguments = ["prompts", "describe", str(out / "prompts.jsonl"), "--out", str(about)]
    described = runner.invoke(app, arguments)
    assert described.exit_code == 0, described.output
    table = json.loads((about / "description.json").read_text())
    assert table["num_rows"] == len(read(out / "prompts.jsonl"))
    assert sum(table["tasks"].values()) == table["num_rows"]
    assert "Map of topics" in (about / "description.html").read_text(encoding="utf-8")


def test_describe_counts_duplicates_turns_and_languages(tmp_path):
    turns = [
        {"role": "user", "content": "Write a poem about ice."},
        {"role": "assistant", "content": "Ice is nice."},
        {"role": "user", "content": "Now in French please, with the same number of lines."},
    ]
    rows = [{"prompt": question(n)} for n in range(6)]
    rows += [{"prompt": question(2)}, {"prompt": f"{question(3)} Now."}, {"messages": turns}]
    file = write(tmp_path / "rows.jsonl", rows)
    with file.open("a") as more:
        more.write("broken\n")
    result = CliRunner().invoke(
        app, ["prompts", "describe", str(file), "--out", str(tmp_path / "about")]
    )
    assert result.exit_code == 0, result.output
    assert "1 rows are malformed" in result.output
    table = json.loads((tmp_path / "about" / "description.json").read_text())
    assert table["exact_duplicates"] == 1
    assert table["near_groups"] == [[2, 6], [3, 7]]
    assert table["turns"] == {"1": 8, "2": 1}
    assert table["languages"]["en"] == 9


def test_the_recipe_that_comes_with_the_package_is_one():
    path = Path(__file__).parents[2] / "recipes" / "prompts" / "grlo-mix.toml"
    recipe = load_settings(BuildRecipe, path)
    assert recipe.size == 5000
    assert recipe.composition == BuildRecipe(recipe.sources).composition
    assert recipe.overlap.against == ("full",)
