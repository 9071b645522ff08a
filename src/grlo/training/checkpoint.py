"""Checkpoints that survive a kill at any moment and refuse to load damaged.

A checkpoint is an ordinary Hugging Face model (adapters merged in) with its tokenizer, a critic
beside it in the same form (or its head, where the trunk is the policy's), the optimizer's state as
safetensors, and everything else as JSON. It is written into a temporary folder, listed with SHA-256
in a manifest, synced, and renamed into place. Of several processes the leader does that; where
weights are in shards the others give it theirs, and write their part of the optimizer's state.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from grlo.errors import CheckpointError
from grlo.modeling.adapters import merged_weights, plain_model
from grlo.modeling.passes import is_sharded
from grlo.rollout import ChatRenderer
from grlo.rundir import PARTIAL, list_checkpoints
from grlo.training.optimizer_files import FILE, read_states, write_states
from grlo.training.optimizers import loaded_state, moment_names, stored_state
from grlo.training.shared_critic import ValueHead, save_value_head

FORMAT = 1
_MANIFEST, _STATE = "grlo_manifest.json", "grlo_state.json"


class Trained(Protocol):
    """What a checkpoint is made of: models in training with their optimizers."""

    @property
    def policy(self) -> PreTrainedModel: ...

    @property
    def critic(self) -> PreTrainedModel | ValueHead | None: ...

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """By the names of `models`."""
        ...

    def models(self) -> Mapping[str, nn.Module]:
        """The policy as `policy` and the critic, if there is one, as `critic`."""
        ...

    def at_work(self, name: str) -> AbstractContextManager[None]:
        """Has one of them and its optimizer's states on the device where they are used."""
        ...


def save(
    path: Path,
    learner: Trained,
    renderer: ChatRenderer,
    *,
    state: Mapping[str, object],
    tell_others: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Writes a checkpoint; `path` either does not exist afterwards or is whole.

    Args:
        path: Final folder.
        learner: Models and optimizers.
        renderer: Its tokenizer is saved with the model, and its template with the tokenizer, so
            that the checkpoint can be talked to as it was trained.
        state: JSON-able rest: step, running statistics.
        tell_others: Has the other processes of a run with sharded weights do `save_share` with the
            folder that it is told.

    Raises:
        CheckpointError: The disk is full or not writable; nothing is left at `path`.
    """
    temporary = path.with_name(path.name + PARTIAL)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _require_space(temporary, learner)
        tell_others(temporary)
        _save_model(temporary, learner.policy)
        GenerationConfig(
            eos_token_id=list(renderer.stop_ids), pad_token_id=renderer.pad_id
        ).save_pretrained(temporary)
        renderer.save_tokenizer(temporary)
        if isinstance(learner.critic, ValueHead):
            save_value_head(temporary / "critic", learner.critic)
        elif learner.critic is not None:
            _save_model(temporary / "critic", learner.critic)
        write_states(temporary, _optimizer_tensors(learner))
        _write_json(temporary / _STATE, {"format": FORMAT, **state})
        files = sorted(file for file in temporary.rglob("*") if file.is_file())
        manifest = {str(file.relative_to(temporary)): _sha256(file) for file in files}
        _write_json(temporary / _MANIFEST, manifest)
        for file in [*files, temporary / _MANIFEST]:
            _sync(file)
        for folder in [*(f for f in temporary.rglob("*") if f.is_dir()), temporary]:
            _sync(folder)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        _sync(path.parent)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) or "No space left" in str(error):
            raise CheckpointError(
                f"cannot write checkpoint {path}: {error}. Earlier checkpoints are intact; free "
                "some space and start the same command again to resume."
            ) from error
        raise


def save_share(folder: Path, learner: Trained) -> None:
    """What another process than the leader does while that saves models whose weights are in
    shards, in the same order."""
    for model in (learner.policy, learner.critic):
        if model is not None and is_sharded(model):
            for _ in merged_weights(model):
                pass
    write_states(folder, _optimizer_tensors(learner))


def model_files(path: Path) -> list[Path]:
    """The files of a whole checkpoint that make up the plain model with its tokenizer.

    Raises:
        CheckpointError: The folder is no checkpoint of ours, or damaged.
    """
    read_state(path)
    ours = (_MANIFEST, _STATE, FILE)
    return sorted(file for file in path.iterdir() if file.is_file() and file.name not in ours)


def read_state(path: Path) -> dict[str, object]:
    """Verifies every file against the manifest and returns the JSON state.

    Raises:
        CheckpointError: The folder is no checkpoint of ours, or a file is missing, changed, or of
            another format; the message names it.
    """
    manifest_file = path / _MANIFEST
    if not manifest_file.is_file():
        raise CheckpointError(
            f"{path} is not a training checkpoint of this program: {_MANIFEST} is missing. A plain "
            "model can be trained (policy.model) but not resumed."
        )
    for name, digest in _read_json(manifest_file).items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is missing. {_REMEDY}")
        if _sha256(file) != digest:
            raise CheckpointError(
                f"checkpoint {path} is damaged: {name} differs from its checksum. {_REMEDY}"
            )
    state = _read_json(path / _STATE)
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {state.get('format')!r}, this version reads {FORMAT}. "
            "Resume with the version that wrote it."
        )
    return state


def restore(path: Path, learner: Trained) -> None:
    """Puts optimizer state and adapters back into a learner that was built with `checkpoint=path`.

    Raises:
        CheckpointError: The stored tensors do not fit the learner's parameters.
    """
    parameters = {
        f"{model_name}.{name}": parameter
        for model_name, model in learner.models().items()
        for name, parameter in model.named_parameters()
    }
    stored = read_states(path, parameters)
    expected: set[str] = set()
    for model_name in learner.models():
        with learner.at_work(model_name):
            expected |= _restore_model(path, learner, model_name, stored)
    if unknown := sorted(set(stored) - expected):
        raise CheckpointError(
            f"checkpoint {path} holds optimizer state for {unknown[0]!r}, which this recipe does "
            "not train. Resume with the recipe that wrote it."
        )


def _restore_model(
    path: Path, learner: Trained, model_name: str, stored: Mapping[str, Tensor]
) -> set[str]:
    """Puts back what is stored of one model; the keys of that."""
    expected: set[str] = set()
    model, optimizer = learner.models()[model_name], learner.optimizers[model_name]
    has_adapters = plain_model(model) is not model
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        key = f"{model_name}.{name}"
        if has_adapters:
            expected.add(f"{key}.value")
            with torch.no_grad():
                parameter.copy_(_fitting(stored, f"{key}.value", parameter.shape, path))
        if f"{key}.step" not in stored:
            continue
        prefix = f"{key}."
        own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
        own.pop("value", None)
        expected |= {prefix + part for part in own}
        for moment in moment_names(optimizer):
            _fitting(stored, prefix + moment, parameter.shape, path)
        optimizer.state[parameter] = loaded_state(optimizer, parameter, own)
    return expected


def prune(checkpoints: Path, *, keep_last: int, keep: set[str]) -> None:
    """Removes all but the newest `keep_last` checkpoints and those named in `keep`."""
    for path in list_checkpoints(checkpoints)[:-keep_last]:
        if path.name not in keep:
            shutil.rmtree(path)


def _optimizer_tensors(learner: Trained) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for model_name, model in learner.models().items():
        has_adapters = plain_model(model) is not model
        state = learner.optimizers[model_name].state
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if has_adapters:
                tensors[f"{model_name}.{name}.value"] = parameter.detach().contiguous()
            for key, value in stored_state(state.get(parameter, {})).items():
                tensors[f"{model_name}.{name}.{key}"] = value
    return tensors


def _save_model(path: Path, model: PreTrainedModel) -> None:
    plain = plain_model(model)
    with torch.no_grad():
        weights = dict(merged_weights(model, on_cpu=is_sharded(model)))
    use_cache = plain.config.use_cache
    # The learner switches the cache off; whoever loads the checkpoint to generate wants it.
    plain.config.use_cache = True
    try:
        plain.save_pretrained(path, state_dict=weights)
    finally:
        plain.config.use_cache = use_cache


def _require_space(path: Path, learner: Trained) -> None:
    needed = sum(
        parameter.numel() * parameter.element_size() * (3 if parameter.requires_grad else 1)
        for model in learner.models().values()
        for parameter in model.parameters()
    )
    free = shutil.disk_usage(path).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"No space left: {needed / 2**30:.2f} GiB needed, {free / 2**30:.2f} GiB free",
        )


def _fitting(stored: Mapping[str, Tensor], key: str, shape: torch.Size, path: Path) -> Tensor:
    if key not in stored:
        raise CheckpointError(
            f"checkpoint {path} has no {key!r}. Resume with the recipe that wrote it."
        )
    if stored[key].shape != shape:
        raise CheckpointError(
            f"checkpoint {path}: {key!r} has shape {tuple(stored[key].shape)}, the model "
            f"{tuple(shape)}. Resume with the recipe that wrote it."
        )
    return stored[key]


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}. {_REMEDY}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged: expected an object. {_REMEDY}")
    return value


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_REMEDY = "Remove this checkpoint's folder to resume from the one before it."
