"""Scores of whole conversations from a decoder with a one-label head.

The score sits on the last token of the conversation. Batches are padded on the right, which causal
attention never sees, and the last token is found from the lengths: never from a pad id, which may
be missing or equal to the token that ends every answer.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor

from grlo.batch import pack_shared
from grlo.errors import DeviceMemoryError, ModelError
from grlo.inference import evaluating
from grlo.interfaces import Progress, silent
from grlo.memory.shortage import TokenBudget, lacks_memory
from grlo.modeling import packed
from grlo.modeling.last_layer import read_few_tokens, reads_few_tokens
from grlo.modeling.layers import use_fast_layers
from grlo.modeling.passes import whole_pass
from grlo.rollout import ChatRenderer, check_compatible
from grlo.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_sequence_scorer(
    model: str, *, revision: str | None = None, dtype: torch.dtype, fresh_head: bool = False
) -> PreTrainedModel:
    """Loads a sequence-classification model with one label.

    Args:
        model: Folder or hub id.
        revision: Commit or tag on the hub.
        dtype: Type of the weights in memory.
        fresh_head: Accept a checkpoint without a head, such as a causal language model; its head
            starts at zero, so that every score does.

    Raises:
        ModelError: The checkpoint cannot be loaded, has another number of labels, no head, or is
            not a decoder with a `score` head.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    revision = revision or "main"
    try:
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        architectures = getattr(config, "architectures", None) or []
        classifies = any("ForSequenceClassification" in name for name in architectures)
        if classifies and config.num_labels != 1:
            raise ModelError(
                f"{model} has {config.num_labels} labels; a reward model has one. "
                "Choose a checkpoint trained with num_labels = 1."
            )
        if not classifies and not fresh_head:
            raise ModelError(
                f"{model} ({', '.join(architectures) or 'unknown architecture'}) is not a sequence "
                "classifier: its scores would be random. Fit a head with `grlo reward-model train`."
            )
        scorer, info = AutoModelForSequenceClassification.from_pretrained(
            model,
            revision=revision,
            num_labels=1,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{model}: no sequence classifier could be loaded ({error}).") from error
    if not isinstance(getattr(scorer, "score", None), torch.nn.Linear):
        raise ModelError(
            f"{model} ({type(scorer).__name__}) has no linear `score` head on a decoder. "
            "Reward models of the Skywork kind (Llama, Qwen, Gemma, Mistral) have one."
        )
    missing = set(info["missing_keys"])
    headless = "score.weight" in missing
    if missing - {"score.weight"} or (headless and not fresh_head):
        raise ModelError(f"{model} lacks the weights {', '.join(sorted(missing))}.")
    if headless:
        torch.nn.init.zeros_(scorer.score.weight)
    if packed.is_supported(scorer):
        scorer.set_attn_implementation(packed.ATTENTION)
        read_few_tokens(scorer)
    return use_fast_layers(scorer)


def check_renderer(renderer: ChatRenderer, model: PreTrainedModel) -> None:
    """Refuses a tokenizer with ids that the model has no embedding for."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    check_compatible(renderer.max_token_id, vocab_size=embedding.num_embeddings)


def conversation_tokens(
    renderer: ChatRenderer, messages: Sequence[Message], answer: str, *, max_tokens: int
) -> tuple[tuple[int, ...], bool]:
    """A conversation with its answer as the model's own template writes it.

    Too long a conversation loses its oldest tokens: what is kept are a leading BOS token and the
    last tokens, so that the end of the answer, where the score sits, survives.

    Returns:
        The tokens, and whether any were cut.
    """
    turns = (*messages, Message(role="assistant", content=answer))
    tokens = renderer.encode_conversation(turns)
    if len(tokens) <= max_tokens:
        return tokens, False
    bos = tokens[:1] if tokens[0] == renderer.tokenizer.bos_token_id else ()
    return bos + tokens[len(tokens) - max_tokens + len(bos) :], True


def forward_scores(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Scores of one batch, with gradient; neighbours that begin alike share that computation.

    Args:
        model: From `load_sequence_scorer`.
        sequences: Token ids of each conversation.

    Returns:
        float32, one score per sequence, shape [B].
    """
    return whole_pass(model, lambda: _forward_scores(model, sequences))


def _forward_scores(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    # Not the model's own, which is where the shards of a sharded one wait.
    device = next(model.parameters()).device
    if model.config._attn_implementation == packed.ATTENTION:
        shared = [0, *(_common(one, other) for one, other in pairwise(sequences))]
        packing = packed.pack(sequences, shared=shared, read_last=True, device=device)
        last_BD = packed.packed_hidden_states(model.base_model, packing)
        if not reads_few_tokens(model):
            last_BD = last_BD[packing.read_B]
    else:
        # What stands on the right of a row's last token never reaches it; 0 is an id of all models.
        lengths = [len(tokens) for tokens in sequences]
        tokens_BT = torch.zeros(len(sequences), max(lengths), dtype=torch.int64)
        for row, tokens in enumerate(sequences):
            tokens_BT[row, : len(tokens)] = torch.tensor(tokens)
        hidden_BTD = model.base_model(tokens_BT.to(device), use_cache=False).last_hidden_state
        last_B = torch.tensor(lengths, device=device) - 1
        last_BD = hidden_BTD[torch.arange(len(sequences), device=device), last_B]
    head = model.score
    assert isinstance(head, torch.nn.Linear)
    return head(last_BD).squeeze(-1).float()


def score_sequences(
    model: PreTrainedModel,
    sequences: Sequence[tuple[int, ...]],
    *,
    tokens_per_batch: int | TokenBudget,
    groups: Sequence[Hashable] | None = None,
    progress: Progress = silent,
) -> list[float]:
    """Scores in the order given; equal sequences are scored once, in batches of similar length.

    Args:
        model: From `load_sequence_scorer`.
        sequences: Token ids of each conversation.
        tokens_per_batch: Tokens of a batch; those that neighbours share count once. Where memory
            runs out they are halved, in a `TokenBudget` for calls to come too.
        groups: Sequences of one group begin alike, as answers to one prompt do: what they share is
            computed once. None has no groups.
        progress: Told of distinct sequences and of their tokens.

    Returns:
        One score per sequence; NaN or infinite where the model gives that.

    Raises:
        DeviceMemoryError: Memory does not hold a single conversation.
    """
    numbers: dict[Hashable, int] = {}
    group_of: dict[tuple[int, ...], int] = {}
    for index, sequence in enumerate(sequences):
        group = index if groups is None else groups[index]
        group_of.setdefault(sequence, numbers.setdefault(group, len(numbers)))
    # Within a group those that go on alike for longest are neighbours.
    unique = sorted(group_of, key=lambda sequence: (group_of[sequence], sequence))
    is_budget = isinstance(tokens_per_batch, TokenBudget)
    budget = tokens_per_batch if is_budget else TokenBudget(tokens_per_batch)
    scores: dict[tuple[int, ...], float] = {}
    tokens = 0
    with evaluating(model):
        # Once, unless memory runs out: the rest is then cut anew.
        while left := [sequence for sequence in unique if sequence not in scores]:
            shared = [0] * len(left)
            for row, (one, other) in enumerate(pairwise(left), 1):
                if group_of[one] == group_of[other]:
                    shared[row] = _common(one, other)
            lengths = [len(sequence) for sequence in left]
            for part in pack_shared(lengths, shared, max_tokens=budget.max_tokens):
                batch = [left[index] for index in part]
                reason = lacks_memory(partial(_add_scores, scores, model, batch))
                if reason is not None:
                    _halve(budget, batch, reason)
                    break
                tokens += sum(map(len, batch))
                progress(done=len(scores), total=len(unique), tokens=tokens)
    return [scores[sequence] for sequence in sequences]


def _add_scores(
    scores: dict[tuple[int, ...], float], model: PreTrainedModel, batch: Sequence[tuple[int, ...]]
) -> None:
    for sequence, score in zip(batch, forward_scores(model, batch).tolist(), strict=True):
        if not math.isfinite(score) and len(batch) > 1:
            # What is not a number reaches the tokens that neighbours share with it.
            score = forward_scores(model, [sequence]).item()
        scores[sequence] = score


def _halve(budget: TokenBudget, batch: Sequence[tuple[int, ...]], reason: str) -> None:
    longest = max(map(len, batch))
    if len(batch) == 1:
        raise DeviceMemoryError(
            f"memory does not hold one conversation ({longest} tokens) in a reward model at a "
            f"time: {reason}. Lower its max_tokens, keep what a phase does not need in the CPU's "
            "memory (training.offload), or lower engine.max_rows."
        )
    num_shared = sum(_common(one, other) for one, other in pairwise(batch))
    budget.halve(
        num_tokens=sum(map(len, batch)) - num_shared,
        num_rows=len(batch),
        longest=longest,
        what="a batch of a reward model",
        same="Scores",
        reason=reason,
    )


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Leading tokens that both have, all but the last one of `other` at most."""
    most = min(len(one), len(other) - 1)
    for place in range(most):
        if one[place] != other[place]:
            return place
    return most
