"""Loading of policy, critic and reference, and their forward passes at response positions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from grlo.batch import TokenBatch, shared_prompt_lengths
from grlo.errors import MissingExtraError, ModelError
from grlo.modeling import packed
from grlo.modeling.adapters import plain_model
from grlo.modeling.compiled_layers import compile_layers
from grlo.modeling.layers import use_fast_layers
from grlo.modeling.passes import whole_pass
from grlo.settings import CriticSettings, LoraSettings, ModelSettings
from grlo.training.output_head import EntropyMode, head_logprobs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_aten = torch.ops.aten
# Products of `grlo.modeling.products`, where torch is built with them.
_linear_pointwise = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_EXPENSIVE = (
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten._grouped_mm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._flash_attention_forward.default,
    *([] if _linear_pointwise is None else [_linear_pointwise.default]),
)
"""Operators whose results selective recomputation keeps; all others read memory, mostly."""


def load_policy(settings: ModelSettings, *, device: str) -> PreTrainedModel:
    """The causal language model to be trained, with adapters if the recipe has them.

    Raises:
        ModelError: The checkpoint cannot be read, or its head is not a plain linear map of the
            trunk's last hidden state (a logit soft cap or scale), which the learner relies on.
    """
    model = _load(
        AutoModelForCausalLM,
        settings.model,
        revision=settings.revision,
        dtype=DTYPES[settings.param_dtype],
        attn_implementation=attention_name(settings),
    ).to(device)
    _require_linear_head(model, settings.model)
    if settings.attention == "packed":
        packed.require_support(model, settings.model)
    return _prepare(model, settings, settings.lora, task="CAUSAL_LM")


def load_reference(settings: ModelSettings, *, device: str) -> PreTrainedModel:
    """The initial policy, frozen, in the type the policy computes in."""
    model = _load(
        AutoModelForCausalLM,
        settings.model,
        revision=settings.revision,
        dtype=DTYPES[settings.compute_dtype],
        attn_implementation=attention_name(settings),
    )
    use_fast_layers(model.requires_grad_(False).eval().to(device))
    return compile_layers(model) if settings.compile else model


def load_critic(policy: ModelSettings, settings: CriticSettings, *, device: str) -> PreTrainedModel:
    """A sequence-classification model with one label whose head gives the value of every position.

    Started from the policy's checkpoint its head is zero, so that values begin at zero.
    """
    path = settings.model or policy.model
    model, report = _load(
        AutoModelForSequenceClassification,
        path,
        revision=policy.revision if settings.model is None else None,
        dtype=DTYPES[policy.param_dtype],
        attn_implementation=attention_name(policy),
        num_labels=1,
        output_loading_info=True,
    )
    if any(name.startswith("score.") for name in report["missing_keys"]):
        nn.init.zeros_(value_head(model).weight)  # pyright: ignore[reportArgumentType]
    return _prepare(model.to(device), policy, settings.lora, task="SEQ_CLS")


def attention_name(settings: ModelSettings) -> str:
    """What transformers calls the attention of the settings."""
    return packed.ATTENTION if settings.attention == "packed" else settings.attention


def _load(auto_class: Any, path: str, **options: object) -> Any:
    try:
        loaded = auto_class.from_pretrained(
            path, use_safetensors=True, trust_remote_code=False, **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"cannot load {path!r}: {error} Expected a folder or hub id with config.json and "
            "safetensors weights."
        ) from error
    # Weights on a CPU may lie in the mapped file at any address, and kernels round by alignment: a
    # resumed run would differ in the last bit from one whose weights torch allocated.
    for parameter in (loaded[0] if isinstance(loaded, tuple) else loaded).parameters():
        parameter.data = parameter.data.clone()
    return loaded


def _prepare(
    model: PreTrainedModel, settings: ModelSettings, lora: LoraSettings | None, *, task: str
) -> PreTrainedModel:
    model.config.use_cache = False
    if lora is not None:
        model = _add_adapters(model, lora, task=task)
    recompute_activations(model, settings)
    use_fast_layers(model.train())
    return compile_layers(model) if settings.compile else model


def recompute_activations(model: PreTrainedModel, settings: ModelSettings) -> None:
    """Has layers computed again in the backward pass, as far as the settings ask for it."""
    if not settings.gradient_checkpointing:
        return
    options: dict[str, object] = {"use_reentrant": False}
    if settings.gradient_checkpointing == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, list(_EXPENSIVE))
    # Renamed in transformers 5.2x; both names take the options as their first argument.
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)(options)


def _add_adapters(model: PreTrainedModel, lora: LoraSettings, *, task: str) -> PreTrainedModel:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise MissingExtraError("peft", extra="lora") from error
    targets = lora.target_modules
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type=task,
    )
    return peft.get_peft_model(model, config)  # pyright: ignore[reportReturnType]


def output_head(model: PreTrainedModel) -> nn.Module:
    """The map from hidden states to logits."""
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output head: not a causal language model.")
    return head


def value_head(model: PreTrainedModel) -> nn.Module:
    """The scalar head of a sequence-classification model."""
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Module):
        raise ModelError(f"{type(model).__name__} has no `score` head: not usable as a critic.")
    return head


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[nn.Module]:
    """The initial policy of a run with adapters: the same module with them switched off."""
    with model.disable_adapter():  # pyright: ignore[reportCallIssue]
        yield model


def token_logprobs(
    model: nn.Module,
    batch: TokenBatch,
    *,
    temperature: float,
    compute_dtype: torch.dtype,
    entropy: EntropyMode = "none",
) -> tuple[Tensor, Tensor]:
    """Log-probability of every response token and entropy of the distribution it was drawn from.

    The output head is applied at response positions only, in chunks, with a backward pass of its
    own.

    Args:
        model: A causal language model, possibly with adapters.
        batch: Rows on the model's device.
        temperature: That of the sampling.
        compute_dtype: Type of matrix products; logits become float32 before the softmax.
        entropy: `none` returns zeros for it, `detached` its value, `gradient` its gradient too.

    Returns:
        Two float32 tensors [B, T] in nats, zero outside the mask.
    """

    def work() -> tuple[Tensor, Tensor]:
        hidden_ND = hidden_before_responses(model, batch, compute_dtype=compute_dtype)
        return logprobs_of_hidden(
            model,
            hidden_ND,
            batch,
            temperature=temperature,
            compute_dtype=compute_dtype,
            entropy=entropy,
        )

    return whole_pass(model, work)


def logprobs_of_hidden(
    model: nn.Module,
    hidden_ND: Tensor,
    batch: TokenBatch,
    *,
    temperature: float,
    compute_dtype: torch.dtype,
    entropy: EntropyMode = "none",
) -> tuple[Tensor, Tensor]:
    """The part of `token_logprobs` behind the trunk, from what `hidden_before_responses` gave."""
    plain = plain_model(model)
    with _autocast(model, compute_dtype):
        logprobs_N, entropy_N = head_logprobs(
            output_head(plain),
            hidden_ND,
            batch.tokens_BT[batch.mask_BT],
            vocab_size=plain.config.get_text_config().vocab_size,
            temperature=temperature,
            entropy=entropy,
        )
    return spread(logprobs_N, batch.mask_BT), spread(entropy_N, batch.mask_BT)


def token_values(critic: nn.Module, batch: TokenBatch, *, compute_dtype: torch.dtype) -> Tensor:
    """Value of the state in which each response token was chosen.

    Returns:
        float32 [B, T], zero outside the mask.
    """

    def work() -> Tensor:
        hidden_ND = hidden_before_responses(critic, batch, compute_dtype=compute_dtype)
        with _autocast(critic, compute_dtype):
            values_N = value_head(plain_model(critic))(hidden_ND).squeeze(-1).float()
        return spread(values_N, batch.mask_BT)

    return whole_pass(critic, work)


def hidden_before_responses(
    model: nn.Module, batch: TokenBatch, *, compute_dtype: torch.dtype
) -> Tensor:
    """The trunk's last hidden state from which each response token follows, within a whole pass.

    Returns:
        [N, D], in the order in which the mask is true.
    """
    # A layer reads its weights once: converted ones of all layers would be in memory for nothing.
    with _autocast(model, compute_dtype, keeps_weights=False):
        return _hidden_before_responses(plain_model(model).base_model, batch)


def _hidden_before_responses(trunk: nn.Module, batch: TokenBatch) -> Tensor:
    if trunk.config._attn_implementation == packed.ATTENTION:  # pyright: ignore
        packing = packed.pack(
            [
                row[:length]
                for row, length in zip(batch.tokens_BT.cpu(), batch.lengths_B.tolist(), strict=True)
            ],
            shared=shared_prompt_lengths(batch),
            device=batch.tokens_BT.device,
        )
        hidden_ND = packed.packed_hidden_states(trunk, packing)
        return hidden_ND[packing.index_BT[:, :-1][batch.mask_BT[:, 1:]]]
    # Rows are padded on the right and attention is causal: no response token ever sees padding, so
    # the padding mask can be left out, which keeps the fast attention kernels.
    hidden_BTD = trunk(input_ids=batch.tokens_BT, use_cache=False).last_hidden_state
    return hidden_BTD[:, :-1][batch.mask_BT[:, 1:]]


def spread(values_N: Tensor, mask_BT: Tensor) -> Tensor:
    """[N] numbers of the response tokens on their places in [B, T], zeros elsewhere."""
    values_BT = torch.zeros(mask_BT.shape, dtype=values_N.dtype, device=values_N.device)
    return values_BT.masked_scatter(mask_BT, values_N)


def _autocast(
    model: nn.Module, compute_dtype: torch.dtype, *, keeps_weights: bool = True
) -> torch.autocast:
    """`keeps_weights`: those that have been converted are, until the end."""
    parameter = next(model.parameters())
    return torch.autocast(
        parameter.device.type,
        dtype=compute_dtype,
        enabled=parameter.dtype != compute_dtype,
        cache_enabled=keeps_weights,
    )


@torch.no_grad()
def _require_linear_head(model: PreTrainedModel, path: str) -> None:
    tokens = torch.arange(1, 5, device=model.device)[None]
    model.eval()
    hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    expected = model(input_ids=tokens, use_cache=False).logits
    head = output_head(model)
    if not torch.allclose(head(hidden).float(), expected.float(), atol=1e-3):
        raise ModelError(
            f"{path!r} ({type(model).__name__}) does more than a linear map from the last hidden "
            "state to its logits; such models cannot be trained yet. Choose a Qwen, Llama or "
            "Mistral kind of checkpoint."
        )
