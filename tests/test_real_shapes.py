"""A model in the shape of Qwen3-0.6B takes real steps within the memory of a laptop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, resource, sys
from pathlib import Path
import torch
from transformers import AutoTokenizer, Qwen3Config
from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification
from grlo.recipe import load_recipe
from grlo.rundir import RunDir
from grlo.stages.train import train
folder, algorithm, tokenizer = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(2)
shape = dict(vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
             num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
             max_position_embeddings=4096)
head = dict(num_labels=1, pad_token_id=0)
models = (("policy", Qwen3ForCausalLM, {}), ("reward", Qwen3ForSequenceClassification, head))
for name, kind, extra in models:
    if not (folder / name).exists():
        torch.manual_seed(0)
        model = kind(Qwen3Config(**shape, **extra))
        model.to(torch.bfloat16).save_pretrained(folder / name)
        del model
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder / name)
(folder / "prompts.jsonl").write_text('{"prompt": "Tell me about the sea."}\\n' * 4)
(folder / "recipe.toml").write_text(f'''
[policy]
model = "policy"
compute_dtype = "float32"
[prompts]
sources = ["prompts.jsonl"]
[sampling]
prompts_per_step = 2
samples_per_prompt = 2
max_tokens = 24
[engine]
max_rows = 4
[reward]
name = "reward_model"
model = "reward"
dtype = "bfloat16"
[algorithm]
name = "{algorithm}"
[training]
steps = 1
num_minibatches = 1
device = "cpu"
num_threads = 2
''')
overrides = []
if algorithm == "ppo":
    overrides = ["policy.lora.rank=8", "policy.lora.alpha=16", "critic.lora.rank=8"]
train(load_recipe([folder / "recipe.toml"], overrides=overrides), run_dir=folder / algorithm)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"peak_gib": peak, "metrics": RunDir(folder / algorithm).metrics()[0]}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_grpo_step_and_a_ppo_step_with_adapters_fit_into_18_gib(tmp_path, chat_policy_path):
    for algorithm in ("grpo", "ppo"):
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path), algorithm, str(chat_policy_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        report = json.loads(result.stdout.splitlines()[-1])
        print(algorithm, report)
        assert report["peak_gib"] < 18
        assert report["metrics"]["engine/logprob_gap_max"] < 1e-3
        assert (Path(tmp_path) / algorithm / "checkpoints" / "step_000001" / "config.json").exists()
