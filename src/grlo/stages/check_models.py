"""Checkpoints that a recipe names: whether they are there, and what fits to what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from grlo.errors import ModelError
from grlo.model_shape import ModelShape, read_shape
from grlo.rollout import ChatRenderer, check_compatible
from grlo.settings import Recipe
from grlo.stages.check_findings import Findings


@dataclass(frozen=True)
class FoundModel:
    """A checkpoint without its weights."""

    name: str
    folder: Path
    shape: ModelShape


def find_model(
    role: str, model: str, revision: str | None, findings: Findings
) -> FoundModel | None:
    """The configuration of a checkpoint, if it is here or can be fetched."""
    with findings.collect():
        folder = find_folder(model, revision=revision, download=not findings.is_offline)
        if folder is None:
            findings.absent(f"{role}: the model {model!r} is not on this machine")
            return None
        if not (folder / "config.json").is_file() and findings.is_offline:
            findings.absent(f"{role}: {folder / 'config.json'} is not there")
            return None
        if Path(model).is_dir() and not findings.is_offline:
            _check_weight_files(role, folder, findings)
        return FoundModel(name=model, folder=folder, shape=read_shape(folder))
    return None


def find_folder(model: str, *, revision: str | None, download: bool) -> Path | None:
    """The folder that holds a model's configuration and tokenizer; its weights are not fetched.

    Args:
        model: Folder or hub id.
        revision: Commit or tag on the hub.
        download: Whether the hub may be asked for what is not in its cache.

    Returns:
        None if there is no such folder, or the hub's cache does not hold the model.

    Raises:
        ModelError: The name is neither a folder nor a hub id, or the hub does not give it.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(model).is_dir():
        return Path(model)
    if Path(model).is_absolute():
        return None
    try:
        if download:
            patterns = ["*.json", "*.jinja", "*.txt", "*.model"]
            return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
        cached = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError as error:
        raise ModelError(f"{model!r} is neither a folder nor a hub id: {error}") from error
    except Exception as error:  # The hub client has no common base for its errors.
        raise ModelError(
            f"{model!r} is no folder here, and the hub does not give it: {error}. Check the name, "
            "the network, and `hf auth login` for gated models."
        ) from error
    return Path(cached).parent if isinstance(cached, str) else None


def _check_weight_files(role: str, folder: Path, findings: Findings) -> None:
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            findings.problems.append(f"{role}: {index} cannot be read: {error}")
            return
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        findings.problems.append(
            f"{role}: {folder} lacks the weights {', '.join(missing)}. Expected safetensors files."
        )


def check_renderer(
    model: FoundModel, template: str | None, findings: Findings
) -> ChatRenderer | None:
    """The renderer of a model, if its tokenizer fits."""
    with findings.collect():
        renderer = ChatRenderer.from_pretrained(str(model.folder), template=template)
        check_compatible(renderer.max_token_id, vocab_size=model.shape.vocab_size)
        return renderer
    return None


def check_context(shape: ModelShape, recipe: Recipe, findings: Findings) -> None:
    """Whether the longest prompt with the longest answer is within what the policy was made for."""
    longest = recipe.prompts.max_prompt_tokens + recipe.sampling.max_tokens
    if 0 < shape.max_positions < longest:
        findings.problems.append(
            f"prompts.max_prompt_tokens + sampling.max_tokens = {longest}, but "
            f"{recipe.policy.model} was made for {shape.max_positions}. Lower one of them."
        )


def check_critic(
    recipe: Recipe, policy: FoundModel | None, renderer: ChatRenderer | None, findings: Findings
) -> FoundModel | None:
    """The critic reads the policy's tokens, so its vocabulary has to be the policy's."""
    if not getattr(recipe.algorithm, "needs_critic", False) or recipe.critic.share_trunk:
        return None
    name = recipe.critic.model
    if name is None:
        return policy
    model = find_model("critic", name, None, findings)
    if model is None:
        return None
    if model.shape.num_labels > 1:
        findings.problems.append(
            f"critic: {name} has {model.shape.num_labels} labels; a value function has one."
        )
    if renderer is not None:
        with findings.collect():
            _check_same_tokens(model, renderer)
    return model


def _check_same_tokens(model: FoundModel, renderer: ChatRenderer) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model.folder))
    except (OSError, ValueError):
        check_compatible(renderer.max_token_id, vocab_size=model.shape.vocab_size)
        return
    if tokenizer.get_vocab() != renderer.tokenizer.get_vocab():
        raise ModelError(
            f"critic: {model.name} has another vocabulary than the policy, but reads the policy's "
            "tokens. Use a critic of the policy's family, or leave critic.model out to start from "
            "the policy."
        )
