"""What a run will take, as far as its recipe tells: steps, operations and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grlo.memory.estimates import PHASES, estimate_memory, peak_bytes, phase_bytes
from grlo.memory.plan import MOST_TOKENS, USABLE_SHARE
from grlo.model_shape import ModelShape, forward_flops
from grlo.settings import Dtype, Recipe
from grlo.stages.check_findings import Findings, heading, size
from grlo.stages.check_machine import has_device
from grlo.types import Prompt

_SHARDINGS = {
    "ddp": "whole models on each (ddp)",
    "fsdp": "models in shards over all (fsdp)",
}


def show_schedule(recipe: Recipe, prompts: Sequence[Prompt]) -> None:
    """Steps, updates, answers and tokens of the whole run."""
    heading("Run")
    sampling, training = recipe.sampling, recipe.training
    updates = training.steps * training.num_epochs * training.num_minibatches
    responses = training.steps * sampling.prompts_per_step * sampling.samples_per_prompt
    print(f"{training.steps} steps, {updates} updates, {responses} responses")
    drawn = responses * sampling.max_draws
    if drawn > responses:
        print(f"dynamic sampling draws up to {drawn} responses for them")
    if prompts:
        epochs = training.steps * sampling.prompts_per_step / len(prompts)
        most = f" to {epochs * sampling.max_draws:.3g}" if drawn > responses else ""
        print(f"each prompt is seen {epochs:.3g}{most} times")
    print(f"at most {drawn * sampling.max_tokens:.3g} tokens are generated")


def show_costs(
    recipe: Recipe,
    policy: ModelShape,
    *,
    critic: ModelShape | None,
    rewards: Sequence[tuple[ModelShape, Dtype | None]],
    gold: Sequence[tuple[ModelShape, Dtype | None]],
    findings: Findings,
    num_devices: int,
) -> None:
    """Floating-point operations at full length, and memory per component."""
    sampling = recipe.sampling
    responses = sampling.prompts_per_step * sampling.samples_per_prompt * recipe.training.steps
    length = recipe.prompts.max_prompt_tokens + sampling.max_tokens
    # A pass back costs two forward; with gradient checkpointing the forward pass is done twice.
    # Selective checkpointing does no product twice.
    training = recipe.training.num_epochs * (3 + (recipe.policy.gradient_checkpointing is True))
    needs_reference = getattr(recipe.algorithm, "needs_reference", False)
    # The policy draws, is read again before the update, and is trained; all draws are scored.
    passes = [
        (policy, sampling.max_draws + 1 + needs_reference + training),
        (critic, 1 + training),
        *((shape, sampling.max_draws) for shape, _ in rewards),
    ]
    flops = sum(
        times * forward_flops(shape, num_tokens=length)
        for shape, times in passes
        if shape is not None
    )
    print(f"at most {responses * flops:.2g} floating-point operations")
    heading("Memory (estimates)")
    with findings.collect():
        _show_memory(
            recipe,
            policy,
            critic=critic,
            rewards=[*rewards, *gold],
            findings=findings,
            num_devices=num_devices,
        )


def _show_memory(
    recipe: Recipe,
    policy: ModelShape,
    *,
    critic: ModelShape | None,
    rewards: list[tuple[ModelShape, Dtype | None]],
    findings: Findings,
    num_devices: int,
) -> None:
    """Memory per component and phase, and the plan for the device if that is here."""
    from grlo.stages.memory import plan_with
    from grlo.stages.runs import choose_device

    plan = None
    if has_device(recipe.training.device):
        device = choose_device(recipe.training.device)
        plan = plan_with(
            recipe,
            device=device,
            policy=policy,
            critic=critic,
            rewards=rewards,
            num_devices=num_devices,
        )
        recipe, items = plan.applied(recipe), plan.items
    else:
        findings.unchecked.append(f"memory of {recipe.training.device}: it is not on this machine")
        if not recipe.training.micro_batch_tokens:
            training = replace(recipe.training, micro_batch_tokens=MOST_TOKENS)
            recipe = replace(recipe, training=training)
        if num_devices > 1 and recipe.training.sharding == "auto":
            has_adapters = recipe.policy.lora is not None or recipe.critic.lora is not None
            sharding = "ddp" if has_adapters else "fsdp"
            recipe = replace(recipe, training=replace(recipe.training, sharding=sharding))
        num_rows = getattr(recipe.engine, "max_rows", 0) or 1
        items = estimate_memory(
            recipe,
            policy=policy,
            critic=critic,
            rewards=rewards,
            num_sequences=num_rows,
            num_devices=num_devices,
        )
    width = max(len(item.component) for item in items)
    for item in items:
        phases = "always" if item.phases == PHASES else ", ".join(item.phases)
        print(f"{item.component:{width}}  {size(item.num_bytes):>9}  {phases}")
    for phase, num_bytes in phase_bytes(items).items():
        print(f"{'in all':{width}}  {size(num_bytes):>9}  {phase}")
    print(f"{'peak':{width}}  {size(peak_bytes(items)):>9}")
    tokens, offload = recipe.training.micro_batch_tokens, recipe.training.offload
    print(f"micro-batches of {tokens} tokens; in the CPU's memory: {', '.join(offload) or 'none'}")
    if num_devices > 1:
        print(f"{num_devices} devices, each with so much: {_SHARDINGS[recipe.training.sharding]}")
    if plan is not None:
        if num_devices > 1 and not plan.fits:
            findings.problems.append(
                f"--devices {num_devices}: each would need {size(plan.peak_bytes)}, and about "
                f"{size(USABLE_SHARE * plan.device_bytes)} can be used. Take more devices, or "
                "what the section Memory names: the largest components first."
            )
        verdict = "fits" if plan.fits else "may not fit"
        usable = USABLE_SHARE * plan.device_bytes
        print(f"{verdict}: of {size(plan.device_bytes)} about {size(usable)} can be used")
    if not getattr(recipe.engine, "max_rows", 0):
        print("The engine decodes as many rows at a time as fit into the memory that is free.")
        if recipe.training.overlap:
            print("With overlap the update needs memory at the same time: set engine.max_rows.")
