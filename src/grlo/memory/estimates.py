"""Memory of a training run by component and phase, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from grlo.memory.activations import backward_bytes, forward_bytes
from grlo.model_shape import DTYPE_BYTES, ModelShape, lora_parameters
from grlo.settings import Dtype, LoraSettings, ModelSettings, OptimizerSettings, Recipe
from grlo.work_sizes import GRADIENT_BUCKET_ELEMENTS, SCORED_TOKENS, chunk_rows

Phase = Literal[
    "generate",
    "score",
    "annotate",
    "critic's update",
    "critic's step",
    "policy's update",
    "policy's step",
]
"""Parts of a training step; an `update` is forward and backward passes, a `step` its optimizer."""
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class MemoryItem:
    """Memory of one component on the device."""

    component: str
    phases: tuple[Phase, ...]
    """In which it is held."""
    num_bytes: int


def phase_bytes(items: Iterable[MemoryItem]) -> dict[Phase, int]:
    """What is held in each phase."""
    items = tuple(items)
    return {
        phase: sum(item.num_bytes for item in items if phase in item.phases) for phase in PHASES
    }


def peak_bytes(items: Iterable[MemoryItem]) -> int:
    """What is held in the hungriest phase."""
    return max(phase_bytes(items).values())


def estimate_memory(
    recipe: Recipe,
    *,
    policy: ModelShape,
    critic: ModelShape | None = None,
    rewards: Sequence[tuple[ModelShape, Dtype | None]] = (),
    num_sequences: int | None = None,
    num_devices: int = 1,
) -> tuple[MemoryItem, ...]:
    """Memory per component and phase of a training run on one device, without an engine on another.

    Of several devices it is that of each. With `training.sharding = "fsdp"` each has its part of
    all weights, gradients and optimizer states, and in passes what is gathered for them.

    Weights and states are exact, activations those of the largest micro-batch that
    `grlo.batch.pack_groups` makes: where rows attend in a grid, it has twice as many cells as the
    budget has tokens.

    Args:
        recipe: What is to be run; its `training.micro_batch_tokens` is not 0.
        policy: Shape of the policy, and of the reference if the algorithm needs one.
        critic: Shape of the critic, if the algorithm has one of its own; its head is taken for one
            value.
        rewards: Shapes of the reward models, each with the type that the recipe states for it.
        num_sequences: Completions that the engine draws at a time; None is all of a device.
        num_devices: Devices of the run; with several its sharding is `ddp` or `fsdp`.

    Returns:
        Estimates; allocator overhead and fragmentation (usually 5 to 20 %) come on top.
    """
    settings, sampling, offload = recipe.policy, recipe.sampling, recipe.training.offload
    compute_bytes = DTYPE_BYTES[settings.compute_dtype]
    is_sharded = num_devices > 1 and recipe.training.sharding == "fsdp"
    num_shards = num_devices if is_sharded else 1
    items = _trained_items("policy", policy, recipe, lora=settings.lora)
    if critic is not None:
        critic = replace(critic, num_labels=1)
        items += _trained_items("critic", critic, recipe, lora=recipe.critic.lora)
    if is_sharded:
        items = [_shard(item, recipe, num_shards) for item in items]
        items += _gathered_items(recipe, policy=policy, critic=critic, rewards=rewards)
        # Weights are gathered in the type of the products, so that autocast copies nothing.
        settings = replace(settings, param_dtype=settings.compute_dtype)
    if recipe.critic.share_trunk:
        items += _value_head_items(policy, recipe)
    if getattr(recipe.algorithm, "needs_reference", False) and settings.lora is None:
        phases: tuple[Phase, ...] = ("annotate",) if "reference" in offload else PHASES
        size = -(-policy.num_parameters * compute_bytes // num_shards)
        size = 0 if is_sharded and "reference" in offload else size
        items.append(MemoryItem("reference", phases, size))
    for shape, dtype in rewards:
        on_cpu = recipe.training.device == "cpu"
        dtype = dtype or ("float32" if on_cpu else "bfloat16")
        phases = ("score",) if "reward_model" in offload else PHASES
        size = -(-shape.num_parameters * DTYPE_BYTES[dtype] // num_shards)
        size = 0 if is_sharded and "reward_model" in offload else size
        items.append(MemoryItem("reward model", phases, size))
        num_tokens = SCORED_TOKENS["cpu" if on_cpu else "cuda"]
        typed = replace(settings, param_dtype=dtype, compute_dtype=dtype, attention="packed")
        num_cells = _num_cells(num_tokens, typed, recipe, keeps_parts=True)
        work = forward_bytes(shape, typed, num_tokens=num_tokens, num_cells=num_cells)
        items.append(MemoryItem("reward model's layer", ("score",), work))
    num_rows = -(-sampling.prompts_per_step // num_devices) * sampling.samples_per_prompt
    length = recipe.prompts.max_prompt_tokens + sampling.max_tokens
    num_cached = min(num_sequences or num_rows, num_rows)
    items += _engine_items(policy, recipe, num_cached=num_cached, length=length, is_own=is_sharded)
    # A row that is longer than the budget is a micro-batch all the same.
    num_tokens = min(max(recipe.training.micro_batch_tokens, length), num_rows * length)
    trained = {"policy": policy} if critic is None else {"policy": policy, "critic": critic}
    num_cells = _num_cells(num_tokens, settings, recipe)
    # Without packing, padding goes through the linear maps too.
    num_mapped = num_tokens if settings.attention == "packed" else num_cells
    for name, shape in trained.items():
        update: Phase = "policy's update" if name == "policy" else "critic's update"
        size = backward_bytes(shape, settings, num_tokens=num_mapped, num_cells=num_cells)
        items.append(MemoryItem(f"{name} activations", (update,), size))
    num_cells = _num_cells(num_tokens, settings, recipe, keeps_parts=True)
    work = max(  # One model after the other.
        forward_bytes(shape, settings, num_tokens=num_mapped, num_cells=num_cells)
        for shape in trained.values()
    )
    items.append(MemoryItem("layer at work", ("annotate",), work))
    items += _head_items(policy, replace(recipe, policy=settings), num_tokens=num_tokens)
    if num_devices > 1 and not is_sharded:
        items.append(_bucket_item(recipe))
    return tuple(items)


def _num_cells(
    num_tokens: int, settings: ModelSettings, recipe: Recipe, *, keeps_parts: bool = False
) -> int:
    """Cells in which tokens attend to each other: themselves, where rows lie end to end, else a
    grid. `keeps_parts`: what is held of answers and of the prompts that they share counts twice."""
    is_end_to_end = (
        settings.attention == "packed"
        and settings.compute_dtype == "bfloat16"
        and recipe.training.device != "cpu"
    )
    has_parts = keeps_parts and recipe.sampling.samples_per_prompt > 1
    return num_tokens if is_end_to_end and not has_parts else 2 * num_tokens


def optimizer_bytes(
    shape: ModelShape, recipe: Recipe, settings: OptimizerSettings, *, lora: LoraSettings | None
) -> int:
    """Both moments of all parameters that are trained.

    In 8 bits every block of 256 has a float32 scale besides, and vectors, which are smaller than
    4,096 elements, keep float32 moments; adapters that small are few and not looked for.
    """
    num_trained = shape.num_parameters if lora is None else lora_parameters(shape, lora)
    if settings.name == "adamw":
        return 2 * num_trained * DTYPE_BYTES[recipe.policy.param_dtype]
    num_vectors = shape.vector_parameters if lora is None else 0
    num_quantized = num_trained - num_vectors
    return 2 * 4 * num_vectors + 2 * (num_quantized + 4 * num_quantized // 256)


def _trained_items(
    name: Literal["policy", "critic"],
    shape: ModelShape,
    recipe: Recipe,
    *,
    lora: LoraSettings | None,
) -> list[MemoryItem]:
    param_bytes = DTYPE_BYTES[recipe.policy.param_dtype]
    num_trained = shape.num_parameters if lora is None else lora_parameters(shape, lora)
    frozen = 0 if lora is None else shape.num_parameters
    offload = recipe.training.offload
    update: Phase = "policy's update" if name == "policy" else "critic's update"
    step: Phase = "policy's step" if name == "policy" else "critic's step"
    is_away = name == "critic" and "critic" in offload
    settings = recipe.optimizer if name == "policy" else recipe.critic.optimizer
    bits = "" if settings.name == "adamw" else ", 8 bits"
    return [
        MemoryItem(
            f"{name} weights",
            ("annotate", update, step) if is_away else PHASES,
            (num_trained + frozen) * param_bytes,
        ),
        MemoryItem(
            f"{name} optimizer (two moments{bits})",
            (step,) if "optimizer" in offload else PHASES,
            optimizer_bytes(shape, recipe, settings, lora=lora),
        ),
        MemoryItem(f"{name} gradients", (update, step), num_trained * param_bytes),
    ]


def _shard(item: MemoryItem, recipe: Recipe, num_shards: int) -> MemoryItem:
    """What one of several devices has of a trained model; nothing where it waits elsewhere."""
    offload = recipe.training.offload
    is_away = "optimizer" in offload or (
        item.component.startswith("critic") and "critic" in offload
    )
    size = 0 if is_away else -(-item.num_bytes // num_shards)
    return replace(item, num_bytes=size)


def _gathered_items(
    recipe: Recipe,
    *,
    policy: ModelShape,
    critic: ModelShape | None,
    rewards: Sequence[tuple[ModelShape, Dtype | None]],
) -> list[MemoryItem]:
    """Whole weights of a sharded model at work: of what belongs to no layer, of a layer, and of the
    next, which is fetched meanwhile. Passes back have the gradients of two layers or of the head
    besides, and the same in float32 on their way to the other devices."""
    size = DTYPE_BYTES[recipe.policy.compute_dtype]

    def layer(shape: ModelShape) -> int:
        return shape.attention_parameters + shape.mlp_parameters * shape.num_experts

    def rest(shape: ModelShape) -> int:
        return shape.num_parameters - shape.num_layers * layer(shape)

    def gathered(shape: ModelShape) -> int:
        return rest(shape) + 2 * layer(shape)

    trained: dict[Phase, ModelShape] = {"policy's update": policy}
    if critic is not None:
        trained["critic's update"] = critic
    items = [
        MemoryItem(
            "gathered weights",
            ("annotate",),
            size * max(gathered(shape) for shape in trained.values()),
        )
    ]
    for phase, shape in trained.items():
        gradients = (size + 4) * max(rest(shape), 2 * layer(shape))
        items.append(
            MemoryItem(
                "gathered weights, their gradients", (phase,), size * gathered(shape) + gradients
            )
        )
    for shape, dtype in rewards:
        is_float = dtype == "float32" or (dtype is None and recipe.training.device == "cpu")
        items.append(
            MemoryItem("gathered weights", ("score",), (4 if is_float else 2) * gathered(shape))
        )
    return items


def _bucket_item(recipe: Recipe) -> MemoryItem:
    """Gradients that are on their way to other devices."""
    size = GRADIENT_BUCKET_ELEMENTS * DTYPE_BYTES[recipe.policy.param_dtype]
    return MemoryItem("gradients on their way", ("critic's step", "policy's step"), size)


def _value_head_items(policy: ModelShape, recipe: Recipe) -> list[MemoryItem]:
    """A critic on the policy's trunk: one number per hidden unit, updated with the policy."""
    size = policy.hidden_size * DTYPE_BYTES[recipe.policy.param_dtype]
    away = "optimizer" in recipe.training.offload
    return [
        MemoryItem("critic weights", PHASES, size),
        # 8 bits would save nothing: it is a vector.
        MemoryItem(
            "critic optimizer (two moments)", ("policy's step",) if away else PHASES, 2 * size
        ),
        MemoryItem("critic gradients", ("policy's update", "policy's step"), size),
    ]


def _engine_items(
    policy: ModelShape, recipe: Recipe, *, num_cached: int, length: int, is_own: bool
) -> list[MemoryItem]:
    """Weights and key/value cache of an engine on the learner's device; `is_own`: the learner has
    only a part of the weights.

    With `training.overlap` it draws while the learner annotates and updates; before the first step
    and in evaluations it draws alone.
    """
    # A device of the engine's own is none of the learner's memory.
    has_own_device = bool(getattr(recipe.engine, "device", None))
    place = "remote" if has_own_device else getattr(recipe.engine, "weights_place", "shared")
    if place == "remote":
        return []
    dtype = getattr(recipe.engine, "dtype", None) or recipe.policy.compute_dtype
    engine_bytes = DTYPE_BYTES.get(dtype, DTYPE_BYTES[recipe.policy.compute_dtype])
    overlap = recipe.training.overlap
    items = []
    is_other_type = engine_bytes != DTYPE_BYTES[recipe.policy.param_dtype]
    if place == "own" or overlap or is_own or is_other_type:
        sleeps = getattr(recipe.engine, "enable_sleep_mode", False) and not overlap
        on_gpu = recipe.training.device != "cpu"
        phases: tuple[Phase, ...] = ("generate",) if sleeps and on_gpu else PHASES
        size = policy.num_parameters * engine_bytes
        items.append(MemoryItem("engine's copy of the policy", phases, size))
    cache = num_cached * length * policy.cache_elements_per_token * engine_bytes
    phases = tuple(phase for phase in PHASES if overlap and phase != "score") or ("generate",)
    items.append(MemoryItem(f"key/value cache, full rows: {num_cached}", phases, cache))
    return items


def _head_items(policy: ModelShape, recipe: Recipe, *, num_tokens: int) -> list[MemoryItem]:
    """The output head at work, as `grlo.training.output_head` does it."""
    settings = recipe.policy
    compute_bytes = DTYPE_BYTES[settings.compute_dtype]
    phases: tuple[Phase, ...] = ("annotate", "policy's update")
    device = "cpu" if recipe.training.device == "cpu" else "cuda"
    logits = min(num_tokens, chunk_rows(policy.vocab_size, device)) * policy.vocab_size
    # Three in float32: logits, a function of them, and what is left of the chunk before. Where
    # products are in bfloat16, two of that type and a float32 take the place of the last two.
    items = [MemoryItem("logits of a chunk", phases, 3 * 4 * logits)]
    if settings.param_dtype != settings.compute_dtype:
        size = policy.head_parameters * compute_bytes
        items.append(MemoryItem("autocast copy of the head", phases, size))
    if settings.lora is None:
        # The sum over chunks and the product of one, before they join the other gradients.
        size = policy.head_parameters * (DTYPE_BYTES[settings.param_dtype] + compute_bytes)
        items.append(MemoryItem("gradient of the head", ("policy's update",), size))
    return items
