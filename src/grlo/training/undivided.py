"""Where a learner's work is done: in this process alone, unless others have a share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from grlo.batch import TokenBatch
from grlo.errors import NonFiniteError


class Undivided:
    """A learner's work, all of it done by one process.

    `grlo.training.distributed.sharing.Divided` has other answers.
    """

    rank: int = 0
    size: int = 1
    """Processes that train together."""
    is_sharded: bool = False
    """Whether weights, gradients and optimizers' states are divided too."""

    @property
    def num_shards(self) -> int:
        """Processes that hold a weight together."""
        return self.size if self.is_sharded else 1

    def load_device(self, device: str) -> str:
        """Where models are loaded, before `place`."""
        return device

    def place(self, model: Any, name: str, *, dtype: torch.dtype) -> Any:
        """A model that was loaded, where and as it is used; see `Sharding.shard`."""
        return model

    def rows(self, batch: TokenBatch, rows: Tensor) -> Tensor:
        """Those of the rows that this process reads; its groups are whole."""
        return rows

    def finish(self, idle: Callable[[], object]) -> None:
        """Makes idle passes while others still have rows; see `CommonPasses.finish`."""

    def total(self, values_BT: Tensor) -> Tensor:
        """What all processes have found for their rows; each has zeros at the others'."""
        return values_BT

    def sum_gradients(self, model: nn.Module) -> None:
        """Gives every process the gradients of all rows."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in order."""
        return [value]

    def note(self, error: NonFiniteError) -> None:
        """Takes note of a failure in the midst of a pass.

        Raises:
            NonFiniteError: At once, where nobody else waits for the end of the pass.
        """
        raise error

    def agree(self) -> None:
        """Raises what any process has taken note of."""
