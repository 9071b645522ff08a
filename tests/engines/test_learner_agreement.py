"""What the engine reports for a token is what the learner computes for it."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from grlo.batch import collate
from grlo.engines.hf import HFEngine
from grlo.modeling import packed
from grlo.training.models import token_logprobs
from grlo.types import Message, Prompt, Rollout, SamplingParams, Score

SHAPE = {
    "vocab_size": 131,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAMILIES = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}),
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
}


@pytest.mark.parametrize("attention", [packed.ATTENTION, "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_agree_to_a_ten_thousandth(family, attention, temperature):
    kind, config, extra = FAMILIES[family]
    torch.manual_seed(4)
    model = kind(config(**SHAPE, **extra, attn_implementation=attention))
    with torch.no_grad():
        for parameter in model.parameters():  # Far from uniform, so that mistakes show.
            parameter.mul_(2.0)
    generator = torch.Generator().manual_seed(0)
    prompts = [
        tuple(torch.randint(3, 131, (length,), generator=generator).tolist())
        for length in (1, 5, 17, 40)
    ]
    sampling = SamplingParams(max_tokens=30, temperature=temperature, num_samples=3, stop=(1, 2))
    completions = HFEngine(model, max_rows=5).generate(prompts, sampling, seeds=[1, 2, 3, 4])
    prompt = Prompt(id="", messages=(Message("user", ""),))
    rollouts = [
        Rollout(prompt, index // 3, prompts[index // 3], completion, "")
        for index, completion in enumerate(completions)
    ]
    batch = collate(rollouts, [Score(0.0)] * len(rollouts), pad_id=0)
    with torch.no_grad():
        logprobs, _ = token_logprobs(
            model, batch, temperature=temperature, compute_dtype=torch.float32
        )
    gap = (logprobs - batch.engine_logprobs_BT)[batch.mask_BT].abs().max()
    assert gap < 1e-4
    assert batch.engine_logprobs_BT[batch.mask_BT].std() > 0.3
