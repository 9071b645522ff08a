"""What a study has found, as plain values: the page, the appendix and the JSON say nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grlo.evaluation.decomposition import Decomposition
from grlo.evaluation.elicitation import Elicitation
from grlo.evaluation.over_optimisation import Onset
from grlo.evaluation.stats import Estimate
from grlo.studies.settings import Role

AVERAGE = "average"
"""Key of the mean over domains, beside the domains' own."""


@dataclass(frozen=True)
class Form:
    """How the answers of an arm to a domain's benchmarks end."""

    stopped: float
    """Share that ends by itself."""
    truncated: float
    """Share that the limit cut."""
    unread: float | None
    """Share of the graded answers in which nothing was found to grade."""
    tokens: float
    """Mean length."""
    unscored: int
    """Answers without a score, left out everywhere."""


@dataclass(frozen=True)
class CurvePoint:
    """An evaluation during training."""

    seed: int
    step: int
    device_hours: float
    """Of training so far."""
    reward: float | None
    """Mean training reward of the steps since the evaluation before."""
    domains: Mapping[str, float]
    """Scores, with `average`."""


@dataclass(frozen=True)
class ArmCost:
    """What an arm has cost with one seed, earlier stages included; mean over its seeds."""

    device_hours: float
    """Of training: generating, scoring, annotating, updating, syncing."""
    flops: float
    generated_tokens: float
    trained_tokens: float
    prompts: float
    """Prompts drawn or rows read, each as often as it came."""
    distinct_prompts: float
    other_hours: Mapping[str, float]
    """Device-hours that are not charged: `load`, `checkpoint`, `evaluate`, `idle`, `failed`,
    `repeated`, and `benchmarks` for the evaluation at the end."""
    phases: Mapping[str, float]
    """Device-hours of training by phase."""
    components: Mapping[str, float]
    """FLOPs of training by component; empty for old ledgers."""
    money: float | None
    """Device-hours of training at the study's prices, and what remote services took; None where a
    device has no price."""
    energy_joules: float | None
    utilisation: float | None
    """Model FLOPs utilisation in training against the measured peak."""
    peak_memory_bytes: int
    devices: tuple[str, ...]
    """Such as `1 x cpu`."""


@dataclass(frozen=True)
class Match:
    """How near an arm came to what it might spend."""

    by: str
    budget: float
    """Mean over seeds, like the next one."""
    spent: float
    largest_difference: float
    """(spent - budget) / budget of the seed where that is farthest from 0."""


@dataclass(frozen=True)
class ArmFindings:
    """One arm over its finished seeds."""

    name: str
    label: str
    role: Role
    description: str
    model: str
    """What it starts from, or what it is."""
    trains: tuple[str, ...]
    seeds: tuple[int, ...]
    unfinished: tuple[int, ...]
    benchmarks: Mapping[str, Estimate]
    domains: Mapping[str, Estimate]
    """By domain and `average`; empty where a domain has no score."""
    benchmark_gains: Mapping[str, Estimate]
    """Over base, paired by seed and problem; empty for the base, like the next one."""
    domain_gains: Mapping[str, Estimate]
    by_seed: Mapping[str, tuple[float, ...]]
    """Domain or `average` -> score with each of `seeds`."""
    forms: Mapping[str, Form]
    """By domain and `average`, the mean over domains."""
    ended: Mapping[str, Estimate]
    """Domain -> score of the answers that end by themselves."""
    lenient: Mapping[str, float]
    """Benchmark -> score when the last number or letter of an answer counts too; only where
    references are such."""
    attempts: Mapping[str, float]
    """Domain -> share of answers that try what was asked, where a grader tells."""
    decomposition: Mapping[str, Decomposition]
    """Domain, `average` -> parts of the gain over base."""
    elicitation: Mapping[str, Elicitation]
    """Benchmark -> against many answers of the base; empty without them."""
    cost: ArmCost | None
    """None for an arm that is not trained."""
    match: Match | None
    rewards: Mapping[int, tuple[tuple[float, float], ...]]
    """Seed -> (step, mean training reward); of the last stage."""
    curves: tuple[CurvePoint, ...]
    correlation: float | None
    """Mean over seeds of the rank correlation of reward and average score over evaluations."""
    onsets: Mapping[int, Onset | None]
    """Seed -> where over-optimisation begins, None where it does not; for seeds with curves."""
    looks: tuple[str, ...]
    """What stands out in the metrics of its runs, in words."""

    @property
    def transfer_domains(self) -> tuple[str, ...]:
        """Domains that it was not trained on."""
        return tuple(d for d in self.domains if d != AVERAGE and d not in self.trains)


@dataclass(frozen=True)
class BenchmarkFacts:
    """One benchmark and how it was asked."""

    name: str
    domain: str
    unit: str
    """`share`, or what a score counts."""
    num_problems: int
    num_samples: int
    """Answers a problem."""
    source: str
    protocol: str
    is_private: bool


@dataclass(frozen=True)
class CostRatio:
    """The costs of one row divided by those of another, and why that may mislead."""

    of: str
    to: str
    """Labels."""
    ratios: Mapping[str, float]
    """`prompts`, `device_hours`, `flops`, `money` -> cost of `to` / cost of `of`."""
    warnings: tuple[str, ...]
    """In words; empty when both are matched in model, hardware and sampling."""


@dataclass(frozen=True)
class PublishedFindings:
    """A row that others have reported, as it is printed."""

    name: str
    source: str
    model: str
    hardware: str
    sampling: str
    note: str
    costs: Mapping[str, float]
    """`prompts`, `device_hours`, `flops`, `money`: what is known."""
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Transcript:
    """One answer to one problem."""

    arm: str
    text: str
    score: float | None
    reward: float | None
    tokens: int
    finish_reason: str
    note: str


@dataclass(frozen=True)
class TranscriptGroup:
    """The answers of all arms to one problem."""

    benchmark: str
    domain: str
    problem: int
    question: str
    reference: str
    answers: tuple[Transcript, ...]


@dataclass(frozen=True)
class StudyFindings:
    """Everything that the report of a study says."""

    title: str
    question: str
    answer: tuple[str, ...]
    """The answer first, in sentences."""
    notes: tuple[str, ...]
    """What a reader has to know besides: what is not finished, how intervals are made."""
    seeds: tuple[int, ...]
    base: str
    """Key of the base arm; empty in a study of published rows only."""
    arms: tuple[ArmFindings, ...]
    """Those that the report shows, in the order of the file."""
    benchmarks: tuple[BenchmarkFacts, ...]
    domains: tuple[str, ...]
    matching: str
    """How costs were matched, in words; empty where they were not."""
    currency: str
    ratios: tuple[CostRatio, ...]
    published: tuple[PublishedFindings, ...]
    failures: tuple[str, ...]
    """Jobs that failed, with their last words."""
    data: tuple[Mapping[str, Any], ...]
    """Records of the prompt sets that arms were trained on (`grlo.prompts.manifests`), with `arms`,
    the labels of those, and the parsed `manifest` where its file is still there unchanged."""
    versions: Mapping[str, str]
    commit: str
    command: str
    transcripts: tuple[TranscriptGroup, ...]
