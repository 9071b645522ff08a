"""A run on verl becomes an ordinary run directory: launched, resumed, imported, read by others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import GenerationConfig

from grlo.benchmarks.loading import choose
from grlo.errors import CheckpointError, EngineError, MissingExtraError
from grlo.launchers.verl import process
from grlo.launchers.verl.expression import Cluster
from grlo.launchers.verl.folder import VerlFolder
from grlo.ledger import summarize
from grlo.recipe import ASSETS, load_recipe
from grlo.rundir import RunDir, append_jsonl, read_jsonl
from grlo.settings import Recipe
from grlo.stages import launch_verl as launching
from grlo.stages.evaluate import ModelChoice, evaluate
from grlo.stages.import_verl import import_verl
from grlo.stages.launch_verl import launch_verl
from grlo.stages.models import load_model, newest_model
from grlo.stages.report import report_folders
from stand_in_verl import write_stand_in
from verl_parts import renderer_of, write_recipe

pytest.importorskip("pyarrow")

CLUSTER = Cluster(nodes=1, gpus_per_node=2, reward_gpus=0.5)


@pytest.fixture(scope="module", autouse=True)
def _stand_in(tmp_path_factory):
    """What is tested is what starts verl and reads what it leaves: verl itself is a stand-in."""
    place = write_stand_in(tmp_path_factory.mktemp("stand_in"), model=str(ASSETS / "base"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{place}{os.pathsep}{Path(process.__file__).parents[3]}")
        patch.setattr(launching, "require_verl", lambda: "0.9.1")
        patch.setattr(process, "POLL_SECONDS", 0.2)
        yield


def launch(folder: Path, recipe: Recipe, **options) -> RunDir:
    launch_verl(recipe, run_dir=folder / "run", cluster=CLUSTER, **options)
    return RunDir.existing(folder / "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, _stand_in) -> RunDir:
    """A whole run, to be read only."""
    folder = tmp_path_factory.mktemp("finished")
    return launch(folder, write_recipe(folder), ray_address="ray-head:6379")


def recipe_of(run: RunDir, *overrides: str) -> Recipe:
    return load_recipe([run.path.parent / "recipe.toml"], overrides=overrides)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.suffix in (".jsonl", ".json")}


def test_a_run_leaves_metrics_rollouts_and_checkpoints_as_grlo_train_does(finished):
    run = finished
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[1]["policy/loss"] == -0.5
    assert rows[0]["verl/perf/throughput"] == 100.0
    assert "critic/explained_variance" not in rows[0]
    assert {"reward/mean", "response/truncated", "watch/repetition"} <= rows[0].keys()
    assert rows[0]["response/truncated"] == 0.5
    assert run.rollout_steps() == [1, 2, 3, 4, 5]
    answers = run.rollouts(3)
    assert len(answers) == 8
    assert {row["style"] for row in answers} <= {"model", "rule", "both"}
    scores = [row["score"] for row in answers]
    assert rows[2]["reward/mean"] == pytest.approx(sum(scores) / 8)
    newest = run.checkpoints()[-1]
    assert newest.name == "step_000005"
    assert "ray-head:6379" in VerlFolder(run.verl_dir).console_file(0).read_text()


def test_costs_add_up_to_verls_steps_on_all_devices(finished):
    run = finished
    entries = run.ledger()
    assert {entry.num_devices for entry in entries} == {3}
    of_step = [entry for entry in entries if entry.step == 2]
    assert sum(entry.seconds for entry in of_step) == pytest.approx(8.0)
    seconds = {entry.phase: entry.seconds for entry in of_step}
    assert seconds["generate"] == 3.0
    assert seconds["annotate"] == 1.5
    assert seconds["update"] == 3.0
    assert seconds["sync"] == 0.25
    assert seconds["idle"] == pytest.approx(0.25)
    generated = next(entry for entry in of_step if entry.phase == "generate")
    assert generated.tokens == sum(row["num_tokens"] for row in run.rollouts(2))
    assert generated.peak_memory_bytes == 2 * 2**30
    flops = {entry.phase: entry.flops_by for entry in of_step}
    assert flops["generate"].keys() == {"engine"}
    assert flops["score"].keys() == {"reward_model"}
    assert flops["annotate"].keys() == flops["update"].keys() == {"policy", "critic"}
    assert flops["update"]["policy"] == pytest.approx(3 * flops["annotate"]["policy"])
    assert [entry.phase for entry in entries if entry.step == 0] == ["load"]


@pytest.mark.long
def test_a_run_that_died_goes_on_from_verls_checkpoint_and_loses_nothing(
    tmp_path, monkeypatch, capsys
):
    recipe = write_recipe(tmp_path)
    monkeypatch.setenv("DIES_AFTER", "3")
    with pytest.raises(EngineError, match=r"exit code 7[\s\S]*fell off the bus"):
        launch(tmp_path, recipe)
    run = RunDir.existing(tmp_path / "run")
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert [path.name for path in run.checkpoints()] == ["step_000002"]
    exported = VerlFolder(run.verl_dir.resolve())
    with exported.metrics_file(0).open("a") as file:
        file.write('{"step": 4, "da')  # Torn by the kill.
    imported = RunDir(import_verl(exported.path, out=tmp_path / "imported"))
    assert len(imported.metrics()) == 3

    launch(tmp_path, recipe)
    assert "step 5/5" in capsys.readouterr().out
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]
    # The step behind the checkpoint was done twice, and paid twice.
    drawn = [(e.attempt, e.step) for e in run.ledger() if e.phase == "generate"]
    assert drawn == [(0, 1), (0, 2), (0, 3), (1, 3), (1, 4), (1, 5)]
    phases = {total.phase: total.seconds for total in summarize(run.ledger())}
    assert phases["repeated"] == pytest.approx(8.0)

    import_verl(exported.path, out=tmp_path / "imported")
    assert imported.metrics() == run.metrics()
    assert [e for e in imported.ledger() if e.step] == [e for e in run.ledger() if e.step]


def test_a_finished_run_is_not_started_again(finished, capsys, monkeypatch):
    before = files_of(finished.path)
    monkeypatch.setattr(launching, "run_verl", None)
    launch(finished.path.parent, recipe_of(finished))
    assert "is complete" in capsys.readouterr().out
    assert files_of(finished.path) == before


def test_importing_twice_duplicates_nothing_and_brings_the_same_as_launching(finished, tmp_path):
    imported = RunDir(import_verl(finished.verl_dir, out=tmp_path / "imported"))
    assert imported.metrics() == finished.metrics()
    assert imported.rollouts(4) == finished.rollouts(4)
    assert imported.ledger() == [e for e in finished.ledger() if e.step]
    before = files_of(imported.path)
    import_verl(finished.verl_dir, out=imported.path)
    assert files_of(imported.path) == before


def test_steps_that_a_resumed_start_does_again_are_paid_and_not_brought_back(finished, tmp_path):
    shutil.copytree(finished.verl_dir, tmp_path / "verl")
    folder = VerlFolder(tmp_path / "verl")
    run = RunDir(import_verl(folder.path, out=tmp_path / "run"))
    # A second start goes on after step 3 and has come to step 4 so far.
    row = read_jsonl(folder.metrics_file(0))[3]
    row["data"]["actor/pg_loss"] = 7.0
    append_jsonl(folder.metrics_file(1), [row])
    again = folder.answers_file(1, 4, "rollouts", actor=0)
    again.parent.mkdir()
    shutil.copy(folder.answers_file(0, 4, "rollouts", actor=0), again)
    for _ in range(2):
        import_verl(folder.path, out=run.path)
        assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]
        assert run.metrics()[-1]["policy/loss"] == 7.0
        paid = {(entry.attempt, entry.step) for entry in run.ledger()}
        assert paid == {(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 4)}
    # The whole of it brought at once is the same.
    at_once = RunDir(import_verl(folder.path, out=tmp_path / "at_once"))
    assert at_once.metrics() == run.metrics()
    assert sorted(map(str, at_once.ledger())) == sorted(map(str, run.ledger()))


def test_what_a_kill_between_two_files_left_out_is_brought_the_next_time(finished, tmp_path):
    run = finished
    out = tmp_path / "imported"
    import_verl(run.verl_dir, out=out)
    imported = RunDir.existing(out)
    lines = imported.metrics_file.read_text().splitlines(keepends=True)
    imported.metrics_file.write_text("".join(lines[:-1]))
    import_verl(run.verl_dir, out=out)
    assert imported.metrics() == run.metrics()
    assert len(imported.ledger()) == len([e for e in run.ledger() if e.step])


def test_the_report_and_the_evaluation_read_the_run(finished, tmp_path):
    run = finished
    page = report_folders([run.path], form="html", out=tmp_path / "page.html").read_text()
    assert "Reward" in page
    assert "generate" in page
    path = newest_model(str(run.path))
    assert path == str(run.checkpoints()[-1])
    assert load_model(path, dtype="float32").config.vocab_size > 0


def test_an_evaluation_of_the_run_stands_in_a_report_with_what_the_run_cost(finished, tmp_path):
    choice = choose(suite=None, names=["nano_math"], limit=4)
    base = str(ASSETS / "base")
    for name, model in (("base", base), ("trained", str(finished.path))):
        evaluate(ModelChoice(model, device="cpu"), choice, out=tmp_path / name)
    folders = [tmp_path / "base", tmp_path / "trained"]
    page = report_folders(folders, form="json", out=tmp_path / "report.json")
    answer = " ".join(json.loads(page.read_text())["answer"])
    assert "20 prompts (3 different ones)" in answer
    assert "of 3 x " in answer
    assert "FLOPs" in answer


def test_a_checkpoint_ends_answers_where_training_did(finished):
    found = GenerationConfig.from_pretrained(finished.checkpoints()[-1])
    assert found.eos_token_id == list(renderer_of(recipe_of(finished)).stop_ids)


def test_the_best_checkpoint_is_kept_beside_the_newest(finished, tmp_path):
    shutil.copytree(finished.verl_dir, tmp_path / "verl")
    folder = VerlFolder(tmp_path / "verl")
    record = folder.record()
    record["recipe"]["checkpoint"] |= {"keep_last": 1, "every": 1}
    folder.write_record(record)
    for step in (1, 3):
        folder.actor_checkpoint(step).mkdir(parents=True)
    run = RunDir(import_verl(folder.path, out=tmp_path / "run"))
    rewards = {row["step"]: row["reward/mean"] for row in run.metrics()}
    best = max(rewards, key=lambda step: rewards[step])
    assert {path.name for path in run.checkpoints()} == {f"step_{s:06d}" for s in (best, 5)}


def test_another_recipe_in_the_same_folder_is_refused_with_the_difference(finished):
    with pytest.raises(CheckpointError, match=r"seed: 3 -> 4"):
        launch(finished.path.parent, recipe_of(finished, "seed=4"))


def test_another_number_of_gpus_is_refused(finished):
    other = replace(CLUSTER, gpus_per_node=4)
    with pytest.raises(CheckpointError, match=r"1 x 2 GPUs[\s\S]*1 x 4 GPUs"):
        launch_verl(recipe_of(finished), run_dir=finished.path, cluster=other)


def test_a_run_of_grlo_train_is_left_alone(finished, tmp_path):
    run = RunDir(tmp_path / "run")
    record = finished.record()
    with RunDir.create_or_open(
        run.path, recipe=record["recipe"], prompt_hash=record["prompt_hash"]
    ) as run:
        run.append_metrics(1, {"reward/mean": 0.5})
    with pytest.raises(CheckpointError, match="grlo train"):
        launch(tmp_path, recipe_of(finished))
    with pytest.raises(CheckpointError, match="grlo train"):
        import_verl(finished.verl_dir, out=run.path)
    assert len(run.metrics()) == 1


def test_verl_of_another_version_or_none_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.7.0")
    with pytest.raises(EngineError, match=r"verl 0\.7\.0 is installed; supported is 0\.9\.1"):
        process.require_verl()

    def missing(name: str) -> str:
        raise process.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(MissingExtraError, match=r"grlo\[verl\]"):
        process.require_verl()


@pytest.mark.long
def test_the_script_starts_verl_and_counts_its_starts(tmp_path):
    from grlo.stages.export_verl import export_verl

    folder = export_verl(write_recipe(tmp_path), out=tmp_path / "out", cluster=CLUSTER)
    environment = dict(os.environ, PYTHON=sys.executable, DIES_AFTER="3")
    first = subprocess.run([folder.script_file], env=environment, capture_output=True, text=True)
    assert first.returncode == 7, first.stderr
    subprocess.run([folder.script_file], env=environment, check=True, capture_output=True)
    assert folder.attempts() == [0, 1]
    import_verl(folder.path, out=tmp_path / "run")
    assert [row["step"] for row in RunDir.existing(tmp_path / "run").metrics()] == [1, 2, 3, 4, 5]


def test_unscored_answers_are_in_the_run_and_count_as_nothing(finished, tmp_path):
    shutil.copytree(finished.verl_dir, tmp_path / "verl")
    folder = VerlFolder(tmp_path / "verl")
    file = folder.answers_files(0, 1, "rollouts")[0]
    rows = read_jsonl(file)
    kept = [row["score"]["value"] for row in rows[1:] if "score" in row]
    rows[0]["score"] |= {"value": None, "note": "the judge is away"}
    file.unlink()
    append_jsonl(file, rows)
    row = RunDir(import_verl(folder.path, out=tmp_path / "imported")).metrics()[0]
    assert row["reward/unscored"] == pytest.approx(1 / 8)
    assert row["reward/mean"] == pytest.approx(sum(kept) / 7)
