"""Runs benchmarks: prompts in, graded samples and their summary out, and to disk and back.

An evaluation is a reward that nobody trains on: prompts, sampling and scores are those of training.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from grlo.errors import DataError
from grlo.evaluation.stats import (
    Estimate,
    average,
    clustered_mean,
    paired_difference,
    pass_at_k,
)
from grlo.grading import grade_all
from grlo.interfaces import Benchmark, Progress, Renderer, RolloutEngine, silent
from grlo.rollout import sample
from grlo.rundir import read_jsonl, write_atomic
from grlo.types import Completion, Prompt, Rollout, SamplingParams, Score

SUMMARY_FILE = "summary.json"
# Rollouts of training have steps from 1 on.
_EVALUATION_STEP = 0


@dataclass(frozen=True)
class Identity:
    """What determines a result beside the model; results of unlike identity are not compared."""

    benchmark: str
    version: str
    problems: str
    """SHA-256 of the problems with their references, in order."""
    rendering: str
    """SHA-256 of the tokens that the problems became: the template and the tokenizer."""
    sampling: SamplingParams
    """With the stop ids of the renderer."""
    seed: int


@dataclass(frozen=True)
class BenchmarkResult:
    """One model on one benchmark: every sample, and what they come to."""

    identity: Identity
    domain: str
    source: str
    rollouts: tuple[Rollout, ...]
    """`identity.sampling.num_samples` per problem, problem-major."""
    scores: tuple[Score, ...]
    """One per rollout."""
    score: Estimate | None
    """Mean over the scored samples, clustered by problem; None when there are none."""
    num_problems: int
    num_unscored: int
    """Samples whose verifier failed; they count neither as right nor as wrong."""
    stop_share: float
    """Share of the answers that end by themselves."""
    truncated_share: float
    """Share of the answers that the length limit cut."""
    mean_tokens: float
    """Tokens of an answer, the stop token included."""
    parts: Mapping[str, float]
    """Mean of every component of the scores, over the samples that have it."""
    pass_at: Mapping[int, float]
    """k -> pass@k for k = 1, 2, 4, ..., over the problems with a scored sample; up to the fewest
    scored samples that one of these has. Empty unless all scores are 0 or 1."""
    seconds: float
    """Wall-clock seconds of drawing and grading."""

    @property
    def name(self) -> str:
        return self.identity.benchmark


def evaluate(
    engine: RolloutEngine,
    renderer: Renderer,
    benchmarks: Sequence[Benchmark],
    *,
    seed: int,
    progress: Progress = silent,
) -> list[BenchmarkResult]:
    """Draws and grades the answers of a model to benchmarks.

    A verifier that raises leaves its sample unscored, with the error as the note.

    Args:
        engine: The model.
        renderer: Of the model; its stop ids are added to those of the benchmarks.
        benchmarks: What is asked.
        seed: Equal seeds draw with equal random numbers, so that models can be paired.
        progress: Called as answers finish, over all benchmarks.

    Returns:
        One result per benchmark, in order.
    """
    totals = [len(b.prompts) * b.sampling.num_samples for b in benchmarks]
    results: list[BenchmarkResult] = []
    num_tokens = 0
    for index, benchmark in enumerate(benchmarks):
        before, tokens_before = sum(totals[:index]), num_tokens

        def advance(
            *, done: int, total: int, tokens: int, before: int = before, spent: int = tokens_before
        ) -> None:
            progress(done=before + done, total=sum(totals), tokens=spent + tokens)

        start = time.perf_counter()
        rollouts = sample(
            engine,
            renderer,
            benchmark.prompts,
            benchmark.sampling,
            seed=seed,
            step=_EVALUATION_STEP,
            progress=advance,
        )
        answers = [(rollout.prompt, rollout.text) for rollout in rollouts]
        scores = grade_all(benchmark.verifier, answers)
        num_tokens += sum(len(rollout.completion.tokens) for rollout in rollouts)
        results.append(
            summarize(
                benchmark,
                identify(benchmark, renderer, seed=seed),
                rollouts,
                scores,
                seconds=time.perf_counter() - start,
            )
        )
    return results


def identify(benchmark: Benchmark, renderer: Renderer, *, seed: int) -> Identity:
    """What determines the result of a benchmark beside the model."""
    problems, rendering = hashlib.sha256(), hashlib.sha256()
    for prompt in benchmark.prompts:
        row = [prompt.id, prompt.style, prompt.reference, dict(prompt.meta)]
        problems.update(json.dumps(row, sort_keys=True, default=repr).encode())
        rendering.update(json.dumps(renderer.encode(prompt.messages)).encode())
    stop = tuple(dict.fromkeys([*benchmark.sampling.stop, *renderer.stop_ids]))
    return Identity(
        benchmark=benchmark.name,
        version=benchmark.version,
        problems=problems.hexdigest(),
        rendering=rendering.hexdigest(),
        sampling=replace(benchmark.sampling, stop=stop),
        seed=seed,
    )


def summarize(
    benchmark: Benchmark,
    identity: Identity,
    rollouts: Sequence[Rollout],
    scores: Sequence[Score],
    *,
    seconds: float,
) -> BenchmarkResult:
    """The result that samples and their scores come to."""
    scored = [
        (score.value, rollout.group)
        for rollout, score in zip(rollouts, scores, strict=True)
        if score.value is not None
    ]
    stopped = [rollout.completion.finish_reason == "stop" for rollout in rollouts]
    parts: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        for name, value in score.parts.items():
            parts[name].append(value)
    return BenchmarkResult(
        identity=identity,
        domain=benchmark.domain,
        source=benchmark.source,
        rollouts=tuple(rollouts),
        scores=tuple(scores),
        score=clustered_mean(*zip(*scored, strict=True)) if scored else None,
        num_problems=len(benchmark.prompts),
        num_unscored=len(scores) - len(scored),
        stop_share=statistics.fmean(stopped),
        truncated_share=1 - statistics.fmean(stopped),
        mean_tokens=statistics.fmean(len(r.completion.tokens) for r in rollouts),
        parts={name: statistics.fmean(values) for name, values in sorted(parts.items())},
        pass_at=_pass_at(scored),
        seconds=seconds,
    )


def _pass_at(scored: Sequence[tuple[float, int]]) -> dict[int, float]:
    """Mean pass@k over problems, from the score and the problem of every sample."""
    by_problem: dict[int, list[float]] = defaultdict(list)
    for value, problem in scored:
        by_problem[problem].append(value)
    if not scored or any(value not in (0, 1) for value, _ in scored):
        return {}
    fewest = min(len(values) for values in by_problem.values())
    return {
        k: statistics.fmean(pass_at_k(len(v), round(sum(v)), k=k) for v in by_problem.values())
        for k in (2**power for power in range(fewest.bit_length()))
    }


def domain_scores(results: Iterable[BenchmarkResult]) -> dict[str, Estimate]:
    """Score per domain, in order of appearance; benchmarks of one domain count equally.

    A domain with a benchmark that has no score is left out.
    """
    by_domain: dict[str, list[Estimate | None]] = defaultdict(list)
    for result in results:
        by_domain[result.domain].append(result.score)
    return {
        domain: average([score for score in scores if score is not None])
        for domain, scores in by_domain.items()
        if None not in scores
    }


def gain(before: BenchmarkResult, after: BenchmarkResult, *, seed: int) -> Estimate:
    """How much one model scores above another, paired over the problems that both have scores of.

    Raises:
        ValueError: The results are of unlike problems, versions or sampling, or share no problem.
    """
    if _comparable(before.identity) != _comparable(after.identity):
        raise ValueError(f"results of {before.name} and {after.name} cannot be compared")
    first, second = _problem_means(before), _problem_means(after)
    common = first.keys() & second.keys()
    return paired_difference(
        {problem: first[problem] for problem in common},
        {problem: second[problem] for problem in common},
        seed=seed,
    )


def _comparable(identity: Identity) -> Identity:
    """Without what may differ between models: the tokens and the ids that stop them."""
    return replace(identity, rendering="", sampling=replace(identity.sampling, stop=()))


def _problem_means(result: BenchmarkResult) -> dict[str, float]:
    """Mean score of every problem with a scored sample, by the problem's number and id."""
    by_problem: dict[str, list[float]] = defaultdict(list)
    for rollout, score in zip(result.rollouts, result.scores, strict=True):
        if score.value is not None:
            by_problem[f"{rollout.group}:{rollout.prompt.id}"].append(score.value)
    return {problem: statistics.fmean(values) for problem, values in by_problem.items()}


# On disk ------------------------------------------------------------------------------------------


def write_results(
    results: Sequence[BenchmarkResult], directory: Path, *, model: Mapping[str, str]
) -> None:
    """Writes `<benchmark>.jsonl`, every sample, and the benchmark's entry in `summary.json`.

    Entries of other benchmarks stay. The summary is written last: what stands in it is whole.

    Args:
        results: Of one model.
        directory: Created if need be.
        model: What identifies the model, such as its path and the hash of its weights.
    """
    summary = _read_summary(directory)
    for result in results:
        text = "".join(
            json.dumps(_row(rollout, score), ensure_ascii=False, allow_nan=False) + "\n"
            for rollout, score in zip(result.rollouts, result.scores, strict=True)
        )
        write_atomic(_samples_file(directory, result.name), text)
        summary[result.name] = {
            "model": dict(model),
            "identity": _jsonable(asdict(result.identity)),
            "samples_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "domain": result.domain,
            "source": result.source,
            "score": None if result.score is None else _jsonable(asdict(result.score)),
            "num_problems": result.num_problems,
            "num_samples": len(result.rollouts),
            "num_unscored": result.num_unscored,
            "stop_share": result.stop_share,
            "truncated_share": result.truncated_share,
            "mean_tokens": result.mean_tokens,
            "parts": dict(result.parts),
            "pass_at": dict(result.pass_at),
            "seconds": result.seconds,
        }
    text = json.dumps({"benchmarks": summary}, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(directory / SUMMARY_FILE, text + "\n")


def read_result(
    directory: Path,
    benchmark: Benchmark,
    renderer: Renderer,
    *,
    seed: int,
    model: Mapping[str, str],
) -> BenchmarkResult | None:
    """The finished result of the same model, problems, template, sampling and seed, if it is there.

    Log-probabilities come back as they were written, to five decimals.
    """
    identity = identify(benchmark, renderer, seed=seed)
    entry = _read_summary(directory).get(benchmark.name, {})
    if entry.get("identity") != _jsonable(asdict(identity)) or entry.get("model") != dict(model):
        return None
    file = _samples_file(directory, benchmark.name)
    is_whole = file.is_file() and (
        hashlib.sha256(file.read_bytes()).hexdigest() == entry["samples_sha256"]
    )
    if not is_whole:
        return None
    encoded = [renderer.encode(prompt.messages) for prompt in benchmark.prompts]
    rows = read_jsonl(file)
    rollouts = [_rollout(row, benchmark.prompts, encoded) for row in rows]
    scores = [Score(value=r["score"], parts=r["parts"], note=r["note"]) for r in rows]
    return summarize(benchmark, identity, rollouts, scores, seconds=entry["seconds"])


def _samples_file(directory: Path, name: str) -> Path:
    return directory / f"{name}.jsonl"


def _read_summary(directory: Path) -> dict[str, Any]:
    file = directory / SUMMARY_FILE
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text())["benchmarks"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is no summary of an evaluation ({error!r}). Remove it, or choose another "
            "directory."
        ) from error


def _row(rollout: Rollout, score: Score) -> dict[str, object]:
    """One sample, under the names that rollouts of a run have."""
    return {
        "group": rollout.group,
        "input": [asdict(message) for message in rollout.prompt.messages],
        "output": rollout.text,
        "score": score.value,
        "parts": dict(score.parts),
        "note": score.note,
        "reference": rollout.prompt.reference,
        "prompt_id": rollout.prompt.id,
        "finish_reason": rollout.completion.finish_reason,
        "tokens": list(rollout.completion.tokens),
        "logprobs": [round(logprob, 5) for logprob in rollout.completion.logprobs],
    }


def _rollout(
    row: Mapping[str, Any], prompts: Sequence[Prompt], encoded: Sequence[tuple[int, ...]]
) -> Rollout:
    return Rollout(
        prompt=prompts[row["group"]],
        group=row["group"],
        prompt_tokens=encoded[row["group"]],
        completion=Completion(
            tokens=tuple(row["tokens"]),
            logprobs=tuple(row["logprobs"]),
            finish_reason=row["finish_reason"],
        ),
        text=row["output"],
    )


def _jsonable(value: Any) -> Any:
    """Tuples as lists and infinite numbers as null, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
