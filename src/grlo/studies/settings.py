"""The sections of a study file as plain frozen dataclasses; every field is documented here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from grlo.settings import require

Role = Literal["base", "treatment", "control", "baseline", "reference", "stage"]
Resource = Literal["device_hours", "generated_tokens", "trained_tokens", "flops", "prompts"]


@dataclass(frozen=True)
class OwnSamplesSettings:
    """Demonstrations that the model which an arm starts from has written itself."""

    recipes: tuple[str, ...]
    """Of reinforcement learning: whose prompts are answered, by whose sampling."""
    samples_per_prompt: int = 1

    def __post_init__(self) -> None:
        require(bool(self.recipes), "recipes must name at least one file")
        require(self.samples_per_prompt > 0, "samples_per_prompt must be positive")


@dataclass(frozen=True)
class ArmSettings:
    """One way to treat the base model, or a model that is there already."""

    label: str
    """As people read it."""
    role: Role
    """`base` is what others are compared with, `treatment` what the question is about, `control`
    what should gain nothing if the question is answered by yes, `baseline` another way to train,
    `reference` a model that others have trained, `stage` the first part of another arm, which the
    report does not show."""
    model: str = ""
    """Of an arm that is not trained."""
    recipes: tuple[str, ...] = ()
    """TOML files of an arm that is trained, merged left to right; with a section `data` they are
    of supervised fine-tuning."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """A further layer of the recipe; the text `none` takes a key out."""
    starts_from: str = ""
    """Arm whose last checkpoint of the same seed it starts from."""
    own_samples: OwnSamplesSettings | None = None
    """Supervised fine-tuning on what the model itself has answered."""
    checkpoint: Literal["last", "best"] = "last"
    """Which one is measured; `best` by the recipe's `checkpoint.best_by`."""
    matched: bool = True
    """False leaves the arm as long as its recipe has it."""
    share: float = 1.0
    """Of the study's budget, up to the end of this arm; what it starts from has spent its part."""
    trains: tuple[str, ...] = ()
    """Domains of benchmarks that its prompts belong to; what it gains in others is transfer."""
    description: str = ""

    def __post_init__(self) -> None:
        require(bool(self.model) != bool(self.recipes), "give either model or recipes")
        trained_only = self.overrides or self.starts_from or self.own_samples
        require(
            not (self.model and trained_only),
            "overrides, starts_from and own_samples belong to an arm with recipes",
        )
        require(0 < self.share <= 1, "share must lie in (0, 1]")


@dataclass(frozen=True)
class MatchingSettings:
    """What trained arms may spend, so that they are compared at equal cost."""

    by: Resource
    amount: float = 0.0
    """Or give `to`."""
    to: str = ""
    """Arm that is as long as its recipe has it; the others may spend what it has spent with the
    same seed."""

    def __post_init__(self) -> None:
        require(self.amount >= 0, "amount must not be negative")
        require((self.amount > 0) != bool(self.to), "give either amount or to")


@dataclass(frozen=True)
class StudyEvaluation:
    """Benchmarks that every arm is measured on; see `grlo evaluate` for the first seven."""

    suite: str = ""
    benchmarks: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    limit: int = 0
    max_tokens: int = 0
    num_samples: int = 0
    data: str = ""
    judge: str = ""
    """TOML file that says who judges chat benchmarks."""
    base_samples: int = 0
    """Answers to every problem that the base model gives besides, once, for pass@k at large k: what
    it could do before any training. 0 leaves that out."""
    template: str = ""
    """Named chat template of arms that are not trained; empty takes the tokenizer's own. Trained
    arms have that of their recipe."""
    device: str = "auto"
    engine: str = "hf"

    def __post_init__(self) -> None:
        require(bool(self.suite or self.benchmarks), "name a suite or benchmarks")
        for name in ("limit", "max_tokens", "num_samples", "base_samples"):
            require(getattr(self, name) >= 0, f"{name} must not be negative")


@dataclass(frozen=True)
class JobSettings:
    """How the arms are run."""

    parallel: int = 1
    """Arms at a time."""
    num_threads: int = 0
    """CPU threads of each; 0 leaves torch's choice."""
    command: str = ""
    """Shell line that hands an arm to a launcher and ends when the arm has ended; empty runs it
    here. `{command}` stands for what is to be run, quoted as one word if it is written as
    `{quoted}`, `{name}` for the arm and its seed, `{log}` for a file to write to. Slurm: `sbatch
    --wait --gpus=1 --job-name={name} --output={log} --wrap={quoted}`."""

    def __post_init__(self) -> None:
        require(self.parallel > 0, "parallel must be positive")
        require(self.num_threads >= 0, "num_threads must not be negative")
        require(
            not self.command or "{command}" in self.command or "{quoted}" in self.command,
            "command must hold {command} or {quoted}",
        )


@dataclass(frozen=True)
class TranscriptSettings:
    """Answers that the report shows side by side: the first of each arm, with the first seed."""

    per_benchmark: int = 40
    """Problems of each benchmark, evenly spaced; 0 shows none."""
    reward_of: str = ""
    """Arm whose reward scores the answers, so that they can be sorted by it; empty scores none."""

    def __post_init__(self) -> None:
        require(self.per_benchmark >= 0, "per_benchmark must not be negative")


@dataclass(frozen=True)
class PublishedRow:
    """What others have reported; what is unknown stays out."""

    name: str
    source: str
    """Where it is printed: paper, table, page."""
    model: str = ""
    parameters: float = 0.0
    """Of the model that was trained."""
    hardware: str = ""
    sampling: str = ""
    """Such as `1 sample of at most 3072 tokens`."""
    prompts: float = 0.0
    device_hours: float = 0.0
    flops: float = 0.0
    money: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)
    """Benchmark or domain -> score as it is printed."""
    note: str = ""


@dataclass(frozen=True)
class RatioSettings:
    """Two rows whose costs are divided; arms by their key, published rows by their name."""

    of: str
    to: str


@dataclass(frozen=True)
class StudySettings:
    """Everything that determines a study."""

    title: str
    question: str = ""
    seeds: tuple[int, ...] = (0,)
    arms: Mapping[str, ArmSettings] = field(default_factory=dict)
    evaluation: StudyEvaluation | None = None
    matching: MatchingSettings | None = None
    jobs: JobSettings = field(default_factory=JobSettings)
    transcripts: TranscriptSettings = field(default_factory=TranscriptSettings)
    prices: Mapping[str, float] = field(default_factory=dict)
    """Device as the ledger names it -> price of an hour."""
    currency: str = "USD"
    published: tuple[PublishedRow, ...] = ()
    ratios: tuple[RatioSettings, ...] = ()
    """Besides each treatment against every other trained arm."""

    @property
    def base(self) -> str:
        """The arm that others are compared with; empty without arms."""
        return next((name for name, arm in self.arms.items() if arm.role == "base"), "")

    def __post_init__(self) -> None:
        require(bool(self.seeds), "seeds must name at least one")
        require(len(set(self.seeds)) == len(self.seeds), "seeds must differ")
        require(bool(self.arms or self.published), "a study needs arms or published rows")
        require(not self.arms or self.evaluation is not None, "arms need the section evaluation")
        problems = [*_arm_problems(self.arms), *_reference_problems(self)]
        require(not problems, "; ".join(problems))


def _arm_problems(arms: Mapping[str, ArmSettings]) -> list[str]:
    if not arms:
        return []
    problems = [
        f"arms.{name}: a name is letters, digits, - and _"
        for name in arms
        if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii()
    ]
    bases = [name for name, arm in arms.items() if arm.role == "base"]
    if len(bases) != 1:
        problems.append(f"exactly one arm has the role base; found {', '.join(bases) or 'none'}")
    elif not arms[bases[0]].model:
        problems.append(f"arms.{bases[0]}: the base is not trained; give it a model, no recipes")
    for name, arm in arms.items():
        chain = [name]
        while (before := arms[chain[-1]].starts_from) in arms and before not in chain:
            chain.append(before)
        if before in chain:
            problems.append(f"arms.{name}.starts_from: a circle, {' <- '.join([*chain, before])}")
        elif before:
            problems.append(f"arms.{chain[-1]}.starts_from: there is no arm {before!r}")
        elif arm.starts_from and arms[arm.starts_from].model:
            problems.append(
                f"arms.{name}.starts_from: {arm.starts_from!r} is not trained; name its model in "
                "overrides.policy.model"
            )
    return problems


def _reference_problems(study: StudySettings) -> list[str]:
    problems = []
    matching = study.matching
    if matching is not None and matching.to:
        arm = study.arms.get(matching.to)
        if arm is None or not arm.recipes or arm.starts_from:
            problems.append(
                f"matching.to: expected an arm with recipes that starts from no other, found "
                f"{matching.to!r}"
            )
    scorer = study.transcripts.reward_of
    if scorer and not (scorer in study.arms and study.arms[scorer].recipes):
        problems.append(f"transcripts.reward_of: there is no trained arm {scorer!r}")
    names = [*study.arms, *(row.name for row in study.published)]
    problems += [
        f"{what}: there is no arm or published row {name!r}"
        for ratio in study.ratios
        for what, name in (("ratios.of", ratio.of), ("ratios.to", ratio.to))
        if name not in names
    ]
    if len(set(names)) != len(names):
        problems.append("arms and published rows must have different names")
    return problems
