"""Forward passes without padding in which rows share a common beginning.

The tokens of several rows are laid end to end, and where a row begins like the one before it (the
samples of one prompt do) the common tokens appear once. All linear layers, the bulk of the work,
run on this packed sequence; attention alone sees rows: queries, keys and values are spread to a
padded [rows, longest] grid, attended causally, and gathered again. Gradients of shared tokens add
up in the spreading step, so that results equal those of separate rows. In float32 on a CPU, and in
bfloat16 and float16 on a GPU, there is no padding in the attention either
(`grlo.modeling.shared_prefix_attention`): a grid of whole rows stands for keys and values of a
reward model's last layer only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grlo.errors import ModelError
from grlo.modeling import shared_prefix_attention
from grlo.modeling.attention_parts import Division, divide

ATTENTION = "grlo_packed"
"""Name under which transformers finds the attention function below."""


@dataclass(frozen=True)
class Packing:
    """N packed tokens that stand for B rows of up to T tokens."""

    tokens_N: Tensor
    positions_N: Tensor
    """Position of each token within its row."""
    index_BT: Tensor
    """Packed index of every cell of the grid; cells beyond a row's end point at its last token."""
    cell_N: Tensor
    """Flat cell of the grid in which each packed token appears first."""
    last_B: Tensor
    """Position of the last token of each row."""
    division: Division
    """The attention of the rows in parts."""
    read_B: Tensor | None = None
    """Packed index of each row's last token, where nothing else is read of a model's output."""


def pack(
    rows: Sequence[Sequence[int] | Tensor],
    *,
    shared: Sequence[int],
    read_last: bool = False,
    device: str | torch.device = "cpu",
) -> Packing:
    """Lays rows end to end.

    Args:
        rows: Token ids of each row; at least one each.
        shared: How many leading tokens a row has in common with the row before it. 0 for the first.
        read_last: Of the output only each row's last token is read.
        device: Of the model that the packing is for.
    """
    lengths_B = torch.tensor([len(row) for row in rows])
    shared_B = torch.tensor(shared)
    own_B = lengths_B - shared_B
    last_B = lengths_B - 1
    start_B = own_B.cumsum(0) - own_B
    positions_T = torch.arange(int(lengths_B.max()))
    index_BT = positions_T.minimum(last_B[:, None]) + (start_B - shared_B)[:, None]
    for row, num_shared in enumerate(shared):
        if num_shared:
            index_BT[row, :num_shared] = index_BT[row - 1, :num_shared]
    is_own_BT = (positions_T >= shared_B[:, None]) & (positions_T < lengths_B[:, None])
    cell_N = is_own_BT.flatten().nonzero().flatten()
    own = [row[num_shared:] for row, num_shared in zip(rows, shared, strict=True)]
    if all(isinstance(row, Tensor) for row in own):
        tokens_N = torch.cat(own)  # pyright: ignore[reportArgumentType, reportCallIssue]
    else:
        tokens_N = torch.tensor(list(chain.from_iterable(own)))
    return Packing(
        tokens_N=tokens_N.to(device),
        positions_N=(cell_N % len(positions_T)).to(device),
        index_BT=index_BT.to(device),
        cell_N=cell_N.to(device),
        last_B=last_B.to(device),
        division=divide(lengths_B.tolist(), shared, index_BT, device=device),
        read_B=index_BT[torch.arange(len(rows)), last_B].to(device) if read_last else None,
    )


def packed_hidden_states(trunk: nn.Module, packing: Packing) -> Tensor:
    """The trunk's last hidden states of the packed tokens, [N, D].

    Of tokens that are read alone, [B, D], where the trunk's last layer is one of
    `grlo.modeling.last_layer`.

    Args:
        trunk: Decoder loaded with `attn_implementation=ATTENTION`.
        packing: Rows on the trunk's device.
    """
    output = trunk(
        input_ids=packing.tokens_N[None],
        position_ids=packing.positions_N[None],
        # A mask of four dimensions is taken as finished: transformers builds none of its own.
        attention_mask=torch.zeros(1, 1, 1, 1, device=packing.tokens_N.device),
        use_cache=False,
        packing=packing,
    )
    return output.last_hidden_state[0]


def _kinds_of_attention(model: PreTrainedModel) -> set[str]:
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    # Mistral has a window and no list of layers: it slides in all of them.
    slides = kinds is None and getattr(config, "sliding_window", None) is not None
    return {"sliding_attention"} if slides else set(kinds or ["full_attention"])


def is_supported(model: PreTrainedModel) -> bool:
    """Whether the model's attention can be packed: causal over the whole row."""
    has_backend = bool(getattr(model, "_supports_attention_backend", False))
    return has_backend and _kinds_of_attention(model) == {"full_attention"}


def require_support(model: PreTrainedModel, path: str) -> None:
    """Raises ModelError unless the model's attention can be packed."""
    if not is_supported(model):
        raise ModelError(
            f"{path!r} ({type(model).__name__}) has attention that cannot be packed "
            f"({', '.join(sorted(_kinds_of_attention(model)))}). Set policy.attention = 'sdpa'."
        )


@torch.compiler.disable  # Where layers are compiled (`grlo.modeling.compiled_layers`), around it.
def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    for_read_tokens: bool = False,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """For transformers: [1, H, N, D] in, [1, N, H, D] out; without packing it is sdpa.

    For tokens that are read alone, the others' places hold zeros.
    """
    if packing is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
    grid_size = packing.index_BT.shape
    index = packing.index_BT.flatten()

    def spread(states: Tensor) -> Tensor:
        cells = states[0].transpose(0, 1).index_select(0, index)
        return cells.unflatten(0, grid_size).transpose(1, 2)

    if for_read_tokens:
        assert packing.read_B is not None
        # Heads that share keys are queries of one head: no kernel has to know of sharing.
        heads = key.shape[1], query.shape[1] // key.shape[1]
        query_BKGD = query[0].index_select(1, packing.read_B).transpose(0, 1).unflatten(1, heads)
        seen_BT = torch.arange(grid_size[1], device=query.device) <= packing.last_B[:, None]
        output_BKGD = scaled_dot_product_attention(
            query_BKGD,
            spread(key),
            spread(value),
            attn_mask=seen_BT[:, None, None],
            dropout_p=dropout,
            scale=scaling,
        )
        output = torch.zeros_like(query[0].transpose(0, 1))
        return output.index_copy(0, packing.read_B, output_BKGD.flatten(1, 2))[None], None
    if torch.is_autocast_enabled(query.device.type):  # Norms may have given another type.
        query, key, value = (
            x.to(torch.get_autocast_dtype(x.device.type)) for x in (query, key, value)
        )
    kernel = shared_prefix_attention.kernel_for(query)
    if kernel is not None and not dropout and value.shape[-1] == query.shape[-1]:
        output_NHD = shared_prefix_attention.shared_prefix_attention(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            packing.division,
            kernel=kernel,
            scale=scaling if scaling is not None else query.shape[-1] ** -0.5,
        )
        return output_NHD[None], None
    output_BHTD = scaled_dot_product_attention(
        spread(query),
        spread(key),
        spread(value),
        is_causal=True,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    output = output_BHTD.transpose(1, 2).flatten(0, 1).index_select(0, packing.cell_N)
    return output[None], None


AttentionInterface.register(ATTENTION, _packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
