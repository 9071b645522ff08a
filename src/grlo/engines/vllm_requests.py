"""What vLLM is asked and given, whether it runs in this process or serves elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from grlo.errors import EngineError
from grlo.types import Completion, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# vLLM silently raises temperatures between 0 and this one.
_LEAST_TEMPERATURE = 0.01


def sampling_arguments(sampling: SamplingParams, *, seed: int, vocab_size: int) -> dict[str, Any]:
    """Arguments of vLLM's `SamplingParams` for one completion."""
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": seed,
        "logprobs": 0,  # Of the drawn token alone.
        # vLLM refuses others, which no model could draw.
        "stop_token_ids": [token for token in sampling.stop if token < vocab_size],
        "stop": list(sampling.stop_texts),
        "ignore_eos": True,  # Only `sampling.stop` ends a completion.
        "detokenize": bool(sampling.stop_texts),
    }


def check_request(
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    seeds: Sequence[int],
    *,
    engine: str,
    is_closed: bool,
    vocab_size: int,
    max_model_len: int,
    has_tokenizer: bool,
) -> None:
    """Refuses what vLLM would refuse later or answer otherwise than it is meant.

    Raises:
        EngineError: `sampling` or a prompt cannot be used.
    """
    longest = max(map(len, prompts), default=0) + sampling.max_tokens
    temperature = sampling.temperature
    problems = [
        (is_closed, "a request after it was closed"),
        (len(seeds) != len(prompts), f"{len(prompts)} prompts but {len(seeds)} seeds"),
        (any(len(prompt) == 0 for prompt in prompts), "a prompt without tokens"),
        (
            any(min(prompt) < 0 or max(prompt) >= vocab_size for prompt in prompts if prompt),
            f"a prompt with tokens outside the model's vocabulary of {vocab_size}",
        ),
        (sampling.max_tokens < 1, f"max_tokens = {sampling.max_tokens}, expected at least 1"),
        (sampling.num_samples < 1, f"num_samples = {sampling.num_samples}, expected at least 1"),
        (
            temperature != 0 and temperature < _LEAST_TEMPERATURE,
            f"temperature = {temperature}, expected 0 or at least {_LEAST_TEMPERATURE}",
        ),
        (not 0 < sampling.top_p <= 1, f"top_p = {sampling.top_p}, expected within (0, 1]"),
        (sampling.top_k < 0, f"top_k = {sampling.top_k}, expected 0 or more"),
        (
            bool(sampling.stop_texts) and not has_tokenizer,
            "stop_texts, but no tokenizer: build it with BuildContext.decode",
        ),
        (
            longest > max_model_len,
            f"prompt and answer of up to {longest} tokens, but has room for {max_model_len}: "
            "lower max_tokens, or raise vLLM's max_model_len, the model's limit and the memory of "
            "its cache permitting",
        ),
    ]
    for wrong, problem in problems:
        if wrong:
            raise EngineError(f"engine {engine!r} was given {problem}.")


def make_completion(
    tokens: Sequence[int], logprobs: Sequence[float], finish_reason: str | None
) -> Completion:
    """A completion that vLLM has finished.

    Raises:
        EngineError: It ended for another reason than a stop or its length.
    """
    if finish_reason not in ("stop", "length"):
        raise EngineError(f"vLLM ended a completion for the reason {finish_reason!r}.")
    return Completion(
        tokens=tuple(tokens),
        logprobs=tuple(logprobs),
        finish_reason=finish_reason,  # pyright: ignore[reportArgumentType]
    )


def complete_weights(model: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under all their names, checked against the model's.

    vLLM keeps the old values of a tied weight wherever it is not given under each of its names.

    Args:
        model: The module, which may be on the device `meta`.
        weights: Under the names of its Hugging Face checkpoint; of a tied weight's one is enough.

    Raises:
        EngineError: A name is unknown or missing, or a shape is wrong.
    """
    own = model.state_dict(keep_vars=True)
    for name, tensor in weights.items():
        if name not in own:
            raise EngineError(f"the model has no weight named {name!r}.")
        if own[name].shape != tensor.shape:
            raise EngineError(
                f"weight {name!r} has shape {tuple(tensor.shape)}; "
                f"the engine's model has {tuple(own[name].shape)}."
            )
    given = {id(own[name]): tensor for name, tensor in weights.items()}
    if missing := [name for name, weight in model.named_parameters() if id(weight) not in given]:
        raise EngineError(f"weights that were not given: {', '.join(sorted(missing))}.")
    return {name: given[id(tensor)] for name, tensor in own.items() if id(tensor) in given}
