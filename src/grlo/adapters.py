"""Models with and without LoRA adapters, seen as the Hugging Face checkpoint they stand for."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from transformers import PreTrainedModel


def plain_model(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore


def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights under the names of the Hugging Face checkpoint, adapters merged in.

    Tensors are the parameters themselves where nothing had to be merged: copy before changing them.
    """
    if not hasattr(model, "get_base_model"):
        yield from model.state_dict().items()
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
