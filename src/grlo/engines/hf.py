"""The reference engine: batched sampling from any Hugging Face causal language model."""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from grlo.engines.cuda_graphs import Graphs
from grlo.engines.decoding import Decode, Decoding, Job, make_jobs
from grlo.errors import DeviceMemoryError, EngineError
from grlo.inference import evaluating, is_same_device
from grlo.interfaces import BuildContext, OnCompletion, Progress, ignore, silent
from grlo.memory.shortage import lacks_memory
from grlo.modeling.passes import is_sharded, whole_copy
from grlo.settings import Dtype, require
from grlo.types import Completion, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HFEngineSettings:
    """Transformers' own forward pass; needs nothing besides, on CPU or GPU."""

    name: str = "hf"
    max_rows: int = 0
    """Completions decoded together; 0 chooses from the memory that is free."""
    prefill_tokens: int = 8192
    """Prompt tokens (padding included) in one forward pass."""
    dtype: Dtype | None = None
    """Type that the engine computes in; None is the learner's. Another type means a copy."""
    device: str | None = None
    """Where the engine draws, such as `cuda:1`; None is where the learner is. Another device means
    a copy, and is a further device of the run."""
    cuda_graphs: bool = False
    """Records steps of decoding on a GPU and replays them, which spares launching their kernels one
    by one. Not measured yet."""

    def __post_init__(self) -> None:
        require(self.max_rows >= 0, "max_rows must not be negative")
        require(self.prefill_tokens > 0, "prefill_tokens must be positive")
        require(
            self.device is None or re.fullmatch(r"cpu|cuda(:\d+)?", self.device) is not None,
            "device must be 'cpu', 'cuda' or, for instance, 'cuda:1'",
        )

    def build(
        self, model: PreTrainedModel, *, context: BuildContext, live: bool = True
    ) -> HFEngine:
        """The engine of a model.

        Args:
            model: A causal language model, with or without active peft adapters.
            context: Where it runs, and whether its weights may be the learner's own.
            live: The module is the learner's own, so that its weights are always current.
        """
        dtype = model.dtype if self.dtype is None else getattr(torch, self.dtype)
        device = self.device or context.device
        moves = live and not is_same_device(device, context.device)
        if is_sharded(model):
            model, live = whole_copy(model, dtype=dtype, device=device), False
        elif dtype != model.dtype or moves or context.snapshot:
            model, live = _merged_copy(model, dtype), False
        torch.nn.Module.to(model, device)
        return HFEngine(
            model,
            live=live,
            max_rows=self.max_rows,
            prefill_tokens=self.prefill_tokens,
            decode=context.decode,
            own_stream=context.snapshot,
            cuda_graphs=self.cuda_graphs,
        )


class HFEngine:
    """Draws completions with a transformers model.

    Args:
        model: A causal language model with full attention in every layer, or with windows that no
            sequence outgrows.
        live: The module is the learner's own: `load_weights` has nothing to do.
        max_rows: Completions decoded together; 0 chooses from the memory that is free.
        prefill_tokens: Prompt tokens in one forward pass, padding included.
        decode: Text of tokens; needed for `SamplingParams.stop_texts` only.
        own_stream: On a GPU, queue work on a stream of its own, so that a learner on the same
            device need not wait for answers that are drawn meanwhile.
        cuda_graphs: Record steps of decoding and replay them.

    Raises:
        EngineError: The model has layers that a key/value cache alone cannot continue, or is not on
            a GPU and steps are to be recorded.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        live: bool = True,
        max_rows: int = 0,
        prefill_tokens: int = 8192,
        decode: Decode | None = None,
        own_stream: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        self._model = _without_peft(model)
        self._decode = decode
        self._live = live
        self._max_rows = max_rows
        self._prefill_tokens = prefill_tokens
        device = self._model.device
        self.device = str(device)
        self._stream = torch.cuda.Stream(device) if own_stream and device.type == "cuda" else None
        _check_architecture(self._model)
        if cuda_graphs and device.type != "cuda":
            raise EngineError("engine.cuda_graphs is for a GPU; this engine draws on a CPU.")
        self._cuda_graphs = cuda_graphs

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        progress: Progress = silent,
        on_completion: OnCompletion = ignore,
    ) -> list[Completion]:
        """`sampling.num_samples` completions per prompt, prompt-major.

        The random numbers of sample j are a stream of their own, keyed by the prompt's seed and j.
        At temperature 0 the log-probabilities are those at temperature 1.

        Args:
            prompts: Token ids of each prompt, not padded, at least one each.
            sampling: How to draw.
            seeds: One seed per prompt.
            progress: Called as completions finish.
            on_completion: Likewise, with each of them.

        Raises:
            EngineError: `sampling` or a prompt cannot be used.
            DeviceMemoryError: Memory does not hold a single completion.
        """
        _check_request(prompts, sampling, seeds)
        if sampling.stop_texts and self._decode is None:
            raise EngineError("stop_texts need an engine that was built with a decode function.")
        if not prompts:
            return []
        longest = max(map(len, prompts)) + sampling.max_tokens
        _check_window(self._model, longest)
        jobs = make_jobs(prompts, sampling, seeds=seeds)
        results: list[Completion | None] = [None] * len(jobs)

        def draw(left: Sequence[Job], max_rows: int) -> None:
            Decoding(
                self._model,
                left,
                results,
                sampling,
                max_rows=max_rows,
                prefill_tokens=self._prefill_tokens,
                progress=progress,
                on_completion=on_completion,
                decode=self._decode,
                replay=Graphs() if self._cuda_graphs else None,
            ).run()

        with evaluating(self._model), _on(self._stream):
            # Once, unless memory runs out: what has not finished is then drawn anew, and comes out
            # the same.
            while left := [job for job in jobs if results[job.index] is None]:
                most = self._max_rows or _rows_that_fit(self._model, num_columns=longest)
                max_rows = min(most, len(left))
                reason = lacks_memory(partial(draw, left, max_rows))
                if reason is not None:
                    self._lower(max_rows, longest, reason)
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return cast("list[Completion]", results)

    def _lower(self, max_rows: int, longest: int, reason: str) -> None:
        """Draws fewer completions together from now on."""
        if max_rows == 1:
            raise DeviceMemoryError(
                f"memory does not hold one completion ({longest} tokens with its prompt) at a "
                f"time: {reason}. Lower sampling.max_tokens, keep what generation does not need in "
                "the CPU's memory (training.offload), or draw on another device (engine.device)."
            )
        self._max_rows = max_rows // 2
        self._prefill_tokens = max(1, self._prefill_tokens // 2)
        print(
            f"out of memory in drawing {max_rows} completions together; from here on they are at "
            f"most {self._max_rows}. What is drawn does not change. The allocator said: {reason}",
            file=sys.stderr,
        )

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copies weights under the names of the Hugging Face checkpoint.

        Names of tied weights may be given or left out. After an error the weights are a mixture and
        the engine must not be used.

        Raises:
            EngineError: A name is unknown or missing, or a shape is wrong.
        """
        if self._live:
            return
        own = self._model.state_dict(keep_vars=True)
        missing = {id(tensor): name for name, tensor in self._model.named_parameters()}
        with torch.no_grad():
            for name, tensor in named_tensors:
                target = own.get(name)
                if target is None:
                    raise EngineError(f"the model has no weight named {name!r}.")
                if target.shape != tensor.shape:
                    raise EngineError(
                        f"weight {name!r} has shape {tuple(tensor.shape)}; "
                        f"the engine's model has {tuple(target.shape)}."
                    )
                target.copy_(tensor)
                missing.pop(id(target), None)
        if missing:
            raise EngineError(
                f"weights that were not given: {', '.join(sorted(missing.values()))}."
            )

    def close(self) -> None:
        """Lets go of the model."""
        del self._model


@contextmanager
def _on(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Work on a stream of its own, behind what was queued before and finished at the end."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream(stream.device))  # It may still load weights.
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def _without_peft(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model inside; adapters such as LoRA live in its layers and stay active."""
    get_base_model = getattr(model, "get_base_model", None)
    if get_base_model is None:
        return model
    adapters = cast("dict[str, Any]", model.peft_config)
    if any(adapter.is_prompt_learning for adapter in adapters.values()):
        raise EngineError("engine 'hf' cannot sample from prompt-tuning adapters; use LoRA.")
    return get_base_model()


def _merged_copy(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    model = copy.deepcopy(model)
    merge = getattr(model, "merge_and_unload", None)
    if merge is not None:
        model = merge()
    torch.nn.Module.to(model, dtype)
    return model


def _check_architecture(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if strange := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise EngineError(
            f"engine 'hf' handles attention layers only; {type(model).__name__} has "
            f"{', '.join(strange)}. Use another engine, such as vllm."
        )
    if not model._supports_sdpa:
        raise EngineError(f"engine 'hf' needs SDPA attention; {type(model).__name__} has none.")


def _check_window(model: PreTrainedModel, longest: int) -> None:
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    slides = kinds is None or "sliding_attention" in kinds
    if slides and window is not None and longest > window:
        raise EngineError(
            f"prompt and answer may reach {longest} tokens, but the model attends to a window of "
            f"{window}. Lower max_tokens, or use another engine, such as vllm."
        )


def _check_request(
    prompts: Sequence[Sequence[int]], sampling: SamplingParams, seeds: Sequence[int]
) -> None:
    problems = [
        (len(seeds) != len(prompts), f"{len(prompts)} prompts but {len(seeds)} seeds"),
        (any(len(prompt) == 0 for prompt in prompts), "a prompt without tokens"),
        (sampling.max_tokens < 1, f"max_tokens = {sampling.max_tokens}, expected at least 1"),
        (sampling.num_samples < 1, f"num_samples = {sampling.num_samples}, expected at least 1"),
        (sampling.temperature < 0, f"temperature = {sampling.temperature}, expected 0 or more"),
        (not 0 < sampling.top_p <= 1, f"top_p = {sampling.top_p}, expected within (0, 1]"),
        (sampling.top_k < 0, f"top_k = {sampling.top_k}, expected 0 or more"),
    ]
    for wrong, problem in problems:
        if wrong:
            raise EngineError(f"engine 'hf' was given {problem}.")


def _rows_that_fit(model: PreTrainedModel, *, num_columns: int) -> int:
    """Rows whose cache and logits fill half of the memory that is free."""
    config = model.config.get_text_config()
    num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # A quarter more columns for slack; logits, their exponentials and two temporaries in float32.
    cached = 2 * config.num_hidden_layers * num_heads * head_dim * num_columns * 5 // 4
    row_bytes = cached * model.dtype.itemsize + config.vocab_size * 16
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
        most = 1024
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        most = 512
    return max(1, min(most, free // 2 // row_bytes))
