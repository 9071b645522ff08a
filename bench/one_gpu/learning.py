"""Tokens per second of the learner, with and without each of its optimisations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grlo.algorithms.grpo import GRPO
from grlo.batch import Batch, TrainBatch, collate
from grlo.engines.hf import HFEngineSettings
from grlo.interfaces import BuildContext
from grlo.modeling import packed, shared_prefix_attention
from grlo.settings import (
    ModelSettings,
    OptimizerSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    TrainingSettings,
)
from grlo.training import flops
from grlo.training.learner import Learner
from grlo.types import Completion, Message, Prompt, Rollout, Score
from one_gpu.record import Record
from one_gpu.setup import Setup, compiled, padded


@dataclass(frozen=True)
class Variant:
    """One way to train, by what it leaves out of the usual one."""

    name: str
    batch: str
    """`alone`: a sample a prompt, as in the published schedule; `groups`: eight a prompt."""
    micro_batch_tokens: int = 16384
    checkpointing: bool = True
    is_packed: bool = True
    has_grid: bool = False
    """Attention in a padded grid of rows."""
    shares_prompts: bool = True
    is_compiled: bool = False


VARIANTS = (
    Variant("packed, checkpointing", "alone"),
    Variant("packed, checkpointing, micro-batch 4,096", "alone", 4096),
    Variant("packed, no checkpointing, micro-batch 4,096", "alone", 4096, checkpointing=False),
    Variant("packed, attention in a padded grid", "alone", has_grid=True),
    Variant("padded, checkpointing", "alone", is_packed=False),
    Variant("groups: prompts shared", "groups"),
    Variant("groups: attention in a padded grid", "groups", has_grid=True),
    Variant("groups: prompts not shared", "groups", shares_prompts=False),
    Variant("groups: padded", "groups", is_packed=False),
    Variant("compiled, checkpointing", "alone", is_compiled=True),
    Variant(
        "compiled, no checkpointing, micro-batch 4,096",
        "alone",
        4096,
        checkpointing=False,
        is_compiled=True,
    ),
    Variant("groups: compiled", "groups", is_compiled=True),
)


def run(setup: Setup, record: Record) -> None:
    """Annotation, updates, weights to the engine; then the update as plain transformers does it."""
    with record.attempt("learner"):
        learner = Learner(recipe(setup), device=setup.device)
        with record.attempt("weights to the engine"):
            sync(setup, record, learner)
        num_rows = 8 if setup.tiny else 48
        rollouts = {
            "alone": answers(setup, num_rows, samples=1, prompt_tokens=setup.prompt_tokens),
            "groups": answers(setup, num_rows, samples=8, prompt_tokens=4 * setup.prompt_tokens),
        }
        batches = {name: credited(learner, rows) for name, rows in rollouts.items()}
        warm = credited(learner, rollouts["alone"][:4])
        with record.attempt("annotate"):
            learner.annotate(plain(warm), step=1, score_std=1.0)
            seconds, peak = record.seconds(
                lambda: learner.annotate(plain(batches["alone"]), step=1, score_std=1.0)
            )
            add(setup, record, "annotate", batches["alone"], seconds, peak, trains=False)
        for variant in VARIANTS:
            with record.attempt(variant.name), as_variant(learner, variant):
                batch = batches[variant.batch]
                if not variant.shares_prompts:
                    batch = replace(batch, groups_B=torch.arange(len(batch.groups_B)))
                learner.update(warm, step=1)
                seconds, peak = record.seconds(lambda: learner.update(batch, step=1))  # noqa: B023
                add(setup, record, variant.name, batches[variant.batch], seconds, peak)
        for name, rows in rollouts.items():
            with (
                record.attempt(f"transformers, {name}"),
                as_variant(learner, Variant("", name, is_packed=False)),
            ):
                plain_update(learner, rows[:4], setup.device)
                seconds, peak = record.seconds(
                    lambda: plain_update(learner, rows, setup.device)  # noqa: B023
                )
                add(setup, record, f"transformers, {name}", batches[name], seconds, peak)


def recipe(setup: Setup) -> Recipe:
    """The parts of a recipe that the learner reads; GRPO, so that the policy alone is timed."""
    return Recipe(
        policy=ModelSettings(model=setup.checkpoint()),
        prompts=PromptSettings(sources=("none",)),
        reward=None,
        algorithm=GRPO(reduction="token_mean"),
        training=TrainingSettings(steps=1, num_minibatches=2, device=setup.device),
        sampling=SamplingSettings(max_tokens=setup.limit),
        optimizer=OptimizerSettings(learning_rate=1e-6),
    )


def sync(setup: Setup, record: Record, learner: Learner) -> None:
    """New weights for an engine that computes in another type than they are kept in."""
    context = BuildContext(device=setup.device, seed=0)
    engine = HFEngineSettings(dtype="bfloat16").build(learner.policy, context=context)
    seconds = min(
        record.seconds(lambda: engine.load_weights(learner.policy_weights()))[0] for _ in range(2)
    )
    record.add("weights to the engine", seconds=seconds)
    engine.close()


def answers(setup: Setup, count: int, *, samples: int, prompt_tokens: int) -> list[Rollout]:
    """Random answers of spread lengths, `samples` to a prompt."""
    return [
        Rollout(
            prompt=Prompt(str(row // samples), (Message("user", ""),)),
            group=row // samples,
            prompt_tokens=setup.tokens(prompt_tokens, seed=row // samples),
            completion=Completion(setup.tokens(length, seed=1000 + row), (-1.0,) * length, "stop"),
            text="",
        )
        for row, length in enumerate(setup.spread_lengths(count))
    ]


def credited(learner: Learner, rollouts: Sequence[Rollout]) -> TrainBatch:
    """The answers with random scores, and advantages of either sign."""
    scores = torch.randn(len(rollouts), generator=torch.Generator().manual_seed(0)).tolist()
    batch = collate(rollouts, [Score(score) for score in scores], pad_id=0)
    annotated = learner.annotate(batch, step=1, score_std=1.0)
    advantages_BT = annotated.scores_B[:, None] * annotated.mask_BT
    return TrainBatch(**vars(annotated), advantages_BT=advantages_BT, returns_BT=None)


def plain(batch: Batch) -> Batch:
    """The batch before it was annotated."""
    return Batch(**{name: getattr(batch, name) for name in Batch.__dataclass_fields__})


@contextmanager
def as_variant(learner: Learner, variant: Variant) -> Iterator[None]:
    """Switches the learner's policy and its micro-batches; puts the usual ones back."""
    settings = learner.settings
    learner.settings = replace(settings, micro_batch_tokens=variant.micro_batch_tokens)
    set_checkpointing(learner.policy, variant.checkpointing)
    attention = packed.ATTENTION if variant.is_packed else "sdpa"
    learner.policy.set_attn_implementation(attention)
    kernel_for = shared_prefix_attention.kernel_for
    if variant.has_grid:
        shared_prefix_attention.kernel_for = lambda query: None
    layers = compiled(learner.policy) if variant.is_compiled else nullcontext()
    try:
        with layers:
            yield
    finally:
        shared_prefix_attention.kernel_for = kernel_for
        learner.settings = settings
        set_checkpointing(learner.policy, True)
        learner.policy.set_attn_implementation(packed.ATTENTION)
        for optimizer in learner.optimizers.values():
            optimizer.zero_grad(set_to_none=True)  # After a failure in the middle of an update.


def set_checkpointing(model: PreTrainedModel, is_on: bool) -> None:
    """Renamed in transformers 5.2x; the older name is taken where there is no new one."""
    if is_on:
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    else:
        disable = getattr(model, "activation_checkpointing_disable", None)
        (disable or model.gradient_checkpointing_disable)()


def plain_update(
    learner: Learner, rollouts: Sequence[Rollout], device: str, *, rows_per_pass: int = 4
) -> None:
    """One update with transformers alone: padded rows in the order of arrival, logits of all
    positions of an answer in float32, the same autocast, checkpointing and optimizer."""
    model, optimizer = learner.policy, learner.optimizers["policy"]
    model.train()
    optimizer.zero_grad(set_to_none=True)
    total = sum(len(r.completion.tokens) for r in rollouts)
    for start in range(0, len(rollouts), rows_per_pass):
        part = rollouts[start : start + rows_per_pass]
        rows = [(*r.prompt_tokens, *r.completion.tokens) for r in part]
        tokens_BT, mask_BT = padded(rows, device)
        prompt = len(part[0].prompt_tokens)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            output = model(
                tokens_BT,
                attention_mask=mask_BT,
                use_cache=False,
                logits_to_keep=tokens_BT.shape[1] - prompt + 1,
            )
        logprobs_BT = chosen_logprobs(output.logits[:, :-1], tokens_BT[:, prompt:])
        (-(logprobs_BT * mask_BT[:, prompt:]).sum() / total).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def chosen_logprobs(logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
    """Log-probability of each token, [B, T]."""
    return logits_BTV.float().log_softmax(-1).gather(-1, tokens_BT[..., None]).squeeze(-1)


def add(
    setup: Setup,
    record: Record,
    name: str,
    batch: TrainBatch,
    seconds: float,
    peak: float,
    *,
    trains: bool = True,
) -> None:
    """Tokens are those of all rows, and operations those that are needed: a prompt once for all its
    samples, nothing for padding or for what is computed twice."""
    prompts, lengths = batch.mask_BT.int().argmax(1).tolist(), batch.lengths_B.tolist()
    groups = batch.groups_B.tolist()
    reading = flops.reading(
        setup.shape("policy"),
        ((g, p, n - p) for g, p, n in zip(groups, prompts, lengths, strict=True)),
    )
    tokens = sum(lengths)
    record.add(
        name,
        rows=len(lengths),
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        flops=(reading.trained() if trains else reading.forward()).flops,
        peak_gib=peak,
    )
