"""`grlo prompts build`: a prompt set from several sources, with an account of every row."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from grlo import __version__
from grlo.benchmarks.spec import DataPlaces
from grlo.errors import DataError
from grlo.parallel import map_batches
from grlo.progress import progress_bar
from grlo.prompts.audit import LEVELS, Auditor, audited_text
from grlo.prompts.cleaning import clean
from grlo.prompts.composition import Composition, classify
from grlo.prompts.describing import Description, asked, describe
from grlo.prompts.duplicates import NearDuplicates
from grlo.prompts.embeddings import DocumentEmbeddings, SentenceEncoder
from grlo.prompts.examples import Example, Row, output_row, parse_example, read_any
from grlo.prompts.filters import Filters
from grlo.prompts.manifests import MANIFEST
from grlo.prompts.recipe import BuildRecipe, SourceSettings
from grlo.prompts.rows import file_sha256, prompt_id
from grlo.prompts.selection import Candidate, Selection, select
from grlo.prompts.text import words
from grlo.prompts.topics import Topics, find_topics, semantic_duplicates
from grlo.ray_cluster import RayCluster
from grlo.recipe import load_settings
from grlo.rundir import PARTIAL, write_atomic
from grlo.schema import dump
from grlo.stages.audited import Against, load_against
from grlo.stages.auditing import PARALLEL_FROM, AuditBatch, num_rows
from grlo.stages.prompts_card import card_html, card_markdown
from grlo.stages.prompts_describe import print_description

RESULT = {
    "prompts": "prompts.jsonl",
    "preferences": "preferences.jsonl",
    "demonstrations": "demonstrations.jsonl",
}
STEPS = (
    "malformed",
    "length",
    "turns",
    "language",
    "quality",
    "safety",
    "own",
    "exact_duplicate",
    "near_duplicate",
    "overlap",
    "semantic_duplicate",
    "not_selected",
)
"""What a row may be dropped for, in the order in which rows meet it."""
_EXAMPLES = 5
"""Dropped rows of each step that the manifest quotes."""
_QUOTED = 200
_TOPIC_CHARACTERS = 2000
_BATCH = 512


@dataclass(frozen=True)
class Survivor:
    """What is remembered of a row that passed the filters; the rest lies in the spool."""

    source: int
    row: int
    offset: int
    """Of its line in the spool."""
    composition: Composition


@dataclass
class Build:
    """The account of a build."""

    recipe: BuildRecipe
    folder: Path
    """Of the recipe: sources are named relative to it."""
    cluster: RayCluster | None = None
    """Where rows are filtered and audited, if not here."""
    rows: Counter[str] = field(default_factory=Counter)
    """Rows read of each source."""
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_of: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By source and step."""
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    cleaned: int = 0
    """Rows whose text was changed by cleaning."""
    against: Against | None = None
    to_review: int = 0
    selection: Selection | None = None
    topics: int = 0
    topic_method: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the rows that were read of each source, one behind the other."""
    kept_of: Counter[str] = field(default_factory=Counter)
    """Rows of the result of each source."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources."""
        return tuple(_name_of(source) for source in self.recipe.sources)


def build(recipe_file: Path, *, out: Path, cluster: RayCluster | None = None) -> Path:
    """Builds a set, and writes it with its manifest, its card and the rows that were dropped.

    Args:
        recipe_file: TOML file of a `BuildRecipe`.
        out: Folder, created if need be.
        cluster: Rows are filtered and audited by workers of a Ray cluster.

    Returns:
        The set.

    Raises:
        RecipeError: The recipe is wrong.
        DataError: A source cannot be read, or no row is left.
    """
    recipe = load_settings(BuildRecipe, recipe_file)
    account = Build(recipe, recipe_file.resolve().parent, cluster=cluster)
    _require_distinct_names(account)
    if recipe.overlap.against:  # Before hours of work: data may be missing.
        folder = Path(recipe.overlap.data) if recipe.overlap.data else None
        account.against = load_against(recipe.overlap.against, DataPlaces(folder=folder))
    out.mkdir(parents=True, exist_ok=True)
    cache = out / "embeddings"
    encoder = SentenceEncoder(recipe.embed, cache=cache) if recipe.embed else None
    with ExitStack() as stack:
        spool = stack.enter_context(tempfile.TemporaryFile(dir=out))
        partial = out / f"dropped.jsonl{PARTIAL}"
        dropped = _Dropped(stack.enter_context(partial.open("w", encoding="ascii")), account)
        survivors = _filtered(account, spool, dropped)
        survivors = _without_overlap(account, survivors, spool, dropped, cache)
        survivors, topics = _without_same_meaning(account, survivors, spool, dropped, encoder)
        chosen = _selected(account, survivors, topics, dropped, spool)
        if not chosen:
            counts = ", ".join(f"{step} {account.dropped[step]}" for step in account.dropped)
            raise DataError(
                f"{recipe_file}: no row is left of {sum(account.rows.values())}: {counts}. All are "
                f"in {partial}."
            )
        result = out / RESULT[recipe.kind]
        _write_result(account, chosen, spool, result)
        partial.replace(out / "dropped.jsonl")
    with progress_bar("describing", unit="rows") as progress:
        found = describe(
            (parse_example(row, kind=recipe.kind) for row in read_any(str(result))),
            seed=recipe.seed,
            encoder=encoder,
            advance=lambda done: progress(done=done, total=len(chosen), tokens=0),
        )
    manifest = _manifest(account, result, found)
    write_atomic(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    write_atomic(out / "card.html", card_html(manifest, found))
    write_atomic(out / "card.md", card_markdown(manifest, found))
    _print_account(account, found, result)
    for file in (result, out / MANIFEST, out / "dropped.jsonl", out / "card.html"):
        print(file)
    return result


def _require_distinct_names(account: Build) -> None:
    doubles = [name for name, count in Counter(account.names).items() if count > 1]
    if doubles:
        raise DataError(f"two sources have the name {', '.join(doubles)}: give them `name`.")


def _name_of(source: SourceSettings) -> str:
    return source.name or source.hub or Path(source.file).name.split(".")[0]


# Steps --------------------------------------------------------------------------------------------


class _Dropped:
    """Writes every dropped row with its reason."""

    def __init__(self, file: Any, account: Build) -> None:
        self._file = file
        self._account = account

    def add(self, source: str, row: int, step: str, reason: str, raw: str) -> None:
        self._account.dropped[step] += 1
        self._account.dropped_of[source, step] += 1
        entry: dict[str, Any] = {"source": source, "row": row, "step": step, "reason": reason}
        quoted = self._account.examples.setdefault(step, [])
        if len(quoted) < _EXAMPLES:
            text = raw[:_QUOTED].encode("utf-8", "replace").decode()
            quoted.append({**entry, "text": text})
        try:
            raw.encode()
            entry["raw"] = raw
        except UnicodeEncodeError:  # Bytes that are no text are kept as bytes.
            data = raw.encode("utf-8", "surrogateescape" if _is_escaped(raw) else "surrogatepass")
            entry["raw_base64"] = base64.b64encode(data).decode("ascii")
        self._file.write(json.dumps(entry) + "\n")


def _is_escaped(text: str) -> bool:
    """Whether all surrogates are those that stand for bytes (PEP 383)."""
    return all("\udc80" <= char <= "\udcff" for char in text if "\ud800" <= char <= "\udfff")


@dataclass(frozen=True)
class _Read:
    """A row that is well-formed and fit, or why it is not."""

    example: Example | None = None
    was_cleaned: bool = False
    step: str = ""
    reason: str = ""
    tokens: tuple[str, ...] = ()
    composition: Composition | None = None


@dataclass(frozen=True)
class _ReadBatch:
    """Reads, cleans, filters and classifies rows: what needs to know one row only."""

    recipe: BuildRecipe

    def __call__(self, rows: Sequence[tuple[int, Row]]) -> list[_Read]:
        filters = Filters(self.recipe.filters)
        return [self._read(row, self.recipe.sources[source], filters) for source, row in rows]

    def _read(self, row: Row, source: SourceSettings, filters: Filters) -> _Read:
        kind, style = self.recipe.kind, source.style
        try:
            example = parse_example(row, kind=kind, default_style=style)
        except (ValueError, RecursionError) as error:
            return _Read(step="malformed", reason=str(error)[:500])
        tidy = _cleaned(example)
        if verdict := filters.reject(tidy.messages, tidy.answers):
            return _Read(step=verdict.filter, reason=verdict.reason)
        tokens = words("\n".join([*(m.content for m in tidy.messages), *tidy.answers]))
        return _Read(
            tidy,
            was_cleaned=tidy is not example,
            tokens=tuple(tokens),
            composition=classify(tidy.messages),
        )


def _filtered(account: Build, spool: BinaryIO, dropped: _Dropped) -> list[Survivor]:
    """Rows that are well-formed, fit and new; each is written to the spool."""
    recipe = account.recipe
    near = NearDuplicates(threshold=recipe.duplicates.near) if recipe.duplicates.near else None
    seen: dict[bytes, int] = {}
    survivors: list[Survivor] = []
    total = sum(num_rows(source.file) for source in recipe.sources)
    done = 0
    rows = (
        (number, row) for number in range(len(recipe.sources)) for row in _rows(account, number)
    )
    processes = 0 if total >= PARALLEL_FROM else 1
    with progress_bar("filtering", unit="rows") as progress:
        for (number, row), read in map_batches(
            _ReadBatch(recipe), rows, batch=_BATCH, processes=processes, cluster=account.cluster
        ):
            name = account.names[number]
            account.rows[name] += 1
            done += 1
            progress(done=done, total=max(total, done), tokens=0)
            if read.example is None or read.composition is None:
                dropped.add(name, row.index, read.step, read.reason, row.raw)
                continue
            account.cleaned += read.was_cleaned
            key = hashlib.blake2b(" ".join(read.tokens).encode(), digest_size=16).digest()
            if key in seen:
                same = _place(account, survivors[seen[key]])
                dropped.add(name, row.index, "exact_duplicate", f"as {same}", row.raw)
                continue
            if near is not None and (found := near.find_or_add(len(survivors), read.tokens)):
                reason = f"{found[1]:.2f} like {_place(account, survivors[found[0]])}"
                dropped.add(name, row.index, "near_duplicate", reason, row.raw)
                continue
            seen[key] = len(survivors)
            survivors.append(Survivor(number, row.index, spool.tell(), read.composition))
            spool.write(_spooled(row, read.example, account, number, read.composition))
    return survivors


def _rows(account: Build, number: int) -> Iterator[Row]:
    """The rows of a source, up to its limit, hashed as they are read."""
    source = account.recipe.sources[number]
    digest = hashlib.sha256()
    for row in read_any(source.file or f"hub:{source.hub}"):
        if source.limit and row.index >= source.limit:
            break
        digest.update(row.raw.encode("utf-8", "surrogatepass") + b"\n")
        yield row
    account.digests[account.names[number]] = digest.hexdigest()


def _cleaned(example: Example) -> Example:
    """The example with clean texts; itself where they are."""
    messages = tuple(replace(m, content=clean(m.content)) for m in example.messages)
    answers = tuple(clean(answer) for answer in example.answers)
    if messages == example.messages and answers == example.answers:
        return example
    prompt = example.prompt
    if prompt is not None:
        prompt = replace(prompt, messages=messages, id=prompt_id(messages))
    return replace(example, messages=messages, answers=answers, prompt=prompt)


def _spooled(
    row: Row, example: Example, account: Build, source: int, composition: Composition
) -> bytes:
    extra = {
        "source_row": row.index,
        "task": composition.task,
        "task_confidence": round(composition.confidence, 3),
        "turns": composition.num_turns,
    }
    output = output_row(
        example, source=account.names[source], ability=composition.category, extra=extra
    )
    line = {"raw": row.raw, "output": output, "asked": asked(example)[:_TOPIC_CHARACTERS]}
    return json.dumps(line).encode() + b"\n"


def _line(spool: BinaryIO, survivor: Survivor) -> dict[str, Any]:
    spool.seek(survivor.offset)
    return json.loads(spool.readline())


def _place(account: Build, survivor: Survivor) -> str:
    return f"{account.names[survivor.source]} row {survivor.row}"


def _drop(
    account: Build, survivor: Survivor, step: str, reason: str, spool: BinaryIO, dropped: _Dropped
) -> None:
    raw = _line(spool, survivor)["raw"]
    dropped.add(account.names[survivor.source], survivor.row, step, reason, raw)


def _without_overlap(
    account: Build,
    survivors: Sequence[Survivor],
    spool: BinaryIO,
    dropped: _Dropped,
    cache: Path,
) -> list[Survivor]:
    """Rows that hold no problem of a benchmark for sure."""
    recipe, against = account.recipe, account.against
    if against is None or not survivors:
        return list(survivors)
    encoder = None
    if recipe.embed:
        texts = [document.text for document in against.documents]
        encoder = DocumentEmbeddings(recipe.embed, texts, cache=cache)
    auditor = Auditor(against.documents, encoder=encoder)
    kept: list[Survivor] = []
    with progress_bar("overlap with benchmarks", unit="rows") as progress:
        texts = (
            (survivor, audited_text(_example(_line(spool, survivor), recipe.kind)))
            for survivor in survivors
        )
        processes = 0 if len(survivors) >= PARALLEL_FROM and encoder is None else 1
        findings = map_batches(
            AuditBatch(auditor),
            texts,
            batch=_BATCH,
            processes=processes,
            cluster=account.cluster if encoder is None else None,
        )
        for done, ((survivor, _), finding) in enumerate(findings, start=1):
            progress(done=done, total=len(survivors), tokens=0)
            sure = [hit for hit in finding.hits if hit.verdict == "drop"]
            if sure:
                hit = min(sure, key=lambda hit: LEVELS.index(hit.level))
                document = against.documents[hit.document]
                reason = f"{document.benchmark} {document.item}: {hit.level} {hit.value:g}"
                _drop(account, survivor, "overlap", reason, spool, dropped)
            else:
                account.to_review += bool(finding.hits)
                kept.append(survivor)
    return kept


def _example(line: Mapping[str, Any], kind: Any) -> Example:
    return parse_example(Row(0, "", line["output"], ""), kind=kind)


def _without_same_meaning(
    account: Build,
    survivors: Sequence[Survivor],
    spool: BinaryIO,
    dropped: _Dropped,
    encoder: SentenceEncoder | None,
) -> tuple[list[Survivor], list[int]]:
    """Rows of which none asks for what an earlier one does, and the topic of each."""
    recipe = account.recipe
    if not survivors:
        return [], []
    texts = [_line(spool, survivor)["asked"] for survivor in survivors]
    topics: Topics = find_topics(
        texts, num_topics=recipe.num_topics, seed=recipe.seed, encoder=encoder
    )
    account.topics, account.topic_method = len(topics.names), topics.method
    same: dict[int, tuple[int, float]] = {}
    if recipe.duplicates.semantic != 0:
        same = semantic_duplicates(topics, threshold=recipe.duplicates.semantic)
    kept = [index for index in range(len(survivors)) if index not in same]
    for index, (first, cosine) in sorted(same.items()):
        reason = f"cosine {cosine:.2f} to {_place(account, survivors[first])}"
        _drop(account, survivors[index], "semantic_duplicate", reason, spool, dropped)
    return [survivors[index] for index in kept], [int(topics.cluster[index]) for index in kept]


def _selected(
    account: Build,
    survivors: Sequence[Survivor],
    topics: Sequence[int],
    dropped: _Dropped,
    spool: BinaryIO,
) -> list[Survivor]:
    recipe = account.recipe
    if not recipe.size:
        return list(survivors)
    candidates = [
        Candidate(
            survivor.composition.category,
            account.names[survivor.source],
            topic,
            is_guess=survivor.composition.confidence == 0,
        )
        for survivor, topic in zip(survivors, topics, strict=True)
    ]
    account.selection = select(
        candidates,
        size=recipe.size,
        shares=recipe.composition.shares(),
        weights={
            name: source.weight for name, source in zip(account.names, recipe.sources, strict=True)
        },
        seed=recipe.seed,
    )
    chosen = set(account.selection.chosen)
    for index, survivor in enumerate(survivors):
        if index not in chosen:
            category = survivor.composition.category
            reason = f"the quota of {category} is full"
            _drop(account, survivor, "not_selected", reason, spool, dropped)
    return [survivors[index] for index in account.selection.chosen]


# What is written ----------------------------------------------------------------------------------


def _write_result(account: Build, chosen: Sequence[Survivor], spool: BinaryIO, path: Path) -> None:
    temporary = path.with_name(f".{path.name}{PARTIAL}")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        for index, survivor in enumerate(chosen):
            output = _line(spool, survivor)["output"]
            output.get("extra_info", {}).setdefault("index", index)
            account.kept_of[account.names[survivor.source]] += 1
            file.write(json.dumps(output, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _manifest(account: Build, result: Path, found: Description) -> dict[str, Any]:
    recipe = account.recipe
    left = sum(account.rows.values())
    steps = []
    for step in STEPS:
        left -= account.dropped[step]
        steps.append(
            {
                "step": step,
                "dropped": account.dropped[step],
                "left": left,
                "examples": account.examples.get(step, []),
            }
        )
    return {
        "made_by": "grlo prompts build",
        "version": __version__,
        "recipe": _relative(dump(recipe, registries={}), account.folder),
        "sources": [
            {
                "name": name,
                "source": _relative(source.file, account.folder) or f"hub:{source.hub}",
                "sha256": file_sha256(Path(source.file)) if source.file else "",
                "rows_sha256": account.digests[name],
                "weight": source.weight,
                "rows": account.rows[name],
                "kept": account.kept_of[name],
                "dropped": {
                    step: account.dropped_of[name, step]
                    for step in STEPS
                    if account.dropped_of[name, step]
                },
            }
            for name, source in zip(account.names, recipe.sources, strict=True)
        ],
        "cleaned": account.cleaned,
        "steps": steps,
        "topics": {"number": account.topics, "method": account.topic_method},
        "selection": _selection(account),
        "overlap": _overlap(account),
        "description": found.as_json(),
        "result": {"file": result.name, "sha256": file_sha256(result), "rows": found.num_rows},
    }


def _relative(value: Any, folder: Path) -> Any:
    """Settings with paths relative to the recipe, so that they are the same in any place."""
    if isinstance(value, dict):
        return {key: _relative(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_relative(item, folder) for item in value]
    if isinstance(value, str) and value.startswith("/"):
        return os.path.relpath(value, folder)
    return value


def _selection(account: Build) -> dict[str, Any]:
    selection = account.selection
    if selection is None:
        return {}
    return {
        category: {
            "wanted": selection.wanted[category],
            "available": selection.available[category],
            "taken": selection.taken[category],
        }
        for category in selection.wanted
    }


def _overlap(account: Build) -> dict[str, Any]:
    against = account.against
    if against is None:
        return {}
    return {
        "method": "embedding" if account.recipe.embed else "lexical",
        "dropped": account.dropped["overlap"],
        "to_review": account.to_review,
        "not_audited": list(against.missing),
        "benchmarks": [
            {**asdict(benchmark), "source": Path(benchmark.source).name}
            for benchmark in against.benchmarks
        ],
    }


def _print_account(account: Build, found: Description, result: Path) -> None:
    from rich.console import Console

    from grlo.reporting.tables import make_table

    left = sum(account.rows.values())
    rows = [["rows read", "", f"{left:,}"]]
    for step in STEPS:
        if account.dropped[step]:
            left -= account.dropped[step]
            rows.append([step.replace("_", " "), f"{account.dropped[step]:,}", f"{left:,}"])
    Console().print(make_table(["step", "dropped", "left"], rows))
    print_description(found, title=result.name)
    if account.selection is not None:
        for category, wanted in account.selection.wanted.items():
            available, taken = (
                numbers[category]
                for numbers in (account.selection.available, account.selection.taken)
            )
            if available < wanted:
                print(
                    f"{category}: {available:,} rows of {wanted:,} wanted; others fill up, so that "
                    f"the mix is not the one asked for ({taken:,} taken)."
                )
