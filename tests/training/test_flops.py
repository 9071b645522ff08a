"""FLOPs of phases, against the count of torch's own operators."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from grlo.estimates import shape_from_config
from grlo.training.flops import FlopCounter
from grlo.types import Completion, Message, Prompt, Rollout


def rollouts() -> list[Rollout]:
    prompt = Prompt(id="p", messages=(Message("user", "?"),))
    made = []
    for group, (num_prompt, lengths) in enumerate([(20, (10, 30)), (5, (40, 1))]):
        for length in lengths:
            tokens = tuple(range(1, length + 1))
            completion = Completion(tokens, (-1.0,) * length, "stop")
            made.append(Rollout(prompt, group, tuple(range(1, num_prompt + 1)), completion, ""))
    return made


@pytest.fixture
def counter(policy_path) -> FlopCounter:
    shape = shape_from_config(AutoModelForCausalLM.from_pretrained(policy_path).config.to_dict())
    return FlopCounter(
        policy=shape,
        critic=None,
        rewards=(),
        has_reference=False,
        annotates_policy=True,
        num_epochs=1,
        checkpoints_gradients=False,
    )


def test_a_forward_pass_is_what_torch_counts(counter, policy_path):
    """Each row alone, less the prompts that a group shares and torch's square of attention."""
    model = AutoModelForCausalLM.from_pretrained(policy_path, attn_implementation="eager")
    shape = counter.policy
    counted = 0
    seen = set()
    for rollout in rollouts():
        tokens = torch.tensor([rollout.prompt_tokens + rollout.completion.tokens])
        num_prompt, total = len(rollout.prompt_tokens), tokens.shape[1]
        with FlopCounterMode(display=False) as mode, torch.no_grad():
            model.base_model(tokens)
        flops = mode.get_total_flops()
        per_pair = 4 * shape.num_layers * shape.num_heads * shape.head_dim
        # Causal attention reads half of the square that the eager kernel multiplies.
        flops -= per_pair * (total * total - total * (total + 1) // 2)
        if rollout.group in seen:
            flops -= 2 * shape.active_parameters * num_prompt
            flops -= per_pair * num_prompt * (num_prompt + 1) // 2
        seen.add(rollout.group)
        counted += flops + 2 * shape.head_parameters * (total - num_prompt)
    # The rotary frequencies are an outer product that the estimate leaves out.
    assert counter("annotate", rollouts()) == pytest.approx(counted, rel=0.01)


def test_an_update_costs_three_forward_passes_and_weights_move_for_nothing(counter):
    assert counter("update", rollouts()) == 3 * counter("annotate", rollouts())
    assert counter("sync", rollouts()) == 0
    assert counter("score", rollouts()) == 0


def test_generation_costs_what_a_pass_over_the_same_tokens_costs(counter):
    """But for the head at each prompt's last position, whose token is counted as sampled."""
    extra = 2 * 2 * counter.policy.head_parameters
    assert counter("generate", rollouts()) == counter("annotate", rollouts()) + extra
