"""Whether one update means the same here and in TRL: gradients of the policy on one fixed batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from beside_trl import ours, theirs
from beside_trl.cases import Case
from grlo.batch import TrainBatch, collate
from grlo.interfaces import Algorithm
from grlo.rollout import ChatRenderer, sample
from grlo.training.learner import Learner
from grlo.types import Message, Prompt, Rollout, SamplingParams, Score

REDUCTIONS = {
    "grpo": "sequence_mean_token_mean",
    "dapo": "token_mean",
    "dr_grpo": "constant_length",
}
"""TRL's `loss_type`, and what the same reduction is called here."""
NOISE = 0.03
"""Spread of what is added to the weights, as a share of their own: the policy has left the one that
drew the answers and the reference, so that ratio, clip and KL term all have a gradient."""


def measure(case: Case) -> dict[str, Any]:
    """Relative difference of the gradients for each pair of reductions.

    Both sides get the same completions, advantages, old and reference log-probabilities; the
    difference is the largest over the weights, each in units of its own gradient's norm.
    """
    recipe = ours.write_recipe(case)
    learner = Learner(
        replace(recipe, optimizer=replace(recipe.optimizer, max_grad_norm=0.0)), device="cpu"
    )
    renderer = ChatRenderer.from_pretrained(str(case.policy))
    rollouts = _draw(case, learner, renderer)
    scores = torch.randn(len(rollouts), generator=torch.Generator().manual_seed(0)).tolist()
    batch = collate(rollouts, [Score(score) for score in scores], pad_id=renderer.pad_id)
    annotated = learner.annotate(batch, step=1, score_std=1.0)
    trained = learner.algorithm.assign_credit(annotated)
    trained = replace(trained, old_logprobs_BT=trained.engine_logprobs_BT)

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in learner.policy.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight += noise * (NOISE * weight.std() if weight.numel() > 1 else 0)
    weights = {name: value.clone() for name, value in learner.policy.state_dict().items()}

    found = {}
    for loss_type, reduction in REDUCTIONS.items():
        learner.policy.load_state_dict(weights)
        learner.algorithm = _with_reduction(learner.algorithm, reduction)
        mine = _our_gradient(learner, trained)
        other = _their_gradient(case, loss_type, weights, rollouts, trained)
        found[loss_type] = {
            "reduction": reduction,
            "largest": max(
                float((mine[name] - other[name]).norm() / other[name].norm()) for name in other
            ),
            "overall": _norm(mine[name] - other[name] for name in other) / _norm(other.values()),
            "gradient_norm": _norm(other.values()),
        }
    return found


def _with_reduction(algorithm: Any, reduction: str) -> Algorithm:
    return replace(algorithm, reduction=reduction)


def _draw(case: Case, learner: Learner, renderer: ChatRenderer) -> list[Rollout]:
    """Answers of the policy, with their log-probabilities."""
    from grlo.engines.hf import HFEngine

    prompts = [
        Prompt(id=text, messages=(Message("user", text),))
        for text in case.texts()[: case.num_prompts]
    ]
    sampling = SamplingParams(max_tokens=case.max_tokens, num_samples=case.num_samples)
    engine = HFEngine(learner.policy)
    return sample(engine, renderer, prompts, sampling, seed=0, step=1)


def _our_gradient(learner: Learner, batch: TrainBatch) -> dict[str, Tensor]:
    """What the optimizer of a real update is given."""
    found: dict[str, Tensor] = {}
    names = {id(weight): name for name, weight in learner.policy.named_parameters()}

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                found[names[id(weight)]] = weight.grad.clone()

    handle = learner.optimizers["policy"].register_step_pre_hook(keep)
    learner.update(batch, step=1)
    handle.remove()
    return found


def _their_gradient(
    case: Case,
    loss_type: str,
    weights: Mapping[str, Tensor],
    rollouts: Sequence[Rollout],
    batch: TrainBatch,
) -> dict[str, Tensor]:
    one_pass = replace(case, trl_rows=case.num_rows)
    trainer = theirs.build(one_pass, loss_type=loss_type)
    model: nn.Module = trainer.model
    model.load_state_dict(weights)
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(model, _their_inputs(rollouts, batch))
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def _their_inputs(rollouts: Sequence[Rollout], batch: TrainBatch) -> dict[str, Tensor]:
    """The batch as TRL has it: prompts end and answers begin in the middle of the grid."""
    longest_prompt = max(len(r.prompt_tokens) for r in rollouts)
    longest = max(len(r.completion.tokens) for r in rollouts)

    def grid(width: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(len(rollouts), width, dtype=dtype)

    prompt_ids, prompt_mask = grid(longest_prompt, torch.int64), grid(longest_prompt, torch.int64)
    ids, mask = grid(longest, torch.int64), grid(longest, torch.int64)
    old, reference = grid(longest, torch.float32), grid(longest, torch.float32)
    for row, rollout in enumerate(rollouts):
        begin, length = len(rollout.prompt_tokens), len(rollout.completion.tokens)
        prompt_ids[row, -begin:] = torch.tensor(rollout.prompt_tokens)
        prompt_mask[row, -begin:] = 1
        ids[row, :length] = torch.tensor(rollout.completion.tokens)
        mask[row, :length] = 1
        assert batch.old_logprobs_BT is not None
        old[row, :length] = batch.old_logprobs_BT[row, begin : begin + length]
        if batch.reference_logprobs_BT is not None:
            reference[row, :length] = batch.reference_logprobs_BT[row, begin : begin + length]
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": ids,
        "completion_mask": mask,
        # One advantage for all tokens of a row, zero outside the mask.
        "advantages": batch.advantages_BT.sum(1) / batch.mask_BT.sum(1),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": old,
    }
    if batch.reference_logprobs_BT is not None:
        inputs["ref_per_token_logps"] = reference
    return inputs


def _norm(tensors: Any) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors]).norm())
