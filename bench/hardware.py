"""Which hardware fits which model, by the estimates of the memory planner; a table in Markdown.

    python bench/hardware.py

Nothing is loaded. Policies have the shapes of Qwen3, the reward model that of Llama-3.1-8B, lengths
and batches are those of the published recipe (prompts of 1,024 tokens, answers of 3,072). A cell
says what `training.micro_batch_tokens = 0` would choose.
"""

from __future__ import annotations

from pathlib import Path

from grlo.memory.plan import MemoryPlan, plan_memory
from grlo.model_shape import ModelShape
from grlo.recipe import load_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "grlo-qwen3-4b.toml"
POLICIES = {
    "Qwen3-0.6B": ModelShape(151936, 1024, 3072, 28, 16, 8, 128, 32768, tied_embeddings=True),
    "Qwen3-1.7B": ModelShape(151936, 2048, 6144, 28, 16, 8, 128, 32768, tied_embeddings=True),
    "Qwen3-4B": ModelShape(151936, 2560, 9728, 36, 32, 8, 128, 32768, tied_embeddings=True),
    "Qwen3-8B": ModelShape(151936, 4096, 12288, 36, 32, 8, 128, 32768),
    "Qwen3-14B": ModelShape(151936, 5120, 17408, 40, 40, 8, 128, 32768),
    "Qwen3-32B": ModelShape(151936, 5120, 25600, 64, 64, 8, 128, 32768),
}
REWARD = ModelShape(128256, 4096, 14336, 32, 32, 8, 128, 131072, num_labels=1)
HARDWARE = {
    "1 x 24 GB": (1, 24),
    "1 x 48 GB": (1, 48),
    "1 x 80 GB": (1, 80),
    "1 x 141 GB": (1, 141),
    "8 x 80 GB": (8, 80),
    "8 x 141 GB": (8, 141),
}
WAYS = {
    "PPO, all weights": [],
    "GRPO (8 answers), all weights": [
        "algorithm.name=grpo",
        "critic=none",
        "sampling.prompts_per_step=128",
        "sampling.samples_per_prompt=8",
    ],
    "PPO, LoRA of rank 32 on weights in bfloat16": [
        "policy.lora.rank=32",
        "critic.lora.rank=32",
        "policy.param_dtype=bfloat16",
    ],
}
CONTEXT = 2
"""Of the GiB that a device is sold as GB, those that drivers and libraries hold."""
ROWS = 32
"""Answers that are at least drawn together."""
SHORT = {"reward_model": "RM", "reference": "ref", "optimizer": "opt", "critic": "critic"}


def planned(way: str, policy: ModelShape, *, num_devices: int, gigabytes: int) -> MemoryPlan:
    """The plan for one model on one kind of hardware."""
    recipe = load_recipe(
        [RECIPE],
        overrides=[
            *WAYS[way],
            f"engine.max_rows={ROWS}",
            "training.micro_batch_tokens=0",
            "training.device=cuda",
        ],
    )
    return plan_memory(
        recipe,
        policy=policy,
        critic=policy if recipe.algorithm.needs_critic else None,  # type: ignore[attr-defined]
        rewards=[(REWARD, None)],
        device_bytes=(gigabytes - CONTEXT) * 2**30,
        num_devices=num_devices,
    )


def cell(plan: MemoryPlan) -> str:
    """In words: what takes how much of a device, what waits, and how it is divided."""
    if not plan.fits:
        return "no"
    parts = [f"{plan.peak_bytes / 1e9:.0f} GB"]
    if plan.num_devices > 1:
        parts.append(plan.sharding)
    if plan.offload:
        parts.append("waiting: " + ", ".join(SHORT[name] for name in plan.offload))
    return "; ".join(parts)


def main() -> None:
    for way in WAYS:
        print(f"\n**{way}**\n")
        print("| policy | " + " | ".join(HARDWARE) + " |")
        print("|---" * (len(HARDWARE) + 1) + "|")
        for name, shape in POLICIES.items():
            cells = [
                cell(planned(way, shape, num_devices=count, gigabytes=size))
                for count, size in HARDWARE.values()
            ]
            print(f"| {name} ({shape.num_parameters / 1e9:.1f}B) | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
