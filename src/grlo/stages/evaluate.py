"""`grlo evaluate`: one model on benchmarks; what is finished is not run again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from grlo.benchmarks import BENCHMARKS
from grlo.engines.hf import HFEngineSettings
from grlo.errors import ModelError, RecipeError
from grlo.evaluation import evaluator
from grlo.evaluation.evaluator import (
    BenchmarkResult,
    domain_scores,
    read_result,
    write_results,
)
from grlo.evaluation.stats import average
from grlo.interfaces import Benchmark, BuildContext, RolloutEngine
from grlo.progress import progress_bar
from grlo.registry import resolve
from grlo.reporting.tables import make_table, percent
from grlo.rollout import ChatRenderer, check_compatible
from grlo.settings import Dtype
from grlo.stages.chat import newest_model

_DEFAULT_ENGINE = HFEngineSettings()


def evaluate(
    model: str,
    *,
    benchmarks: Sequence[str],
    out: Path,
    seed: int = 0,
    template: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
) -> list[BenchmarkResult]:
    """Evaluates a model, prints a table and writes every sample.

    Args:
        model: Model folder, run directory (its newest checkpoint is taken) or hub id.
        benchmarks: Names, or import paths of functions that return a `Benchmark`.
        out: Folder for `<benchmark>.jsonl` and `summary.json`.
        seed: Seed of the samples.
        template: Named chat template; None takes the tokenizer's own.
        device: `auto`, `cpu`, `cuda`, ...
        dtype: `float32` or `bfloat16`; None is bfloat16 on a GPU and float32 on a CPU.

    Returns:
        One result per benchmark, in order.

    Raises:
        RecipeError: A benchmark is unknown.
        ModelError: The model or its tokenizer cannot be used.
        DataError: `out` holds something else.
    """
    results = run_benchmarks(
        model,
        benchmarks=benchmarks,
        out=out,
        seed=seed,
        template=template,
        device=device,
        dtype=dtype,
    )
    console = Console()
    console.print(_table(results, title=model))
    for result in results:
        if result.num_unscored:
            note = next(score.note for score in result.scores if score.value is None)
            console.print(
                f"{result.name}: {result.num_unscored} of {len(result.scores)} answers could not "
                f"be graded and are left out; the first because {note}",
                markup=False,
            )
    console.print(f"every answer: {out}", markup=False, soft_wrap=True)
    return results


def run_benchmarks(
    model: str,
    *,
    benchmarks: Sequence[str],
    out: Path,
    seed: int = 0,
    template: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
) -> list[BenchmarkResult]:
    """See `evaluate`; shows progress only."""
    loaded = [load_benchmark(name) for name in benchmarks]
    if dtype not in (None, "float32", "bfloat16"):
        raise RecipeError(f"dtype {dtype!r} is unknown; expected 'float32' or 'bfloat16'.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = dtype or ("float32" if torch.device(device).type == "cpu" else "bfloat16")
    path = newest_model(model)
    renderer = ChatRenderer.from_pretrained(path, template=template)
    identity = {**weights_identity(path), "dtype": dtype}
    results: dict[str, BenchmarkResult] = {}
    for benchmark in loaded:
        finished = read_result(out, benchmark, renderer, seed=seed, model=identity)
        if finished is not None:
            results[benchmark.name] = finished
    engine: RolloutEngine | None = None
    for number, benchmark in enumerate(loaded, start=1):
        if benchmark.name in results:
            continue
        engine = engine or load_engine(
            path, renderer, device=device, dtype=cast(Dtype, dtype), seed=seed
        )
        with progress_bar(f"{number}/{len(loaded)} {benchmark.name}") as progress:
            (result,) = evaluator.evaluate(
                engine, renderer, [benchmark], seed=seed, progress=progress
            )
        write_results([result], out, model=identity)
        results[benchmark.name] = result
    if engine is not None:
        engine.close()
    return [results[benchmark.name] for benchmark in loaded]


def load_benchmark(name: str) -> Benchmark:
    """The benchmark of a name or import path.

    Raises:
        RecipeError: There is none.
    """
    make = cast(Any, resolve(name, kind="benchmark", registry=BENCHMARKS))
    benchmark = make()
    if not isinstance(benchmark, Benchmark):
        raise RecipeError(
            f"benchmark {name!r} is {type(benchmark).__name__}; expected a function that returns a "
            "grlo.interfaces.Benchmark."
        )
    return benchmark


def load_engine(
    path: str,
    renderer: ChatRenderer,
    *,
    device: str,
    dtype: Dtype,
    seed: int,
    settings: HFEngineSettings = _DEFAULT_ENGINE,
    revision: str | None = None,
) -> RolloutEngine:
    """An engine on a model of its own.

    Raises:
        ModelError: There is no such language model, or its tokenizer does not fit.
    """
    disable_progress_bar()  # Of loading; ours is about answers.
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{path}: no language model could be loaded ({error}).") from error
    check_compatible(renderer.max_token_id, vocab_size=model.config.vocab_size)
    return settings.build(model, context=BuildContext(device=device, seed=seed))


def weights_identity(path: str, *, revision: str | None = None) -> dict[str, str]:
    """The model's place and what tells its weights from others: their hash, or the hub's commit."""
    folder = Path(path)
    if not folder.is_dir():
        try:
            config = AutoConfig.from_pretrained(path, revision=revision)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: no model could be found ({error}).") from error
        return {"path": path, "commit": str(getattr(config, "_commit_hash", None))}
    digest = hashlib.sha256()
    for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        # The optimizer's state lies beside the weights of a checkpoint.
        if file.is_file() and not file.name.startswith("grlo_"):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{file.name} {content}\n".encode())
    return {"path": str(folder.resolve()), "weights_sha256": digest.hexdigest()}


def _table(results: Sequence[BenchmarkResult], *, title: str) -> Any:
    has_parts = any(result.parts for result in results)
    columns = ["benchmark", "score, %", "answers", "stops, %", "tokens"]
    rows = []
    for result in results:
        score = result.score
        row = [
            result.name,
            percent(score and score.value, interval=score and (score.low, score.high)),
            f"{result.num_problems} x {result.identity.sampling.num_samples}",
            percent(result.stop_share),
            f"{result.mean_tokens:.1f}",
        ]
        if has_parts:
            row.append("\n".join(f"{name} {mean:.3g}" for name, mean in result.parts.items()))
        rows.append(row)
    domains = domain_scores(results)
    if len(domains) > 1:
        mean = average(list(domains.values()))
        rows.append(["average of domains", percent(mean.value, interval=(mean.low, mean.high))])
    return make_table([*columns, "parts"] if has_parts else columns, rows, title=title)
