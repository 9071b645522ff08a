"""Keys and values of rows that are decoded together, and attention to them.

Rows advance together, one column a step: the columns are a clock, and what a row has written is a
stretch of columns that ends at the clock, so that rows may join whenever others have finished.
Rotary positions belong to the keys themselves, which lets a row stand at any columns.

Dimensions: R rows, C columns, P prompt tokens, H key/value heads, N query heads of each, D head
size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache

from grlo.errors import EngineError

Tokens = tuple[int, ...]
Layers = list[tuple[Tensor, Tensor]]
"""Keys and values [B, H, P, D] of every layer."""
Prefill = Callable[[Sequence[Tokens]], Iterable[tuple[list[Tokens], Layers]]]
"""Computes prompts without their last tokens: some of them at a time, aligned on the left."""


class DecodeCache(Cache, ABC):
    """What decoding asks of a cache."""

    attention: str
    """Name under which transformers finds the attention that reads it."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    @abstractmethod
    def admit(
        self, begin: int, prompts: Sequence[Tokens], *, upcoming: Tokens | None, prefill: Prefill
    ) -> None:
        """Gives rows `begin` and on to prompts, equal ones next to each other.

        Args:
            begin: Rows in use.
            prompts: The prompt of each new row.
            upcoming: Prompt of the next row to be admitted; it may be one of `prompts`.
            prefill: Called with the distinct prompts that are not there yet.
        """

    @abstractmethod
    def advance(self) -> Hashable | None:
        """Makes room for the next column, and names what the step reads: steps of one name and as
        many rows read and write the same memory. None is no name."""

    @abstractmethod
    def inputs(self, num_rows: int) -> dict[str, Any]:
        """What the model is called with for the first rows, in the step after `advance`.

        What changes from step to step, but for `advance`, is held by tensors.
        """

    @abstractmethod
    def close_gaps(self, target: Tensor, source: Tensor, *, num_rows: int) -> None:
        """Copies rows onto others, after which only the first `num_rows` are in use."""


class PromptStates(Cache):
    """Keys and values of one forward pass."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.of_layers: Layers = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keeps what the layer computed."""
        self.of_layers.append((key_states, value_states))
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0


class RowCache(DecodeCache):
    """Every row holds a copy of its prompt; memory is allocated once.

    Args:
        max_rows: Rows that are decoded together at most.
        longest_prompt: Tokens of the longest prompt, which is admitted first.
        num_columns: Columns to allocate.
        align: Columns that are read begin and end at multiples of this; kernels of GPUs ask for
            it, and steps between two multiples read the same memory.
        like: Tensor of the type and device of keys and values.
    """

    attention = "grlo_decode"

    def __init__(
        self, *, max_rows: int, longest_prompt: int, num_columns: int, align: int, like: Tensor
    ) -> None:
        super().__init__()
        num_columns += -num_columns % math.lcm(16, align)
        self._max_rows, self._num_columns, self._align = max_rows, num_columns, align
        # The longest prompt comes first, so that the clock has room for all that follow.
        self._clock = longest_prompt - 1
        self._first = self._stop = 0
        """Columns that are read."""
        self._newest = torch.empty(1, dtype=torch.int64, device=like.device)
        """The column before the clock, which the latest step wrote."""
        self._set_clock(self._clock)
        self._layers: Layers = []
        self._starts: list[int] = []
        """First column of every row in use."""
        self._mask_RC = torch.zeros(max_rows, num_columns, dtype=like.dtype, device=like.device)
        self._upcoming: Tokens | None = None
        self._carried: tuple[Tokens, Layers] | None = None
        """A prompt some of whose rows are still to come."""

    def admit(
        self, begin: int, prompts: Sequence[Tokens], *, upcoming: Tokens | None, prefill: Prefill
    ) -> None:
        """See `DecodeCache`."""
        self._upcoming = upcoming
        rows_of: dict[Tokens, list[int]] = {}
        for row, prompt in enumerate(prompts, begin):
            rows_of.setdefault(prompt, []).append(row)
        starts = [self._clock - len(prompt) + 1 for prompt in prompts]
        self._starts += starts
        mask_RC = self._mask_RC[begin : begin + len(prompts)]
        mask_RC.copy_(mask_outside(starts, self._clock, self._num_columns, like=mask_RC))
        carried, self._carried = self._carried, None
        if carried is not None:
            prompt, layers = carried
            self._write(layers, [prompt], [rows_of.pop(prompt)])
            self._carried = carried if prompt == upcoming else None
        for part, layers in prefill([prompt for prompt in rows_of if len(prompt) > 1]):
            self._write(layers, part, [rows_of[prompt] for prompt in part])
            if upcoming in part:
                place, length = part.index(upcoming), len(upcoming) - 1
                self._carried = (
                    upcoming,
                    [
                        (k[place, None, :, :length].clone(), v[place, None, :, :length].clone())
                        for k, v in layers
                    ],
                )

    def advance(self) -> Hashable:
        """See `DecodeCache`."""
        if self._clock == self._num_columns:
            self._shift()
        self._clock += 1
        first = min(self._starts)
        self._first = first - first % self._align
        self._stop = self._clock + -self._clock % self._align
        return self._first, self._stop

    def inputs(self, num_rows: int) -> dict[str, Any]:
        """See `DecodeCache`."""
        self._newest += 1
        mask_RC = self._mask_RC[:num_rows].index_fill_(1, self._newest, 0.0)
        return {
            "attention_mask": mask_RC[:, None, None, self._first : self._stop],
            "past_key_values": self,
            "use_cache": True,
        }

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the newest column and returns the columns that are read."""
        keys, values = self._written(key_states, value_states, layer_idx)
        return keys[:, :, self._first : self._stop], values[:, :, self._first : self._stop]

    def close_gaps(self, target: Tensor, source: Tensor, *, num_rows: int) -> None:
        """See `DecodeCache`."""
        for pair in self._layers:
            for stored in pair:
                used = stored[:, :, self._first : self._clock]
                used[target] = used[source]
        self._mask_RC[target] = self._mask_RC[source]
        for gap, mover in zip(target.tolist(), source.tolist(), strict=True):
            self._starts[gap] = self._starts[mover]
        del self._starts[num_rows:]

    def _written(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """All columns of the rows, the newest with what is given."""
        keys, values = (stored[: len(key)] for stored in self._layer(layer_idx, key, value))
        keys.index_copy_(2, self._newest, key)
        values.index_copy_(2, self._newest, value)
        return keys, values

    def _layer(self, layer_idx: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if layer_idx == len(self._layers):
            size = self._max_rows, key.shape[1], self._num_columns
            # Zeros, not whatever was in memory: a NaN would pass through a weight of zero.
            self._layers.append((self._zeros(*size, like=key), self._zeros(*size, like=value)))
        return self._layers[layer_idx]

    def _zeros(self, num_rows: int, num_heads: int, num_columns: int, *, like: Tensor) -> Tensor:
        """[R, H, C, D]."""
        return like.new_zeros(num_rows, num_heads, num_columns, like.shape[3])

    def _write(
        self, layers: Layers, prompts: Sequence[Tokens], rows: Sequence[Sequence[int]]
    ) -> None:
        """Puts prompts before the clock; prompt b into each of `rows[b]`."""
        device = layers[0][0].device
        lengths = [len(prompt) - 1 for prompt in prompts]
        longest = max(lengths)
        # In front of a shorter one stand copies of its first token, which the mask hides.
        shifts_B1 = torch.tensor([[longest - length] for length in lengths], device=device)
        places_BP = (torch.arange(longest, device=device) - shifts_B1).clamp(min=0)
        owner = [b for b, group in enumerate(rows) for _ in group]
        owner_R1 = torch.tensor(owner, device=device)[:, None]
        target_R = torch.tensor([row for group in rows for row in group], device=device)
        for layer_idx, new in enumerate(layers):
            for stored, part in zip(self._layer(layer_idx, *new), new, strict=True):
                aligned = part.transpose(1, 2)[owner_R1, places_BP[owner]].transpose(1, 2)
                stored[target_R, :, self._clock - longest : self._clock] = aligned

    def _shift(self) -> None:
        """Turns the clock back so that the oldest row starts at the first column, or a little later
        when the next prompt needs more columns before the clock."""
        room = 0 if self._upcoming is None else len(self._upcoming) - 1
        by = self._clock - max(room, self._clock - min(self._starts))
        n = len(self._starts)
        for pair in self._layers:
            for stored in pair:
                stored[:n, :, : self._clock - by] = stored[:n, :, by : self._clock].clone()
        self._set_clock(self._clock - by)
        self._starts = [start - by for start in self._starts]
        self._mask_RC[:n] = mask_outside(
            self._starts, self._clock, self._num_columns, like=self._mask_RC
        )

    def _set_clock(self, clock: int) -> None:
        self._clock = clock
        self._newest.fill_(clock - 1)


def mask_before(starts: Sequence[int], num_columns: int, *, like: Tensor) -> Tensor:
    """[R, C] zeros, and -inf before each row's start."""
    columns = torch.arange(num_columns, device=like.device)
    return hidden(columns < torch.tensor(starts, device=like.device)[:, None], like=like)


def mask_outside(starts: Sequence[int], clock: int, num_columns: int, *, like: Tensor) -> Tensor:
    """[R, C] zeros, and -inf before each row's start and from the clock on."""
    columns = torch.arange(num_columns, device=like.device)
    is_behind = columns >= clock
    return mask_before(starts, num_columns, like=like) + hidden(is_behind, like=like)


def hidden(is_hidden: Tensor, *, like: Tensor) -> Tensor:
    """What is added to scores: -inf where they are not to count, else 0."""
    return torch.zeros_like(is_hidden, dtype=like.dtype).masked_fill_(is_hidden, float("-inf"))


def require_plain(softcap: float | None, s_aux: Tensor | None) -> None:
    """Raises EngineError where attention is more than a softmax."""
    if softcap is not None or s_aux is not None:
        raise EngineError("engine 'hf' cannot decode models with attention soft caps or sinks.")


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one query token per row; heads that share keys are queries of one head.

    Keys are read in place, without a copy for every query head.
    """
    require_plain(softcap, s_aux)
    num_rows, num_heads, _, head_dim = query.shape
    query = query.reshape(num_rows, key.shape[1], num_heads // key.shape[1], head_dim)
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(num_rows, 1, num_heads, value.shape[-1]), None


AttentionInterface.register(RowCache.attention, _attention)
