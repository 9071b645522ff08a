"""Shape of a model, from config.json alone: its parameters and operations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grlo.errors import ModelError
from grlo.settings import LoraSettings

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

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
    """Whether its last layer may be computed for the tokens that are read; see
    `grlo.modeling.last_layer`."""

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


def lora_parameters(shape: ModelShape, lora: LoraSettings) -> int:
    """Entries of the adapters: rank x (inputs + outputs) for every adapted linear map."""
    names = lora.target_modules
    adapted = [
        inputs + outputs
        for name, (inputs, outputs) in shape.linear_shapes.items()
        if names == "all-linear" or name in names
    ]
    return shape.num_layers * lora.rank * sum(adapted)


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
