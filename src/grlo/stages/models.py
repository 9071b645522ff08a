"""Models that are saved: folders, run directories, hub ids and LoRA adapters."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from grlo.engines import ENGINES
from grlo.engines.hf import HFEngineSettings
from grlo.errors import MissingExtraError, ModelError
from grlo.interfaces import BuildContext, RolloutEngine
from grlo.model_shape import ModelShape, shape_from_config
from grlo.modeling.layers import use_fast_layers
from grlo.registry import resolve
from grlo.rollout import ChatRenderer, check_compatible
from grlo.rundir import RunDir
from grlo.settings import Dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADAPTER_FILE = "adapter_config.json"
_DEFAULT_ENGINE = HFEngineSettings()


def newest_model(model: str) -> str:
    """The newest checkpoint of a run directory; other names stay as they are.

    Raises:
        ModelError: The folder holds neither a model nor a checkpoint.
    """
    folder = Path(model)
    is_model = (folder / "config.json").is_file() or (folder / _ADAPTER_FILE).is_file()
    if not folder.is_dir() or is_model:
        return model
    checkpoints = RunDir(folder).checkpoints()
    if not checkpoints:
        raise ModelError(
            f"{model} holds neither a model (config.json, adapter_config.json) nor checkpoints of "
            "a run. Name a model folder, a run directory or a hub id."
        )
    return str(checkpoints[-1])


def base_of_adapter(path: str) -> str | None:
    """The model that a folder with a LoRA adapter was made for; None for other folders.

    Raises:
        ModelError: The adapter does not say.
    """
    file = Path(path) / _ADAPTER_FILE
    if not file.is_file() or (Path(path) / "config.json").is_file():
        return None
    try:
        base = json.loads(file.read_text())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is not readable ({error!r}).") from error
    if not isinstance(base, str) or not base:
        raise ModelError(f"{file} names no base_model_name_or_path. Write the base model there.")
    return base


def open_renderer(path: str, *, template: str | None) -> ChatRenderer:
    """The renderer of a saved model; an adapter without a tokenizer has that of its base.

    Raises:
        ModelError: There is no usable tokenizer.
    """
    base = base_of_adapter(path)
    has_own = base is None or (Path(path) / "tokenizer_config.json").is_file()
    return ChatRenderer.from_pretrained(path if has_own else cast(str, base), template=template)


def load_model(
    path: str, *, dtype: Dtype | Literal["auto"], revision: str | None = None
) -> PreTrainedModel:
    """A causal language model; an adapter is merged into its base.

    Args:
        path: Folder or hub id.
        dtype: Of the weights; `auto` leaves what they are saved as.
        revision: Commit or tag on the hub.

    Raises:
        ModelError: There is no such model.
        MissingExtraError: An adapter needs the extra `lora`.
    """
    disable_progress_bar()  # Of loading; ours is about answers.
    base = base_of_adapter(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base or path,
            revision=revision,
            dtype="auto" if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{base or path}: no language model could be loaded ({error}).") from error
    return use_fast_layers(model if base is None else _with_adapter(model, path))


def _with_adapter(model: PreTrainedModel, path: str) -> PreTrainedModel:
    try:
        from peft import PeftModel
    except ModuleNotFoundError as error:
        raise MissingExtraError("peft", extra="lora") from error
    if not (Path(path) / "adapter_model.safetensors").is_file():
        raise ModelError(f"{path} has no adapter_model.safetensors; other formats are not read.")
    try:
        adapted = PeftModel.from_pretrained(model, path)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path}: the adapter does not fit its base ({error}).") from error
    return cast(Any, adapted).merge_and_unload()


def load_engine(
    path: str,
    renderer: ChatRenderer,
    *,
    device: str,
    dtype: Dtype,
    seed: int,
    settings: object = _DEFAULT_ENGINE,
    revision: str | None = None,
) -> RolloutEngine:
    """An engine on a model of its own, which it loads itself if it can.

    Raises:
        ModelError: There is no such language model, or its tokenizer does not fit.
    """
    context = BuildContext(
        device=device,
        seed=seed,
        decode=renderer.decode,
        save_tokenizer=renderer.save_tokenizer,
    )
    engine = replace(cast(Any, settings), dtype=dtype)
    if hasattr(engine, "build_from_path") and base_of_adapter(path) is None:
        return engine.build_from_path(path, context=context, revision=revision)
    model = load_model(path, dtype=dtype, revision=revision)
    check_compatible(renderer.max_token_id, vocab_size=model.config.vocab_size)
    return engine.build(model, context=context, live=False)


def load_named_engine(
    name: str, path: str, renderer: ChatRenderer, *, device: str, dtype: Dtype, seed: int
) -> RolloutEngine:
    """An engine by name, such as `hf` or `vllm`, on a model of its own.

    Raises:
        RecipeError: There is no such engine.
        ModelError: There is no such language model, or the engine cannot load it.
    """
    settings = cast(Any, resolve(name, kind="engine", registry=ENGINES))(dtype=dtype)
    return load_engine(path, renderer, device=device, dtype=dtype, seed=seed, settings=settings)


def saved_shape(path: str) -> ModelShape:
    """Sizes of a saved model; of an adapter those of its base."""
    config = AutoConfig.from_pretrained(base_of_adapter(path) or path)
    return shape_from_config(config.get_text_config().to_dict())


def weights_identity(path: str, *, revision: str | None = None) -> dict[str, str]:
    """The model's place and what tells its weights from others: their hash, or the hub's commit."""
    folder = Path(path)
    base = base_of_adapter(path)
    if base is not None:
        own = _folder_sha256(folder, _ADAPTER_FILE)
        identity = {f"base_{k}": v for k, v in weights_identity(base).items()}
        return {"path": str(folder.resolve()), "weights_sha256": own, **identity}
    if not folder.is_dir():
        try:
            config = AutoConfig.from_pretrained(path, revision=revision)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: no model could be found ({error}).") from error
        return {"path": path, "commit": str(getattr(config, "_commit_hash", None))}
    return {"path": str(folder.resolve()), "weights_sha256": _folder_sha256(folder, "config.json")}


def _folder_sha256(folder: Path, config: str) -> str:
    digest = hashlib.sha256()
    for file in sorted([folder / config, *folder.glob("*.safetensors")]):
        # The optimizer's state lies beside the weights of a checkpoint.
        if file.is_file() and not file.name.startswith("grlo_"):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{file.name} {content}\n".encode())
    return digest.hexdigest()
