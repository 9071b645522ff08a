"""The reference engine: batched sampling from any Hugging Face causal language model.

Keys and values of a prompt are computed once and copied to all its samples. Rows advance together,
one cache column per step: the columns are a clock, and a row is a stretch of columns that ends at
the clock, so that rows may join whenever others have finished. Rotary positions belong to the keys
themselves, which lets a row stand at any columns.

Dimensions: R rows, C cache columns, T generated tokens, H key/value heads, D head size.
"""

from __future__ import annotations

import copy
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache

from grlo.batch import pack_by_tokens
from grlo.engines.sampling import draw, stream_keys, uniforms
from grlo.errors import EngineError
from grlo.inference import evaluating, is_same_device
from grlo.interfaces import BuildContext, OnCompletion, Progress, ignore, silent
from grlo.passes import is_sharded, whole_copy
from grlo.settings import Dtype, require
from grlo.types import Completion, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DECODE_ATTENTION = "grlo_decode"

Decode = Callable[[Sequence[int]], str]


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

    Raises:
        EngineError: The model has layers that a key/value cache alone cannot continue.
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
    ) -> None:
        self._model = _without_peft(model)
        self._decode = decode
        self._live = live
        self._max_rows = max_rows
        self._prefill_tokens = prefill_tokens
        device = self._model.device
        self._stream = torch.cuda.Stream(device) if own_stream and device.type == "cuda" else None
        _check_architecture(self._model)

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
        """
        _check_request(prompts, sampling, seeds)
        if sampling.stop_texts and self._decode is None:
            raise EngineError("stop_texts need an engine that was built with a decode function.")
        if not prompts:
            return []
        longest = max(map(len, prompts)) + sampling.max_tokens
        _check_window(self._model, longest)
        num_completions = len(prompts) * sampling.num_samples
        max_rows = self._max_rows or _rows_that_fit(self._model, num_columns=longest)
        with evaluating(self._model), _on(self._stream):
            decoding = _Decoding(
                self._model,
                prompts,
                sampling,
                seeds=seeds,
                max_rows=min(max_rows, num_completions),
                prefill_tokens=self._prefill_tokens,
                progress=progress,
                on_completion=on_completion,
                decode=self._decode,
            )
            completions = decoding.run()
        if self._model.device.type == "cuda":
            del decoding
            torch.cuda.empty_cache()
        return completions

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


@dataclass(frozen=True)
class _Job:
    """One completion to draw."""

    index: int
    """Place in the result."""
    prompt: tuple[int, ...]
    seed: int
    sample: int


class _Decoding:
    """One call of `generate`: a queue of jobs, and the rows that are being decoded."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        max_rows: int,
        prefill_tokens: int,
        progress: Progress,
        on_completion: OnCompletion,
        decode: Decode | None,
    ) -> None:
        self.model, self.sampling, self.progress = model, sampling, progress
        self.on_completion, self.decode = on_completion, decode
        self.max_rows, self.prefill_tokens = max_rows, prefill_tokens
        device = model.device
        self.check_every, self.align = _pace(device.type)

        jobs = [
            _Job(prompt_index * sampling.num_samples + sample, tuple(prompt), seed, sample)
            for prompt_index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
            for sample in range(sampling.num_samples)
        ]
        # Equal prompts stand together, so that each is computed once; the longest come first, so
        # that the clock has room for all that follow.
        rank = {p: i for i, p in enumerate(dict.fromkeys(job.prompt for job in jobs))}
        jobs.sort(key=lambda job: (-len(job.prompt), rank[job.prompt]))
        self.queue = deque(jobs)
        self.results: list[Completion | None] = [None] * len(jobs)
        self.num_done = self.num_tokens_done = 0

        longest_prompt = len(jobs[0].prompt)
        num_columns = longest_prompt + sampling.max_tokens + self.check_every
        if len(jobs) > max_rows:
            # Slack, so that rows need not be shifted at every step when they join one by one.
            num_columns += sampling.max_tokens // 4 + self.check_every
        num_columns += -num_columns % 16
        self.cache = _RowCache(max_rows, num_columns)
        self.cache.clock = longest_prompt - 1

        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(max_rows, *shape, dtype=dtype, device=device)

        self.token_R = zeros(dtype=torch.int64)
        self.position_R = zeros(dtype=torch.int64)
        self.age_R = zeros(dtype=torch.int64)
        self.key_R = zeros(dtype=torch.int64)
        self.finished_R = zeros(dtype=torch.bool)
        # One column more than tokens: finished rows keep writing behind their last token.
        self.tokens_RT = zeros(sampling.max_tokens + 1, dtype=torch.int64)
        self.logprobs_RT = zeros(sampling.max_tokens + 1, dtype=torch.float32)
        self.mask_RC = zeros(num_columns, dtype=model.dtype)
        self.stop_S = torch.tensor(sampling.stop, dtype=torch.int64, device=device)
        self.jobs: list[_Job] = []
        """Job of every row in use."""
        self.starts: list[int] = []
        """First column of every row in use."""
        self.carried: tuple[tuple[int, ...], list[tuple[Tensor, Tensor]]] | None = None
        """Keys and values of a prompt some of whose samples are still in the queue."""

    def run(self) -> list[Completion]:
        while self.queue or self.jobs:
            free = self.max_rows - len(self.jobs)
            # Prompts are computed in batches worth a forward pass.
            if self.queue and (not self.jobs or free >= max(1, self.max_rows // 8)):
                self._admit(free)
            with _attention(self.model, _DECODE_ATTENTION):
                for _ in range(self.check_every):
                    self._step()
            self._retire()
        return cast("list[Completion]", self.results)

    def _step(self) -> None:
        """Feeds every row its latest token and draws the next."""
        n, cache, sampling = len(self.jobs), self.cache, self.sampling
        if cache.clock == cache.num_columns:
            self._shift()
        cache.num_rows = n
        first = min(self.starts)
        cache.first = first - first % self.align
        output = self.model(
            input_ids=self.token_R[:n, None],
            position_ids=self.position_R[:n, None],
            attention_mask=self.mask_RC[:n, None, None, cache.first : cache.clock + 1],
            past_key_values=cache,
            use_cache=True,
        )
        cache.clock += 1
        age_R, finished_R = self.age_R[:n], self.finished_R[:n]
        token_R, logprob_R = draw(
            output.logits[:, -1],
            uniforms(self.key_R[:n], age_R),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
        )
        self.tokens_RT[:n].scatter_(1, age_R[:, None], token_R[:, None])
        self.logprobs_RT[:n].scatter_(1, age_R[:, None], logprob_R[:, None])
        self.token_R[:n] = token_R
        going_R = ~finished_R
        age_R += going_R
        self.position_R[:n] += going_R
        stopped_R = (token_R[:, None] == self.stop_S).any(-1)
        finished_R |= stopped_R | (age_R == sampling.max_tokens)

    def _retire(self) -> None:
        """Hands over the rows that have finished and closes the gaps they leave."""
        n = len(self.jobs)
        stopped_by_text = self._stop_at_texts()
        finished = self.finished_R[:n].nonzero().flatten()
        if rows := finished.tolist():
            lengths = self.age_R[finished].tolist()
            tokens = self.tokens_RT[finished, : max(lengths)].tolist()
            logprobs = self.logprobs_RT[finished, : max(lengths)].tolist()
            for row, length, row_tokens, row_logprobs in zip(
                rows, lengths, tokens, logprobs, strict=True
            ):
                stopped = row_tokens[length - 1] in self.sampling.stop or row in stopped_by_text
                completion = Completion(
                    tokens=tuple(row_tokens[:length]),
                    logprobs=tuple(row_logprobs[:length]),
                    finish_reason="stop" if stopped else "length",
                )
                self.results[self.jobs[row].index] = completion
                self.on_completion(self.jobs[row].index, completion)
            self.num_done += len(rows)
            self.num_tokens_done += sum(lengths)
            self._close_gaps(rows)
        ages = sum(
            self.cache.clock - start - len(job.prompt) + 1
            for start, job in zip(self.starts, self.jobs, strict=True)
        )
        self.progress(
            done=self.num_done, total=len(self.results), tokens=self.num_tokens_done + ages
        )

    def _stop_at_texts(self) -> set[int]:
        """Rows that have written a stop text; each is finished, and ends where that is complete."""
        if not self.sampling.stop_texts or self.decode is None:
            return set()
        n, decode, texts = len(self.jobs), self.decode, self.sampling.stop_texts
        found: set[int] = set()
        ages = self.age_R[:n].tolist()
        # What was written before the latest steps was looked at then; a stop text of so many
        # characters has no more tokens than characters.
        back = self.check_every + max(map(len, texts))
        for row, (age, tokens) in enumerate(zip(ages, self.tokens_RT[:n].tolist(), strict=True)):
            start = max(0, age - back)

            def has_text(end: int, tokens: list[int] = tokens, start: int = start) -> bool:
                written = decode(tokens[start:end])
                return any(text in written for text in texts)

            if has_text(age):
                end = next(end for end in range(start + 1, age + 1) if has_text(end))
                self.age_R[row] = end
                self.finished_R[row] = True
                found.add(row)
        return found

    def _close_gaps(self, finished: list[int]) -> None:
        """Moves the last rows into the places of the finished ones; no other row is copied."""
        n = len(self.jobs)
        kept = n - len(finished)
        gone = set(finished)
        gaps = [row for row in finished if row < kept]
        movers = [row for row in range(kept, n) if row not in gone]
        if gaps:
            device = self.token_R.device
            target, source = torch.tensor([gaps, movers], device=device)
            for state in self._row_states():
                state[target] = state[source]
            self.cache.move(target, source)
            for gap, mover in zip(gaps, movers, strict=True):
                self.jobs[gap], self.starts[gap] = self.jobs[mover], self.starts[mover]
        del self.jobs[kept:], self.starts[kept:]

    def _row_states(self) -> tuple[Tensor, ...]:
        return (
            self.token_R,
            self.position_R,
            self.age_R,
            self.key_R,
            self.finished_R,
            self.tokens_RT,
            self.logprobs_RT,
            self.mask_RC,
        )

    def _admit(self, free: int) -> None:
        """Gives free rows to the jobs at the head of the queue."""
        jobs = [self.queue.popleft() for _ in range(min(free, len(self.queue)))]
        clock, device = self.cache.clock, self.token_R.device
        begin = len(self.jobs)
        rows = slice(begin, begin + len(jobs))
        starts = [clock - len(job.prompt) + 1 for job in jobs]

        def column(values: Iterable[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.int64, device=device)

        self.token_R[rows] = column(job.prompt[-1] for job in jobs)
        self.position_R[rows] = column(len(job.prompt) - 1 for job in jobs)
        self.key_R[rows] = stream_keys(
            column(_signed(job.seed) for job in jobs), column(job.sample for job in jobs)
        )
        self.age_R[rows] = 0
        self.finished_R[rows] = False
        columns = torch.arange(self.cache.num_columns, device=device)
        before = columns < column(starts)[:, None]
        self.mask_RC[rows] = torch.zeros_like(before, dtype=self.mask_RC.dtype).masked_fill_(
            before, float("-inf")
        )
        self._fill_prompts(jobs, begin)
        self.jobs += jobs
        self.starts += starts

    def _fill_prompts(self, jobs: Sequence[_Job], begin: int) -> None:
        """Writes keys and values of all but the last token of the prompts into the jobs' rows."""
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, job in enumerate(jobs, begin):
            rows_of.setdefault(job.prompt, []).append(row)
        if self.carried is not None:
            prompt, layers = self.carried
            self.cache.write(layers, [rows_of.pop(prompt)])
            self.carried = None
            if self.queue and self.queue[0].prompt == prompt:
                self.carried = prompt, layers
        prompts: list[tuple[int, ...]] = [prompt for prompt in rows_of if len(prompt) > 1]
        waiting = self.queue[0].prompt if self.queue else None
        lengths = [len(prompt) - 1 for prompt in prompts]
        for part in pack_by_tokens(lengths, max_tokens=self.prefill_tokens):
            batch = [prompts[index] for index in part]
            layers = self._prefill(batch)
            self.cache.write(layers, [rows_of[prompt] for prompt in batch])
            if waiting is not None and waiting in batch:
                place, length = batch.index(waiting), len(waiting) - 1
                self.carried = (
                    waiting,
                    [
                        (k[place, None, :, -length:].clone(), v[place, None, :, -length:].clone())
                        for k, v in layers
                    ],
                )

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, H, P, D] per layer without the last token, aligned on the right."""
        device = self.model.device
        lengths = [len(prompt) - 1 for prompt in prompts]
        longest = max(lengths)
        # Causal attention reaches no padding on the right, so that no mask is needed.
        tokens = [[*prompt[:-1], *[0] * (longest - len(prompt) + 1)] for prompt in prompts]
        cache = _PromptCache()
        with _attention(self.model, "sdpa"):
            self.model.base_model(
                input_ids=torch.tensor(tokens, device=device), past_key_values=cache, use_cache=True
            )
        if min(lengths) == longest:
            return cache.keys_values
        shifts = torch.tensor([longest - length for length in lengths], device=device)
        places = (torch.arange(longest, device=device) - shifts[:, None]).clamp(min=0)
        rows = torch.arange(len(prompts), device=device)[:, None]

        def align(states: Tensor) -> Tensor:
            return states.transpose(1, 2)[rows, places].transpose(1, 2)

        return [(align(keys), align(values)) for keys, values in cache.keys_values]

    def _shift(self) -> None:
        """Turns the clock back so that the oldest row starts at the first column, or a little later
        when the next prompt in the queue needs more columns before the clock."""
        clock = self.cache.clock
        room = len(self.queue[0].prompt) - 1 if self.queue else 0
        by = clock - max(room, clock - min(self.starts))
        self.cache.shift(by, num_rows=len(self.jobs))
        self.starts = [start - by for start in self.starts]
        n = len(self.jobs)
        kept = self.mask_RC[:n, by:].clone()
        self.mask_RC[:n] = 0
        self.mask_RC[:n, : kept.shape[1]] = kept


class _PromptCache(Cache):
    """Keys and values of one forward pass."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.keys_values: list[tuple[Tensor, Tensor]] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keeps what the layer computed."""
        self.keys_values.append((key_states, value_states))
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0


class _RowCache(Cache):
    """Keys and values of all rows, allocated once; a step writes one column of it."""

    def __init__(self, max_rows: int, num_columns: int) -> None:
        super().__init__(layers=[])
        self.max_rows, self.num_columns = max_rows, num_columns
        self.clock = self.first = self.num_rows = 0
        self.keys_values: list[tuple[Tensor, Tensor]] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the newest column and returns the columns in use."""
        keys, values = self._layer(layer_idx, key_states, value_states)
        n, clock = self.num_rows, self.clock
        keys[:n, :, clock] = key_states[:, :, 0]
        values[:n, :, clock] = value_states[:, :, 0]
        return keys[:n, :, self.first : clock + 1], values[:n, :, self.first : clock + 1]

    def _layer(self, layer_idx: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if layer_idx == len(self.keys_values):
            # Zeros, not whatever was in memory: a NaN would pass through a weight of zero.
            self.keys_values.append(
                (
                    key.new_zeros(self.max_rows, key.shape[1], self.num_columns, key.shape[3]),
                    value.new_zeros(
                        self.max_rows, value.shape[1], self.num_columns, value.shape[3]
                    ),
                )
            )
        return self.keys_values[layer_idx]

    def write(self, layers: Sequence[tuple[Tensor, Tensor]], rows: Sequence[Sequence[int]]) -> None:
        """Puts prompts, aligned on the right, before the clock; prompt b into each of `rows[b]`."""
        device = layers[0][0].device
        owner = torch.tensor([b for b, group in enumerate(rows) for _ in group], device=device)
        target = torch.tensor([row for group in rows for row in group], device=device)
        for layer_idx, new in enumerate(layers):
            for stored, part in zip(self._layer(layer_idx, *new), new, strict=True):
                stored[target, :, self.clock - part.shape[2] : self.clock] = part[owner]

    def move(self, target: Tensor, source: Tensor) -> None:
        for pair in self.keys_values:
            for stored in pair:
                used = stored[:, :, self.first : self.clock]
                used[target] = used[source]

    def shift(self, by: int, *, num_rows: int) -> None:
        for pair in self.keys_values:
            for stored in pair:
                stored[:num_rows, :, : self.clock - by] = stored[
                    :num_rows, :, by : self.clock
                ].clone()
        self.clock -= by


def _decode_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one query token per row; heads that share keys are queries of one head.

    Keys are read in place, without a copy for every query head.
    """
    if softcap is not None or s_aux is not None:
        raise EngineError("engine 'hf' cannot decode models with attention soft caps or sinks.")
    num_rows, num_heads, _, head_dim = query.shape
    query = query.reshape(num_rows, key.shape[1], num_heads // key.shape[1], head_dim)
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(num_rows, 1, num_heads, value.shape[-1]), None


AttentionInterface.register(_DECODE_ATTENTION, _decode_attention)


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


@contextmanager
def _attention(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = before


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


def _pace(device_type: str) -> tuple[int, int]:
    """Steps between two looks at which rows have finished, and the alignment of columns in use.

    A look waits for the device, which is free on CPU only; so are masks of any alignment.
    """
    return (1, 1) if device_type == "cpu" else (16, 16)


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


def _signed(seed: int) -> int:
    """The seed modulo 2**64 as a signed 64-bit integer."""
    seed %= 2**64
    return seed - 2**64 if seed >= 2**63 else seed
