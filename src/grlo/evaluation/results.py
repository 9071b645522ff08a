"""What an evaluation leaves: every sample, what they come to, and both on disk.

A folder holds the samples of one model: `<benchmark>.jsonl`, a row each in the order of problems,
draws and turns, and `summary.json`. Equal inputs leave equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import statistics
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from grlo.errors import DataError
from grlo.evaluation.stats import Estimate, average, clustered_mean, majority, pass_at_k
from grlo.interfaces import Benchmark, GradedSample
from grlo.rundir import read_jsonl, write_atomic
from grlo.types import Message, Prompt, SamplingParams, Score

SUMMARY_FILE = "summary.json"

_CANARY = "answers to a private benchmark: do not publish, do not train on this"
WITHOUT_VOTE = ("code", "chat", "instruction_following")
"""Domains whose answers are texts of their own, in which no two agree."""


@dataclass(frozen=True)
class Identity:
    """What determines a result beside the model; results that differ in it are not compared."""

    benchmark: str
    variant: str
    version: str
    data_sha256: str
    """Of the rows; see `Benchmark.data_sha256`."""
    problems_sha256: str
    """Of the problems that were asked, with their references, in order."""
    template: str
    """Hash of the chat template; `endpoint` for a remote model, `shots` for plain text."""
    sampling: SamplingParams
    """`stop` is empty: stop tokens belong to the model."""
    seed: int
    grader: Mapping[str, object] = field(default_factory=dict)
    """Its kind, the version of this package, and what its verdicts depend on; empty without one."""


@dataclass(frozen=True)
class BenchmarkResult:
    """One model on one benchmark: every sample, and what they come to."""

    identity: Identity
    domain: str
    source: str
    paper: str
    protocol: str
    unit: str
    """See `Benchmark.unit`."""
    is_private: bool
    samples: tuple[GradedSample, ...]
    """In the order of problems, draws and turns."""
    score: Estimate | None
    """Mean over the scored samples, clustered by problem (avg@k for k samples per problem); None
    when there are none."""
    num_problems: int
    num_unscored: int
    """Samples without a score; they count neither as right nor as wrong."""
    num_failed: int
    """Of these, samples for which a remote model gave no answer."""
    stop_share: float
    """Share of the answers that end by themselves."""
    truncated_share: float
    """Share of the answers that the length limit cut."""
    extraction_failures: float | None
    """Share of the graded answers in which the grader found nothing to grade; None where it does
    not say."""
    mean_tokens: float
    """Tokens of an answer, the stop token included."""
    mean_characters: float
    parts: Mapping[str, float]
    """Mean of every component of the scores, over the samples that have it."""
    pass_at: Mapping[int, float]
    """k -> unbiased pass@k for k = 1, 2, 4, ... and the fewest scored samples that a problem has;
    over the problems with a scored sample. Empty unless all scores are 0 or 1."""
    maj_at: Mapping[int, float]
    """k -> maj@k for the same k, by the first k scored samples of each problem; empty where nothing
    is extracted that samples could agree on."""
    numbers: Mapping[str, float]
    """Further numbers, as the benchmark defines them."""

    @property
    def name(self) -> str:
        return self.identity.benchmark


def summarize(
    benchmark: Benchmark, identity: Identity, samples: Sequence[GradedSample]
) -> BenchmarkResult:
    """The result that graded samples come to."""
    scored = [sample for sample in samples if sample.score.value is not None]
    answered = [sample for sample in samples if sample.finish_reason != "failed"]
    parsed = [s.score.parts["parsed"] for s in scored if "parsed" in s.score.parts]
    parts: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for name, value in sample.score.parts.items():
            parts[name].append(value)
    by_problem: dict[int, list[GradedSample]] = defaultdict(list)
    for sample in scored:
        by_problem[sample.problem].append(sample)
    groups = list(by_problem.values())
    is_binary = all(sample.score.value in (0, 1) for sample in scored)
    fewest = min(map(len, groups), default=0)
    ks = sorted({*(2**power for power in range(fewest.bit_length())), fewest} - {0})
    can_vote = bool(parsed) and is_binary and benchmark.domain not in WITHOUT_VOTE
    return BenchmarkResult(
        identity=identity,
        domain=benchmark.domain,
        source=benchmark.source,
        paper=benchmark.paper,
        protocol=benchmark.protocol,
        unit=benchmark.unit,
        is_private=benchmark.is_private,
        samples=tuple(samples),
        score=clustered_mean([_value(s) for s in scored], [s.problem for s in scored])
        if scored
        else None,
        num_problems=len(benchmark.prompts),
        num_unscored=len(samples) - len(scored),
        num_failed=len(samples) - len(answered),
        stop_share=_share(sample.finish_reason == "stop" for sample in answered),
        truncated_share=_share(sample.finish_reason == "length" for sample in answered),
        extraction_failures=1 - statistics.fmean(parsed) if parsed else None,
        mean_tokens=_mean(sample.num_tokens for sample in answered),
        mean_characters=_mean(len(sample.text) for sample in answered),
        parts={name: statistics.fmean(values) for name, values in sorted(parts.items())},
        pass_at={
            k: statistics.fmean(
                pass_at_k(len(group), sum(s.score.value == 1 for s in group), k=k)
                for group in groups
            )
            for k in ks
        }
        if is_binary
        else {},
        maj_at={k: statistics.fmean(majority(_ballots(group)[:k]) for group in groups) for k in ks}
        if can_vote
        else {},
        numbers=dict(benchmark.numbers(samples)) if benchmark.numbers and scored else {},
    )


def _value(sample: GradedSample) -> float:
    assert sample.score.value is not None
    return sample.score.value


def _ballots(group: Sequence[GradedSample]) -> list[tuple[str | None, float]]:
    return [
        (None if not sample.score.parts.get("parsed") else sample.score.extracted, _value(sample))
        for sample in group
    ]


def _share(flags: Iterable[bool]) -> float:
    return _mean(map(float, flags))


def _mean(values: Iterable[float]) -> float:
    listed = [*values]
    return statistics.fmean(listed) if listed else 0.0


def domain_scores(
    results: Iterable[BenchmarkResult], *, variant: str = "sampled"
) -> dict[str, Estimate]:
    """Score per domain, in order of appearance; benchmarks of one domain count equally.

    A domain with a benchmark that has no score is left out, and so are scores that are no shares.
    """
    return _by_domain(
        (result.domain, result.score)
        for result in results
        if result.identity.variant == variant and result.unit == "share"
    )


def _by_domain(scores: Iterable[tuple[str, Estimate | None]]) -> dict[str, Estimate]:
    by_domain: dict[str, list[Estimate | None]] = defaultdict(list)
    for domain, score in scores:
        by_domain[domain].append(score)
    return {
        domain: average([score for score in found if score is not None])
        for domain, found in by_domain.items()
        if None not in found
    }


def problem_means(result: BenchmarkResult) -> dict[int, float]:
    """Mean score of every problem with a scored sample, by its place in the benchmark."""
    by_problem: dict[int, list[float]] = defaultdict(list)
    for sample in result.samples:
        if sample.score.value is not None:
            by_problem[sample.problem].append(sample.score.value)
    return {problem: statistics.fmean(values) for problem, values in by_problem.items()}


# On disk ------------------------------------------------------------------------------------------


def write_result(result: BenchmarkResult, directory: Path, *, model: Mapping[str, Any]) -> None:
    """Writes `<benchmark>.jsonl` and the benchmark's entry in `summary.json`.

    Entries of other benchmarks stay. The summary is written last: what stands in it is whole.

    Args:
        result: Of one model.
        directory: Created if need be.
        model: What identifies the model, such as its path and the hash of its weights.
    """
    text = "".join(
        json.dumps(
            sample_row(sample, is_private=result.is_private), ensure_ascii=False, allow_nan=False
        )
        + "\n"
        for sample in result.samples
    )
    write_atomic(samples_file(directory, result.name), text)
    entry = {
        "model": dict(model),
        "samples_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "num_samples": len(result.samples),
        **{
            f.name: getattr(result, f.name)
            for f in fields(result)
            if f.name not in ("identity", "samples", "score")
        },
        "identity": asdict(result.identity),
        "score": None if result.score is None else asdict(result.score),
    }
    entries = {**read_summary(directory), result.name: jsonable(entry)}
    summary = {"averages": _averages(entries), "benchmarks": entries}
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(directory / SUMMARY_FILE, text + "\n")


def _averages(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Scores of the domains and their average, for each variant."""
    averages = {}
    for variant in dict.fromkeys(entry["identity"]["variant"] for entry in entries.values()):
        domains = _by_domain(
            (entry["domain"], None if entry["score"] is None else _estimate(**entry["score"]))
            for entry in entries.values()
            if entry["identity"]["variant"] == variant and entry["unit"] == "share"
        )
        scores = {**domains, "average": average([*domains.values()])} if domains else {}
        averages[variant] = {name: jsonable(asdict(score)) for name, score in scores.items()}
    return averages


def read_summary(directory: Path) -> dict[str, Any]:
    """The entries of `summary.json` by benchmark; none where there is no file.

    Raises:
        DataError: The file is something else.
    """
    file = directory / SUMMARY_FILE
    if not file.exists():
        return {}
    try:
        entries = json.loads(file.read_text())["benchmarks"]
        return {str(name): dict(entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is no summary of an evaluation ({error!r}). Remove it, or choose another "
            "directory."
        ) from error


def read_results(directory: Path) -> list[BenchmarkResult]:
    """All finished results of a folder, in the order in which they were finished.

    Raises:
        DataError: The folder holds no evaluation, or a file is damaged.
    """
    entries = read_summary(directory)
    if not entries:
        raise DataError(
            f"{directory}: there is no finished evaluation; expected {SUMMARY_FILE}, as `grlo "
            "evaluate MODEL --out DIR` leaves it."
        )
    return [read_result(directory, name, entry) for name, entry in entries.items()]


def read_result(directory: Path, name: str, entry: Mapping[str, Any]) -> BenchmarkResult:
    """The result that an entry of the summary speaks of.

    Raises:
        DataError: The samples are not those of the entry, or one of the two is malformed.
    """
    file = samples_file(directory, name)
    if not is_whole(directory, name, entry):
        raise DataError(
            f"{file} is not what {SUMMARY_FILE} speaks of: it was changed or lost. Restore it, or "
            "remove it and evaluate again."
        )
    try:
        samples = tuple(map(sample_of, read_jsonl(file)))
        identity = entry["identity"]
        score = entry["score"]
        return BenchmarkResult(
            identity=Identity(**{**identity, "sampling": _sampling(identity["sampling"])}),
            samples=samples,
            score=None if score is None else _estimate(**score),
            pass_at={int(k): share for k, share in entry["pass_at"].items()},
            maj_at={int(k): share for k, share in entry["maj_at"].items()},
            **{
                f.name: entry[f.name]
                for f in fields(BenchmarkResult)
                if f.name not in ("identity", "samples", "score", "pass_at", "maj_at")
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise DataError(
            f"{directory / SUMMARY_FILE} or {file} is malformed ({error!r}); both are written by "
            "`grlo evaluate` and are not meant to be edited."
        ) from error


def is_whole(directory: Path, name: str, entry: Mapping[str, Any]) -> bool:
    """Whether the samples of an entry are there as they were written."""
    file = samples_file(directory, name)
    return file.is_file() and (
        hashlib.sha256(file.read_bytes()).hexdigest() == entry.get("samples_sha256")
    )


def samples_file(directory: Path, name: str) -> Path:
    """Where the samples of a benchmark lie."""
    return directory / f"{name}.jsonl"


def sample_row(sample: GradedSample, *, is_private: bool) -> dict[str, Any]:
    """A sample as JSON has it. Of a private benchmark no question, reference or note is written,
    and what the model wrote is packed, since it may repeat them."""
    prompt, score = sample.prompt, sample.score
    row: dict[str, Any] = {
        "problem": sample.problem,
        "draw": sample.draw,
        "turn": sample.turn,
        "prompt_id": prompt.id,
        "input": None if is_private else [asdict(message) for message in prompt.messages],
        "output": None if is_private else _utf8(sample.text),
        "reference": None if is_private else prompt.reference,
        "finish_reason": sample.finish_reason,
        "num_tokens": sample.num_tokens,
        "score": score.value,
        "extracted": shown_extract(score.extracted, is_private=is_private),
        "parts": dict(score.parts),
        "details": jsonable(dict(score.details)),
        "note": "" if is_private else _utf8(score.note),
    }
    if is_private:
        row |= {"canary": _CANARY, "output_packed": pack(sample.text), "details": {}}
    return row


def sample_of(row: Mapping[str, Any]) -> GradedSample:
    """The sample that `sample_row` wrote; of its prompt what was written."""
    text = unpack(row["output_packed"]) if "output_packed" in row else row["output"]
    return GradedSample(
        prompt=Prompt(
            id=row["prompt_id"],
            messages=tuple(Message(**message) for message in row["input"] or ()),
            reference=row["reference"],
        ),
        problem=row["problem"],
        draw=row["draw"],
        turn=row["turn"],
        text=text,
        finish_reason=row["finish_reason"],
        num_tokens=row["num_tokens"],
        score=Score(
            value=row["score"],
            parts=row["parts"],
            note=row["note"],
            extracted=row["extracted"],
            details=row["details"],
        ),
    )


def jsonable(value: Any) -> Any:
    """Tuples as lists, keys as text and infinite numbers as null, as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, str):
        return _utf8(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pack(text: str) -> str:
    """A text in a form that cannot be read, searched or learnt by chance."""
    return base64.b85encode(zlib.compress(_utf8(text).encode(), 9)).decode()


def unpack(packed: str) -> str:
    """The text that `pack` was given."""
    return zlib.decompress(base64.b85decode(packed)).decode()


def shown_extract(extracted: str | None, *, is_private: bool) -> str | None:
    """What may be written of an extracted answer: of a private problem a letter, no text."""
    if extracted is None or (is_private and len(extracted) > 1):
        return None
    return _utf8(extracted)


def _utf8(text: str) -> str:
    """What a program printed may not be text."""
    return text.encode("utf-8", "replace").decode()


def _estimate(
    value: float, standard_error: float | None, low: float | None, high: float | None
) -> Estimate:
    """JSON has null for what is infinite."""
    return Estimate(
        value,
        math.inf if standard_error is None else standard_error,
        -math.inf if low is None else low,
        math.inf if high is None else high,
    )


def _sampling(written: Mapping[str, Any]) -> SamplingParams:
    lists = {name: tuple(written[name]) for name in ("stop", "stop_texts")}
    return SamplingParams(**{**written, **lists})
