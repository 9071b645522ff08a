"""Who answers the problems of an evaluation: a model here, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from grlo.endpoint import ChatRequest, Endpoint, EndpointSettings, Failure
from grlo.interfaces import Progress, Renderer, RolloutEngine, silent
from grlo.ledger import PhaseCost, total_usage
from grlo.types import Completion, Prompt, SamplingParams, Usage, Work


@dataclass(frozen=True)
class Answer:
    """What a respondent said."""

    text: str
    finish_reason: Literal["stop", "length", "failed"]
    num_tokens: int
    """The stop token included; for a remote model as its endpoint counts."""
    note: str = ""
    """Why there is none."""


@dataclass(frozen=True)
class Spent:
    """What answers have cost."""

    tokens: int = 0
    """Generated."""
    work: Mapping[str, Work] = field(default_factory=dict)
    """Of models here, by component."""
    usage: Usage = field(default_factory=Usage)


OnAnswer = Callable[[int, Answer], None]
"""Told of each answer as it is there, with its place in what `answer` will return."""


class Respondent(Protocol):
    """Answers conversations."""

    block_size: int
    """Answers to ask for in one call, so that equal calls have equal results to the last bit; 0 for
    as many as there are."""
    num_parallel: int
    """Blocks that may be asked for at a time, from as many threads."""

    def template(self, shots: Sequence[tuple[str, str]]) -> str:
        """What tells the form in which conversations are put from others."""
        ...

    def answer(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        draws: Sequence[int],
        shots: Sequence[tuple[str, str]],
        progress: Progress = silent,
        on_answer: OnAnswer,
    ) -> list[Answer]:
        """One answer per prompt.

        Args:
            prompts: What is asked; may hold the same prompt several times.
            sampling: How to draw; `num_samples` has no meaning here.
            seeds: One per prompt.
            draws: Number of the answer among those to its prompt.
            shots: Questions with answers that stand before each prompt, without a template.
            progress: Called as answers are drawn.
            on_answer: Likewise, with each of them.
        """
        ...

    def spent(self) -> Spent:
        """What was spent since the last call."""
        ...


class LocalModel:
    """A model of an engine here.

    Args:
        open_engine: The engine that draws completions; called when the first answer is asked for.
        renderer: Makes and reads tokens; its stop ids end answers.
        template: What tells its chat template from others.
        render_shots: The renderer of plain text with these shots; None where there is none.
        block_size: See `Respondent`.
        count_flops: Work of drawing answers, from the tokens of each prompt and how many were
            drawn behind it.
    """

    def __init__(
        self,
        open_engine: Callable[[], RolloutEngine],
        renderer: Renderer,
        *,
        template: str = "",
        render_shots: Callable[[Sequence[tuple[str, str]]], Renderer] | None = None,
        block_size: int = 0,
        count_flops: Callable[[Sequence[tuple[Sequence[int], int]]], Work] = lambda rows: Work(),
    ) -> None:
        self.block_size, self.num_parallel = block_size, 1
        self._open_engine = open_engine
        self._engine: RolloutEngine | None = None
        self._renderer, self._template = renderer, template
        self._render_shots, self._count_flops = render_shots, count_flops
        self._cost = PhaseCost()

    def template(self, shots: Sequence[tuple[str, str]]) -> str:
        """See `Respondent`."""
        return "shots" if shots else self._template

    def answer(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        draws: Sequence[int],
        shots: Sequence[tuple[str, str]],
        progress: Progress = silent,
        on_answer: OnAnswer,
    ) -> list[Answer]:
        """See `Respondent`."""
        renderer = self._renderer
        if shots:
            if self._render_shots is None:
                raise ValueError("this model cannot be asked without its template")
            renderer = self._render_shots(shots)
            sampling = replace(sampling, stop_texts=(*sampling.stop_texts, *STOP_TEXTS))
        stop = tuple(dict.fromkeys([*sampling.stop, *renderer.stop_ids]))
        encoded = [renderer.encode(prompt.messages) for prompt in prompts]

        def read(completion: Completion) -> Answer:
            text = renderer.decode(completion.tokens)
            ends = [at for stop in sampling.stop_texts if (at := text.find(stop)) >= 0]
            return Answer(
                text=text[: min(ends)] if ends else text,
                finish_reason=completion.finish_reason,
                num_tokens=len(completion.tokens),
            )

        engine = self._engine = self._engine or self._open_engine()
        completions = engine.generate(
            encoded,
            replace(sampling, stop=stop, num_samples=1),
            seeds=seeds,
            progress=progress,
            on_completion=lambda index, completion: on_answer(index, read(completion)),
        )
        answers = [read(completion) for completion in completions]
        drawn = [answer.num_tokens for answer in answers]
        self._cost.tokens += sum(drawn)
        self._cost.add({"engine": self._count_flops([*zip(encoded, drawn, strict=True)])})
        return answers

    def spent(self) -> Spent:
        """See `Respondent`."""
        cost, self._cost = self._cost, PhaseCost()
        return Spent(tokens=cost.tokens, work=cost.work)

    def close(self) -> None:
        """Lets go of the engine, if there is one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


STOP_TEXTS = ("\nQuestion:", "\n\n\n")
"""End an answer to a question that follows shots: a model without a template goes on."""


class RemoteModel:
    """A model behind an OpenAI-compatible endpoint, asked by chat completions.

    Replies are kept in the cache of the endpoint as they arrive, so that a call that was cut short
    asks for no answer twice. A request that fails with all its repetitions is an answer with the
    finish reason `failed`.

    Args:
        settings: Where and how; sampling comes from the benchmark.
    """

    block_size = 0
    num_parallel = 1

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        self._spent: list[Usage] = []

    def template(self, shots: Sequence[tuple[str, str]]) -> str:
        """See `Respondent`: the template is the endpoint's own affair."""
        return "endpoint"

    def answer(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        draws: Sequence[int],
        shots: Sequence[tuple[str, str]],
        progress: Progress = silent,
        on_answer: OnAnswer,
    ) -> list[Answer]:
        """See `Respondent`.

        Raises:
            EndpointError: No request can succeed.
        """
        if shots:
            raise ValueError("a chat endpoint cannot be asked without its template")
        extra: Mapping[str, object] = dict(self._settings.extra)
        if sampling.top_p < 1:
            extra = {"top_p": sampling.top_p, **extra}
        settings = replace(
            self._settings,
            max_tokens=sampling.max_tokens,
            temperature="default"
            if self._settings.temperature == "default"
            else sampling.temperature,
            extra=extra,
        )
        endpoint = Endpoint(settings, accepts_empty=True)
        requests = [
            ChatRequest(prompt.messages, draw=draw)
            for prompt, draw in zip(prompts, draws, strict=True)
        ]
        try:
            replies = endpoint.complete(requests, progress=progress)
        finally:
            self._spent.append(endpoint.drain_usage())
            endpoint.close()
        answers = []
        for index, reply in enumerate(replies):
            if isinstance(reply, Failure):
                answers.append(Answer("", "failed", 0, note=reply.reason))
            else:
                reason = "length" if reply.finish_reason == "length" else "stop"
                answers.append(Answer(reply.text, reason, reply.output_tokens))
            on_answer(index, answers[-1])
        return answers

    def spent(self) -> Spent:
        """See `Respondent`."""
        usage, self._spent = total_usage(self._spent), []
        return Spent(tokens=usage.output_tokens, usage=usage)
