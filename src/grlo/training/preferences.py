"""Reward models from preference pairs, by the Bradley-Terry model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from grlo.batch import pack_by_tokens
from grlo.errors import DataError, ModelError, NonFiniteError
from grlo.interfaces import Progress, silent
from grlo.rollout import ChatRenderer
from grlo.seeding import derive_rng, derive_seed
from grlo.sequence_scores import (
    check_renderer,
    conversation_tokens,
    forward_scores,
    load_sequence_scorer,
    score_sequences,
)
from grlo.templates import TEMPLATES
from grlo.types import PreferencePair

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = tuple[int, ...]
TokenPair = tuple[Tokens, Tokens]
"""The chosen and the rejected conversation."""


@dataclass(frozen=True)
class RewardModelTraining:
    """How a reward model is fitted to preference pairs."""

    model: str
    """Folder or hub id of a causal language model, which gets a head that starts at zero, or of a
    sequence classifier with one label."""
    steps: int
    revision: str | None = None
    template: str | None = None
    """Named chat template of ours; None takes the tokenizer's own."""
    pairs_per_batch: int = 32
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls to zero after the warm-up."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the learning rate rises."""
    max_grad_norm: float = 1.0
    value_penalty: float = 1e-3
    """Coefficient of the mean squared score, which fixes the scores' origin and bounds them."""
    max_tokens: int = 4096
    """Longer conversations lose their oldest tokens."""
    micro_batch_tokens: int = 8192
    """Tokens (padding included) in one forward and backward pass; changes memory, not gradients."""
    held_out_fraction: float = 0.1
    """Share of the conversations kept for measuring accuracy; 0 trains on all."""
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of matrix products; weights and optimizer state are kept in float32."""
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        if self.steps <= 0 or self.pairs_per_batch <= 0:
            raise ValueError("steps and pairs_per_batch must be positive")
        if not 0 <= self.held_out_fraction < 1:
            raise ValueError("held_out_fraction must lie in [0, 1)")


def bradley_terry_loss(chosen_P: Tensor, rejected_P: Tensor, *, value_penalty: float) -> Tensor:
    """Negative log-likelihood of the preferences, and a pull of the scores towards zero.

    `-log sigmoid(chosen - rejected) + value_penalty (chosen^2 + rejected^2) / 2` (Bradley and Terry
    1952; Ouyang et al. 2022, equation 1, without the penalty).

    Args:
        chosen_P: Scores of the preferred answers, shape [P] for P pairs.
        rejected_P: Scores of the others.
        value_penalty: Coefficient of the mean squared score.

    Returns:
        Loss of every pair, shape [P].
    """
    penalty_P = (chosen_P.square() + rejected_P.square()) / 2
    return -logsigmoid(chosen_P - rejected_P) + value_penalty * penalty_P


def train_reward_model(
    settings: RewardModelTraining,
    pairs: Sequence[PreferencePair],
    *,
    out: Path,
    progress: Progress = silent,
) -> dict[str, float]:
    """Fits a reward model and writes it as an ordinary sequence-classification checkpoint.

    The checkpoint holds one label, a pad token that no conversation ends with (transformers finds
    the last token by it) and the tokenizer with the template that was used. The result is a
    function of the settings and the pairs.

    Args:
        settings: See `RewardModelTraining`.
        pairs: Preferences; conversations that occur more than once stay on one side of the split.
        out: Folder of the checkpoint.
        progress: Called after every step.

    Returns:
        `loss` (mean over the last tenth of the steps), `num_pairs`, `num_truncated` conversations
        and, unless `held_out_fraction` is 0, `accuracy` (a tie is half right), `margin` (mean
        difference of the scores), `num_ties` and `num_held_out` of the held-out pairs.

    Raises:
        DataError: There are too few pairs for the split.
        ModelError: The model or its tokenizer cannot be used.
        NonFiniteError: The loss or its gradient is not finite; nothing is written.
    """
    renderer = ChatRenderer.from_pretrained(
        settings.model, revision=settings.revision, template=settings.template
    )
    model = load_sequence_scorer(
        settings.model, revision=settings.revision, dtype=torch.float32, fresh_head=True
    )
    torch.nn.Module.to(model, settings.device)
    check_renderer(renderer, model)

    num_truncated = 0
    encoded: list[TokenPair] = []
    for pair in pairs:
        chosen, chosen_cut = _encode(renderer, pair, pair.chosen, settings.max_tokens)
        rejected, rejected_cut = _encode(renderer, pair, pair.rejected, settings.max_tokens)
        encoded.append((chosen, rejected))
        num_truncated += chosen_cut + rejected_cut
    train, held_out = split_by_conversation(
        pairs, encoded, fraction=settings.held_out_fraction, seed=settings.seed
    )

    with torch.random.fork_rng():  # Dropout, in the models that have any.
        torch.manual_seed(derive_seed(settings.seed, "dropout"))
        losses = _fit(model, train, settings, progress=progress)
    last_losses = losses[-max(1, len(losses) // 10) :]
    metrics = {
        "loss": sum(last_losses) / len(last_losses),
        "num_pairs": float(len(train)),
        "num_truncated": float(num_truncated),
    }
    if held_out:
        metrics |= _held_out_metrics(model, held_out, settings)

    pad_id = _pad_id(renderer, encoded)
    model.config.pad_token_id = pad_id
    renderer.tokenizer.pad_token_id = pad_id
    if settings.template is not None:
        renderer.tokenizer.chat_template = TEMPLATES[settings.template].text
    model.to(getattr(torch, settings.save_dtype)).save_pretrained(out)
    renderer.tokenizer.save_pretrained(out)
    return metrics


def split_by_conversation(
    pairs: Sequence[PreferencePair], encoded: Sequence[TokenPair], *, fraction: float, seed: int
) -> tuple[list[TokenPair], list[TokenPair]]:
    """Training and held-out pairs; those of one conversation stay together.

    Raises:
        DataError: One of the two sides would be empty.
    """
    conversations = list(dict.fromkeys(pair.messages for pair in pairs))
    derive_rng(seed, "held_out").shuffle(conversations)
    held = set(conversations[: math.ceil(fraction * len(conversations))])
    sides: tuple[list[TokenPair], list[TokenPair]] = ([], [])
    for pair, tokens in zip(pairs, encoded, strict=True):
        sides[pair.messages in held].append(tokens)
    if not sides[0]:
        raise DataError(
            f"{len(conversations)} conversations leave none to train on with held_out_fraction = "
            f"{fraction}. Give more pairs or a smaller fraction."
        )
    return sides


def _encode(
    renderer: ChatRenderer, pair: PreferencePair, answer: str, max_tokens: int
) -> tuple[Tokens, bool]:
    return conversation_tokens(renderer, pair.messages, answer, max_tokens=max_tokens)


def _fit(
    model: PreTrainedModel,
    pairs: Sequence[TokenPair],
    settings: RewardModelTraining,
    *,
    progress: Progress,
) -> list[float]:
    """Trains in place and returns the loss of every step."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _learning_rate_factor(settings))
    model.train()
    losses, tokens = [], 0
    batches = _batches(pairs, size=settings.pairs_per_batch, seed=settings.seed)
    for step in range(1, settings.steps + 1):
        batch = next(batches)
        parts = pack_by_tokens(
            [2 * max(map(len, pair)) for pair in batch], max_tokens=settings.micro_batch_tokens
        )
        loss = 0.0
        for part in parts:
            with _autocast(settings):
                scores = forward_scores(model, [side for index in part for side in batch[index]])
            loss_P = bradley_terry_loss(
                scores[::2], scores[1::2], value_penalty=settings.value_penalty
            )
            part_loss = loss_P.sum() / len(batch)
            part_loss.backward()
            loss += part_loss.item()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        if not math.isfinite(loss) or not torch.isfinite(grad_norm):
            raise NonFiniteError(
                f"step {step}: loss {loss}, gradient norm {float(grad_norm)}. Lower learning_rate "
                f"({settings.learning_rate}) or look for damaged weights in {settings.model}."
            )
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss)
        tokens += sum(len(side) for pair in batch for side in pair)
        progress(done=step, total=settings.steps, tokens=tokens)
    return losses


def _learning_rate_factor(settings: RewardModelTraining) -> Callable[[int], float]:
    warmup = max(1, round(settings.warmup_fraction * settings.steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, settings.steps - warmup)
        return 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2

    return factor


def _batches(pairs: Sequence[TokenPair], *, size: int, seed: int) -> Iterator[list[TokenPair]]:
    """Endless batches over shuffled epochs; a batch may reach into the next epoch."""
    batch: list[TokenPair] = []
    epoch = 0
    while True:
        order = list(pairs)
        derive_rng(seed, "epoch", epoch).shuffle(order)
        for pair in order:
            batch.append(pair)
            if len(batch) == size:
                yield batch
                batch = []
        epoch += 1


def _autocast(settings: RewardModelTraining) -> AbstractContextManager[object]:
    if settings.dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(settings.device).type, dtype=torch.bfloat16)


def _held_out_metrics(
    model: PreTrainedModel, held_out: Sequence[TokenPair], settings: RewardModelTraining
) -> dict[str, float]:
    with _autocast(settings):
        scores = score_sequences(
            model,
            [side for pair in held_out for side in pair],
            tokens_per_batch=settings.micro_batch_tokens,
            groups=[index // 2 for index in range(2 * len(held_out))],
        )
    margins = [c - r for c, r in zip(scores[::2], scores[1::2], strict=True)]
    num_ties = sum(margin == 0 for margin in margins)
    return {
        "accuracy": (sum(margin > 0 for margin in margins) + num_ties / 2) / len(margins),
        "margin": sum(margins) / len(margins),
        "num_ties": float(num_ties),
        "num_held_out": float(len(margins)),
    }


def _pad_id(renderer: ChatRenderer, encoded: Sequence[TokenPair]) -> int:
    """A pad id that no conversation ends with."""
    last = {side[-1] for pair in encoded for side in pair}
    for token in (renderer.pad_id, *renderer.stop_ids, *renderer.tokenizer.all_special_ids):
        if token not in last:
            return token
    raise ModelError(
        "every special token of the tokenizer ends some conversation, so that none can pad. "
        "Add a pad token to the tokenizer."
    )
