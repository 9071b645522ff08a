"""What a run will take, from config.json alone: parameters, operations and memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grlo.errors import ModelError
from grlo.settings import LoraSettings, ModelSettings, Recipe

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
LOGIT_CHUNK_ELEMENTS = 2**27
"""Logits that the learner holds at a time; see `grlo.training.output_head`."""

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
        attention, mlp = self._layer_matrices()
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        biases = self.qkv_bias * (queries + 2 * keys) + self.output_bias * self.hidden_size
        biases += self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        norms = 2 * self.hidden_size + self.query_key_norm * 2 * self.head_dim
        router = self.hidden_size * self.num_experts if self.num_experts > 1 else 0
        layer = attention + mlp * self.num_experts + router + biases + norms
        embedding = self.vocab_size * self.hidden_size
        shares_head = self.tied_embeddings and not self.num_labels
        head = 0 if shares_head else self.head_parameters
        return embedding + self.num_layers * layer + self.hidden_size + head

    @property
    def active_parameters(self) -> int:
        """Weights that multiply each token, without embeddings, output head, norms and biases."""
        attention, mlp = self._layer_matrices()
        return self.num_layers * (attention + mlp * self.experts_per_token)

    def _layer_matrices(self) -> tuple[int, int]:
        sizes = [inputs * outputs for inputs, outputs in self.linear_shapes.values()]
        return sum(sizes[:4]), sum(sizes[4:])

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


# Memory -------------------------------------------------------------------------------------------

Phase = Literal["always", "generate", "score", "update"]


@dataclass(frozen=True)
class MemoryItem:
    """Memory of one component."""

    component: str
    phase: Phase
    """`always` is held throughout; the others only in their phase of a step."""
    num_bytes: int


def peak_bytes(items: tuple[MemoryItem, ...]) -> int:
    """What is always held, and the hungriest phase on top."""
    totals: dict[Phase, int] = {"always": 0, "generate": 0, "score": 0, "update": 0}
    for item in items:
        totals[item.phase] += item.num_bytes
    held = totals.pop("always")
    return held + max(totals.values())


def estimate_memory(
    recipe: Recipe,
    *,
    policy: ModelShape,
    critic: ModelShape | None = None,
    rewards: Sequence[tuple[ModelShape, str | None]] = (),
    num_sequences: int | None = None,
) -> tuple[MemoryItem, ...]:
    """Memory per component of a training run on one device, without an engine on another one.

    Args:
        recipe: What is to be run.
        policy: Shape of the policy, and of the reference if the algorithm needs one.
        critic: Shape of the critic, if the algorithm has one of its own.
        rewards: Shapes of the reward models, each with the type that the recipe states for it.
        num_sequences: Completions that the engine draws at a time; None is all of a step.

    Returns:
        Estimates; allocator overhead and fragmentation (usually 5 to 20 %) come on top.
    """
    settings, sampling = recipe.policy, recipe.sampling
    param_bytes, compute_bytes = (
        DTYPE_BYTES[settings.param_dtype],
        DTYPE_BYTES[settings.compute_dtype],
    )
    items = _trained_items("policy", policy, recipe, lora=settings.lora)
    if critic is not None:
        items += _trained_items("critic", critic, recipe, lora=recipe.critic.lora)
    if recipe.critic.share_trunk:
        # A head on the policy's trunk: one number per hidden unit.
        head_bytes = policy.hidden_size * param_bytes
        items += [
            MemoryItem("critic weights", "always", head_bytes),
            MemoryItem("critic optimizer (two moments)", "always", 2 * head_bytes),
            MemoryItem("critic gradients", "update", head_bytes),
        ]
    if getattr(recipe.algorithm, "needs_reference", False):
        items.append(MemoryItem("reference", "always", policy.num_parameters * compute_bytes))
    for shape, dtype in rewards:
        default = "float32" if recipe.training.device == "cpu" else "bfloat16"
        size = shape.num_parameters * DTYPE_BYTES[dtype or default]
        items.append(MemoryItem("reward model", "always", size))
    engine_dtype = getattr(recipe.engine, "dtype", None) or settings.compute_dtype
    engine_bytes = DTYPE_BYTES.get(engine_dtype, compute_bytes)
    # A device of the engine's own is none of the learner's memory.
    has_own_device = bool(getattr(recipe.engine, "device", None))
    place = "remote" if has_own_device else getattr(recipe.engine, "weights_place", "shared")
    overlap = recipe.training.overlap
    if place == "own" or (place == "shared" and (engine_bytes != param_bytes or overlap)):
        size = policy.num_parameters * engine_bytes
        sleeps = getattr(recipe.engine, "enable_sleep_mode", False)
        phase: Phase = "generate" if sleeps and recipe.training.device != "cpu" else "always"
        items.append(MemoryItem("engine's copy of the policy", phase, size))
    num_rows = sampling.prompts_per_step * sampling.samples_per_prompt
    length = recipe.prompts.max_prompt_tokens + sampling.max_tokens
    num_cached = min(num_sequences or num_rows, num_rows)
    if place != "remote":
        cache = num_cached * length * policy.cache_elements_per_token * engine_bytes
        phase = "update" if overlap else "generate"
        items.append(MemoryItem(f"key/value cache, full rows: {num_cached}", phase, cache))
    # Policy and critic are updated one after the other; the larger one counts.
    models = [policy, *([critic] if critic is not None else [])]
    num_tokens = min(recipe.training.micro_batch_tokens, num_rows * length)
    activations = num_tokens * max(_activation_bytes(model, settings) for model in models)
    items.append(MemoryItem("activations", "update", activations))
    positions = min(num_tokens * policy.vocab_size, LOGIT_CHUNK_ELEMENTS)
    # Logits, their log-softmax and the gradient of the logits, in float32.
    items.append(MemoryItem("logits of a chunk", "update", 3 * 4 * positions))
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


def _trained_items(
    name: str, shape: ModelShape, recipe: Recipe, *, lora: LoraSettings | None
) -> list[MemoryItem]:
    param_bytes = DTYPE_BYTES[recipe.policy.param_dtype]
    num_trained = shape.num_parameters if lora is None else lora_parameters(shape, lora)
    frozen = 0 if lora is None else shape.num_parameters
    items = [
        MemoryItem(f"{name} weights", "always", (num_trained + frozen) * param_bytes),
        MemoryItem(f"{name} optimizer (two moments)", "always", 2 * num_trained * param_bytes),
        MemoryItem(f"{name} gradients", "update", num_trained * param_bytes),
    ]
    if recipe.policy.compute_dtype != recipe.policy.param_dtype:
        size = shape.num_parameters * DTYPE_BYTES[recipe.policy.compute_dtype]
        items.append(MemoryItem(f"{name} autocast copies", "update", size))
    return items


def _activation_bytes(shape: ModelShape, settings: ModelSettings) -> int:
    """What a token keeps for its backward pass.

    A layer keeps its input, both norms' outputs, the residual between, the attention's output
    before and after its projection (6 hidden sizes in all), queries, keys and values before and
    after rotation, and four inner vectors of the gated MLP; the attention matrix is not stored. The
    count follows Korthikanti et al. 2022 (arXiv 2205.05198), section 4, for this kind of layer.
    With checkpointing only the inputs of all layers and the inside of one are kept.
    """
    heads = shape.num_heads + 2 * shape.num_kv_heads
    inner = shape.intermediate_size * shape.experts_per_token
    layer = 6 * shape.hidden_size + 2 * heads * shape.head_dim + 4 * inner
    if settings.gradient_checkpointing:
        elements = shape.num_layers * shape.hidden_size + layer
    else:
        elements = shape.num_layers * layer
    return elements * DTYPE_BYTES[settings.compute_dtype]
