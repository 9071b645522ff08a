"""A device on the CPU: what is moved there lies in other memory than what is moved away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from torch import Tensor

from grlo.memory.offload import HostMemory


class TwoPlaces:
    """Watches `grlo.memory.offload` while a test runs; to move a tensor to the device copies it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._away: set[int] = set()
        self.num_moves = 0
        put = HostMemory.put

        def watched_put(memory: Any, key: Any, tensor: Tensor, *, changed: bool = True) -> Tensor:
            copy = put(memory, key, tensor, changed=changed)
            self._away.add(copy.data_ptr())
            return copy

        def get(memory: Any, copy: Tensor) -> Tensor:
            self.num_moves += 1
            return copy.clone() if copy.data_ptr() in self._away else copy

        monkeypatch.setattr(HostMemory, "put", watched_put)
        monkeypatch.setattr(HostMemory, "get", get)

    def are_away(self, tensors: Iterable[Tensor]) -> bool:
        """Whether all are in the CPU's memory; false if all are on the device."""
        places = {tensor.data_ptr() in self._away for tensor in tensors if tensor.numel()}
        assert len(places) == 1, "some are here and some are there"
        return places.pop()
