"""The command `grlo`: parses, then imports the stage it needs, so that help starts at once."""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # Before the imports: a run's ledger accounts for them too.

import atexit
import gc
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from grlo.errors import GrloError, RecipeError

if TYPE_CHECKING:
    from grlo.ray_cluster import RayCluster

app = typer.Typer(
    help="Reinforcement learning from a base model on open-ended prompts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Recipes = Annotated[
    list[Path], typer.Argument(metavar="RECIPE...", help="TOML files; later ones win.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Overrides, such as training.steps=10."),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND=AMOUNT",
        help="Ends the run at device-hours=2, tokens=1e8 (trained), generated-tokens=1e8, "
        "flops=1e18 or prompts=5000; repeatable.",
    ),
]
Devices = Annotated[
    int,
    typer.Option(min=1, help="GPUs of this machine, or processes on a CPU, that train together."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
RunDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]
RayAddress = Annotated[
    str | None,
    typer.Option(help="Work is done on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local."),
]
RayWorkers = Annotated[
    int, typer.Option(min=0, help="Processes there; 0: one for each of its GPUs, or of its CPUs.")
]
Template = Annotated[
    str | None, typer.Option(help="Named chat template; default is the tokenizer's own.")
]


@app.command()
def check(
    recipes: Recipes,
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="The run directory to be, checked as well.")
    ] = None,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights/--no-weights",
            help="--weights loads the models and tries a step; --no-weights looks only at files "
            "that are on this machine.",
        ),
    ] = True,
    devices: Devices = 1,
) -> None:
    """Shows what a recipe will do, and finds all that would fail later."""
    from grlo.stages.check import check as run_check

    run_check(recipes, overrides=overrides or (), run_dir=run, weights=weights, num_devices=devices)


@app.command()
def train(
    recipes: Recipes,
    run: Annotated[
        Path,
        # torchrun takes --run for a beginning of options of its own.
        typer.Option("--run", "--run-dir", help="Run directory; resumed if it holds a run."),
    ],
    overrides: Overrides = None,
    budget: Budget = None,
    devices: Devices = 1,
) -> None:
    """Trains a model by a recipe, or resumes a run."""
    from grlo.recipe import load_recipe

    recipe = load_recipe(recipes, overrides=[*(overrides or ()), *_budget(budget or ())])

    if devices > 1:
        from grlo.stages.launching import launch

        launch(recipe, sys.argv[1:], num_devices=devices)
        return

    from grlo.training.distributed.ranks import is_follower

    if is_follower():
        from grlo.stages.train import follow_leader

        follow_leader(recipe)
        return

    from grlo.stages.train import train as run_train

    print(run_train(recipe, run_dir=run, started=_STARTED))


@app.command()
def sft(
    recipes: Recipes,
    run: Annotated[Path, typer.Option("--run", help="Run directory; resumed if it holds a run.")],
    overrides: Overrides = None,
    budget: Budget = None,
) -> None:
    """Fine-tunes a model on demonstrations by a recipe, or resumes a run."""
    from grlo.recipe import load_recipe_of
    from grlo.settings import SFTRecipe

    recipe = load_recipe_of(
        SFTRecipe, recipes, overrides=[*(overrides or ()), *_budget(budget or ())]
    )

    from grlo.stages.sft import sft as run_sft

    print(run_sft(recipe, run_dir=run, started=_STARTED))


@app.command()
def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="TOML file of a study.")],
    out: Annotated[Path, typer.Option(help="Folder of the study; gone on from if it holds it.")],
    seeds: Annotated[str, typer.Option(help="By commas, instead of those of the file.")] = "",
    parallel: Annotated[
        int, typer.Option(min=0, help="Arms at a time; 0: as the file has it.")
    ] = 0,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be run.")] = False,
    job: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Trains and measures several arms over several seeds at equal cost, and compares them."""
    from grlo.stages.study import plan as show_plan
    from grlo.stages.study import study as run_study
    from grlo.stages.study import study_job

    try:
        numbers = [int(text) for text in _names(seeds)]
    except ValueError:
        raise RecipeError(f"--seeds {seeds}: expected whole numbers by commas.") from None
    if job:
        study_job(file, out=out, seeds=numbers, name=job)
    elif plan:
        show_plan(file, out=out, seeds=numbers)
    else:
        run_study(file, out=out, seeds=numbers, parallel=parallel)


@app.command()
def quickstart(
    run: Annotated[Path, typer.Option("--run", help="Run directory.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Of all arms.")] = 0,
) -> None:
    """Trains the embedded miniature in several ways, and reports what that did to four domains."""
    from grlo.stages.quickstart import quickstart as run_quickstart

    run_quickstart(run_dir=run, seed=seed)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="Model folder, run directory or hub id.")],
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 1024,
    template: Template = None,
) -> None:
    """Talks to a model in the terminal: /reset starts over, /quit ends, Ctrl-C stops an answer."""
    from grlo.stages.chat import chat as run_chat

    run_chat(model, temperature=temperature, max_tokens=max_tokens, template=template)


@app.command("pass-rate")
def pass_rate(
    recipes: Recipes,
    out: Annotated[Path, typer.Option(help="JSONL of the prompts that are kept.")],
    samples: Annotated[int, typer.Option(min=1, help="Answers per prompt.")] = 8,
    least: Annotated[float, typer.Option("--min", min=0, max=1, help="Lowest rate kept.")] = 0.1,
    most: Annotated[float, typer.Option("--max", min=0, max=1, help="Highest rate kept.")] = 0.9,
    overrides: Overrides = None,
) -> None:
    """Keeps the prompts that a recipe's policy answers right sometimes, not always or never."""
    from grlo.recipe import load_recipe

    recipe = load_recipe(recipes, overrides=overrides or ())

    from grlo.stages.pass_rate import pass_rate as run_pass_rate

    run_pass_rate(recipe, out=out, num_samples=samples, least=least, most=most)


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Model or LoRA folder, run directory, hub id, TOML file of an endpoint, or with "
            "--base-url the name of a model there."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for every answer and the summary.")],
    suite: Annotated[str | None, typer.Option(help="quick (default), paper, full or nano.")] = None,
    benchmarks: Annotated[
        str, typer.Option(help="Names, import paths or TOML files of your own, by commas.")
    ] = "",
    rows: Annotated[
        str, typer.Option(help="Any of sampled, greedy, 4-shot (without template), by commas.")
    ] = "",
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder with data files (default: $GRLO_DATA), or NAME=FILE; repeatable."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Problems of each benchmark, evenly spaced; 0: all.")
    ] = 0,
    max_tokens: Annotated[
        int, typer.Option(min=0, help="Longest answer; 0: as the benchmark has it.")
    ] = 0,
    samples: Annotated[
        int, typer.Option(min=0, help="Answers per problem; 0: as the benchmark has it.")
    ] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Default: as the benchmark has it.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(help="TOML file: who judges chat benchmarks.")
    ] = None,
    seed: int = 0,
    engine: Annotated[str, typer.Option(help="hf or vllm.")] = "hf",
    base_url: Annotated[
        str, typer.Option(help="OpenAI-compatible endpoint without a key; else a TOML file.")
    ] = "",
    template: Template = None,
    device: Device = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; default by device.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard results of another model or protocol.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The summary as JSON on stdout instead of tables.")
    ] = False,
    ray_address: RayAddress = None,
    ray_workers: RayWorkers = 0,
) -> None:
    """Measures a model on benchmarks, with intervals; what is finished is not run again."""
    from dataclasses import replace

    from grlo.benchmarks.loading import choose
    from grlo.stages.data_places import data_places
    from grlo.stages.evaluate import ModelChoice
    from grlo.stages.evaluate import evaluate as run_evaluate

    choice = choose(suite=suite, names=_names(benchmarks), variants=_names(rows), limit=limit)
    choice = replace(
        choice,
        max_tokens=max_tokens,
        num_samples=samples,
        temperature=temperature,
        places=data_places(data or ()),
    )
    chosen = ModelChoice(
        model, template=template, device=device, dtype=dtype, engine=engine, base_url=base_url
    )
    run_evaluate(
        chosen,
        choice,
        out=out,
        seed=seed,
        judge=judge,
        overwrite=overwrite,
        as_json=as_json,
        cluster=_cluster(ray_address, ray_workers),
    )


def _cluster(address: str | None, num_workers: int) -> RayCluster | None:
    """Where work is done, if not here."""
    from grlo.ray_cluster import RayCluster

    if address is None and num_workers:
        raise RecipeError("--ray-workers means nothing without --ray-address.")
    return None if address is None else RayCluster(address, num_workers)


def _budget(values: Sequence[str]) -> list[str]:
    """What `--budget` says as overrides of the recipe."""
    kinds = {
        "device-hours": "device_hours",
        "tokens": "trained_tokens",
        "generated-tokens": "generated_tokens",
        "flops": "flops",
        "prompts": "prompts",
    }
    overrides = []
    for value in values:
        kind, equals, amount = value.partition("=")
        try:
            number = float(amount)
        except ValueError:
            number = math.nan
        if kind not in kinds or not equals or not 0 < number < math.inf:
            raise RecipeError(
                f"--budget {value}: expected KIND=AMOUNT with one of {', '.join(kinds)} and a "
                "positive number."
            )
        overrides.append(f"budget.{kinds[kind]}={number!r}")
    return overrides


def _names(text: str) -> list[str]:
    """What stands between commas."""
    return [name for part in text.split(",") if (name := part.strip())]


@app.command()
def grade(
    grader: Annotated[
        str,
        typer.Argument(
            metavar="VERIFIER_OR_BENCHMARK",
            help="math, code, choice, instructions, a benchmark, or package.module:Object.",
        ),
    ],
    responses: Annotated[
        Path, typer.Argument(metavar="RESPONSES", help="JSONL of rows with id and response.")
    ],
    out: Annotated[Path, typer.Option(help="JSONL to write: a verdict for each response.")],
    data: Annotated[
        Path | None, typer.Option(help="JSONL of problems; a benchmark has its own.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout instead of the table.")
    ] = False,
) -> None:
    """Grades responses that exist already, without a model."""
    from grlo.stages.grade import grade as run_grade

    run_grade(grader, responses, data=data, out=out, as_json=as_json)


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR DIR...", help="Folders of `grlo evaluate --out`.")
    ],
    allow: Annotated[
        str, typer.Option(help="What may differ, by commas: template, sampling, grader, ...")
    ] = "",
    flips: Annotated[
        int, typer.Option(min=0, help="Problems won and lost to show of each benchmark.")
    ] = 0,
    html: Annotated[Path | None, typer.Option(help="Page to write, answers side by side.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File to write, with all numbers.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """What changed from one evaluation to others: paired differences, and problems that flipped."""
    from grlo.stages.compare import compare_evaluations

    compare_evaluations(
        folders, allow=_names(allow), flips=flips, html=html, json_file=json_file, seed=seed
    )


@app.command()
def winrate(
    preferences: Annotated[
        Path, typer.Argument(help="JSONL of rows with id and preference, or with id and games.")
    ],
    length_controlled: Annotated[
        bool, typer.Option("--length-controlled", help="AlpacaEval 2's model besides.")
    ] = False,
    difficulty: Annotated[
        Path | None, typer.Option(help="Difficulty of instructions: JSONL or the hub's CSV.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="The baseline's outputs, where the rows have none.")
    ] = None,
    arena_hard: Annotated[
        bool, typer.Option("--arena-hard", help="Score games as Arena-Hard does.")
    ] = False,
    style_control: Annotated[
        bool, typer.Option("--style-control", help="With --arena-hard: take style out.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object at the end of stdout.")
    ] = False,
) -> None:
    """Win rates against a baseline from a judge's verdicts: raw, length- and style-controlled."""
    from grlo.stages.winrate import winrate as run_winrate

    run_winrate(
        preferences,
        length_controlled=length_controlled,
        difficulty=difficulty,
        baseline=baseline,
        arena_hard=arena_hard,
        style_control=style_control,
        as_json=as_json,
    )


@app.command()
def rollouts(
    run: RunDirectory,
    step: Annotated[int | None, typer.Option(help="Default: the last step.")] = None,
    sort: Annotated[
        Literal["reward", "length", "order"], typer.Option(help="What comes first: the highest.")
    ] = "reward",
    ascending: Annotated[bool, typer.Option("--ascending", help="The lowest first.")] = False,
    search: Annotated[str | None, typer.Option(help="Only rollouts with this text.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Default: all.")] = None,
    gold: Annotated[
        bool, typer.Option("--gold", help="What the gold signal scored, by its scores.")
    ] = False,
) -> None:
    """Shows what the model said during training."""
    from grlo.stages.rollouts import show

    show(
        run,
        step=step,
        sort=sort,
        descending=not ascending,
        search=search,
        limit=limit,
        kind="gold" if gold else "rollouts",
    )


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="A run, a study, or folders of `grlo evaluate`, the base model's first.",
        ),
    ],
    form: Annotated[
        Literal["html", "md", "json"], typer.Option("--format", help="md: for an appendix.")
    ] = "html",
    out: Annotated[Path | None, typer.Option(help="File; default: report.* beside it.")] = None,
) -> None:
    """One page of a run (also while it is going), of a study, or of evaluations side by side."""
    from grlo.stages.report import report_folders

    print(report_folders(folders, form=form, out=out))


@app.command()
def cost(
    run: RunDirectory,
    price: Annotated[
        float | None,
        typer.Option(min=0, help="Of a device-hour; default: prices.device_hour of the recipe."),
    ] = None,
) -> None:
    """Device-hours, tokens, FLOPs, utilisation, energy and money of a run by phase."""
    from grlo.stages.cost import cost as run_cost

    run_cost(run, price=price)


prompts_app = typer.Typer(
    help="Prompt sets: built, described, audited for overlap with benchmarks.",
    no_args_is_help=True,
)
app.add_typer(prompts_app, name="prompts")

DataFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="Prompts, preferences or demonstrations: .jsonl, .jsonl.gz, .parquet."
    ),
]


@prompts_app.command("build")
def prompts_build(
    recipe: Annotated[Path, typer.Argument(help="TOML file: sources, filters, composition.")],
    out: Annotated[Path, typer.Option(help="Folder for the set, its manifest and its card.")],
    ray_address: RayAddress = None,
    ray_workers: RayWorkers = 0,
) -> None:
    """Makes a prompt set of several sources; every row that is dropped is kept with its reason."""
    from grlo.stages.prompts_build import build as run_build

    run_build(recipe, out=out, cluster=_cluster(ray_address, ray_workers))


@prompts_app.command("describe")
def prompts_describe(
    file: DataFile,
    out: Annotated[
        Path | None, typer.Option(help="Folder for description.html and description.json.")
    ] = None,
    embed: Annotated[
        str | None, typer.Option(help="Folder or hub id of a sentence encoder, for topics.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of topics and their map.")] = 0,
) -> None:
    """Shows what a set consists of: tasks, turns, lengths, languages, duplicates, topics."""
    from grlo.stages.prompts_describe import describe_file

    describe_file(file, out=out, embed=embed, seed=seed)


@prompts_app.command("audit")
def prompts_audit(
    file: DataFile,
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[AGAINST]...", help="Further files to audit against."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Suites, benchmarks or files of problems; by commas, repeatable. Default: full."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for audit.json, audit.html and hits.jsonl.")
    ] = Path("audit"),
    remove: Annotated[
        bool, typer.Option("--remove", help="Write FILE without the rows to drop, to --out.")
    ] = False,
    embed: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of a sentence encoder; default: shared words."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder with data files (default: $GRLO_DATA), or NAME=FILE; repeatable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the problems planted as a test.")] = 0,
    ray_address: RayAddress = None,
    ray_workers: RayWorkers = 0,
) -> None:
    """Finds the rows of FILE that hold problems of benchmarks, disguised or not."""
    from grlo.stages.data_places import data_places
    from grlo.stages.prompts_audit import audit as run_audit

    values = [name for value in against or () for name in _names(value)] + (more or [])
    run_audit(
        file,
        values or ["full"],
        data_places(data or ()),
        out=out,
        remove=remove,
        embed=embed,
        seed=seed,
        cluster=_cluster(ray_address, ray_workers),
    )


export_app = typer.Typer(help="Writes what other programs take.", no_args_is_help=True)
app.add_typer(export_app, name="export")


@export_app.command("hf")
def export_hf(
    run: RunDirectory,
    out: Annotated[Path, typer.Option(help="New folder for the model and its card.")],
    step: Annotated[int | None, typer.Option(help="Default: the newest checkpoint.")] = None,
    evaluations: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of `grlo evaluate --out`, for the card; repeatable."),
    ] = None,
) -> None:
    """A checkpoint as a plain Hugging Face model, adapters merged in, with a model card."""
    from grlo.stages.export_hf import export_hf as run_export

    run_export(run, out=out, step=step, evaluations=evaluations or ())


@export_app.command("lm-eval")
def export_lm_eval(
    out: Annotated[Path, typer.Option(help="Folder for the tasks.")],
    suite: Annotated[str | None, typer.Option(help="quick (default), paper or full.")] = None,
    benchmarks: Annotated[str, typer.Option(help="Names or TOML files, by commas.")] = "",
    rows: Annotated[str, typer.Option(help="Any of sampled, greedy, 4-shot, by commas.")] = "",
    data: Annotated[
        list[str] | None, typer.Option(help="Folder of data files, or NAME=FILE; repeatable.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Problems of each benchmark, evenly spaced; 0: all.")
    ] = 0,
) -> None:
    """Task files for lm-evaluation-harness, which cross-check what it can grade."""
    from dataclasses import replace

    from grlo.benchmarks.loading import choose
    from grlo.stages.data_places import data_places
    from grlo.stages.export_lm_eval import export_lm_eval as run_export

    choice = choose(suite=suite, names=_names(benchmarks), variants=_names(rows), limit=limit)
    run_export(replace(choice, places=data_places(data or ())), out=out)


Nodes = Annotated[int, typer.Option(min=1, help="Of the cluster, for verl.")]
GpusPerNode = Annotated[
    int, typer.Option("--gpus", min=1, help="Of each node, for policy, critic and vLLM.")
]
RewardGpus = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Of each reward actor, besides those; default: 1 with a reward model, else 0, which "
        "scores on CPUs.",
    ),
]
RewardActors = Annotated[int, typer.Option(min=1, help="Copies of the reward.")]


@export_app.command("verl")
def export_verl(
    recipes: Recipes,
    out: Annotated[Path, typer.Option(help="New folder, which all nodes see.")],
    overrides: Overrides = None,
    nodes: Nodes = 1,
    gpus: GpusPerNode = 8,
    reward_gpus: RewardGpus = None,
    reward_actors: RewardActors = 1,
) -> None:
    """Data, configuration and script with which verl trains a recipe."""
    from grlo.recipe import load_recipe
    from grlo.stages.export_verl import cluster_for
    from grlo.stages.export_verl import export_verl as run_export

    recipe = load_recipe(recipes, overrides=overrides or ())
    cluster = cluster_for(
        recipe, nodes=nodes, gpus=gpus, reward_gpus=reward_gpus, reward_actors=reward_actors
    )
    print(run_export(recipe, out=out, cluster=cluster).script_file)


launch_app = typer.Typer(help="Trains on other people's trainers.", no_args_is_help=True)
app.add_typer(launch_app, name="launch")


@launch_app.command("verl")
def launch_verl(
    recipes: Recipes,
    run: Annotated[
        Path,
        typer.Option(
            "--run", "--out", help="Run directory, which all nodes see; resumed if it holds a run."
        ),
    ],
    overrides: Overrides = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, such as auto; default: this machine.")
    ] = None,
    nodes: Nodes = 1,
    gpus: GpusPerNode = 8,
    reward_gpus: RewardGpus = None,
    reward_actors: RewardActors = 1,
) -> None:
    """Trains a model by a recipe on verl, or resumes a run."""
    from grlo.recipe import load_recipe
    from grlo.stages.export_verl import cluster_for
    from grlo.stages.launch_verl import launch_verl as run_launch

    recipe = load_recipe(recipes, overrides=overrides or ())
    cluster = cluster_for(
        recipe, nodes=nodes, gpus=gpus, reward_gpus=reward_gpus, reward_actors=reward_actors
    )
    print(run_launch(recipe, run_dir=run, cluster=cluster, ray_address=ray_address))


import_app = typer.Typer(help="Brings in what other programs leave.", no_args_is_help=True)
app.add_typer(import_app, name="import")


@import_app.command("verl")
def import_verl(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Of grlo export verl.")],
    out: Annotated[Path, typer.Option(help="Run directory to make, or to complete.")],
) -> None:
    """A run directory of what verl has made of an export."""
    from grlo.stages.import_verl import import_verl as run_import

    run_import(folder, out=out)


reward_model_app = typer.Typer(
    help="Reward models on their own: scores, accuracy on preferences, training.",
    no_args_is_help=True,
)
app.add_typer(reward_model_app, name="reward-model")

RewardModel = Annotated[str, typer.Argument(help="Folder or hub id.")]
Preferences = Annotated[
    list[Path], typer.Argument(help="JSONL files of rows with messages, chosen and rejected.")
]


@reward_model_app.command("score")
def reward_model_score(
    model: RewardModel,
    answers: Annotated[Path, typer.Argument(help="JSONL of rows with messages and response.")],
    out: Annotated[Path, typer.Option(help="JSONL to write: the rows with a score each.")],
    template: Template = None,
    device: Device = "auto",
) -> None:
    """Scores answers."""
    from grlo.rewards.reward_model import RewardModelSettings
    from grlo.stages.reward_model import score

    score(RewardModelSettings(model=model, template=template), answers, out=out, device=device)


@reward_model_app.command("accuracy")
def reward_model_accuracy(
    model: RewardModel,
    preferences: Annotated[
        list[Path] | None,
        typer.Argument(help="JSONL files of rows with messages, chosen and rejected."),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="Named set of pairs, such as rewardbench, judgebench, llmbar."),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Folder with local files, or NAME=FILE.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; named sets only.")] = False,
    template: Template = None,
    device: Device = "auto",
) -> None:
    """Measures how often the preferred answer gets the higher score."""
    from grlo.rewards.reward_model import RewardModelSettings
    from grlo.stages.data_places import data_places
    from grlo.stages.pair_accuracy import pair_accuracy
    from grlo.stages.reward_model import accuracy

    if bool(preferences) == bool(benchmark):
        raise RecipeError("give either files of preferences or --benchmark NAME.")
    settings = RewardModelSettings(model=model, template=template)
    if benchmark:
        places = data_places(data or [])
        pair_accuracy(settings, benchmark, places=places, device=device, as_json=as_json)
    elif as_json or data:
        raise RecipeError("--json and --data have no effect without --benchmark NAME.")
    elif preferences:
        accuracy(settings, preferences, device=device)


@reward_model_app.command("train")
def reward_model_train(
    model: Annotated[str, typer.Argument(help="Language model or reward model to start from.")],
    preferences: Preferences,
    out: Annotated[Path, typer.Option(help="Folder of the reward model.")],
    steps: Annotated[int, typer.Option(min=1)],
    pairs_per_batch: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: Annotated[float, typer.Option(min=0)] = 1e-5,
    template: Template = None,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Fits a reward model to preferences by the Bradley-Terry model."""
    from grlo.stages.reward_model import train
    from grlo.training.preferences import RewardModelTraining

    settings = RewardModelTraining(
        model=model,
        steps=steps,
        pairs_per_batch=pairs_per_batch,
        learning_rate=learning_rate,
        template=template,
        seed=seed,
        device=device,
    )
    train(settings, preferences, out=out)


@app.command("build-nano")
def build_nano(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    seed: int = 0,
    tokens: Annotated[
        int, typer.Option(min=1, help="Corpus tokens that the base model is trained on.")
    ] = 6_000_000,
    separate_domains: Annotated[
        bool, typer.Option("--separate-domains", help="No document holds tasks of two domains.")
    ] = False,
    reward_domains: Annotated[
        str, typer.Option(help="Domains of the reward model's pairs: chat, math or both.")
    ] = "chat",
    prompts: Annotated[int, typer.Option(min=1, help="Chat prompts to train on.")] = 400,
    base: Annotated[
        Path | None, typer.Option(help="Model to take as the base instead of training one.")
    ] = None,
) -> None:
    """Rebuilds the embedded miniature, or another world of its kind: models, pairs and prompts."""
    from typing import cast

    from grlo.stages.build_nano import Domain, World, build

    world = World(
        seed=seed,
        num_tokens=tokens,
        mixed=not separate_domains,
        reward_domains=cast("tuple[Domain, ...]", tuple(_names(reward_domains))),
        num_prompts=prompts,
    )
    print(build(out, world, base=base))


def main() -> None:
    """Runs the command; errors that a user can mend are one message, not a traceback."""
    # Otherwise transformers warns of heads that start afresh on purpose. What matters we report.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # A process that ends need not look for garbage: with torch loaded that takes a second.
    atexit.register(gc.freeze)
    try:
        app()
    except GrloError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
