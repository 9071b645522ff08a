"""Benchmarks by name, by import path, or of the user's own, ready to be run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from grlo.benchmarks import BENCHMARKS
from grlo.benchmarks.spec import (
    QUESTION,
    SAMPLING,
    VARIANTS,
    BenchmarkSpec,
    DataPlaces,
    DataSource,
    Judging,
    Variant,
)
from grlo.benchmarks.suites import SUITES
from grlo.errors import DataError, RecipeError
from grlo.interfaces import Benchmark, Reward
from grlo.recipe import load_settings
from grlo.registry import resolve
from grlo.settings import Plugin, require
from grlo.types import SamplingParams


@dataclass(frozen=True)
class OwnSampling:
    """How a benchmark of the user's own is sampled."""

    max_tokens: int = SAMPLING.max_tokens
    temperature: float = SAMPLING.temperature
    """0 takes the likeliest token."""
    top_p: float = SAMPLING.top_p
    num_samples: int = 1
    """Answers per problem."""

    def __post_init__(self) -> None:
        require(self.max_tokens > 0, "max_tokens must be positive")
        require(self.temperature >= 0, "temperature must not be negative")
        require(0 < self.top_p <= 1, "top_p must lie in (0, 1]")
        require(self.num_samples > 0, "num_samples must be positive")


@dataclass(frozen=True)
class OwnBenchmark:
    """A benchmark of the user's own, as a TOML file of a few lines."""

    name: str = ""
    """Empty takes the name of the TOML file."""
    file: str = ""
    """Problems in one of the forms of `grlo.prompts.problems`, relative to the TOML file."""
    hub: str = ""
    """Or a data set on the hub, as `owner/name`."""
    split: str = "test"
    revision: str = ""
    domain: str = "general"
    """Its score goes into the average of this domain."""
    prompt: str = QUESTION
    """What is asked; `{question}` stands for the problem."""
    verifier: Annotated[object, Plugin("verifier", default="math")] = None
    judging: Literal["", "graded", "pairwise"] = ""
    """Judged instead of verified: `graded` by itself, `pairwise` against the row's answer."""
    sampling: OwnSampling = field(default_factory=OwnSampling)
    shots: Literal["", "math", "choice", "numeric", "code"] = ""
    """Kind of the examples of the variant `4-shot`; empty for none."""
    paper: str = ""
    version: str = "1"

    def __post_init__(self) -> None:
        require(bool(re.fullmatch(r"[A-Za-z0-9_-]*", self.name)), "name must be a plain word")
        require(bool(self.file) != bool(self.hub), "give either file or hub")
        require(QUESTION in self.prompt, f"prompt must hold {QUESTION}")

    def spec(self, *, default_name: str) -> BenchmarkSpec:
        """As those of the package."""
        return BenchmarkSpec(
            name=self.name or re.sub(r"[^A-Za-z0-9_-]", "_", default_name),
            domain=self.domain,
            data=DataSource(file=self.file, hub=self.hub, split=self.split, revision=self.revision),
            paper=self.paper,
            grader=None if self.judging else self.verifier,
            judging=Judging(self.judging) if self.judging else None,
            prompt=self.prompt,
            sampling=SamplingParams(**asdict(self.sampling)),
            version=self.version,
            shots=self.shots,
        )


@dataclass(frozen=True)
class Choice:
    """Which benchmarks, and what of their protocol is another."""

    names: tuple[str, ...]
    """Of `BENCHMARKS`, import paths, or TOML files of `OwnBenchmark`."""
    variants: tuple[Variant, ...] = ("sampled",)
    limit: int = 0
    """Problems of each, evenly spaced over the whole; 0 takes all."""
    max_tokens: int = 0
    """0 leaves that of the benchmark; so do the next ones."""
    num_samples: int = 0
    temperature: float | None = None
    places: DataPlaces = field(default_factory=DataPlaces)

    def __post_init__(self) -> None:
        if not self.names:
            raise RecipeError(f"no benchmark is named. Known: {', '.join(BENCHMARKS)}.")


def choose(
    *, suite: str | None, names: Sequence[str], variants: Sequence[str] = (), limit: int = 0
) -> Choice:
    """The choice of a suite, of names, or of both.

    Raises:
        RecipeError: There is no such suite or benchmark.
    """
    if suite is None and not names:
        suite = "quick"
    if suite is not None and suite not in SUITES:
        raise RecipeError(f"unknown suite {suite!r}. Known: {', '.join(SUITES)}.")
    if unknown := [variant for variant in variants if variant not in VARIANTS]:
        raise RecipeError(f"unknown row {', '.join(unknown)}. Known: {', '.join(VARIANTS)}.")
    found = SUITES[suite] if suite is not None else None
    known = {key: name for name in BENCHMARKS for key in [_key(name)]}
    chosen = [*(found.names if found else ()), *(known.get(_key(n), n) for n in names)]
    return Choice(
        names=tuple(dict.fromkeys(chosen)),
        variants=cast("tuple[Variant, ...]", tuple(variants))
        or (found.variants if found else ("sampled",)),
        limit=limit or (found.limit if found else 0),
    )


def load_benchmarks(
    choice: Choice,
    *,
    make_judge: Callable[[Judging], Reward] | None = None,
    adapt_grader: Callable[[object], object] | None = None,
) -> list[Benchmark]:
    """The benchmarks of a choice; a variant that a benchmark does not have is left out.

    Args:
        choice: What to load.
        make_judge: See `BenchmarkSpec.load`.
        adapt_grader: Settings of a verifier that stand for a benchmark's own.

    Raises:
        RecipeError: A benchmark is unknown or cannot be built, or two have the same name.
        DataError: Rows cannot be found or read; all benchmarks without are listed.
    """
    # All names first: a misspelt one is not to be found after minutes of reading.
    specs = [(name, find_benchmark(name)) for name in choice.names]
    loaded: list[Benchmark] = []
    problems: list[str] = []
    for name, found in specs:
        if isinstance(found, Benchmark):
            loaded += _variants(found, choice.variants)
            continue
        places = choice.places
        if name.endswith(".toml"):
            places = _own_places(found, Path(name), places)
        if adapt_grader is not None and found.grader is not None:
            found = replace(found, grader=adapt_grader(found.grader))
        try:
            loaded += [
                found.load(places, variant=variant, make_judge=make_judge)
                for variant in choice.variants
                if variant in found.variants()
            ]
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    if not loaded:
        raise RecipeError(
            f"none of {', '.join(choice.names)} has a variant {' or '.join(choice.variants)}."
        )
    names = [benchmark.name for benchmark in loaded]
    if doubles := {name for name in names if names.count(name) > 1}:
        raise RecipeError(f"two benchmarks have the name {', '.join(sorted(doubles))}.")
    return [_adapted(benchmark, choice) for benchmark in loaded]


def _variants(benchmark: Benchmark, wanted: Sequence[Variant]) -> list[Benchmark]:
    """The rows of a benchmark that is a value; without template it cannot be asked."""
    greedy = replace(benchmark.sampling, temperature=0.0, top_p=1.0, num_samples=1)
    known = {
        "sampled": benchmark,
        "greedy": replace(
            benchmark, name=f"{benchmark.name}-greedy", variant="greedy", sampling=greedy
        ),
    }
    return [known[variant] for variant in wanted if variant in known]


def find_benchmark(name: str) -> BenchmarkSpec | Benchmark:
    """The benchmark of a name of ours, an import path or a TOML file.

    Raises:
        RecipeError: There is none.
    """
    if name.endswith(".toml"):
        return load_settings(OwnBenchmark, Path(name)).spec(default_name=Path(name).stem)
    found = cast(Any, resolve(name, kind="benchmark", registry=BENCHMARKS))
    if not isinstance(found, (BenchmarkSpec, Benchmark)) and callable(found):
        found = found()
    if not isinstance(found, (BenchmarkSpec, Benchmark)):
        raise RecipeError(
            f"benchmark {name!r} is {type(found).__name__}; expected a "
            "grlo.interfaces.Benchmark, a grlo.benchmarks.spec.BenchmarkSpec, or a function that "
            "returns one."
        )
    return found


def _own_places(spec: BenchmarkSpec, toml: Path, places: DataPlaces) -> DataPlaces:
    """A file that a TOML file names lies beside it."""
    if spec.name in places.files or not spec.data.file:
        return places
    file = toml.parent / Path(spec.data.file).expanduser()
    files: Mapping[str, Path] = {**places.files, spec.name: file}
    return replace(places, files=files)


def _adapted(benchmark: Benchmark, choice: Choice) -> Benchmark:
    """With what the choice has of its own. Greedy rows keep their temperature and one sample."""
    sampling = benchmark.sampling
    if choice.max_tokens:
        sampling = replace(sampling, max_tokens=choice.max_tokens)
    if choice.num_samples and benchmark.variant != "greedy":
        sampling = replace(sampling, num_samples=choice.num_samples)
    if choice.temperature is not None and benchmark.variant != "greedy":
        sampling = replace(sampling, temperature=choice.temperature)
    prompts = benchmark.prompts
    if 0 < choice.limit < len(prompts):
        step = len(prompts) / choice.limit
        prompts = tuple(prompts[int(index * step)] for index in range(choice.limit))
    return replace(benchmark, sampling=sampling, prompts=prompts)


def _key(name: str) -> str:
    """Without case and signs, but for a plus: HumanEval+ is not HumanEval."""
    return re.sub(r"[^a-z0-9:/.]", "", name.lower().replace("+", "plus"))
