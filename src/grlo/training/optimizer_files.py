"""States of optimizers in files: one of all, or where weights are in shards one of each process.

Shards are written by torch.distributed.checkpoint in its form for safetensors: each tensor under
its name, with the place of the piece in the file's metadata. Any number of processes, with weights
in shards or not, reads either kind.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FILE = "grlo_optimizer.safetensors"
FOLDER = "optimizer"
"""Where shards lie."""


def write_states(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors into the folder of a checkpoint; with shards among them all ranks do that.

    Raises:
        OSError: The disk is full or not writable.
    """
    if not any(map(_is_shard, tensors.values())):
        save_file(dict(tensors), folder / FILE)
        return
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(folder / FOLDER), save_distributed=True)
    save(dict(tensors), storage_writer=writer)


def read_states(folder: Path, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All that `write_states` wrote, on the CPU, or as shards like those of the parameters.

    Args:
        folder: Of the checkpoint.
        parameters: By key; what is stored of a parameter has its key, a dot and a name. Where the
            parameter is in shards and has the same shape, what is read is this process's piece.
    """
    if (folder / FILE).is_file():
        stored = load_file(folder / FILE)
        return {key: _like(parameters, key, tensor) for key, tensor in stored.items()}
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder / FOLDER))
    targets: dict[str, Tensor] = {}
    for key, stored in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(stored, TensorStorageMetadata)
        parameter, dtype = _owner(parameters, key), stored.properties.dtype
        if parameter is not None and _is_shard(parameter) and parameter.shape == stored.size:
            targets[key] = torch.empty_like(parameter, dtype=dtype, requires_grad=False)
        else:
            targets[key] = torch.empty(stored.size, dtype=dtype)
    # Every process reads what it needs; there is nothing to agree on.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(targets, storage_reader=reader, no_dist=True)
    return targets


def _is_shard(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def _owner(parameters: Mapping[str, Tensor], key: str) -> Tensor | None:
    return parameters.get(key.rpartition(".")[0])


def _like(parameters: Mapping[str, Tensor], key: str, tensor: Tensor) -> Tensor:
    """The tensor, or of a sharded parameter this process's piece of it."""
    parameter = _owner(parameters, key)
    if parameter is None or not _is_shard(parameter) or parameter.shape != tensor.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(
        tensor.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        src_data_rank=None,  # Every process has the whole of it.
    )
