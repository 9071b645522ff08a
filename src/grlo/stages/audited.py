"""What training data is audited against: the problems of benchmarks and of files as documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grlo.benchmarks import BENCHMARKS
from grlo.benchmarks.loading import find_benchmark
from grlo.benchmarks.spec import BenchmarkSpec, DataPlaces, read_benchmark_rows
from grlo.benchmarks.suites import SUITES
from grlo.errors import DataError, RecipeError
from grlo.interfaces import Benchmark
from grlo.prompts.examples import Row, parse_example, read_any
from grlo.prompts.overlap import Document
from grlo.prompts.problems import form_of, named_ids
from grlo.prompts.rows import file_sha256, plain
from grlo.types import Prompt

_SOLUTIONS = ("solution", "canonical_solution", "code", "raw_answer", "reference_answer", "output")
_BARE = ("puzzle", "question_content", "bare_question")
"""Fields with a problem where another field says how we ask it."""
_SOLUTION_WORDS = 12
"""Shorter solutions are formulas that many problems share."""
_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class AuditedBenchmark:
    """A benchmark whose problems are looked for."""

    name: str
    num_problems: int
    source: str
    sha256: str
    """Of its rows, or of its file."""
    is_private: bool = False


@dataclass(frozen=True)
class Against:
    """All that is looked for."""

    benchmarks: tuple[AuditedBenchmark, ...]
    documents: tuple[Document, ...]
    missing: tuple[str, ...]
    """One line per benchmark of a suite that has no data here."""


def load_against(
    values: Sequence[str], places: DataPlaces, *, say: Callable[[str], None] = print
) -> Against:
    """The problems of suites, benchmarks and files.

    Args:
        values: Names of suites or benchmarks, TOML files of one's own, or data files.
        places: Where local files of benchmarks are.
        say: Told what takes long.

    Raises:
        RecipeError: A value is none of these, or two of them have the same name.
        DataError: A file cannot be read or has no problems; a benchmark that was named itself has
            no data. Benchmarks of a suite without data are listed in the result instead.
    """
    wanted: dict[str, bool] = {}
    for value in values:
        if value in SUITES:
            wanted |= {name: wanted.get(name, False) for name in SUITES[value].names}
        else:
            wanted[value] = True
    if not wanted:
        raise RecipeError(f"nothing to audit against. Suites: {', '.join(SUITES)}; or name files.")
    if unknown := [value for value in wanted if not _is_known(value)]:
        raise RecipeError(
            f"{', '.join(unknown)}: neither a file nor a suite ({', '.join(SUITES)}) nor a "
            f"benchmark ({', '.join(BENCHMARKS)})."
        )
    benchmarks: list[AuditedBenchmark] = []
    documents: list[Document] = []
    missing: list[str] = []
    for value, is_explicit in wanted.items():
        try:
            loaded, own = _load(value, places)
        except DataError as error:
            if is_explicit:
                raise
            reason = str(error).removeprefix(f"{value}: ").split(". ")[0].splitlines()[0]
            missing.append(f"{value} is not audited: {reason[:200]}")
            say(missing[-1])
            continue
        if loaded.name in {benchmark.name for benchmark in benchmarks}:
            raise RecipeError(f"two benchmarks have the name {loaded.name}.")
        benchmarks.append(loaded)
        documents += own
    if not documents:
        raise DataError(
            "none of the benchmarks has data here. Name a folder with their files by --data or "
            "GRLO_DATA."
        )
    return Against(tuple(benchmarks), tuple(documents), tuple(missing))


def _is_known(value: str) -> bool:
    if value.endswith((*_ENDINGS, ".toml")) or value.startswith("hub:") or ":" in value:
        return value.startswith("hub:") or not value.endswith(_ENDINGS) or Path(value).is_file()
    return value in BENCHMARKS


def _load(value: str, places: DataPlaces) -> tuple[AuditedBenchmark, list[Document]]:
    if value.endswith(_ENDINGS) or value.startswith("hub:"):
        return _of_file(value)
    found = find_benchmark(value)
    if isinstance(found, Benchmark):
        prompts, source, digest = found.prompts, found.source, found.data_sha256
    else:
        if value.endswith(".toml") and found.data.file:
            own = Path(value).parent / found.data.file
            places = DataPlaces({**places.files, found.name: own}, places.folder)
        rows, digest, source = read_benchmark_rows(found, places)
        prompts = tuple(rows)
    documents = [
        document
        for index, prompt in enumerate(prompts)
        for document in _documents(found, prompt, index)
    ]
    private = found.is_private
    audited = AuditedBenchmark(found.name, len(prompts), source, digest, private)
    return audited, documents


def _documents(
    benchmark: BenchmarkSpec | Benchmark, prompt: Prompt, index: int
) -> Iterator[Document]:
    item = [*named_ids(prompt), f"row {index}"][0]
    follow_ups = prompt.meta.get("follow_ups")
    texts = [problem_text(prompt.meta) or "\n\n".join(m.content for m in prompt.messages)]
    texts += [str(turn) for turn in follow_ups] if isinstance(follow_ups, list) else []
    parts = [("question", "\n\n".join(texts))]
    parts += [("solution", text) for text in _solutions(prompt.meta)]
    for part, text in parts:
        yield Document(
            benchmark.name,
            item,
            text,
            part=part,
            domain=benchmark.domain,
            is_private=benchmark.is_private,
        )


def problem_text(row: Mapping[str, Any]) -> str:
    """What a problem says, without what we say when we ask it; empty for a conversation."""
    form = form_of(row)
    names = {"question": "question", "completion": "prompt", "leetcode": "problem"}
    names |= {"instructions": "prompt", "mbpp": "text" if row.get("text") else "prompt"}
    bare = [row[name] for name in _BARE if isinstance(row.get(name), str)]
    text = bare[0] if bare else row.get(names.get(form or "", ""), "")
    choices = row.get("choices")
    options = [str(choice) for choice in choices] if isinstance(choices, list) else []
    return "\n".join([text, *options]) if isinstance(text, str) else ""


def _solutions(row: Mapping[str, Any]) -> list[str]:
    texts = [row[name] for name in _SOLUTIONS if isinstance(row.get(name), str)]
    return [text for text in texts if len(text.split()) >= _SOLUTION_WORDS]


def _of_file(value: str) -> tuple[AuditedBenchmark, list[Document]]:
    """A file's rows in any form of training data or problems."""
    name = Path(value).name.split(".")[0] if not value.startswith("hub:") else value
    documents: list[Document] = []
    num_rows, problems = 0, []
    for row in read_any(value):
        num_rows += 1
        try:
            documents += _of_row(name, row)
        except (ValueError, RecursionError) as error:
            problems.append(f"{row.place}: {row.problem or error}")
    if not documents:
        reason = problems[0] if problems else "it has no rows"
        raise DataError(f"{value}: has no problem that can be looked for: {reason}")
    if problems:
        raise DataError(
            f"{value}: {len(problems)} of {num_rows} rows cannot be looked for, such as "
            f"{problems[0]}\nAn audit that leaves problems out would call data clean that is not."
        )
    digest = file_sha256(Path(value)) if Path(value).is_file() else ""
    return AuditedBenchmark(name, num_rows, value, digest), documents


def _of_row(name: str, row: Row) -> Iterator[Document]:
    fields = plain(row.fields)
    if not isinstance(fields, dict):
        raise ValueError("is no object")
    renamed = fields
    if form_of(fields) is None and isinstance(fields.get("problem"), str):
        renamed = {**fields, "question": fields["problem"]}
    ids = [fields[key] for key in ("id", "task_id", "key", "unique_id") if key in fields]
    item = str([*ids, f"row {row.index}"][0])
    text = problem_text(renamed)
    if not text:
        example = parse_example(row)
        text = "\n\n".join(m.content for m in example.messages if m.role != "assistant")
    if not text.strip():
        raise ValueError("its text is empty")
    yield Document(name, item, text)
    for solution in _solutions({**fields, "raw_answer": fields.get("answer")}):
        yield Document(name, item, solution, part="solution")
