"""Weights and optimizer states that live in the CPU's memory and visit a device to be used.

Numbers do not change on the way. Parameters stay the objects that they are, so that optimizers and
checkpoints find them wherever their values lie.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class HostMemory:
    """Copies in the CPU's memory, each in the same place as before: pages that are locked for
    transfers take long to get.

    Args:
        device: Where tensors are used.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._copies: dict[tuple[int, str], Tensor] = {}

    def put(self, key: tuple[int, str], tensor: Tensor, *, changed: bool = True) -> Tensor:
        """The copy of a tensor on the device.

        Args:
            key: What it is.
            tensor: Its values.
            changed: Whether these may differ from those of the copy that there is.
        """
        copy = self._copies.get(key)
        if copy is None:
            copy = torch.empty_like(tensor, device="cpu", pin_memory=self._device.type == "cuda")
            self._copies[key] = copy
            changed = True
        # Waits until the values are there: a checkpoint may read them next.
        return copy.copy_(tensor) if changed else copy

    def get(self, copy: Tensor) -> Tensor:
        """The values on the device; work that is asked of it afterwards waits for them."""
        return copy.to(self._device, non_blocking=True)


class Offload:
    """Keeps named components in the CPU's memory while they are not in use.

    Args:
        names: Of `grlo.settings.Offload`; components with other names stay on the device.
        device: Where they are used.
    """

    def __init__(self, names: Collection[str], *, device: str) -> None:
        self._names = names
        self._host = HostMemory(device)

    @contextmanager
    def model(self, name: str, model: nn.Module) -> Iterator[None]:
        """Has a model's weights on the device inside, and in the CPU's memory afterwards."""
        if name not in self._names:
            yield
            return
        for parameter in model.parameters():
            parameter.data = self._host.get(parameter.data)
        try:
            yield
        finally:
            for parameter in model.parameters():
                parameter.data = self._host.put(
                    (id(parameter), "value"), parameter.data, changed=parameter.requires_grad
                )

    @contextmanager
    def states(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Has an optimizer's states on the device inside, and in the CPU's memory afterwards."""
        if "optimizer" not in self._names:
            yield
            return
        for parameter, key, state in _states(optimizer):
            optimizer.state[parameter][key] = self._host.get(state)
        try:
            yield
        finally:
            for parameter, key, state in _states(optimizer):
                optimizer.state[parameter][key] = self._host.put((id(parameter), key), state)


def _states(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, str, Tensor]]:
    return [
        (parameter, key, state)
        for parameter, states in optimizer.state.items()
        for key, state in states.items()
        if isinstance(state, Tensor)
    ]
