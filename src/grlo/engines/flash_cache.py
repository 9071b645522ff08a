"""Rows whose stretches of columns a flash attention kernel reads where they lie, on a GPU.

Decoding is bound by reading keys and values. Here a step reads those of each row's own stretch:
neither columns in front of a row that joined late nor any mask.

Dimensions: R rows, C columns, H key/value heads, N query heads of each, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from grlo.engines.decode_cache import Prefill, RowCache, Tokens, require_plain
from grlo.modeling import flash_kernels


@dataclass(frozen=True)
class Stretches:
    """Which of the R C columns, rows one behind the other, belong to each row."""

    numbers_S: Tensor
    """0, 1, 2, ... R; int32."""
    first_S: Tensor
    """First column of each row, and one number more; int32."""
    count_R: Tensor
    """Columns of each row; int32."""
    longest: int
    """Columns of a row at most."""


class FlashCache(RowCache):
    """Every row holds a copy of its prompt; columns lie next to each other with all their heads.

    Args:
        max_rows: As of `RowCache`; so are the others.
        longest_prompt: See there.
        num_columns: See there.
        like: See there.
    """

    attention = "grlo_decode_flash"

    def __init__(
        self, *, max_rows: int, longest_prompt: int, num_columns: int, like: Tensor
    ) -> None:
        super().__init__(
            max_rows=max_rows,
            longest_prompt=longest_prompt,
            num_columns=num_columns,
            align=1,
            like=like,
        )
        self._starts_R = torch.zeros(max_rows + 1, dtype=torch.int64, device=like.device)
        """First column of every row; of rows out of use 0."""
        self._numbers_R = torch.arange(max_rows + 1, dtype=torch.int32, device=like.device)
        self._offsets_R = self._numbers_R.long() * self._num_columns
        self._mask_1111 = like.new_zeros(1, 1, 1, 1)

    def admit(
        self, begin: int, prompts: Sequence[Tokens], *, upcoming: Tokens | None, prefill: Prefill
    ) -> None:
        """See `DecodeCache`."""
        super().admit(begin, prompts, upcoming=upcoming, prefill=prefill)
        self._tell_starts()

    def advance(self) -> str:
        """See `DecodeCache`; tensors say what is read, so that all steps have one name."""
        super().advance()
        return ""

    def inputs(self, num_rows: int) -> dict[str, Any]:
        """See `DecodeCache`."""
        self._newest += 1
        starts_S = self._starts_R[: num_rows + 1]
        return {
            # Of four dimensions it is taken as finished: transformers builds none of its own.
            "attention_mask": self._mask_1111,
            "past_key_values": self,
            "use_cache": True,
            "stretches": Stretches(
                self._numbers_R[: num_rows + 1],
                (self._offsets_R[: num_rows + 1] + starts_S).int(),
                (self._newest + 1 - starts_S[:-1]).int(),
                self._num_columns,
            ),
        }

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the newest column and returns all columns."""
        return self._written(key_states, value_states, layer_idx)

    def close_gaps(self, target: Tensor, source: Tensor, *, num_rows: int) -> None:
        """See `DecodeCache`."""
        super().close_gaps(target, source, num_rows=num_rows)
        self._tell_starts()

    def _shift(self) -> None:
        super()._shift()
        self._tell_starts()

    def _zeros(self, num_rows: int, num_heads: int, num_columns: int, *, like: Tensor) -> Tensor:
        return like.new_zeros(num_rows, num_columns, num_heads, like.shape[3]).transpose(1, 2)

    def _tell_starts(self) -> None:
        idle = self._max_rows + 1 - len(self._starts)
        self._starts_R.copy_(torch.tensor(self._starts + [0] * idle))


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    stretches: Stretches,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one query token per row to its stretch."""
    require_plain(softcap, s_aux)
    output_RHD = flash_kernels.attend_to_stretches(
        query[:, :, 0],
        key.transpose(1, 2).flatten(0, 1),
        value.transpose(1, 2).flatten(0, 1),
        stretches.numbers_S,
        stretches.first_S,
        stretches.count_R,
        longest=stretches.longest,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
    )
    return output_RHD[:, None], None


AttentionInterface.register(FlashCache.attention, _attention)
