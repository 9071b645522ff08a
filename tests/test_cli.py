"""The command line: quick help, clear errors, exit codes, and what reaches the stages."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

import grlo
from grlo import cli
from grlo.cli.training import budget_overrides
from grlo.errors import DataError


class Stage:
    """Stands for a stage module; records how its function is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: str, function: str) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.error: BaseException | None = None
        stage = ModuleType(module)
        setattr(stage, function, self)
        monkeypatch.setitem(sys.modules, module, stage)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append((args, kwargs))
        if self.error is not None:
            raise self.error


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["grlo", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_help_starts_at_once_and_without_the_heavy_packages() -> None:
    script = (
        "import sys; sys.argv = ['grlo', '--help']\n"
        "from grlo.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert result.returncode == 0, result.stderr
    for command in (
        "check",
        "train",
        "quickstart",
        "chat",
        "evaluate",
        "rollouts",
        "cost",
        "reward-model",
    ):
        assert command in result.stdout
    assert seconds < 2, "half of it is the interpreter on a busy machine"


def test_the_version_is_that_of_the_package_and_takes_no_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "__version__", "12.3.4")
    assert run_main(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == "grlo 12.3.4\n"
    monkeypatch.undo()
    assert run_main(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"grlo {grlo.__version__}\n"


def test_a_users_error_is_one_message_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(monkeypatch, "grlo.stages.cost", "cost")
    stage.error = DataError("ledger.jsonl:3: is not JSON")
    assert run_main(monkeypatch, "cost", "runs/x") == 1
    captured = capsys.readouterr()
    assert captured.err == "error: ledger.jsonl:3: is not JSON\n"
    assert captured.out == ""


def test_our_own_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, "grlo.stages.cost", "cost")
    stage.error = ZeroDivisionError()
    monkeypatch.setattr(sys, "argv", ["grlo", "cost", "runs/x"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, "grlo.stages.cost", "cost")
    stage.error = KeyboardInterrupt()
    assert run_main(monkeypatch, "cost", "runs/x") == 130


@pytest.mark.parametrize(
    "arguments",
    [
        ("trian",),
        ("train", "recipe.toml"),
        ("train", "--run", "runs/x"),
        ("rollouts", "runs/x", "--sort", "colour"),
        ("rollouts", "runs/x", "--limit", "0"),
        ("chat", "model", "--temperature", "-1"),
    ],
)
def test_misuse_exits_with_2(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    assert run_main(monkeypatch, *arguments) == 2


def test_a_recipe_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "train", "absent.toml", "--run", "runs/x") == 1
    assert "absent.toml: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "function", "arguments", "args", "kwargs"),
    [
        (
            "check",
            "check",
            "check a.toml b.toml --set x.y=1 --set z=2 --no-weights --run r",
            ([Path("a.toml"), Path("b.toml")],),
            {
                "overrides": ["x.y=1", "z=2"],
                "run_dir": Path("r"),
                "weights": False,
                "num_devices": 1,
            },
        ),
        (
            "check",
            "check",
            "check a.toml",
            ([Path("a.toml")],),
            {"overrides": (), "run_dir": None, "weights": True, "num_devices": 1},
        ),
        (
            "check",
            "check",
            "check a.toml --devices 4",
            ([Path("a.toml")],),
            {"overrides": (), "run_dir": None, "weights": True, "num_devices": 4},
        ),
        (
            "quickstart",
            "quickstart",
            "quickstart --seed 3",
            (),
            {"run_dir": Path("runs/quickstart"), "seed": 3},
        ),
        (
            "chat",
            "chat",
            "chat m --temperature 0 --max-tokens 5 --template plain",
            ("m",),
            {"temperature": 0.0, "max_tokens": 5, "template": "plain"},
        ),
        (
            "rollouts",
            "show",
            "rollouts r --step 4 --sort length --limit 2 --gold",
            (Path("r"),),
            {
                "step": 4,
                "sort": "length",
                "descending": True,
                "search": None,
                "limit": 2,
                "kind": "gold",
            },
        ),
        (
            "report",
            "report_folders",
            "report r s --format md --out x.md",
            ([Path("r"), Path("s")],),
            {"form": "md", "out": Path("x.md")},
        ),
        ("cost", "cost", "cost r", (Path("r"),), {"price": None}),
        ("cost", "cost", "cost r --price 2.5", (Path("r"),), {"price": 2.5}),
    ],
)
def test_arguments_reach_the_stage(
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    function: str,
    arguments: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    stage = Stage(monkeypatch, f"grlo.stages.{module}", function)
    result = CliRunner().invoke(cli.app, arguments.split())
    assert result.exit_code == 0, result.output
    assert stage.calls == [(args, kwargs)]


def test_what_is_evaluated_and_how_reaches_the_stage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import grlo.stages.evaluate as stage
    from grlo.benchmarks.loading import Choice
    from grlo.benchmarks.spec import DataPlaces
    from grlo.ray_cluster import RayCluster
    from grlo.stages.respondents import ModelChoice

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(stage, "evaluate", lambda *args, **options: calls.append((args, options)))
    (tmp_path / "a.jsonl").touch()
    arguments = (
        "evaluate m --benchmarks MATH-500,pkg:mine --rows greedy,4-shot --limit 3 --max-tokens 9 "
        f"--samples 2 --temperature 0.5 --data {tmp_path} --data a={tmp_path}/a.jsonl --seed 2 "
        "--out o --judge j.toml --engine vllm --device cpu --dtype float32 --overwrite --json"
    )
    result = CliRunner().invoke(cli.app, arguments.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    model = ModelChoice("m", device="cpu", dtype="float32", engine="vllm")
    choice = Choice(
        names=("math500", "pkg:mine"),
        variants=("greedy", "4-shot"),
        limit=3,
        max_tokens=9,
        num_samples=2,
        temperature=0.5,
        places=DataPlaces(files={"a": tmp_path / "a.jsonl"}, folder=tmp_path),
    )
    options = {"out": Path("o"), "seed": 2, "judge": Path("j.toml")}
    options |= {"overwrite": True, "as_json": True, "cluster": None}
    assert calls == [((model, choice), options)]
    elsewhere = "evaluate m --out o --ray-address auto --ray-workers 3"
    CliRunner().invoke(cli.app, elsewhere.split(), catch_exceptions=False)
    assert calls[1][1]["cluster"] == RayCluster("auto", 3)
    CliRunner().invoke(cli.app, ["evaluate", "m", "--out", "o"], catch_exceptions=False)
    assert "math500" in calls[1][0][1].names, "the suite quick"
    assert calls[1][0][1].limit == 50


def test_reward_model_commands_pass_their_settings_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from grlo.rewards.reward_model import RewardModelSettings
    from grlo.training.preferences import RewardModelTraining

    scorer = RewardModelSettings(model="m", template="plain")
    fitted = RewardModelTraining(model="m", steps=7, learning_rate=1e-3, seed=2, device="cpu")
    for arguments, function, args, kwargs in [
        ("score m a.jsonl --out o", "score", (scorer, Path("a.jsonl")), {"out": Path("o")}),
        ("accuracy m a b", "accuracy", (scorer, [Path("a"), Path("b")]), {}),
    ]:
        stage = Stage(monkeypatch, "grlo.stages.reward_model", function)
        command = ["reward-model", *arguments.split(), "--template", "plain", "--device", "cpu"]
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, result.output
        assert stage.calls == [(args, {**kwargs, "device": "cpu"})]
    stage = Stage(monkeypatch, "grlo.stages.reward_model", "train")
    command = "reward-model train m a --out o --steps 7 --learning-rate 1e-3 --seed 2 --device cpu"
    result = CliRunner().invoke(cli.app, command.split())
    assert result.exit_code == 0, result.output
    assert stage.calls == [((fitted, [Path("a")]), {"out": Path("o")})]


def test_train_loads_the_recipe_with_its_overrides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import grlo.recipe

    stage = Stage(monkeypatch, "grlo.stages.train", "train")
    loaded: list[Any] = []
    monkeypatch.setattr(
        grlo.recipe, "load_recipe", lambda paths, *, overrides: loaded.append((paths, overrides))
    )
    arguments = ["train", "a.toml", "b.toml", "--run", str(tmp_path), "--set", "seed=1"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert loaded == [([Path("a.toml"), Path("b.toml")], ["seed=1"])]
    [((recipe,), options)] = stage.calls
    assert (recipe, options["run_dir"]) == (None, tmp_path)
    assert options["started"] < time.perf_counter(), "time runs from the start of the process"


def test_several_devices_are_started_and_the_processes_that_are_not_first_follow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import grlo.recipe

    monkeypatch.setattr(grlo.recipe, "load_recipe", lambda paths, *, overrides: "recipe")
    launched = Stage(monkeypatch, "grlo.stages.launching", "launch")
    trained = Stage(monkeypatch, "grlo.stages.train", "train")
    followed = Stage(monkeypatch, "grlo.stages.train", "follow_leader")
    monkeypatch.setattr(sys.modules["grlo.stages.train"], "train", trained, raising=False)
    arguments = ["train", "a.toml", "--run", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["grlo", *arguments, "--devices", "2"])
    assert CliRunner().invoke(cli.app, [*arguments, "--devices", "2"]).exit_code == 0
    command = [*arguments, "--devices", "2"]
    assert launched.calls == [(("recipe", command), {"num_devices": 2})]
    assert (trained.calls, followed.calls) == ([], [])
    for name, value in (("WORLD_SIZE", "3"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "here")):
        monkeypatch.setenv(name, value)
    for rank in ("0", "1", "2"):
        monkeypatch.setenv("RANK", rank)
        assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert len(trained.calls) == 1
    assert followed.calls == [(("recipe",), {})] * 2


def test_a_budget_becomes_a_setting_of_the_recipe() -> None:
    values = ["device-hours=2", "tokens=1e8", "flops=1e18"]
    assert budget_overrides(values) == [
        "budget.device_hours=2.0",
        "budget.trained_tokens=100000000.0",
        "budget.flops=1e+18",
    ]


@pytest.mark.parametrize(
    "value", ["hours=2", "tokens", "tokens=", "tokens=-1", "flops=nan", "prompts=inf"]
)
def test_a_budget_that_is_none_is_refused(monkeypatch, capsys, value: str) -> None:
    arguments = ["train", "recipe.toml", "--run", "somewhere", "--budget", value]
    assert run_main(monkeypatch, *arguments) != 0
    assert f"--budget {value}" in capsys.readouterr().err
