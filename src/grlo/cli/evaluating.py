"""Answers of a model: asked for, graded, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grlo.cli.options import Device, RayAddress, RayWorkers, Template, names, ray_cluster


def chat(
    model: Annotated[str, typer.Argument(help="Model folder, run directory or hub id.")],
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 1024,
    template: Template = None,
) -> None:
    """Talks to a model in the terminal: /reset starts over, /quit ends, Ctrl-C stops an answer."""
    from grlo.stages.chat import chat as run_chat

    run_chat(model, temperature=temperature, max_tokens=max_tokens, template=template)


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

    choice = choose(suite=suite, names=names(benchmarks), variants=names(rows), limit=limit)
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
        cluster=ray_cluster(ray_address, ray_workers),
    )


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
        folders, allow=names(allow), flips=flips, html=html, json_file=json_file, seed=seed
    )


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
