"""What a run will take, from config.json alone: parameters, operations and memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from grlo.errors import ModelError
from grlo.settings import Dtype, LoraSettings, ModelSettings, OptimizerSettings, Recipe

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
LOGIT_CHUNK_ELEMENTS = 2**27
"""Logits that the learner computes at a time; see `grlo.training.output_head`."""

# On a CPU: what its caches hold, but rows worth a product.
_CPU_LOGITS = 2**20
_CPU_ROWS = 256

GRADIENT_BUCKET_ELEMENTS = 2**26
"""Entries of gradients that replicated learners add up at a time: messages worth sending; see
`grlo.training.distributed.sharing`."""

SCORED_TOKENS = {"cpu": 4096, "cuda": 32768}
"""Tokens that a reward model reads at a time, by device: rows worth a forward pass on a GPU, and
rows whose activations stay in a CPU's cache; see `grlo.rewards.reward_model`."""

# Names of modules that adapters may attach to, as (inputs, outputs) of a shape.
_LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder of the Llama family, as its config.json states them."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    """Longest sequence it was made for."""
    tied_embeddings: bool = False
    num_labels: int = 0
    """Outputs of a classification head; 0 is a language model."""
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    num_experts: int = 1
    experts_per_token: int = 1
    reads_few_tokens: bool = False
    """Whether its last layer may be computed for the tokens that are read; `grlo.last_layer`."""

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's linear maps (of one expert), by their usual names."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        sizes = (
            (hidden, queries),
            (hidden, keys),
            (hidden, keys),
            (queries, hidden),
            (hidden, inner),
            (hidden, inner),
            (inner, hidden),
        )
        return dict(zip(_LINEAR_NAMES, sizes, strict=True))

    @property
    def head_parameters(self) -> int:
        """Entries of the output matrix, tied or not."""
        return self.hidden_size * (self.num_labels or self.vocab_size)

    @property
    def num_parameters(self) -> int:
        """All distinct parameters."""
        attention, mlp = self.attention_parameters, self.mlp_parameters
        router = self.hidden_size * self.num_experts if self.num_experts > 1 else 0
        layer = attention + mlp * self.num_experts + router
        embedding = self.vocab_size * self.hidden_size
        shares_head = self.tied_embeddings and not self.num_labels
        head = 0 if shares_head else self.head_parameters
        return embedding + self.num_layers * layer + head + self.vector_parameters

    @property
    def vector_parameters(self) -> int:
        """Of norms and biases."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        biases = self.qkv_bias * (queries + 2 * keys) + self.output_bias * self.hidden_size
        biases += self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        norms = 2 * self.hidden_size + self.query_key_norm * 2 * self.head_dim
        return self.num_layers * (biases + norms) + self.hidden_size

    @property
    def active_parameters(self) -> int:
        """Weights that multiply each token, without embeddings, output head, norms and biases."""
        attention, mlp = self.attention_parameters, self.mlp_parameters
        return self.num_layers * (attention + mlp * self.experts_per_token)

    @property
    def attention_parameters(self) -> int:
        """Weights of a layer's linear maps for attention."""
        return sum(i * o for i, o in list(self.linear_shapes.values())[:4])

    @property
    def mlp_parameters(self) -> int:
        """Weights of a layer's MLP, or of one of its experts."""
        return sum(i * o for i, o in list(self.linear_shapes.values())[4:])

    @property
    def cache_elements_per_token(self) -> int:
        """Keys and values that generation keeps for a token."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim


def read_shape(folder: str | Path) -> ModelShape:
    """The shape of a local checkpoint.

    Raises:
        ModelError: There is no readable config.json, or it is not that of a decoder.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: cannot be read ({error}). Expected the folder of a Hugging Face checkpoint."
        ) from error
    try:
        return shape_from_config(config)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json describes: exact for Llama, Mistral, Qwen2, Qwen3 and Qwen3-MoE.

    Other decoders are taken for Llama's layout, which is near enough for estimates.

    Raises:
        ModelError: A size is missing.
    """
    config = config.get("text_config", config)
    needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    missing = [key for key in needed if not isinstance(config.get(key), int)]
    if missing:
        raise ModelError(f"has no {', '.join(missing)}; expected a decoder's configuration.")
    kind = config.get("model_type", "")
    num_heads, hidden = config["num_attention_heads"], config["hidden_size"]
    num_experts = config.get("num_experts") or config.get("num_local_experts") or 1
    expert_size = config.get("moe_intermediate_size") if num_experts > 1 else None
    attention_bias = bool(config.get("attention_bias", False))
    is_classifier = any("Classification" in name for name in config.get("architectures") or ())
    return ModelShape(
        vocab_size=config["vocab_size"],
        hidden_size=hidden,
        intermediate_size=expert_size or config.get("intermediate_size") or 4 * hidden,
        num_layers=config["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=config.get("head_dim") or hidden // num_heads,
        max_positions=config.get("max_position_embeddings") or 0,
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        num_labels=_num_labels(config) if is_classifier else 0,
        qkv_bias=kind == "qwen2" or attention_bias,
        output_bias=kind != "qwen2" and attention_bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        query_key_norm=kind.startswith("qwen3"),
        num_experts=num_experts,
        experts_per_token=config.get("num_experts_per_tok", 1) if num_experts > 1 else 1,
        reads_few_tokens=kind in ("llama", "mistral", "qwen2", "qwen3"),
    )


def _num_labels(config: Mapping[str, Any]) -> int:
    """Hugging Face stores the number of labels as their names; two is its default."""
    labels = config.get("id2label")
    return len(labels) if labels else config.get("num_labels", 2)


# Floating-point operations ------------------------------------------------------------------------


def weight_flops(shape: ModelShape, *, num_tokens: int, num_outputs: int) -> float:
    """The part of `forward_flops` that multiplies by weights."""
    return float(2 * shape.active_parameters * num_tokens + 2 * shape.head_parameters * num_outputs)


def forward_flops(
    shape: ModelShape, *, num_tokens: int, num_cached: int = 0, num_outputs: int | None = None
) -> float:
    """Floating-point operations of a forward pass over one sequence.

    Per token 2 N for the N weights that multiply it, 2 V d for the output head where logits are
    wanted, and per layer 4 H D per key it attends to: H D multiplications and additions each for
    the scores and for the weighted values (Kaplan et al. 2020, table 1; PaLM, Chowdhery et al.
    2022, appendix B). Unlike these we count a causal token's own keys, not the whole context.

    Args:
        shape: The model.
        num_tokens: Tokens that go through the model.
        num_cached: Tokens before them whose keys and values are cached.
        num_outputs: Positions at which the head is applied; None is all `num_tokens`.
    """
    outputs = num_tokens if num_outputs is None else num_outputs
    total = num_cached + num_tokens
    num_keys = (total * (total + 1) - num_cached * (num_cached + 1)) // 2
    attention = 4 * shape.num_layers * shape.num_heads * shape.head_dim * num_keys
    return weight_flops(shape, num_tokens=num_tokens, num_outputs=outputs) + attention


def chunk_rows(vocab_size: int, device_type: str) -> int:
    """Positions whose logits the learner computes together."""
    most = max(1, LOGIT_CHUNK_ELEMENTS // vocab_size)
    return min(most, max(_CPU_ROWS, _CPU_LOGITS // vocab_size)) if device_type == "cpu" else most


# Memory -------------------------------------------------------------------------------------------

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
    `grlo.batch.pack_groups` makes: a grid of attention with twice as many cells as the budget has
    tokens.

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
        work = forward_bytes(
            shape,
            replace(settings, param_dtype=dtype, compute_dtype=dtype, attention="packed"),
            num_tokens=num_tokens,
            num_cells=2 * num_tokens,
        )
        items.append(MemoryItem("reward model's layer", ("score",), work))
    num_rows = -(-sampling.prompts_per_step // num_devices) * sampling.samples_per_prompt
    length = recipe.prompts.max_prompt_tokens + sampling.max_tokens
    num_cached = min(num_sequences or num_rows, num_rows)
    items += _engine_items(policy, recipe, num_cached=num_cached, length=length, is_own=is_sharded)
    # A row that is longer than the budget is a micro-batch all the same.
    num_tokens = min(max(recipe.training.micro_batch_tokens, length), num_rows * length)
    trained = {"policy": policy} if critic is None else {"policy": policy, "critic": critic}
    num_cells = 2 * num_tokens
    sizes = {"num_tokens": num_tokens, "num_cells": num_cells}
    if settings.attention != "packed":  # Padding goes through the linear maps too.
        sizes["num_tokens"] = num_cells
    for name, shape in trained.items():
        update: Phase = "policy's update" if name == "policy" else "critic's update"
        size = backward_bytes(shape, settings, **sizes)
        items.append(MemoryItem(f"{name} activations", (update,), size))
    # One model after the other.
    work = max(forward_bytes(shape, settings, **sizes) for shape in trained.values())
    items.append(MemoryItem("layer at work", ("annotate",), work))
    items += _head_items(policy, replace(recipe, policy=settings), num_tokens=num_tokens)
    if num_devices > 1 and not is_sharded:
        items.append(_bucket_item(recipe))
    return tuple(items)


def lora_parameters(shape: ModelShape, lora: LoraSettings) -> int:
    """Entries of the adapters: rank x (inputs + outputs) for every adapted linear map."""
    names = lora.target_modules
    adapted = [
        inputs + outputs
        for name, (inputs, outputs) in shape.linear_shapes.items()
        if names == "all-linear" or name in names
    ]
    return shape.num_layers * lora.rank * sum(adapted)


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
    rows = chunk_rows(policy.vocab_size, "cpu" if recipe.training.device == "cpu" else "cuda")
    logits = min(num_tokens, rows) * policy.vocab_size
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


def saved_bytes(
    shape: ModelShape, settings: ModelSettings, *, num_tokens: int, num_cells: int
) -> int:
    """What the layers of a decoder keep for the backward pass.

    Args:
        shape: The model.
        settings: Types, attention and what is computed again.
        num_tokens: Tokens that go through the linear maps: N.
        num_cells: Cells of the grid in which they attend to each other: rows x longest row.
    """
    whole = _layer_bytes(shape, settings, num_tokens=num_tokens, num_cells=num_cells)
    stream = shape.hidden_size * _stream_bytes(settings) * num_tokens
    if settings.gradient_checkpointing == "selective":
        stream += _product_bytes(shape, settings, num_tokens=num_tokens, num_cells=num_cells)
    if settings.gradient_checkpointing:
        return shape.num_layers * stream + _final_bytes(shape, settings) * num_tokens
    return shape.num_layers * whole + _final_bytes(shape, settings) * num_tokens


def backward_bytes(
    shape: ModelShape, settings: ModelSettings, *, num_tokens: int, num_cells: int
) -> int:
    """The most that forward and backward pass hold besides weights and their gradients.

    What is kept; one layer that is computed again under gradient checkpointing; the gradients that
    are on their way, of hidden states and of the MLP's or attention's states; and the weights as
    autocast has converted them: all of them, but for one layer where it is computed again.
    """
    size, stream = DTYPE_BYTES[settings.compute_dtype], _stream_bytes(settings)
    saved = saved_bytes(shape, settings, num_tokens=num_tokens, num_cells=num_cells)
    inner = num_tokens * shape.intermediate_size * shape.experts_per_token * size
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    # In the MLP; or in the attention, by when the MLP's four inner states are gone.
    attention = num_cells * (2 * queries + 2 * keys) * size - 4 * inner
    moving = num_tokens * shape.hidden_size * stream + max(inner, attention)
    copies = _autocast_bytes(shape, settings)
    if not settings.gradient_checkpointing:
        return saved + moving + copies
    # By the time a layer is computed again, the last norm has done its part.
    inputs = saved - _final_bytes(shape, settings) * num_tokens
    again = _layer_bytes(shape, settings, num_tokens=num_tokens, num_cells=num_cells)
    if settings.gradient_checkpointing == "selective":  # Part of a layer is there already.
        again -= _shared_bytes(shape, settings, num_tokens=num_tokens, num_cells=num_cells)
    at_layer = inputs + again + moving + copies // shape.num_layers
    return max(saved + copies, at_layer)


def forward_bytes(
    shape: ModelShape, settings: ModelSettings, *, num_tokens: int, num_cells: int
) -> int:
    """The most that a pass without gradients holds besides weights: one layer at work, and the
    weights as autocast has converted them.

    Either its attention (two hidden states; queries, keys and values before and after they are
    spread to the grid, with the output there and gathered again) or its MLP (two hidden states
    and three inner vectors).
    """
    stream, size = _stream_bytes(settings), DTYPE_BYTES[settings.compute_dtype]
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    hidden = 2 * shape.hidden_size * stream
    attention = num_tokens * (hidden + (2 * queries + 2 * keys) * stream)
    attention += num_cells * (2 * queries + 2 * keys) * stream
    inner = shape.intermediate_size * shape.experts_per_token
    mlp = num_tokens * (hidden + 3 * inner * size)
    return max(attention, mlp) + _autocast_bytes(shape, settings)


def _layer_bytes(
    shape: ModelShape, settings: ModelSettings, *, num_tokens: int, num_cells: int
) -> int:
    """What one layer keeps for its backward pass.

    The count of Korthikanti et al. 2022 (arXiv 2205.05198), section 4, for a layer with RMSNorm,
    rotary positions, a gated MLP and attention that does not store its matrix. For every token:
    both norms with their inputs and what the linear maps read; queries and keys before and after
    their own norm; the attention's output; gate, its activation, up, and their product. For every
    cell: queries, keys, values and output of the attention, and its normalizer. Norms keep less on
    a CPU (`grlo.layers`).
    """
    size = DTYPE_BYTES[settings.compute_dtype]
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    inner = shape.intermediate_size * shape.experts_per_token
    # Norms work in float32. Autocast makes a copy of its input for each of the five linear maps
    # that read a norm's output; otherwise they share it.
    norms = 2 * (4 + 2 * size)
    if settings.param_dtype != settings.compute_dtype:
        norms = 2 * (4 + 4) + 5 * size
    token = norms * shape.hidden_size + 4 * inner * size + 2 * 4
    if shape.query_key_norm:
        token += (4 + size) * (queries + keys) + 4 * (shape.num_heads + shape.num_kv_heads)
    if settings.attention == "packed":  # Elsewhere the output is used where it lies.
        token += queries * size
    cell = (2 * queries + 2 * keys) * size + 4 * shape.num_heads
    return num_tokens * token + num_cells * cell


def _product_bytes(
    shape: ModelShape, settings: ModelSettings, *, num_tokens: int, num_cells: int
) -> int:
    """What selective recomputation keeps of a layer: results of its seven linear maps and of its
    attention."""
    outputs = sum(output for _, output in shape.linear_shapes.values())
    outputs += (shape.experts_per_token - 1) * (2 * shape.intermediate_size + shape.hidden_size)
    attention = shape.num_heads * shape.head_dim
    size = DTYPE_BYTES[settings.compute_dtype]
    return num_tokens * outputs * size + num_cells * (attention * size + 4 * shape.num_heads)


def _shared_bytes(
    shape: ModelShape, settings: ModelSettings, *, num_tokens: int, num_cells: int
) -> int:
    """The part of `_product_bytes` that the backward pass of a layer needs: gate and up, and the
    attention's output."""
    size = DTYPE_BYTES[settings.compute_dtype]
    inner = 2 * shape.intermediate_size * shape.experts_per_token
    attention = shape.num_heads * shape.head_dim
    return num_tokens * inner * size + num_cells * (attention * size + 4 * shape.num_heads)


def _final_bytes(shape: ModelShape, settings: ModelSettings) -> int:
    """Of a token: the last norm with its input and output, and the rotary tables, which rows of a
    grid share."""
    stream = _stream_bytes(settings)
    tables = 2 * stream * shape.head_dim if settings.attention == "packed" else 0
    return (4 + 2 * stream) * shape.hidden_size + tables


def _autocast_bytes(shape: ModelShape, settings: ModelSettings) -> int:
    """Weights of the layers' linear maps in the type of their products, where that is another."""
    if settings.param_dtype == settings.compute_dtype:
        return 0
    weights = shape.attention_parameters + shape.mlp_parameters * shape.num_experts
    return shape.num_layers * weights * DTYPE_BYTES[settings.compute_dtype]


def _stream_bytes(settings: ModelSettings) -> int:
    """Size of an element of the hidden states between layers; autocast leaves them in float32."""
    return DTYPE_BYTES[settings.param_dtype]
