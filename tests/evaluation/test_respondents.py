"""Who answers: what reaches the engine or the endpoint, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from fake_endpoint import Answer as HttpAnswer
from fake_endpoint import completion, error, serve
from grlo.endpoint import EndpointSettings
from grlo.evaluation.respondents import Answer, LocalModel, RemoteModel
from grlo.interfaces import OnCompletion, Progress, ignore, silent
from grlo.types import Completion, Message, Prompt, SamplingParams, Work

if TYPE_CHECKING:
    from torch import Tensor

STOP = 0


class LetterRenderer:
    """One token per character; 0 ends an answer."""

    stop_ids: tuple[int, ...] = (STOP,)
    pad_id = STOP

    def __init__(self, before: str = "") -> None:
        self.before = before

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(map(ord, self.before + messages[-1].content))

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(token) for token in tokens if token != STOP)


class FixedEngine:
    """Says the same to everybody; keeps what it was asked."""

    def __init__(self, text: str = "it is 4") -> None:
        self.text = text
        self.calls: list[dict[str, Any]] = []
        self.is_closed = False

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        progress: Progress = silent,
        on_completion: OnCompletion = ignore,
    ) -> list[Completion]:
        self.calls.append({"prompts": list(prompts), "sampling": sampling, "seeds": list(seeds)})
        tokens = (*map(ord, self.text), STOP)
        found = [Completion(tokens, (0.0,) * len(tokens), "stop") for _ in prompts]
        for index, one in enumerate(found):
            on_completion(index, one)
        return found

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        raise AssertionError("an evaluation never changes the model")

    def close(self) -> None:
        self.is_closed = True


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(id=text, messages=(Message("user", text),)) for text in texts]


def ask(respondent: Any, *texts: str, **options: Any) -> list[Answer]:
    told: list[tuple[int, Answer]] = []
    answers = respondent.answer(
        prompts(*texts),
        options.get("sampling", SamplingParams(max_tokens=9, num_samples=4)),
        seeds=range(len(texts)),
        draws=options.get("draws", [0] * len(texts)),
        shots=options.get("shots", ()),
        on_answer=lambda index, answer: told.append((index, answer)),
    )
    assert dict(told) == dict(enumerate(answers))
    return answers


def test_the_engine_is_opened_at_the_first_question_and_draws_one_answer_a_prompt() -> None:
    engine, opened = FixedEngine(), []

    def open_engine() -> FixedEngine:
        opened.append(True)
        return engine

    def count(rows: Sequence[tuple[Sequence[int], int]]) -> Work:
        return Work(len(rows), sum(100.0 * len(prompt) + drawn for prompt, drawn in rows))

    model = LocalModel(open_engine, LetterRenderer(), template="t", count_flops=count)
    assert opened == []
    assert ask(model, "ab", "c") == [Answer("it is 4", "stop", 8)] * 2
    ask(model, "d")
    assert opened == [True]
    sampling = engine.calls[0]["sampling"]
    assert (sampling.num_samples, sampling.stop) == (1, (STOP,))
    assert engine.calls[0]["seeds"] == [0, 1]
    spent = model.spent()
    assert (spent.tokens, spent.work) == (24, {"engine": Work(3, 100.0 * 4 + 24)})
    assert model.spent().tokens == 0
    assert model.template(()) == "t"
    model.close()
    assert engine.is_closed


def test_behind_shots_the_text_is_plain_and_ends_at_the_next_question() -> None:
    engine = FixedEngine("it is 4\n\n\nQuestion: and 5?")
    model = LocalModel(
        lambda: engine,
        LetterRenderer(),
        render_shots=lambda shots: LetterRenderer(f"{shots[0][0]}{shots[0][1]}"),
    )
    (answer,) = ask(model, "x", shots=[("q", "a")])
    assert engine.calls[0]["prompts"] == [tuple(map(ord, "qax"))]
    assert "\nQuestion:" in engine.calls[0]["sampling"].stop_texts
    assert answer.text == "it is 4"
    assert model.template([("q", "a")]) == "shots"
    with pytest.raises(ValueError, match="without its template"):
        ask(LocalModel(lambda: engine, LetterRenderer()), "x", shots=[("q", "a")])


def endpoint(url: str, **changes: Any) -> EndpointSettings:
    values: dict[str, Any] = {"retries": 0, "seed": 7, **changes}
    return EndpointSettings(base_url=url, model="m", api_key_env="", **values)


def test_sampling_of_the_benchmark_reaches_the_endpoint_and_draws_have_seeds() -> None:
    def say(body: dict[str, Any], number: int) -> HttpAnswer:
        return completion(f"answer {body['seed']}", tokens=(3, 2))

    with serve(say) as server:
        model = RemoteModel(endpoint(server.url))
        sampling = SamplingParams(max_tokens=5, temperature=0.6, top_p=0.95)
        answers = ask(model, "a", "a", draws=[0, 1], sampling=sampling)
    assert sorted(answer.text for answer in answers) == ["answer 7", "answer 8"]
    assert {answer.num_tokens for answer in answers} == {2}
    assert {(b["max_tokens"], b["temperature"], b["top_p"]) for b in server.bodies} == {
        (5, 0.6, 0.95)
    }
    spent = model.spent()
    assert (spent.tokens, spent.usage.requests, spent.usage.input_tokens) == (4, 2, 6)


def test_a_refused_request_is_a_failed_answer_with_the_reason() -> None:
    with serve(lambda body, number: error(400, "no such content")) as server:
        (answer,) = ask(RemoteModel(endpoint(server.url)), "a")
    assert (answer.finish_reason, answer.num_tokens) == ("failed", 0)
    assert "no such content" in answer.note


def test_a_model_that_takes_no_temperature_is_sent_none() -> None:
    with serve(lambda body, number: completion("x")) as server:
        ask(RemoteModel(endpoint(server.url, temperature="default")), "a")
    assert "temperature" not in server.bodies[0]
