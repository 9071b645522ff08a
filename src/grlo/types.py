"""Everything that flows through a run. Frozen, without behaviour, standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for an answer, and how that answer is to be rewarded."""

    id: str
    """Hash of the messages; equal conversations have equal ids."""
    messages: tuple[Message, ...]
    domain: str = "general"
    """What the prompt is about (the row's `ability`): a label for reports, never for routing."""
    style: str = "model"
    """How the answer is rewarded, by a name that the reward knows (`reward_model.style`): `model`,
    `rule`, `judge` or another."""
    reference: str | None = None
    """The reference answer (the row's `reward_model.ground_truth`), where there is one."""
    source: str = ""
    """Where the row came from, as `file:line`."""
    meta: Mapping[str, object] = field(default_factory=dict)
    """Remaining fields of the row (`extra_info`); verifiers read their parameters here."""


@dataclass(frozen=True)
class SamplingParams:
    """How completions are drawn."""

    max_tokens: int
    """Most tokens a completion may have, the stop token included."""
    temperature: float = 1.0
    """0 takes the most probable token."""
    top_p: float = 1.0
    top_k: int = 0
    """Number of most probable tokens kept; 0 keeps all."""
    num_samples: int = 1
    """Completions per prompt."""
    stop: tuple[int, ...] = ()
    """Token ids that end a completion; the id itself is part of the completion."""
    stop_texts: tuple[str, ...] = ()
    """Texts that end a completion: it has no token behind the one that makes the first of them
    complete. For prompts without a template, where no token ends an answer."""


@dataclass(frozen=True)
class Completion:
    """What an engine drew for one prompt."""

    tokens: tuple[int, ...]
    """Sampled ids, the stop token included when there is one."""
    logprobs: tuple[float, ...]
    """Log-probability of each token under the distribution it was drawn from, in nats."""
    finish_reason: FinishReason
    """`stop` when a stop token was drawn, `length` when the limit cut the completion."""


@dataclass(frozen=True)
class Rollout:
    """A prompt with one sampled answer."""

    prompt: Prompt
    group: int
    """Samples of one prompt in one step share this number."""
    prompt_tokens: tuple[int, ...]
    completion: Completion
    text: str
    """The completion decoded without stop and special tokens."""


@dataclass(frozen=True)
class Score:
    """What a reward says of one rollout."""

    value: float | None
    """None means unscored: the rollout is excluded and counted, never treated as zero."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named components, logged separately."""
    note: str = ""
    """Why the score is what it is, or why there is none."""
    extracted: str | None = None
    """The answer that a verifier found in the text; None when it found none or looked for none."""
    details: Mapping[str, object] = field(default_factory=dict)
    """What else a verifier or judge found out, as JSON has it; kept with the rollout."""


@dataclass(frozen=True)
class Usage:
    """What remote services were asked for."""

    requests: int = 0
    """Requests that were sent, failed ones and repetitions included."""
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    """At the prices that the settings state; 0 without prices."""


@dataclass(frozen=True)
class Work:
    """What a component of a run did in a phase."""

    tokens: int = 0
    """That went through its model: those of a prompt once where all its samples share them, those
    of several epochs as often."""
    flops: float = 0.0
    """Estimated floating-point operations."""


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one conversation, of which the first is preferred."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    source: str = ""
    """Where the row came from, as `file:line`."""


@dataclass(frozen=True)
class Demonstration:
    """A conversation and the answer to be imitated."""

    messages: tuple[Message, ...]
    response: str
    source: str = ""
    """Where the row came from, as `file:line`."""
    ends: bool = True
    """False for an answer that a limit has cut: no stop token is learnt from it."""


@dataclass(frozen=True)
class LedgerEntry:
    """What one phase of one step cost."""

    step: int
    phase: str
    """`load`, `generate`, `score`, `annotate`, `update`, `sync`, `checkpoint` or `evaluate`."""
    seconds: float
    """Wall-clock seconds, of a phase that ran beside others those in which it alone was waited
    for: entries add up to the wall time."""
    num_devices: int
    device: str
    """`cpu` or the accelerator's name."""
    tokens: int = 0
    """Tokens that the phase processed: generated, scored or trained on."""
    flops: float = 0.0
    """Estimated floating-point operations of the models, without what gradient checkpointing
    computes again; the sum of `flops_by`."""
    peak_memory_bytes: int = 0
    attempt: int = 0
    """0 for the first start of the run, one more for every resume."""
    status: Literal["ok", "failed"] = "ok"
    requests: int = 0
    """That went to remote services; see `Usage` for this field and the next ones."""
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    flops_by: Mapping[str, float] = field(default_factory=dict)
    """By component: `engine` (generation), `reward_model`, `policy`, `critic`, `reference`."""
    tokens_by: Mapping[str, int] = field(default_factory=dict)
    """Likewise, as `Work` counts them."""
    energy_joules: float | None = None
    """What the devices took in these seconds, by their own counter; None where they do not tell."""
    overlapped_seconds: float = 0.0
    """Further seconds of the phase, which passed while others ran and stand in their entries."""


@dataclass(frozen=True)
class StepResult:
    """What one training step leaves behind."""

    step: int
    """1 for the first step."""
    metrics: Mapping[str, float]
    """`group/name` -> value."""
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...]
    costs: tuple[LedgerEntry, ...]
