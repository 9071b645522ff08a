"""The sections of a recipe as plain frozen dataclasses; `grlo.recipe` reads and validates them.

Every field is documented here and nowhere else. Sections `engine`, `reward` and `algorithm` are
the settings dataclass of the plug-in that their `name` selects. Defaults are the published ones
where the paper or its release states them; models, prompt files and paths have no default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

Dtype = Literal["float32", "bfloat16"]
Sharding = Literal["auto", "fsdp", "ddp"]
Offload = Literal["optimizer", "reference", "critic", "reward_model"]
"""What can be kept in the CPU's memory while it is not at work."""


def require(condition: bool, message: str) -> None:
    """Raises ValueError with `message` unless `condition` holds; for `__post_init__` checks."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Plugin:
    """Marks a field that holds the settings of a plug-in: `Annotated[object, Plugin("reward")]`."""

    kind: str
    """`reward`, `verifier`, `algorithm` or `engine`."""
    default: str | None = None
    """Name of the plug-in where none is given; None demands one."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters instead of full fine-tuning (Hu et al. 2021), through peft."""

    rank: int = 32
    alpha: int = 64
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        require(self.rank > 0, "rank must be positive")
        # Dropout would make the learner's log-probabilities differ from the engine's.
        require(0 <= self.dropout < 1, "dropout must lie in [0, 1)")


@dataclass(frozen=True)
class ModelSettings:
    """The policy that is trained."""

    model: str
    """Folder or hub id of a Hugging Face causal language model."""
    revision: str | None = None
    """Commit or tag on the hub."""
    template: str | None = None
    """Named chat template of ours; None takes the tokenizer's own."""
    param_dtype: Dtype = "float32"
    """Type that weights and optimizer state are kept in. Updates of 1e-6 vanish in bfloat16."""
    compute_dtype: Dtype = "bfloat16"
    """Type of matrix products (autocast) when it differs from `param_dtype`."""
    gradient_checkpointing: bool | Literal["selective"] = True
    """Whether the backward pass computes layers again instead of keeping what is inside them.
    `selective` keeps products of matrices and attention, and computes only what is cheap again."""
    attention: Literal["packed", "sdpa", "eager", "flash_attention_2"] = "packed"
    """`packed` leaves padding out and computes a prompt once for all its samples."""
    compile: bool = False
    """Whether torch.compile fuses what layers do element by element; for GPUs. Needs `packed`."""
    lora: LoraSettings | None = None

    def __post_init__(self) -> None:
        require(
            not self.compile or self.attention == "packed",
            "compile fuses layers of packed passes: set attention = 'packed'",
        )
        require(
            not self.compile or self.gradient_checkpointing != "selective",
            "compile chooses itself what is cheap to compute again: set gradient_checkpointing to "
            "true or false, not 'selective'",
        )


@dataclass(frozen=True)
class PromptSettings:
    """Where the prompts come from and how they are drawn."""

    sources: tuple[str, ...]
    """Files (.jsonl, .jsonl.gz, .parquet) or hub data sets as `hub:owner/name[:split]`."""
    max_prompt_tokens: int = 1024
    overlong: Literal["drop", "error"] = "drop"
    """What happens to a prompt above the limit; drops are counted and listed."""
    limit: int = 0
    """The first so many prompts of all sources together; 0 takes all."""
    default_style: str = "model"
    """Style of rows in forms that carry none."""
    suffixes: Mapping[str, str] = field(default_factory=dict)
    """Style -> text appended, as it is, to the last message of its prompts, training and gold: how
    to put the final answer, for instance."""

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "sources must name at least one file or data set")
        require(self.max_prompt_tokens > 0, "max_prompt_tokens must be positive")
        require(self.limit >= 0, "limit must not be negative")


@dataclass(frozen=True)
class SamplingSettings:
    """Rollouts of a training step. The whole distribution is sampled: top-p or top-k would make the
    engine's log-probabilities those of another policy than the one that is trained."""

    prompts_per_step: int = 1024
    samples_per_prompt: int = 1
    max_tokens: int = 3072
    temperature: float = 1.0
    max_draws: int = 1
    """1 trains on every group. More is DAPO's dynamic sampling (arXiv 2503.14476, section 3.2):
    groups whose samples all score the same are left out and `prompts_per_step` further prompts
    are drawn, at most so many times a step, until as many groups remain. A step trains on what it
    has found then; the third on end that has found nothing stops the run. What was drawn and left
    out stands in rollouts, metrics and ledger all the same."""

    def __post_init__(self) -> None:
        require(self.max_draws > 0, "max_draws must be positive")
        require(
            self.max_draws == 1 or self.samples_per_prompt > 1,
            "max_draws leaves out groups without spread, and a single sample has none; "
            "samples_per_prompt must be at least 2",
        )
        require(self.prompts_per_step > 0, "prompts_per_step must be positive")
        require(self.samples_per_prompt > 0, "samples_per_prompt must be positive")
        require(self.max_tokens > 0, "max_tokens must be positive")
        require(self.temperature > 0, "temperature must be positive in training")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW (Loshchilov and Hutter 2019)."""

    learning_rate: float
    name: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit` keeps both moments of parameters with 4,096 elements or more in 8 bits, by
    blocks of 256 (Dettmers et al. 2022, arXiv 2110.02861), through bitsandbytes."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    """Global norm above which the gradient is scaled down; 0 never clips."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After the warm-up: constant, or down to `final_fraction` at the last step."""
    warmup_steps: int = 0
    decay_start: float = 0.0
    """Share of the run after which the decay begins."""
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate must be positive")
        require(self.weight_decay >= 0, "weight_decay must not be negative")
        require(0 <= self.decay_start < 1, "decay_start must lie in [0, 1)")


@dataclass(frozen=True)
class CriticSettings:
    """The value function of actor-critic algorithms."""

    model: str | None = None
    """Checkpoint it starts from; None is the policy's own. A sequence-classification checkpoint
    with one label, such as the reward model, lends its head too."""
    lora: LoraSettings | None = None
    share_trunk: bool = False
    """A scalar head on the policy's own trunk instead of a second model, trained by one joint loss
    (`grlo.training.shared_critic`)."""
    value_coefficient: float = 0.1
    """c1 of that loss, L_policy + c1 L_value (Schulman et al. 2017, eq. 9); 0.1 is Ziegler et al.'s
    (arXiv 1909.08593, in their code), who share a language model's trunk too."""
    detach: bool = False
    """The gradient of the value loss ends at the head and leaves the trunk to the policy."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(learning_rate=1e-5)
    )
    """Of the critic's own weights; with `share_trunk` those of the head."""

    def __post_init__(self) -> None:
        for name in ("model", "lora"):
            require(
                not self.share_trunk or getattr(self, name) is None,
                f"{name} has no effect with share_trunk: the trunk is the policy's. Remove "
                f"critic.{name}, or share_trunk",
            )
        require(self.value_coefficient > 0, "value_coefficient must be positive")
        require(
            self.share_trunk or (self.value_coefficient == 0.1 and not self.detach),
            "value_coefficient and detach have no effect without share_trunk: a critic of its own "
            "has a loss and an optimizer of its own",
        )


@dataclass(frozen=True)
class TrainingSettings:
    """How long, and how a step's rollouts become updates."""

    steps: int
    """Rollout steps of the run."""
    num_minibatches: int = 4
    """Updates per pass over the rollouts of a step."""
    num_epochs: int = 1
    """Passes over the rollouts of a step."""
    micro_batch_tokens: int = 16384
    """Tokens in one forward and backward pass; changes memory, not gradients. 0 chooses by the
    memory that the device has (`grlo.memory.plan`), and adds to `offload` what has to be. Where
    memory runs out all the same, it is halved for the rest of the run."""
    offload: tuple[Offload, ...] = ()
    """What is kept in the CPU's memory while it is not at work: states of the `optimizer` but for
    its step, weights of the `reference`, the `critic` or the `reward_model`. It changes no number,
    and costs two transfers each time. For GPUs only. With `sharding = "fsdp"` shards wait there
    for each pass, and `optimizer` is all that is trained, with its optimizer's step: FSDP keeps
    them together."""
    sharding: Sharding = "auto"
    """What several devices (`grlo train --devices`) have of the models. `ddp`: each all weights,
    and gradients are added up; `fsdp`: each a part of all weights, gradients and optimizer states;
    `auto`: `ddp` with adapters, on CPUs, and where the plan (`grlo.memory.plan`) has room for it.
    It says nothing of what is trained: a run may go on with another, and on other devices."""
    device: str = "auto"
    """`auto` is `cuda` when there is one, else `cpu`."""
    num_threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice."""
    overlap: bool = False
    """While the learner updates, the engine draws the answers of the next step by the weights from
    before the update: they are one step old when they are trained on, which
    `algorithm.importance_cap` corrects. The engine then holds weights of its own."""

    def __post_init__(self) -> None:
        require(self.steps > 0, "steps must be positive")
        require(self.num_minibatches > 0, "num_minibatches must be positive")
        require(self.num_epochs > 0, "num_epochs must be positive")
        require(self.micro_batch_tokens >= 0, "micro_batch_tokens must not be negative")
        require(len(set(self.offload)) == len(self.offload), "offload names something twice")


@dataclass(frozen=True)
class BudgetSettings:
    """Where a run ends before its last step (`grlo.training.budget`); 0 has no limit.

    Loading, checkpoints, evaluations, failures and work that a resume does again are not charged.
    """

    device_hours: float = 0.0
    generated_tokens: float = 0.0
    trained_tokens: float = 0.0
    """Tokens of prompts and answers that updates read."""
    flops: float = 0.0
    """Estimates from shapes and lengths."""
    prompts: float = 0.0
    """Prompts drawn, or rows of fine-tuning; each as often as it comes."""

    def __post_init__(self) -> None:
        for name in ("device_hours", "generated_tokens", "trained_tokens", "flops", "prompts"):
            require(getattr(self, name) >= 0, f"{name} must not be negative")


@dataclass(frozen=True)
class PriceSettings:
    """What a run is charged for its devices, for `grlo cost`.

    Prices say nothing of what is trained: a run goes on under other ones, and keeps the newest.
    """

    device_hour: float = 0.0
    """Of one device for an hour; 0 shows no money."""
    currency: str = "USD"
    """What remote services cost is in dollars: it is added where this is USD."""

    def __post_init__(self) -> None:
        require(0 <= self.device_hour < math.inf, "device_hour must be a number and not negative")
        require(
            self.currency.isprintable() and 0 < len(self.currency.strip()) <= 8,
            "currency must be a short name such as USD",
        )


@dataclass(frozen=True)
class CheckpointSettings:
    """What is kept of a run."""

    every: int = 1
    """Steps between checkpoints; the last step always leaves one. With 1 a killed run loses at
    most the step it was in."""
    keep_last: int = 2
    keep_best: bool = True
    """Keeps the checkpoint that is best by `best_by` besides."""
    best_by: str = ""
    """A metric of which more is better: `reward/mean`, `gold/mean`, or a score of the section
    `evaluation` such as `eval/math500`, `eval/domain/math` or `eval/average`. Empty is
    `gold/mean` with a gold signal, else `reward/mean`."""

    def __post_init__(self) -> None:
        require(self.every > 0, "every must be positive")
        require(self.keep_last > 0, "keep_last must be positive")
        require(
            self.best_by in ("", "reward/mean", "gold/mean") or self.best_by.startswith("eval/"),
            "best_by must be 'reward/mean', 'gold/mean' or begin with 'eval/'",
        )


@dataclass(frozen=True)
class TrackerSettings:
    """Where metrics go besides metrics.jsonl, which is always written."""

    names: tuple[str, ...] = ()
    """Any of `tensorboard`, `wandb`, `trackio`."""
    project: str = "grlo"


@dataclass(frozen=True)
class ShapingSettings:
    """What is subtracted from the reward (`grlo.rewards.shaping` has the formulas). All off.

    Penalties are in units of the running standard deviation of the unshaped reward.
    """

    overlong_buffer: int = 0
    """Tokens before `sampling.max_tokens` in which the overlong penalty rises linearly; 0: none.
    DAPO has 4096 before a limit of 20480."""
    overlong_penalty: float = 1.0
    """At the limit."""
    missing_end_penalty: float = 0.0
    """For an answer that the limit cut before a token that ends it."""
    repetition_penalty: float = 0.0
    """For an answer of which every n-gram is a repetition; less in proportion."""
    repetition_ngram: int = 4
    repetition_threshold: float = 0.0
    """Share of repeated n-grams up to which nothing is subtracted."""
    length_difference_penalty: float = 0.0
    """For each token by which a right extracted answer is longer or shorter than the reference;
    General-Reasoner has 0.05 with `unit = "absolute"`."""
    length_difference_cap: int = 10
    """Most tokens that are counted."""
    clip: float = 0.0
    """Scores further than so many standard deviations from the running mean are moved to there,
    before all else; 0: none."""
    standardize: bool = False
    """Subtract the running mean, divide by the running standard deviation, then subtract
    penalties."""
    unit: Literal["spread", "absolute"] = "spread"
    """`absolute` subtracts penalties as they stand: for rewards of 0 and 1."""

    def __post_init__(self) -> None:
        for name in (
            "overlong_buffer",
            "overlong_penalty",
            "missing_end_penalty",
            "repetition_penalty",
            "length_difference_penalty",
            "clip",
        ):
            require(getattr(self, name) >= 0, f"{name} must not be negative")
        require(self.repetition_ngram > 0, "repetition_ngram must be positive")
        require(0 <= self.repetition_threshold < 1, "repetition_threshold must lie in [0, 1)")
        require(self.length_difference_cap > 0, "length_difference_cap must be positive")
        require(
            self.overlong_buffer > 0 or self.overlong_penalty == 1,
            "overlong_penalty has no effect without overlong_buffer",
        )
        require(
            self.repetition_penalty > 0 or self.repetition_threshold == 0,
            "repetition_threshold has no effect without repetition_penalty",
        )
        require(
            not (self.standardize and self.unit == "absolute"),
            "unit = 'absolute' has no effect with standardize: penalties are then in units of 1",
        )

    @property
    def is_on(self) -> bool:
        """Whether any term changes a score."""
        return bool(
            (self.overlong_buffer and self.overlong_penalty)
            or self.missing_end_penalty
            or self.repetition_penalty
            or self.length_difference_penalty
            or self.clip
            or self.standardize
        )


@dataclass(frozen=True)
class GoldSettings:
    """A second reward that is watched and never trained on (`grlo.evaluation.gold`).

    With this section `checkpoint.keep_best` keeps the checkpoint with the best gold, unless
    `checkpoint.best_by` names another metric.
    """

    reward: Annotated[object, Plugin("reward")]
    """Settings of the gold reward: a better judge, a verifier, a larger reward model."""
    every: int = 10
    """Steps between evaluations; the last step always has one."""
    sources: tuple[str, ...] = ()
    """Held-out prompts, in the forms of `prompts.sources`. Without any, the rollouts of the step
    are scored, which costs no sampling and shows less."""
    num_prompts: int = 0
    """How many of the held-out prompts, drawn once by the seed; 0 takes all."""
    samples_per_prompt: int = 1
    stop_after: int = 0
    """Training stops after so many evaluations in a row in which gold lies below its best while
    the training reward lies above what it was then; 0 never stops."""
    stop_margin: float = 1.0
    """Gold has to lie below its best by more than so many of its standard errors."""

    def __post_init__(self) -> None:
        require(self.every > 0, "every must be positive")
        require(self.num_prompts >= 0, "num_prompts must not be negative")
        require(self.samples_per_prompt > 0, "samples_per_prompt must be positive")
        require(self.stop_after >= 0, "stop_after must not be negative")
        require(self.stop_margin >= 0, "stop_margin must not be negative")
        require(
            bool(self.sources) or (self.num_prompts == 0 and self.samples_per_prompt == 1),
            "num_prompts and samples_per_prompt have no effect without sources",
        )


@dataclass(frozen=True)
class EvaluationSettings:
    """Benchmarks that are run on the policy during training (`grlo.evaluation.periodic`).

    Samples go to `evaluations/step_*/` of the run, scores to the metrics `eval/...`.
    """

    suite: str = ""
    """Name of a suite, such as `quick`."""
    benchmarks: tuple[str, ...] = ()
    """Names, import paths, or TOML files of one's own."""
    every: int = 50
    """Steps between evaluations; the last step always has one."""
    rows: tuple[str, ...] = ()
    """Any of `sampled`, `greedy` and `4-shot`; empty takes those of the suite, or `sampled`."""
    limit: int = 0
    """Problems of each benchmark, evenly spaced; 0 takes all, or as many as the suite says."""
    max_tokens: int = 0
    """0 leaves that of the benchmark; so does 0 in the next one."""
    num_samples: int = 0
    data: str = ""
    """Folder with data files; empty is what GRLO_DATA names."""
    judge: str = ""
    """TOML file that says who judges chat benchmarks."""

    def __post_init__(self) -> None:
        require(bool(self.suite or self.benchmarks), "name a suite or benchmarks")
        require(self.every > 0, "every must be positive")
        for name in ("limit", "max_tokens", "num_samples"):
            require(getattr(self, name) >= 0, f"{name} must not be negative")


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a run."""

    policy: ModelSettings
    prompts: PromptSettings
    reward: Annotated[object, Plugin("reward")]
    """Settings of the reward that `reward.name` selects."""
    algorithm: Annotated[object, Plugin("algorithm")]
    """The algorithm that `algorithm.name` selects."""
    training: TrainingSettings
    seed: int = 0
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    engine: Annotated[object, Plugin("engine", default="hf")] = None
    """Settings of the engine that `engine.name` selects; `hf` by default."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(learning_rate=1e-6)
    )
    critic: CriticSettings = field(default_factory=CriticSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    prices: PriceSettings = field(default_factory=PriceSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    shaping: ShapingSettings = field(default_factory=ShapingSettings)
    gold: GoldSettings | None = None
    evaluation: EvaluationSettings | None = None
    trackers: TrackerSettings = field(default_factory=TrackerSettings)


@dataclass(frozen=True)
class DemonstrationSettings:
    """Where the demonstrations of supervised fine-tuning come from."""

    sources: tuple[str, ...]
    """Files (.jsonl, .jsonl.gz, .parquet) or hub data sets as `hub:owner/name[:split]`."""
    response: str | None = None
    """Field with the answer, dotted where it lies in another (`reward_model.ground_truth`); None
    takes the one that the row has (`grlo.prompts.demonstrations`)."""
    suffix: str = ""
    """Appended, as it is, to the last message of every prompt."""
    max_tokens: int = 4096
    """Most tokens of prompt and response together."""
    overlong: Literal["drop", "cut", "error"] = "drop"
    """What happens to a longer demonstration. `cut` ends its response at the limit, without a stop
    token; one whose prompt alone reaches the limit is dropped. Both are counted."""
    held_out_fraction: float = 0.0
    """Share of the prompts whose demonstrations are kept out of training, drawn by the seed."""

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "sources must name at least one file or data set")
        require(self.max_tokens > 1, "max_tokens must be at least 2")
        require(0 <= self.held_out_fraction < 1, "held_out_fraction must lie in [0, 1)")


@dataclass(frozen=True)
class SFTTrainingSettings:
    """How long supervised fine-tuning takes, and what an update is made of."""

    num_epochs: int = 0
    """Passes over the demonstrations; or give `steps`."""
    steps: int = 0
    """Updates; or give `num_epochs`."""
    rows_per_step: int = 64
    """Demonstrations in one update."""
    evaluate_every: int = 50
    """Steps between measurements of the held-out loss; the last step always has one."""
    micro_batch_tokens: int = 16384
    """Tokens in one forward and backward pass; changes memory, not gradients."""
    device: str = "auto"
    """`auto` is `cuda` when there is one, else `cpu`."""
    num_threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice."""

    def __post_init__(self) -> None:
        require(self.num_epochs >= 0 and self.steps >= 0, "num_epochs and steps count from 1")
        require(
            (self.num_epochs > 0) != (self.steps > 0), "give either num_epochs or steps, not both"
        )
        require(self.rows_per_step > 0, "rows_per_step must be positive")
        require(self.evaluate_every > 0, "evaluate_every must be positive")
        require(self.micro_batch_tokens > 0, "micro_batch_tokens must be positive")


@dataclass(frozen=True)
class SFTCheckpointSettings(CheckpointSettings):
    """What is kept of a run of supervised fine-tuning."""

    every: int = 100
    """Steps between checkpoints; the last step always leaves one."""
    keep_best: bool = True
    """Writes a checkpoint whenever the held-out loss is the lowest so far, and keeps it besides."""


@dataclass(frozen=True)
class SFTRecipe:
    """Everything that determines a run of supervised fine-tuning."""

    policy: ModelSettings
    data: DemonstrationSettings
    training: SFTTrainingSettings
    seed: int = 0
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(learning_rate=1e-5)
    )
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    prices: PriceSettings = field(default_factory=PriceSettings)
    checkpoint: SFTCheckpointSettings = field(default_factory=SFTCheckpointSettings)
    trackers: TrackerSettings = field(default_factory=TrackerSettings)
