"""The model that is evaluated: opened from a folder, a run, the hub or an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from grlo.endpoint import EndpointSettings
from grlo.errors import RecipeError
from grlo.evaluation.respondents import LocalModel, RemoteModel, Respondent
from grlo.interfaces import RolloutEngine
from grlo.model_shape import ModelShape
from grlo.recipe import load_settings
from grlo.rollout import ChatRenderer, PlainRenderer
from grlo.settings import Dtype
from grlo.stages.models import (
    load_named_engine,
    newest_model,
    open_renderer,
    saved_shape,
    weights_identity,
)
from grlo.stages.runs import choose_device
from grlo.training.flops import generation

# A block is what a kill may cost on a CPU, where equal blocks give equal bytes.
_LARGE_MODEL, _SMALL_BLOCK, _LARGE_BLOCK = 100_000_000, 16, 256


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and how it is run."""

    model: str
    """Folder with a model or a LoRA adapter, run directory (its newest checkpoint), hub id, TOML
    file of `EndpointSettings`, or with `base_url` the name of a model there."""
    template: str | None = None
    """Named chat template; None takes the tokenizer's own."""
    device: str = "auto"
    dtype: str | None = None
    """`float32` or `bfloat16`; None is bfloat16 on a GPU and float32 on a CPU."""
    engine: str = "hf"
    base_url: str = ""
    """Of an OpenAI-compatible endpoint."""

    def __post_init__(self) -> None:
        if self.dtype not in (None, "float32", "bfloat16"):
            raise RecipeError(f"dtype {self.dtype!r} is unknown; expected 'float32' or 'bfloat16'.")

    @property
    def is_remote(self) -> bool:
        return bool(self.base_url) or self.model.endswith(".toml")


@dataclass(frozen=True)
class Opened:
    """A model that is ready to be asked."""

    respondent: Respondent
    identity: dict[str, Any]
    """What tells it from other models."""
    device: str
    num_devices: int = 1


@contextmanager
def open_model(model: ModelChoice, *, out: Path, seed: int) -> Iterator[Opened]:
    """The model, ready to be asked; its weights are loaded at the first question.

    Raises:
        ModelError: The model or its tokenizer cannot be used.
        RecipeError: There is no such engine, or the file of an endpoint is malformed.
    """
    if model.is_remote:
        settings = _endpoint(model)
        settings = replace(settings, cache=settings.cache or str(out / "replies"))
        identity = {"base_url": settings.base_url, "model": settings.model}
        yield Opened(RemoteModel(settings), identity, device="cpu")
        return
    device = choose_device(model.device)
    dtype = cast(Dtype, model.dtype or ("float32" if _is_cpu(device) else "bfloat16"))
    path = newest_model(model.model)
    renderer = open_renderer(path, template=model.template)
    identity = {**weights_identity(path), "dtype": dtype, "engine": model.engine}
    local = local_model(
        lambda: load_named_engine(
            model.engine, path, renderer, device=device, dtype=dtype, seed=seed
        ),
        renderer,
        shape=saved_shape(path),
        device=device,
    )
    try:
        yield Opened(local, identity, device=device)
    finally:
        local.close()


def local_model(
    open_engine: Callable[[], RolloutEngine],
    renderer: ChatRenderer,
    *,
    shape: ModelShape,
    device: str,
) -> LocalModel:
    """A model of an engine here, asked in blocks of fixed size where that makes it exact."""
    block = _SMALL_BLOCK if shape.num_parameters > _LARGE_MODEL else _LARGE_BLOCK
    return LocalModel(
        open_engine,
        renderer,
        template=renderer.template_sha256,
        render_shots=lambda shots: PlainRenderer(renderer, shots),
        block_size=block if _is_cpu(device) else 0,
        count_flops=partial(generation, shape),
    )


def _is_cpu(device: str) -> bool:
    return torch.device(device).type == "cpu"


def _endpoint(model: ModelChoice) -> EndpointSettings:
    if not model.base_url:
        return load_settings(EndpointSettings, Path(model.model))
    try:
        return EndpointSettings(base_url=model.base_url, model=model.model, api_key_env="")
    except ValueError as error:
        raise RecipeError(f"--base-url {model.base_url}: {error}.") from error
