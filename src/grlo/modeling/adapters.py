"""Models with and without LoRA adapters, seen as the Hugging Face checkpoint they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import Tensor, nn
from transformers import PreTrainedModel


def plain_model(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore


def class_name(model: nn.Module) -> str:
    """The name of a model's class as its checkpoint has it; sharding puts letters before it."""
    return type(plain_model(model)).__name__.removeprefix("FSDP")


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that may lie in shards; of one that does every process has to ask for it."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def merged_weights(model: nn.Module, *, on_cpu: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Weights under the names of the Hugging Face checkpoint, adapters merged in.

    Tensors are the parameters themselves where nothing had to be merged: copy before changing them.
    Of a sharded model they are gathered one by one, and every process has to ask for all of them.

    Args:
        model: With or without adapters.
        on_cpu: Move what is gathered to the CPU, where all of them may lie at a time.
    """
    if not hasattr(model, "get_base_model"):
        yield from _whole_weights(model, on_cpu=on_cpu)
        return
    from peft.tuners.lora import LoraLayer

    wrapped = {
        name: module
        for name, module in plain_model(model).named_modules()
        if isinstance(module, LoraLayer)
    }
    for name, tensor in plain_model(model).state_dict().items():
        if ".lora_" in name or ".original_module." in name:
            continue
        plain_name = name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
        owner = wrapped.get(name.rpartition(".base_layer.")[0])
        if owner is not None and name.endswith("base_layer.weight"):
            tensor = tensor + owner.get_delta_weight("default").to(tensor.dtype)  # pyright: ignore
        yield plain_name, tensor


def _whole_weights(model: nn.Module, *, on_cpu: bool) -> Iterator[tuple[str, Tensor]]:
    """All weights by name; tied ones are one tensor under each of their names."""
    weights = model.state_dict(keep_vars=True)
    num_names = Counter(map(id, weights.values()))
    tied: dict[int, Tensor] = {}
    for name, weight in weights.items():
        tensor = tied.get(id(weight))
        if tensor is None:
            tensor = whole_tensor(weight.detach())
            tensor = tensor.cpu() if on_cpu else tensor
        if num_names[id(weight)] > 1:
            tied[id(weight)] = tensor
        yield name, tensor
