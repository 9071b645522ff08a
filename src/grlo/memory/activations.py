"""Memory that forward and backward passes take besides weights and their gradients."""

from __future__ import annotations

from grlo.model_shape import DTYPE_BYTES, ModelShape
from grlo.settings import ModelSettings


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
    autocast has converted them: all of them, but those of one layer where it is computed again.
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
    of_layer = copies // shape.num_layers
    return max(saved, inputs + again + moving) + of_layer


def forward_bytes(
    shape: ModelShape, settings: ModelSettings, *, num_tokens: int, num_cells: int
) -> int:
    """The most that a pass without gradients holds besides weights: one layer at work, and its
    weights as autocast has converted them.

    The layer has its input, and the model what it began with. Then either its attention (queries,
    keys and values before and after they are spread to the grid, with the output there and
    gathered again; or three parts of the queries while they are rotated) or its MLP (two hidden
    states more and three inner vectors).
    """
    stream, size = _stream_bytes(settings), DTYPE_BYTES[settings.compute_dtype]
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    hidden = shape.hidden_size * stream
    states = 2 * queries + 2 * keys
    spread = num_tokens * (2 * hidden + states * stream) + num_cells * states * size
    rotated = queries * (2 * size + 3 * stream) + 2 * keys * size + 2 * shape.head_dim * stream
    attention = max(spread, num_tokens * (2 * hidden + rotated))
    inner = shape.intermediate_size * shape.experts_per_token
    mlp = num_tokens * (4 * hidden + 3 * inner * size)
    return max(attention, mlp) + _autocast_bytes(shape, settings) // shape.num_layers


def _layer_bytes(
    shape: ModelShape, settings: ModelSettings, *, num_tokens: int, num_cells: int
) -> int:
    """What one layer keeps for its backward pass.

    The count of Korthikanti et al. 2022 (arXiv 2205.05198), section 4, for a layer with RMSNorm,
    rotary positions, a gated MLP and attention that does not store its matrix. For every token:
    both norms with their inputs and what the linear maps read; queries and keys before and after
    their own norm; the attention's output; gate, its activation, up, and their product. For every
    cell: queries, keys, values and output of the attention, and its normalizer. Norms keep less on
    a CPU (`grlo.modeling.layers`).
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
