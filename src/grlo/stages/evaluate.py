"""`grlo evaluate`: one model on benchmarks; what is finished is not run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console

from grlo import registry
from grlo.benchmarks.loading import Choice, load_benchmarks
from grlo.benchmarks.spec import Judging
from grlo.endpoint import EndpointSettings
from grlo.errors import RecipeError
from grlo.estimates import ModelShape
from grlo.evaluation.evaluator import evaluate as evaluate_benchmark
from grlo.evaluation.respondents import LocalModel, RemoteModel, Respondent
from grlo.evaluation.results import SUMMARY_FILE, BenchmarkResult, domain_scores
from grlo.evaluation.stats import Estimate, average
from grlo.interfaces import Benchmark, Reward, RolloutEngine
from grlo.ledger import Ledger
from grlo.progress import progress_bar
from grlo.recipe import load_settings
from grlo.reporting.tables import make_table, percent
from grlo.rollout import ChatRenderer, PlainRenderer
from grlo.rundir import EVALUATION_LEDGER, append_jsonl, locked, write_atomic
from grlo.settings import Dtype
from grlo.stages.evaluation_page import evaluation_page
from grlo.stages.models import (
    load_named_engine,
    newest_model,
    open_renderer,
    saved_shape,
    weights_identity,
)
from grlo.stages.runs import choose_device
from grlo.training.flops import generation

# A block is what a kill may cost on a CPU, where equal blocks give equal bytes.
_LARGE_MODEL, _SMALL_BLOCK, _LARGE_BLOCK = 100_000_000, 16, 256


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and how it is run."""

    model: str
    """Folder with a model or a LoRA adapter, run directory (its newest checkpoint), hub id, TOML
    file of `EndpointSettings`, or with `base_url` the name of a model there."""
    template: str | None = None
    """Named chat template; None takes the tokenizer's own."""
    device: str = "auto"
    dtype: str | None = None
    """`float32` or `bfloat16`; None is bfloat16 on a GPU and float32 on a CPU."""
    engine: str = "hf"
    base_url: str = ""
    """Of an OpenAI-compatible endpoint."""

    def __post_init__(self) -> None:
        if self.dtype not in (None, "float32", "bfloat16"):
            raise RecipeError(f"dtype {self.dtype!r} is unknown; expected 'float32' or 'bfloat16'.")

    @property
    def is_remote(self) -> bool:
        return bool(self.base_url) or self.model.endswith(".toml")


@dataclass(frozen=True)
class Opened:
    """A model that is ready to be asked."""

    respondent: Respondent
    identity: dict[str, Any]
    """What tells it from other models."""
    device: str


def evaluate(
    model: ModelChoice,
    choice: Choice,
    *,
    out: Path,
    seed: int = 0,
    judge: Path | None = None,
    overwrite: bool = False,
    as_json: bool = False,
) -> list[BenchmarkResult]:
    """Evaluates a model, prints a table and writes every sample.

    Args:
        model: What is evaluated.
        choice: On which benchmarks.
        out: Folder for `<benchmark>.jsonl`, `summary.json`, `ledger.jsonl` and `report.html`.
        seed: Of the samples.
        judge: TOML file that says who judges; without it such answers stay unscored.
        overwrite: Discards results of another model or protocol in `out`.
        as_json: Prints what `summary.json` holds instead of the table.

    Returns:
        One result per benchmark and variant, in order.

    Raises:
        GrloError: What the user has to mend; what was answered and graded is kept.
    """
    make_judge = judge_of(judge, device=choose_device(model.device), seed=seed)
    benchmarks = load_benchmarks(choice, make_judge=make_judge)
    results = run_benchmarks(model, benchmarks, out=out, seed=seed, overwrite=overwrite)
    write_atomic(out / "report.html", evaluation_page(results, model=model.model))
    if as_json:
        print((out / SUMMARY_FILE).read_text(), end="")
        return results
    console = Console()
    for table in _tables(results, title=model.model):
        console.print(table)
    for note in _notes(results):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(f"every answer: {out}", markup=False, soft_wrap=True)
    console.print(f"page: {out / 'report.html'}", markup=False, soft_wrap=True)
    return results


def run_benchmarks(
    model: ModelChoice,
    benchmarks: Sequence[Benchmark],
    *,
    out: Path,
    seed: int = 0,
    overwrite: bool = False,
) -> list[BenchmarkResult]:
    """See `evaluate`; shows progress only. The graders of the benchmarks are closed."""
    results: list[BenchmarkResult] = []
    out.mkdir(parents=True, exist_ok=True)
    with locked(out), open_model(model, out=out, seed=seed) as opened:
        if model.is_remote and (plain := [b.name for b in benchmarks if b.shots]):
            raise RecipeError(f"{', '.join(plain)}: an endpoint has its own template.")
        ledger = Ledger(device=opened.device, num_devices=1, attempt=0)
        for number, benchmark in enumerate(benchmarks, start=1):
            label = f"{number}/{len(benchmarks)} {benchmark.name}"
            try:
                with (
                    progress_bar(label) as progress,
                    ledger.phase("evaluate", step=0) as cost,
                ):
                    result = evaluate_benchmark(
                        opened.respondent,
                        benchmark,
                        seed=seed,
                        directory=out,
                        model=opened.identity,
                        overwrite=overwrite,
                        cost=cost,
                        progress=progress,
                    )
            finally:
                registry.close(benchmark.verifier)
                append_jsonl(
                    out / EVALUATION_LEDGER,
                    [
                        {"benchmark": benchmark.name, **asdict(entry)}
                        for entry in ledger.drain()
                        if entry.tokens or entry.requests
                    ],
                )
            results.append(result)
    return results


@contextmanager
def open_model(model: ModelChoice, *, out: Path, seed: int) -> Iterator[Opened]:
    """The model, ready to be asked; its weights are loaded at the first question.

    Raises:
        ModelError: The model or its tokenizer cannot be used.
        RecipeError: There is no such engine, or the file of an endpoint is malformed.
    """
    if model.is_remote:
        settings = _endpoint(model)
        settings = replace(settings, cache=settings.cache or str(out / "replies"))
        identity = {"base_url": settings.base_url, "model": settings.model}
        yield Opened(RemoteModel(settings), identity, device="cpu")
        return
    device = choose_device(model.device)
    dtype = cast(Dtype, model.dtype or ("float32" if _is_cpu(device) else "bfloat16"))
    path = newest_model(model.model)
    renderer = open_renderer(path, template=model.template)
    identity = {**weights_identity(path), "dtype": dtype, "engine": model.engine}
    local = local_model(
        lambda: load_named_engine(
            model.engine, path, renderer, device=device, dtype=dtype, seed=seed
        ),
        renderer,
        shape=saved_shape(path),
        device=device,
    )
    try:
        yield Opened(local, identity, device=device)
    finally:
        local.close()


def local_model(
    open_engine: Callable[[], RolloutEngine],
    renderer: ChatRenderer,
    *,
    shape: ModelShape,
    device: str,
) -> LocalModel:
    """A model of an engine here, asked in blocks of fixed size where that makes it exact."""
    block = _SMALL_BLOCK if shape.num_parameters > _LARGE_MODEL else _LARGE_BLOCK
    return LocalModel(
        open_engine,
        renderer,
        template=renderer.template_sha256,
        render_shots=lambda shots: PlainRenderer(renderer, shots),
        block_size=block if _is_cpu(device) else 0,
        count_flops=partial(generation, shape),
    )


def judge_of(path: Path | None, *, device: str, seed: int) -> Callable[[Judging], Reward] | None:
    """What builds the judge that a TOML file names; None without a file."""
    if path is None:
        return None
    from grlo.stages.judges import load_judge

    return load_judge(path, device=device, seed=seed)


def _is_cpu(device: str) -> bool:
    return torch.device(device).type == "cpu"


def _endpoint(model: ModelChoice) -> EndpointSettings:
    if not model.base_url:
        return load_settings(EndpointSettings, Path(model.model))
    try:
        return EndpointSettings(base_url=model.base_url, model=model.model, api_key_env="")
    except ValueError as error:
        raise RecipeError(f"--base-url {model.base_url}: {error}.") from error


# What is shown ------------------------------------------------------------------------------------


def _tables(results: Sequence[BenchmarkResult], *, title: str) -> Iterator[Any]:
    """For each variant its benchmarks, and their averages."""
    by_variant: dict[str, list[BenchmarkResult]] = {}
    for result in results:
        by_variant.setdefault(result.identity.variant, []).append(result)
    for variant, group in by_variant.items():
        name = title if len(by_variant) == 1 else f"{title}, {variant}"
        columns = ["", "score", "95 %", "n", "stop", "unread", "tokens"]
        yield make_table(columns, [_row(result) for result in group], title=name)
        domains = domain_scores(group, variant=variant)
        if len(group) > 1 and domains:
            rows = [[domain.replace("_", " "), *_shown(own)] for domain, own in domains.items()]
            rows.append(["average of domains", *_shown(average(list(domains.values())))])
            yield make_table(["domain", "score", "95 %"], rows)


def _row(result: BenchmarkResult) -> list[str]:
    score, unit = result.score, result.unit
    shown = ("-", "-") if score is None else _shown(score, is_share=unit == "share")
    return [
        result.name if unit == "share" else f"{result.name}, {unit}",
        *shown,
        f"{result.num_problems}x{result.identity.sampling.num_samples}",
        percent(result.stop_share),
        percent(result.extraction_failures),
        f"{result.mean_tokens:.0f}",
    ]


def _shown(score: Estimate, *, is_share: bool = True) -> tuple[str, str]:
    """A score and its interval."""
    if is_share:
        return percent(score.value), f"{percent(score.low)}-{percent(score.high)}"
    return f"{score.value:.2f}", f"{score.low:.2f}-{score.high:.2f}"


def _more(result: BenchmarkResult) -> dict[str, str]:
    """What a benchmark has besides its score: pass@k, maj@k, parts and numbers of its own."""
    found: dict[str, str] = {}
    most = max(result.pass_at, default=1)
    if most > 1:
        found[f"pass@{most}"] = percent(result.pass_at[most])
    if most > 1 and most in result.maj_at:
        found[f"maj@{most}"] = percent(result.maj_at[most])
    parts = {name: value for name, value in result.parts.items() if name != "parsed"}
    return {**found, **{name: f"{v:.3g}" for name, v in {**parts, **result.numbers}.items()}}


def _notes(results: Sequence[BenchmarkResult]) -> list[str]:
    """What a reader of the numbers has to know besides."""
    notes = [
        "Scores are means over answers, in percent unless a unit is named, with intervals "
        "clustered by problem. Domains count equally in the average, benchmarks equally in their "
        "domain. n: problems x answers; stop: answers that end by themselves, %; unread: graded "
        "answers in which nothing was found to grade, %."
    ]
    for result in results:
        if "(" in result.source:
            notes.append(f"{result.name}: {result.source}")
        if result.unit != "share" or "judge" in result.identity.grader:
            notes.append(f"{result.name}: {result.protocol}")
        if more := _more(result):
            listed = ", ".join(f"{name} {value}" for name, value in more.items())
            notes.append(f"{result.name}: {listed}")
        if result.num_failed:
            notes.append(
                f"{result.name}: {result.num_failed} of {len(result.samples)} requests failed and "
                "are left out; the same command asks again"
            )
        if unscored := result.num_unscored - result.num_failed:
            first = next(
                sample.score.note
                for sample in result.samples
                if sample.score.value is None and sample.finish_reason != "failed"
            )
            notes.append(
                f"{result.name}: {unscored} of {len(result.samples)} answers could not be graded "
                f"and are left out; the first because {first or 'no reason was given'}"
            )
    return notes
