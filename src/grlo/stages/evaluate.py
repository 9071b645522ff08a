"""`grlo evaluate`: one model on benchmarks; what is finished is not run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from grlo import registry
from grlo.benchmarks.loading import Choice, load_benchmarks
from grlo.benchmarks.spec import Judging
from grlo.errors import RecipeError
from grlo.evaluation.evaluator import evaluate as evaluate_benchmark
from grlo.evaluation.results import SUMMARY_FILE, BenchmarkResult, domain_scores
from grlo.evaluation.stats import Estimate, average
from grlo.interfaces import Benchmark, Reward
from grlo.ledger import Ledger
from grlo.progress import progress_bar
from grlo.ray_cluster import RayCluster
from grlo.reporting.tables import make_table, percent
from grlo.rundir import EVALUATION_LEDGER, append_jsonl, locked, write_atomic
from grlo.stages.evaluation_on_ray import open_on_ray, verified_on_ray
from grlo.stages.evaluation_page import evaluation_page
from grlo.stages.respondents import ModelChoice, open_model
from grlo.stages.runs import choose_device


def evaluate(
    model: ModelChoice,
    choice: Choice,
    *,
    out: Path,
    seed: int = 0,
    judge: Path | None = None,
    overwrite: bool = False,
    as_json: bool = False,
    cluster: RayCluster | None = None,
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
        cluster: Answers are drawn and verified by workers of a Ray cluster.

    Returns:
        One result per benchmark and variant, in order.

    Raises:
        GrloError: What the user has to mend; what was answered and graded is kept.
    """
    make_judge = judge_of(judge, device=choose_device(model.device), seed=seed)
    benchmarks = load_benchmarks(
        choice,
        make_judge=make_judge,
        adapt_grader=None if cluster is None else partial(verified_on_ray, cluster=cluster),
    )
    results = run_benchmarks(
        model, benchmarks, out=out, seed=seed, overwrite=overwrite, cluster=cluster
    )
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
    cluster: RayCluster | None = None,
) -> list[BenchmarkResult]:
    """See `evaluate`; shows progress only. The graders of the benchmarks are closed."""
    results: list[BenchmarkResult] = []
    out.mkdir(parents=True, exist_ok=True)
    opening = (
        open_model(model, out=out, seed=seed)
        if cluster is None
        else open_on_ray(model, cluster=cluster, out=out, seed=seed)
    )
    with locked(out), opening as opened:
        if model.is_remote and (plain := [b.name for b in benchmarks if b.shots]):
            raise RecipeError(f"{', '.join(plain)}: an endpoint has its own template.")
        ledger = Ledger(device=opened.device, num_devices=opened.num_devices, attempt=0)
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


def judge_of(path: Path | None, *, device: str, seed: int) -> Callable[[Judging], Reward] | None:
    """What builds the judge that a TOML file names; None without a file."""
    if path is None:
        return None
    from grlo.stages.judges import load_judge

    return load_judge(path, device=device, seed=seed)


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
