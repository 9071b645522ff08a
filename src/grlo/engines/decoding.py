"""One call of the reference engine: a queue of completions to draw, and the rows being decoded.

Dimensions: R rows, T generated tokens, S stop tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grlo.batch import pack_by_tokens
from grlo.engines.decode_cache import DecodeCache, Layers, PromptStates, RowCache, Tokens
from grlo.engines.flash_cache import FlashCache
from grlo.engines.sampling import draw, stream_keys, uniforms
from grlo.engines.shared_cache import SharedPromptCache
from grlo.interfaces import OnCompletion, Progress
from grlo.modeling import flash_kernels
from grlo.types import Completion, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Decode = Callable[[Sequence[int]], str]
Replay = Callable[[Hashable, Callable[[], None]], None]

_COLUMNS, _SIZES = 256, 8
"""Of steps that are replayed: columns that the cache grows by, and numbers of rows that differ."""


@dataclass(frozen=True)
class Job:
    """One completion to draw."""

    index: int
    """Place in the result."""
    prompt: Tokens
    seed: int
    sample: int


def make_jobs(
    prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, seeds: Sequence[int]
) -> list[Job]:
    """The completions of a call, in the order in which they are drawn."""
    jobs = [
        Job(prompt_index * sampling.num_samples + sample, tuple(prompt), seed, sample)
        for prompt_index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        for sample in range(sampling.num_samples)
    ]
    # Equal prompts stand together, so that each is computed once; the longest come first, as caches
    # ask for.
    rank = {prompt: place for place, prompt in enumerate(dict.fromkeys(job.prompt for job in jobs))}
    return sorted(jobs, key=lambda job: (-len(job.prompt), rank[job.prompt]))


class Decoding:
    """A queue of jobs, and the rows that are being decoded.

    Args:
        model: A causal language model in evaluation mode.
        jobs: What to draw, in the order of `make_jobs`.
        results: Completions by `Job.index`; those that are drawn are put in.
        sampling: How to draw.
        max_rows: Completions that are decoded together at most.
        prefill_tokens: Prompt tokens in one forward pass, padding included.
        progress: Called as completions finish, with those that `results` had before.
        on_completion: Likewise, with each of them.
        decode: Text of tokens, for `SamplingParams.stop_texts`.
        replay: Takes the name of a step and its work, which touches tensors only, always the same
            ones in steps of one name; does the work, or replays what it once recorded of it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        jobs: Sequence[Job],
        results: list[Completion | None],
        sampling: SamplingParams,
        *,
        max_rows: int,
        prefill_tokens: int,
        progress: Progress,
        on_completion: OnCompletion,
        decode: Decode | None,
        replay: Replay | None = None,
    ) -> None:
        self.model, self.sampling, self.progress = model, sampling, progress
        self.on_completion, self.decode = on_completion, decode
        self.max_rows, self.prefill_tokens = max_rows, prefill_tokens
        self.replay = replay
        device = model.device
        self.check_every = steps_between_looks(device.type)

        self.queue, self.results = deque(jobs), results
        done = [completion for completion in results if completion is not None]
        self.num_done = len(done)
        self.num_tokens_done = sum(len(completion.tokens) for completion in done)
        self.cache = self._new_cache(longest_prompt=len(jobs[0].prompt))

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
        self.stop_S = torch.tensor(sampling.stop, dtype=torch.int64, device=device)
        self.jobs: list[Job] = []
        """Job of every row in use."""
        self.births: list[int] = []
        """Steps that were taken before each row in use was admitted."""
        self.num_steps = 0

    def _new_cache(self, *, longest_prompt: int) -> DecodeCache:
        max_tokens = self.sampling.max_tokens
        like = torch.empty((), dtype=self.model.dtype, device=self.model.device)
        if shares_prompts(self.model):
            return SharedPromptCache(
                max_rows=self.max_rows, max_columns=max_tokens + self.check_every, like=like
            )
        num_columns = longest_prompt + max_tokens + self.check_every
        if len(self.queue) > self.max_rows:
            # Slack, so that rows need not be shifted at every step when they join one by one.
            num_columns += max_tokens // 4 + self.check_every
        if reads_stretches(self.model):
            return FlashCache(
                max_rows=self.max_rows,
                longest_prompt=longest_prompt,
                num_columns=num_columns,
                like=like,
            )
        return RowCache(
            max_rows=self.max_rows,
            longest_prompt=longest_prompt,
            num_columns=num_columns,
            align=_COLUMNS if self.replay else 1 if like.device.type == "cpu" else 16,
            like=like,
        )

    def run(self) -> None:
        """Draws all jobs."""
        while self.queue or self.jobs:
            free = self.max_rows - len(self.jobs)
            # Prompts are computed in batches worth a forward pass.
            if self.queue and (not self.jobs or free >= max(1, self.max_rows // 8)):
                self._admit(free)
            with _attention(self.model, self.cache.attention):
                for _ in range(self.check_every):
                    self._step()
            self._retire()

    def _step(self) -> None:
        """Feeds every row its latest token and draws the next."""
        n, name = len(self.jobs), self.cache.advance()
        if self.replay and name is not None:
            # In steps of few sizes; rows out of use are drawn for nothing.
            block = max(1, self.max_rows // _SIZES)
            n = min(n + -n % block, self.max_rows)
            self.replay((n, name), partial(self._advance_rows, n))
        else:
            self._advance_rows(n)
        self.num_steps += 1

    def _advance_rows(self, n: int) -> None:
        sampling = self.sampling
        output = self.model(
            input_ids=self.token_R[:n, None],
            position_ids=self.position_R[:n, None],
            **self.cache.inputs(n),
        )
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
        ages = sum(self.num_steps - birth for birth in self.births)
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
        pair = torch.tensor([gaps, movers], dtype=torch.int64, device=self.token_R.device)
        target, source = pair
        if gaps:
            for state in self._row_states():
                state[target] = state[source]
            for gap, mover in zip(gaps, movers, strict=True):
                self.jobs[gap], self.births[gap] = self.jobs[mover], self.births[mover]
        del self.jobs[kept:], self.births[kept:]
        self.cache.close_gaps(target, source, num_rows=kept)

    def _row_states(self) -> tuple[Tensor, ...]:
        return (
            self.token_R,
            self.position_R,
            self.age_R,
            self.key_R,
            self.finished_R,
            self.tokens_RT,
            self.logprobs_RT,
        )

    def _admit(self, free: int) -> None:
        """Gives free rows to the jobs at the head of the queue."""
        jobs = [self.queue.popleft() for _ in range(min(free, len(self.queue)))]
        device = self.token_R.device
        begin = len(self.jobs)
        rows = slice(begin, begin + len(jobs))

        def column(values: Iterable[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.int64, device=device)

        self.token_R[rows] = column(job.prompt[-1] for job in jobs)
        self.position_R[rows] = column(len(job.prompt) - 1 for job in jobs)
        self.key_R[rows] = stream_keys(
            column(_signed(job.seed) for job in jobs), column(job.sample for job in jobs)
        )
        self.age_R[rows] = 0
        self.finished_R[rows] = False
        self.cache.admit(
            begin,
            [job.prompt for job in jobs],
            upcoming=self.queue[0].prompt if self.queue else None,
            prefill=self._prefill,
        )
        self.jobs += jobs
        self.births += [self.num_steps] * len(jobs)

    def _prefill(self, prompts: Sequence[Tokens]) -> Iterator[tuple[list[Tokens], Layers]]:
        """Keys and values of prompts without their last tokens; see `decode_cache.Prefill`."""
        # A prompt of one token has no other; its place is filled all the same, and never read.
        tokens = [prompt[:-1] or prompt for prompt in prompts]
        lengths = [len(row) for row in tokens]
        for part in pack_by_tokens(lengths, max_tokens=self.prefill_tokens):
            longest = max(lengths[index] for index in part)
            # Causal attention reaches no padding on the right, so that no mask is needed.
            padded = [[*tokens[index], *[0] * (longest - lengths[index])] for index in part]
            states = PromptStates()
            with _attention(self.model, "sdpa"):
                self.model.base_model(
                    input_ids=torch.tensor(padded, device=self.model.device),
                    past_key_values=states,
                    use_cache=True,
                )
            yield [prompts[index] for index in part], states.of_layers


@contextmanager
def _attention(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = before


def shares_prompts(model: PreTrainedModel) -> bool:
    """Whether samples of a prompt read its keys and values in one place."""
    is_float32 = model.device.type == "cpu" and model.dtype == torch.float32
    return is_float32 and _hands_on_arguments(model)


def reads_stretches(model: PreTrainedModel) -> bool:
    """Whether a step reads each row's own columns only."""
    config = model.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    # Values of another size, as those of latent attention, are none of the kernel's.
    is_plain = _hands_on_arguments(model) and not hasattr(config, "v_head_dim")
    return is_plain and flash_kernels.reads_stretches(model.device, model.dtype, head_size)


def _hands_on_arguments(model: PreTrainedModel) -> bool:
    """Whether attention is told by an argument where to read; some models do not hand it on."""
    return bool(getattr(model, "_supports_attention_backend", False))


def steps_between_looks(device_type: str) -> int:
    """Steps between two looks at which rows have finished.

    A look waits for the device, which is free on a CPU only.
    """
    return 1 if device_type == "cpu" else 16


def _signed(seed: int) -> int:
    """The seed modulo 2**64 as a signed 64-bit integer."""
    seed %= 2**64
    return seed - 2**64 if seed >= 2**63 else seed
