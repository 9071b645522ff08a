"""Everything that acts, as protocols without behaviour; plug-ins implement them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from grlo.types import Completion, Message, Prompt, Rollout, SamplingParams, Score, Usage, Work

if TYPE_CHECKING:
    from torch import Tensor

    from grlo.batch import AnnotatedBatch, TokenLoss, TrainBatch


class Progress(Protocol):
    """Told how a long piece of work advances; `grlo.progress` draws bars, tests pass `silent`."""

    def __call__(self, *, done: int, total: int, tokens: int) -> None:
        """`done` of `total` items are finished, after `tokens` tokens were processed in all."""
        ...


def silent(*, done: int, total: int, tokens: int) -> None:
    """The progress that nobody watches."""


class Scorer(Protocol):
    """Scores token sequences, each for itself: a reward model without what it makes of scores."""

    def __call__(
        self,
        sequences: Sequence[tuple[int, ...]],
        groups: Sequence[int],
        *,
        progress: Progress = silent,
    ) -> list[float]:
        """One score per sequence, in order; those of a group begin alike."""
        ...


def not_shared(scorer: Scorer) -> Scorer:
    """What a single process does to share its scoring."""
    return scorer


def never(ending: Callable[[], None]) -> None:
    """The `BuildContext.at_end` of a single process."""


@dataclass(frozen=True)
class BuildContext:
    """What a plug-in is given when it is built from its settings."""

    device: str
    """`cpu` or `cuda`, `cuda:1`, ..."""
    seed: int
    progress: Progress = silent
    decode: Callable[[Sequence[int]], str] | None = None
    """Text of tokens; an engine needs it for `SamplingParams.stop_texts` only."""
    save_tokenizer: Callable[[Path], None] | None = None
    """Saves the policy's tokenizer in a folder; for engines that load one of their own."""
    reserved_bytes: int = 0
    """Memory of the device that the learner will take later and then keep."""
    snapshot: bool = False
    """An engine must hold weights of its own, which `load_weights` alone changes: it draws while
    the learner updates its."""
    offload: Collection[str] = ()
    """What is kept in the CPU's memory while it is not at work; see `grlo.settings.Offload`."""
    num_ranks: int = 1
    """Processes of the run, each of which builds the same plug-ins."""
    share: Callable[[Scorer], Scorer] = not_shared
    """Has all processes take part in scoring, each with whole groups. Called once for each scorer,
    in the same order everywhere."""
    shard: Callable[[Any, str], Any] | None = None
    """Divides the weights of a model (a transformers module on the CPU, under a name of
    `grlo.settings.Offload`) among the devices of all processes; None: each holds all of them."""
    at_end: Callable[[Callable[[], None]], None] = never
    """Takes what is to be called when all processes have done their common work: for a plug-in
    whose end would disturb it. With one process there is no such moment."""


class Renderer(Protocol):
    """Turns messages into tokens and back; the only place where tokens are made."""

    stop_ids: tuple[int, ...]
    """Ids that end an answer: end of text and end of turn."""
    pad_id: int

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of the conversation up to and including the header of the answer."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of an answer, without the stop token and other special tokens."""
        ...


OnCompletion = Callable[[int, Completion], None]
"""Told of each completion as it finishes, with its place in what `generate` will return."""


def ignore(index: int, completion: Completion) -> None:
    """The `OnCompletion` of a caller that waits for all."""


OnGroup = Callable[[list[Rollout]], None]
"""Told of the rollouts of a prompt when the last of them has been drawn."""


class RolloutEngine(Protocol):
    """Draws completions. Takes tokens, returns tokens with log-probabilities.

    It may have an attribute `device`, where it draws: "elsewhere" is on no device of this process.
    """

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        progress: Progress = silent,
        on_completion: OnCompletion = ignore,
    ) -> list[Completion]:
        """`sampling.num_samples` completions per prompt, prompt-major.

        Args:
            prompts: Token ids of each prompt, not padded.
            sampling: How to draw.
            seeds: One seed per prompt. Sample j of a prompt depends on its own seed, on j and on
                the prompt's tokens only: not on other prompts or on how the batch is cut.
            progress: Called as completions finish.
            on_completion: Likewise, with each of them.
        """
        ...

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Takes over the policy's weights under the names of its Hugging Face checkpoint."""
        ...

    def close(self) -> None: ...


class Reward(Protocol):
    """Scores a whole step at once.

    It may also have `describe() -> dict`, what it says of itself for the run's record, and
    `close()`, which ends its processes and connections.

    And it may have `begin(rollouts, *, drawn_on)`, which is told of whole groups in a second thread
    while others are being drawn on that device ("elsewhere": on none of this process's; empty: not
    known). What does not slow that down it may do then, so that `score`, which follows in any case
    and is given all rollouts, returns sooner what it would have returned anyway. The two are never
    called at the same time.
    """

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        """One score per rollout, in order."""
        ...

    def state_dict(self) -> dict[str, float]:
        """Running statistics that belong in a checkpoint; empty when there are none."""
        ...

    def load_state_dict(self, state: Mapping[str, float]) -> None: ...

    def metrics(self) -> dict[str, float]:
        """`reward/...` metrics of the latest call, such as truncation; may be empty."""
        ...

    def usage(self) -> Usage:
        """What the latest call asked of remote services; `Usage()` where all is done here."""
        ...


class Verifier(Protocol):
    """A pure function of prompt and answer, bounded in time.

    A verifier that can grade several answers at once from several threads says how many by an
    attribute `num_workers`; without one it is called from one thread. One with processes of its
    own starts them at the first call and ends them by `close()`. It may have `describe() -> dict`,
    what it says of itself for the record.
    """

    def __call__(self, prompt: Prompt, text: str) -> Score:
        """The score, `extracted` and, where answers may be unreadable, `parsed` (0 or 1) in parts.

        An answer that is wrong or unreadable scores 0. What is not the answer's fault (a broken
        sandbox, a malformed reference) leaves it unscored or raises.
        """
        ...


class Algorithm(Protocol):
    """How scores become credit and credit becomes a loss; the settings are the object.

    It may have `zero_advantage_metrics`, by which it says that rows without advantages need not be
    read (`grlo.algorithms.clipped.ClippedPolicy`); without it every row is.
    """

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities of the initial policy are needed; it is loaded only then."""
        ...

    @property
    def needs_old_logprobs(self) -> bool:
        """Whether `assign_credit` reads the policy's log-probabilities (a KL in the reward).

        Losses do without: where a step makes one update, the policy is its own old one.
        """
        ...

    @property
    def needs_critic(self) -> bool:
        """Whether values are needed; if so the object is an `ActorCritic`."""
        ...

    def assign_credit(self, batch: AnnotatedBatch) -> TrainBatch: ...

    def policy_loss(self, logprobs_BT: Tensor, entropy_BT: Tensor, batch: TrainBatch) -> TokenLoss:
        """Loss of every token; the learner reduces it.

        Args:
            logprobs_BT: Log-probabilities under the policy being trained, with gradient.
            entropy_BT: Entropy of the policy at each token, with gradient.
            batch: The rows that `logprobs_BT` belongs to.
        """
        ...

    @property
    def reduction(self) -> str:
        """A key of `grlo.batch.REDUCTIONS`."""
        ...


class ActorCritic(Algorithm, Protocol):
    """An algorithm with a value function."""

    def value_loss(self, values_BT: Tensor, batch: TrainBatch) -> TokenLoss: ...

    @property
    def critic_warmup_steps(self) -> int:
        """Steps in which only the critic is trained."""
        ...


@dataclass(frozen=True)
class GradedSample:
    """An answer to a problem of a benchmark, and what it scored."""

    prompt: Prompt
    """What was answered: in later turns with the turns before."""
    problem: int
    """Place of the problem in the benchmark."""
    draw: int
    """Number of the answer among those to its problem, from 0 on."""
    turn: int
    """0 for the answer to the problem, 1 for that to its first follow-up, ..."""
    text: str
    finish_reason: Literal["stop", "length", "failed"]
    """`failed`: a remote model gave no answer."""
    num_tokens: int
    """Of the answer, the stop token included; for a remote model as its endpoint counts."""
    score: Score


Numbers = Callable[[Sequence[GradedSample]], Mapping[str, float]]
"""Further numbers of a whole result, by their names."""


@dataclass(frozen=True)
class Benchmark:
    """Problems, how they are sampled, and what grades the answers."""

    name: str
    domain: str
    """`chat`, `instruction_following`, `math`, `code`, `science`, ..."""
    prompts: tuple[Prompt, ...]
    """`meta["follow_ups"]`, where there is one, lists what the user says after each answer."""
    verifier: Verifier | Reward | None
    """Grades an answer; a reward grades many at once. None: answers are drawn and kept without
    scores, because a judge is needed and none was given."""
    sampling: SamplingParams
    """`num_samples` answers are drawn per problem; `stop` is filled in by the renderer."""
    source: str
    """Where the problems come from."""
    version: str
    """Of our protocol; results of different versions are never compared."""
    paper: str = ""
    """The paper that defines benchmark and protocol."""
    protocol: str = ""
    """In words: what is graded how, and where that differs from the paper."""
    data_sha256: str = ""
    """Of the rows as they were read; empty for problems that are made by a program."""
    variant: str = "sampled"
    """`sampled`, `greedy` or `4-shot`: a row of a table; averages never mix them."""
    shots: tuple[tuple[str, str], ...] = ()
    """Questions with answers that stand before each problem, as plain text without a template."""
    is_private: bool = False
    """Its authors ask that nobody shows the problems: they are written nowhere, and answers only
    in a form that cannot be read by chance."""
    unit: str = "share"
    """`share`: scores run from 0 to 1 and are shown in percent; else what a score counts."""
    numbers: Numbers | None = None
    """Further numbers of the whole result."""


class PromptSource(Protocol):
    """Says which prompts belong to a step."""

    def batch(self, step: int) -> list[Prompt]: ...


class FlopCounter(Protocol):
    """Estimates the work of a phase by component from the tokens that went through it."""

    def __call__(
        self, phase: str, rollouts: Sequence[Rollout], *, step: int
    ) -> Mapping[str, Work]: ...


class Tracker(Protocol):
    """Receives what a run logs. Fails loudly when opened, never stops training afterwards."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None: ...

    def log_rollouts(
        self, rollouts: Sequence[Rollout], scores: Sequence[Score], *, step: int
    ) -> None: ...

    def close(self) -> None: ...
