"""A cache in which the samples of a prompt share its keys and values, for float32 on a CPU.

Decoding there is bound by reading the cache. Prompts stand apart from what rows have written, once
for all rows that continue them: their keys meet the queries of all these rows in one product. What
a row has written lies without gaps, row after row, which memory delivers at almost twice the rate
of stretches with gaps (`docs/results.md`); so the columns are copied into a wider place every few
steps. Scores of both parts meet in one softmax.

Dimensions: R rows, C columns that rows have written, G prompts, S rows of the prompt that has most,
P tokens of the longest prompt, H key/value heads, N query heads of each, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface

from grlo.engines.decode_cache import (
    DecodeCache,
    Layers,
    Prefill,
    Tokens,
    hidden,
    mask_before,
    require_plain,
)

_ROOM = 4
"""Columns by which a row's place outgrows what it holds: up to 3 columns of 128 bytes in between
cost nothing, more cost as much as any gap."""


class SharedPromptCache(DecodeCache):
    """Prompts once, and what each row has written.

    Args:
        max_rows: Rows that are decoded together at most.
        max_columns: Columns from the start of the oldest row to the clock at most.
        like: Tensor of the type and device of keys and values.
    """

    attention = "grlo_decode_shared"

    def __init__(self, *, max_rows: int, max_columns: int, like: Tensor) -> None:
        super().__init__()
        self._max_cells, self._like = max_rows * (max_columns + _ROOM), like
        self.prompts: list[Tokens] = []
        self._prompt_layers: Layers = []
        """Keys and values [G, H, P, D], aligned on the left."""
        self._upcoming: Tokens | None = None
        self._written: list[Tensor] = []
        """Keys [R, H, C, D] that rows have written, and values, of one layer after the other."""
        self._memory: list[Tensor] = []
        """Where each of these lies."""
        self._spare: Tensor | None = None
        """A place more, into which the next of them is copied."""
        self._clock = self._width = 0
        self._starts: list[int] = []
        """First column of every row in use."""
        self._prompt_R: list[int] = []
        """Which of the prompts each continues."""

    def admit(
        self, begin: int, prompts: Sequence[Tokens], *, upcoming: Tokens | None, prefill: Prefill
    ) -> None:
        """See `DecodeCache`."""
        self._upcoming = upcoming
        known = set(self.prompts)
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        self._store([*map(self.prompts.index, known.intersection(prompts))], prefill(missing))
        place = {prompt: index for index, prompt in enumerate(self.prompts)}
        self._prompt_R += [place[prompt] for prompt in prompts]
        self._regroup()
        self._starts += [self._clock] * len(prompts)
        self._widen()
        for states in self._written:
            # What was in memory may be a NaN, which would pass through a weight of zero.
            states[begin:, :, : self._clock] = 0

    def advance(self) -> None:
        """See `DecodeCache`."""
        if self._clock == self._width:
            self._widen()
        self._clock += 1

    def inputs(self, num_rows: int) -> dict[str, Any]:
        """See `DecodeCache`."""
        return {
            "attention_mask": self._mask_RC[:num_rows, None, None, : self._clock],
            "past_key_values": self,
            "use_cache": True,
            "shared": self,
        }

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the newest column and returns what rows have written."""
        if 2 * layer_idx == len(self._written):
            self._allocate(key_states, value_states)
        keys, values = self._written[2 * layer_idx :][:2]
        n, clock = len(key_states), self._clock
        keys[:n, :, clock - 1] = key_states[:, :, 0]
        values[:n, :, clock - 1] = value_states[:, :, 0]
        return keys[:n, :, :clock], values[:n, :, :clock]

    def close_gaps(self, target: Tensor, source: Tensor, *, num_rows: int) -> None:
        """See `DecodeCache`."""
        for state in (*self._written, self._mask_RC):
            state[target] = state[source]
        for gap, mover in zip(target.tolist(), source.tolist(), strict=True):
            self._starts[gap] = self._starts[mover]
            self._prompt_R[gap] = self._prompt_R[mover]
        del self._starts[num_rows:], self._prompt_R[num_rows:]
        if 4 * len(set(self._prompt_R)) <= 3 * len(self.prompts):
            self._store([], [])
        self._regroup()

    def prompt_scores(self, query: Tensor, layer_idx: int) -> Tensor:
        """Products [R, H, N, P] of each row's queries [R, H, N, D] with the keys of its prompt."""
        keys, _ = self._prompt_layers[layer_idx]
        return self._by_rows(self._by_prompts(query) @ keys.transpose(2, 3) + self._mask_G11P)

    def prompt_values(self, weights: Tensor, layer_idx: int) -> Tensor:
        """Sums [R, H, N, D] of the values of each row's prompt by weights [R, H, N, P]."""
        _, values = self._prompt_layers[layer_idx]
        return self._by_rows(self._by_prompts(weights) @ values)

    def _by_prompts(self, states: Tensor) -> Tensor:
        """[R, H, N, X] as [G, H, S N, X]; places without a row hold the first row's."""
        return states[self._row_GS].transpose(1, 2).flatten(2, 3)

    def _by_rows(self, states: Tensor) -> Tensor:
        """The inverse of `_by_prompts`."""
        states = states.unflatten(2, (self._row_GS.shape[1], -1)).transpose(1, 2)
        return states.flatten(0, 1)[self._place_R]

    def _regroup(self) -> None:
        """Finds a place for every row among those of its prompt."""
        prompt_R = torch.tensor(self._prompt_R, dtype=torch.int64)
        count_G = prompt_R.bincount(minlength=len(self.prompts))
        order_R = prompt_R.argsort(stable=True)
        first_R = (count_G.cumsum(0) - count_G)[prompt_R[order_R]]
        rank_R = torch.empty_like(order_R)
        rank_R[order_R] = torch.arange(len(order_R)) - first_R
        most = int(count_G.max()) if len(order_R) else 1
        self._row_GS = torch.zeros(len(self.prompts), most, dtype=torch.int64)
        self._row_GS[prompt_R, rank_R] = torch.arange(len(order_R))
        self._place_R = prompt_R * most + rank_R

    def _store(self, wanted: Sequence[int], parts: Iterable[tuple[list[Tokens], Layers]]) -> None:
        """Keeps the prompts that are wanted, in use or upcoming, and adds those of `parts`."""
        used = {*wanted, *self._prompt_R}
        if self._upcoming in self.prompts:
            used.add(self.prompts.index(self._upcoming))
        kept = sorted(used)
        place = {index: number for number, index in enumerate(kept)}
        old = [(keys[kept], values[kept]) for keys, values in self._prompt_layers]
        stores = [([self.prompts[index] for index in kept], old), *parts]
        stores = [(prompts, layers) for prompts, layers in stores if prompts]
        self._prompt_R = [place[index] for index in self._prompt_R]
        self.prompts = [prompt for prompts, _ in stores for prompt in prompts]
        lengths = [len(prompt) - 1 for prompt in self.prompts]
        longest = max(lengths, default=0)

        def joined(states: Sequence[Tensor]) -> Tensor:
            cut = [part[:, :, :longest] for part in states]
            return torch.cat([pad(part, (0, 0, 0, longest - part.shape[2])) for part in cut])

        self._prompt_layers = [
            (joined([keys for keys, _ in of_stores]), joined([values for _, values in of_stores]))
            for of_stores in zip(*(layers for _, layers in stores), strict=True)
        ]
        is_padding_GP = torch.arange(longest) >= torch.tensor(lengths)[:, None]
        self._mask_G11P = hidden(is_padding_GP, like=self._like)[:, None, None]

    def _widen(self) -> None:
        """Copies what is in use into a place with room for a few columns more."""
        first, clock = min(self._starts), self._clock
        self._starts = [start - first for start in self._starts]
        self._clock = clock - first
        self._width = self._clock + _ROOM
        self._mask_RC = mask_before(self._starts, self._width, like=self._like)
        for index, states in enumerate(self._written):
            assert self._spare is not None
            wider = self._place(self._spare, states)
            used = states[: len(wider), :, first:clock]
            wider[: len(used), :, : self._clock] = used
            self._written[index] = wider
            self._memory[index], self._spare = self._spare, self._memory[index]

    def _allocate(self, *layer: Tensor) -> None:
        """Gives keys and values of a layer their places."""
        size = max(states.shape[1] * states.shape[3] for states in layer)
        for states in layer:
            self._memory.append(states.new_empty(self._max_cells * size))
            self._written.append(self._place(self._memory[-1], states))
        if self._spare is None:
            self._spare = layer[0].new_empty(self._max_cells * size)

    def _place(self, memory: Tensor, like: Tensor) -> Tensor:
        """Keys or values [R, H, C, D] of the rows in use at the beginning of some memory."""
        shape = len(self._starts), like.shape[1], self._width, like.shape[3]
        return memory[: math.prod(shape)].view(shape)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    shared: SharedPromptCache,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one query token per row to its prompt and to what the row has written."""
    require_plain(softcap, s_aux)
    num_rows, num_heads, _, head_dim = query.shape
    layer_idx: int = module.layer_idx  # pyright: ignore[reportAssignmentType]
    query = query * (head_dim**-0.5 if scaling is None else scaling)
    query = query.reshape(num_rows, key.shape[1], -1, head_dim)
    own = (query @ key.transpose(2, 3)).add_(attention_mask)
    of_prompt = shared.prompt_scores(query, layer_idx)
    weights = torch.cat((of_prompt, own), -1).softmax(-1)
    size = of_prompt.shape[-1]
    output = weights[..., size:] @ value
    output += shared.prompt_values(weights[..., :size], layer_idx)
    return output.reshape(num_rows, 1, num_heads, value.shape[-1]), None


AttentionInterface.register(SharedPromptCache.attention, _attention)
