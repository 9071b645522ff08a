"""Scores of answers by a reward model: a decoder with one label, such as Skywork-Reward-V2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from grlo.errors import RewardError
from grlo.interfaces import BuildContext, Progress, Scorer, not_shared, silent
from grlo.memory.offload import Offload
from grlo.memory.shortage import TokenBudget
from grlo.modeling.compiled_layers import compile_layers
from grlo.moments import RunningMoments
from grlo.rollout import ChatRenderer
from grlo.sequence_scores import (
    check_renderer,
    conversation_tokens,
    load_sequence_scorer,
    score_sequences,
)
from grlo.settings import Dtype, require
from grlo.thoughts import without_thoughts
from grlo.types import Message, Rollout, Score, Usage
from grlo.work_sizes import SCORED_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class RewardModelSettings:
    """A sequence-classification checkpoint with one label."""

    model: str
    """Folder or hub id."""
    name: str = "reward_model"
    revision: str | None = None
    """Commit or tag on the hub."""
    template: str | None = None
    """Named chat template of ours; None takes that of the reward model's own tokenizer."""
    dtype: Dtype | None = None
    """Type of weights and activations; None is bfloat16 on a GPU and float32 on a CPU."""
    max_tokens: int = 8192
    """Longer conversations lose their oldest tokens; the end of the answer stays."""
    tokens_per_batch: int = 0
    """Tokens in one forward pass, a prompt counted once for all its answers; 0 chooses by
    device."""
    compile: bool = False
    """Whether torch.compile fuses what layers do element by element; for GPUs."""
    strip_thoughts: bool = False
    """Score only what follows the last `</think>`; an answer whose thought never ends is empty."""
    standardize: bool = False
    """Subtract the running mean of the scores and divide by their running standard deviation."""

    def __post_init__(self) -> None:
        require(self.max_tokens > 1, "max_tokens must be at least 2")
        require(self.tokens_per_batch >= 0, "tokens_per_batch must not be negative")

    def build(self, *, context: BuildContext) -> RewardModel:
        """Loads tokenizer and weights.

        Raises:
            ModelError: The checkpoint is no decoder with one label, has weights in another format
                than safetensors, lacks a chat template, or disagrees with its tokenizer.
        """
        renderer = ChatRenderer.from_pretrained(
            self.model, revision=self.revision, template=self.template
        )
        device_type = torch.device(context.device).type
        dtype = self.dtype or ("float32" if device_type == "cpu" else "bfloat16")
        model = load_sequence_scorer(
            self.model, revision=self.revision, dtype=getattr(torch, dtype)
        )
        check_renderer(renderer, model)
        model.requires_grad_(False).eval()
        if self.compile:
            compile_layers(model)
        if context.shard is None:
            torch.nn.Module.to(model, context.device)
        else:
            model = context.shard(model, "reward_model")
        budget = self.tokens_per_batch or SCORED_TOKENS.get(device_type, SCORED_TOKENS["cpu"])
        return RewardModel(
            model,
            renderer,
            settings=self,
            # Others wait for each pass of a sharded model.
            budget=TokenBudget(budget, "" if context.shard is None else "reward.tokens_per_batch"),
            offload=Offload(
                context.offload if context.shard is None else (), device=context.device
            ),
            share=context.share,
        )


class RewardModel:
    """Scores rollouts by a reward model with its own tokenizer and template.

    The decoded answer becomes the assistant's turn of the conversation, which is written and
    tokenized afresh: no token of the policy reaches the reward model. The score is the head's
    output at the last token.

    Args:
        model: From `load_sequence_scorer`.
        renderer: Of the reward model's own checkpoint.
        settings: See `RewardModelSettings`.
        budget: Tokens in one forward pass.
        offload: Says whether the weights wait in the CPU's memory between calls.
        share: See `BuildContext`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: ChatRenderer,
        *,
        settings: RewardModelSettings,
        budget: TokenBudget,
        offload: Offload,
        share: Callable[[Scorer], Scorer] = not_shared,
    ) -> None:
        self._model, self._renderer, self._settings = model, renderer, settings
        self._device, self._is_alone = model.device, share is not_shared
        self._budget = budget
        self._offload = offload
        self._score_shared = share(self._score_sequences)
        with offload.model("reward_model", model):
            pass  # Until something is to be scored.
        self._statistics = RunningMoments()
        self._metrics: dict[str, float] = {}
        self._begun: dict[tuple[int, ...], float] = {}
        """Raw scores of the next call, by the tokens of the conversation."""

    def begin(self, rollouts: Sequence[Rollout], *, drawn_on: str) -> None:
        """Scores answers while another device draws the others; see `Reward`.

        The last bits of a score may depend on what was there to be scored at the same time.
        """
        if self._is_alone and (drawn_on == "elsewhere" or _is_other_gpu(drawn_on, self._device)):
            answers = [(rollout.prompt.messages, rollout.text) for rollout in rollouts]
            sequences, groups, _ = self._conversations(answers)
            scores = self._score_shared(sequences, groups)
            self._begun |= zip(sequences, scores, strict=True)

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        """One score per rollout, in order.

        `parts` holds the `raw` score. With `standardize`, the running statistics take in all scores
        of the call before any is standardised. A score that is not finite is left out: the rollout
        is unscored.
        """
        answers = [(rollout.prompt.messages, rollout.text) for rollout in rollouts]
        raw_scores = self.score_answers(answers, progress=progress)
        finite = [raw for raw in raw_scores if math.isfinite(raw)]
        if self._settings.standardize:
            self._statistics.update(finite)
        if finite:
            mean = math.fsum(finite) / len(finite)
            self._metrics["reward/raw_mean"] = mean
            variance = math.fsum((raw - mean) ** 2 for raw in finite) / len(finite)
            self._metrics["reward/raw_std"] = math.sqrt(variance)
        return [self._score(raw) for raw in raw_scores]

    def score_answers(
        self,
        answers: Sequence[tuple[Sequence[Message], str]],
        *,
        progress: Progress = silent,
    ) -> list[float]:
        """Raw scores of conversations and their answers, in order; NaN where the model gives that.

        Equal conversations with equal answers are scored once.
        """
        sequences, groups, num_truncated = self._conversations(answers)
        begun, self._begun = self._begun, {}
        rows = [row for row, sequence in enumerate(sequences) if sequence not in begun]
        new = [sequences[row] for row in rows]
        begun |= zip(
            new,
            self._score_shared(new, [groups[row] for row in rows], progress=progress),
            strict=True,
        )
        scores = [begun[sequence] for sequence in sequences]
        num_answers = max(1, len(answers))
        num_unscored = sum(not math.isfinite(score) for score in scores)
        self._metrics = {
            "reward/truncated": num_truncated / num_answers,
            "reward/unscored": num_unscored / num_answers,
            "reward/distinct": len(set(sequences)) / num_answers,
        }
        return scores

    def _conversations(
        self, answers: Sequence[tuple[Sequence[Message], str]]
    ) -> tuple[list[tuple[int, ...]], list[int], int]:
        """Tokens of conversations with their answers, the number of each one's prompt, and how many
        were cut."""
        sequences: list[tuple[int, ...]] = []
        prompts: dict[tuple[Message, ...], int] = {}
        groups: list[int] = []
        num_truncated = 0
        for messages, answer in answers:
            if self._settings.strip_thoughts:
                answer = without_thoughts(answer)
            tokens, truncated = conversation_tokens(
                self._renderer, messages, answer, max_tokens=self._settings.max_tokens
            )
            sequences.append(tokens)
            groups.append(prompts.setdefault(tuple(messages), len(prompts)))
            num_truncated += truncated
        return sequences, groups, num_truncated

    def _score_sequences(
        self,
        sequences: Sequence[tuple[int, ...]],
        groups: Sequence[int],
        *,
        progress: Progress = silent,
    ) -> list[float]:
        """Scores by the model as it is in this process."""
        with self._offload.model("reward_model", self._model):
            return score_sequences(
                self._model,
                sequences,
                tokens_per_batch=self._budget,
                groups=groups,
                progress=progress,
            )

    def _score(self, raw: float) -> Score:
        if not math.isfinite(raw):
            return Score(value=None, note=f"the reward model gave {raw}")
        value = self._statistics.standardized(raw) if self._settings.standardize else raw
        return Score(value=value, parts={"raw": raw})

    def state_dict(self) -> dict[str, float]:
        """Count, mean and sum of squared deviations; empty without `standardize`."""
        return asdict(self._statistics) if self._settings.standardize else {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Takes over running statistics.

        Raises:
            RewardError: The state belongs to a reward with another `standardize`.
        """
        if self._settings.standardize != bool(state):
            found = "running statistics" if state else "no running statistics"
            raise RewardError(
                f"the checkpoint has {found}, but reward.standardize is "
                f"{str(self._settings.standardize).lower()}. Resume with the recipe it was made by."
            )
        if state:
            self._statistics = RunningMoments(**state)  # pyright: ignore[reportArgumentType]

    def metrics(self) -> dict[str, float]:
        """Of the latest call: shares of truncated, unscored and distinct conversations; mean and
        standard deviation (population) of the raw scores."""
        return dict(self._metrics)

    def usage(self) -> Usage:
        return Usage()


def _is_other_gpu(name: str, device: torch.device) -> bool:
    """Whether both are GPUs and not the same one."""
    if not name.startswith("cuda") or device.type != "cuda":
        return False
    return (torch.device(name).index or 0) != (device.index or 0)
