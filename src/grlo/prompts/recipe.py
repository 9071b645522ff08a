"""The settings of `grlo prompts build`, read from a TOML file by `grlo.recipe.load_settings`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from grlo.prompts.filters import FilterSettings
from grlo.settings import require


@dataclass(frozen=True)
class SourceSettings:
    """One source of rows."""

    file: str = ""
    """A .jsonl, .jsonl.gz or .parquet file, relative to the recipe."""
    hub: str = ""
    """Or a data set on the hub, as `owner/name`, behind it `[configuration]`, `@revision` and
    `:split` where they are needed."""
    name: str = ""
    """In the manifest and as `data_source` of the rows; empty takes the name of the file."""
    weight: float = 1.0
    """Share of the selection, in proportion to the other sources."""
    limit: int = 0
    """Rows that are read; 0 reads all."""
    style: str = "model"
    """`reward_model.style` of prompts that have none of their own."""

    def __post_init__(self) -> None:
        require(bool(self.file) != bool(self.hub), "give either file or hub")
        require(self.weight > 0, "weight must be positive")
        require(self.limit >= 0, "limit must not be negative")


@dataclass(frozen=True)
class DuplicateSettings:
    """Which rows say the same; equal words always do."""

    near: float = 0.8
    """Jaccard similarity of word 3-grams from which on the later row is dropped; 0 keeps it."""
    semantic: float | None = None
    """Cosine from which on the later row of a topic is dropped (SemDeDup, Abbas et al. 2023,
    arXiv:2303.09540); 0 keeps it, None is 0.9 for sentence embeddings (`embed`) and 0.7 for the
    shared words that stand in for them."""

    def __post_init__(self) -> None:
        require(0 <= self.near <= 1, "near must lie in [0, 1]")
        require(0 <= (self.semantic or 0) <= 1, "semantic must lie in [0, 1]")


@dataclass(frozen=True)
class CompositionSettings:
    """Shares of the kinds of prompts; the defaults are those that arXiv:2605.15464 states."""

    general_dialogue: float = 0.45
    creative_and_problem_solving: float = 0.25
    instruction_following: float = 0.20
    other: float = 0.10

    def __post_init__(self) -> None:
        shares = list(self.shares().values())
        require(all(share >= 0 for share in shares), "shares must not be negative")
        require(abs(sum(shares) - 1) < 1e-6, f"shares must add up to 1, not {sum(shares):g}")

    def shares(self) -> dict[str, float]:
        """Category -> share."""
        return {share.name: getattr(self, share.name) for share in fields(self)}


@dataclass(frozen=True)
class OverlapSettings:
    """What rows must not hold (`grlo.prompts.audit`); those with a sure hit are dropped."""

    against: tuple[str, ...] = ()
    """Suites, benchmarks, or files of problems relative to the recipe; empty looks for none."""
    data: str = ""
    """Folder with data files of benchmarks; empty is what GRLO_DATA names."""


@dataclass(frozen=True)
class BuildRecipe:
    """How a prompt set is made of sources."""

    sources: tuple[SourceSettings, ...]
    kind: Literal["prompts", "preferences", "demonstrations"] = "prompts"
    """What rows are. Preference pairs and demonstrations pass the same filters and audits."""
    size: int = 0
    """Rows of the result; 0 keeps all that pass, unbalanced."""
    seed: int = 0
    filters: FilterSettings = field(default_factory=FilterSettings)
    duplicates: DuplicateSettings = field(default_factory=DuplicateSettings)
    composition: CompositionSettings = field(default_factory=CompositionSettings)
    overlap: OverlapSettings = field(default_factory=OverlapSettings)
    num_topics: int = 0
    """Clusters over which a selection is spread; 0 takes one for 40 rows, 8 to 500."""
    embed: str = ""
    """Folder or hub id of a sentence encoder, for topics, semantic duplicates and the overlap
    audit; empty compares words, which is a fallback."""

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "sources must name at least one")
        require(self.size >= 0, "size must not be negative")
        require(self.num_topics >= 0, "num_topics must not be negative")
