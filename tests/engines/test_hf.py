"""The transformers engine against plain forward passes of the same tiny random models."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from transformers import (
    GenerationConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from grlo.engines import ENGINES, decoding
from grlo.engines.hf import HFEngine, HFEngineSettings
from grlo.errors import DeviceMemoryError, EngineError
from grlo.inference import is_same_device
from grlo.interfaces import BuildContext
from grlo.registry import resolve
from grlo.types import Completion, SamplingParams
from tiny_policies import CLASSES, SAMPLING, VOCAB, some_prompts, tiny


def full_logprobs(
    model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int], temperature: float = 1.0
) -> Tensor:
    """Log-probabilities [T, V] at every answer position, from one forward pass without a cache."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return (logits.double() / temperature).log_softmax(-1)


def chi_square_p(observed: Tensor, expected: Tensor) -> float:
    """Probability of a fit at least as bad; cells expected fewer than 5 times are joined."""
    often = expected >= 5
    observed = torch.cat([observed[often], observed[~often].sum()[None]]).double()
    expected = torch.cat([expected[often], expected[~often].sum()[None]]).double()
    statistic = ((observed - expected) ** 2 / expected.clamp(min=1e-9)).sum()
    return float(torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2), statistic / 2))


def tokens_of(completions: Sequence[Completion]) -> list[tuple[int, ...]]:
    return [completion.tokens for completion in completions]


@pytest.fixture(params=["prompts of their own", "shared prompts"])
def _either_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both caches; on a CPU models of float32 are given the second only."""
    shares = request.param == "shared prompts"
    monkeypatch.setattr("grlo.engines.decoding.shares_prompts", lambda model: shares)


@pytest.mark.usefixtures("_either_cache")
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("max_rows", [0, 7])
def test_logprobs_are_those_of_a_plain_forward_pass(name: str, max_rows: int) -> None:
    model, prompts = tiny(name), some_prompts()
    sampling = replace(SAMPLING, temperature=0.7)
    completions = HFEngine(model, max_rows=max_rows).generate(prompts, sampling, seeds=range(9))
    assert len(completions) == 36
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for index, completion in enumerate(completions):
        expected = full_logprobs(model, prompts[index // 4], completion.tokens, 0.7)
        chosen = expected.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        torch.testing.assert_close(
            torch.tensor(completion.logprobs), chosen.float(), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("name", CLASSES)
def test_greedy_is_what_generate_draws_without_sampling(name: str) -> None:
    model, prompts = tiny(name), some_prompts()
    sampling = replace(SAMPLING, temperature=0.0, num_samples=1)
    completions = HFEngine(model).generate(prompts, sampling, seeds=range(9))
    config = GenerationConfig(
        do_sample=False, max_new_tokens=20, eos_token_id=list(SAMPLING.stop), pad_token_id=0
    )
    for prompt, completion in zip(prompts, completions, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            generation_config=config,
        )
        assert completion.tokens == tuple(theirs[0, len(prompt) :].tolist())
        logprobs = full_logprobs(model, prompt, completion.tokens).amax(-1).float()
        torch.testing.assert_close(torch.tensor(completion.logprobs), logprobs, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("_either_cache")
@pytest.mark.parametrize(("max_rows", "prefill_tokens"), [(1, 8192), (3, 8192), (16, 1), (36, 20)])
def test_chunking_does_not_change_a_completion(max_rows: int, prefill_tokens: int) -> None:
    model, prompts = tiny(), some_prompts()
    whole = HFEngine(model).generate(prompts, SAMPLING, seeds=range(9))
    engine = HFEngine(model, max_rows=max_rows, prefill_tokens=prefill_tokens)
    assert tokens_of(engine.generate(prompts, SAMPLING, seeds=range(9))) == tokens_of(whole)


@pytest.mark.usefixtures("_either_cache")
@pytest.mark.parametrize("max_rows", [0, 7])
def test_looking_seldom_for_finished_rows_does_not_change_a_completion(
    monkeypatch: pytest.MonkeyPatch, max_rows: int
) -> None:
    # What an accelerator does; rows run on behind their last token until the next look.
    model, prompts = tiny(), some_prompts()
    often = HFEngine(model).generate(prompts, SAMPLING, seeds=range(9))
    monkeypatch.setattr("grlo.engines.decoding.steps_between_looks", lambda device_type: 16)
    seldom = HFEngine(model, max_rows=max_rows).generate(prompts, SAMPLING, seeds=range(9))
    assert tokens_of(seldom) == tokens_of(often)
    for one, other in zip(often, seldom, strict=True):
        assert one.finish_reason == other.finish_reason
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.usefixtures("_either_cache")
def test_order_company_and_number_of_samples_do_not_change_a_completion() -> None:
    engine, prompts = HFEngine(tiny(), max_rows=10), some_prompts()
    whole = tokens_of(engine.generate(prompts, SAMPLING, seeds=range(9)))
    order = [4, 8, 0, 2, 6, 1, 3, 7, 5]
    shuffled = engine.generate([prompts[i] for i in order], SAMPLING, seeds=order)
    assert tokens_of(shuffled) == [whole[4 * i + j] for i in order for j in range(4)]
    for i in (0, 5):
        assert tokens_of(engine.generate([prompts[i]], SAMPLING, seeds=[i])) == whole[4 * i :][:4]
    fewer = engine.generate(prompts, replace(SAMPLING, num_samples=2), seeds=range(9))
    assert tokens_of(fewer) == [whole[4 * i + j] for i in range(9) for j in range(2)]


def test_equal_prompts_with_other_seeds_are_answered_differently() -> None:
    engine = HFEngine(tiny())
    first, second, again = engine.generate(
        [[1, 2, 3]] * 3, replace(SAMPLING, num_samples=1), seeds=[5, 6, 5]
    )
    assert first.tokens == again.tokens
    assert first.tokens != second.tokens


@pytest.mark.usefixtures("_either_cache")
def test_every_distinct_prompt_is_computed_once() -> None:
    rng, model = random.Random(0), tiny()
    distinct = [[rng.randrange(1, VOCAB) for _ in range(rng.randint(3, 17))] for _ in range(6)]
    num_tokens: list[int] = []

    def count(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
        if kwargs["input_ids"].shape[1] > 1:
            num_tokens.append(int((kwargs["input_ids"] != 0).sum()))

    handle = model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    # Rows for five samples cut most groups of four, and of eight where a prompt comes twice.
    HFEngine(model, max_rows=5).generate([*distinct, *distinct], SAMPLING, seeds=range(12))
    handle.remove()
    assert sum(num_tokens) == sum(len(prompt) - 1 for prompt in distinct)
    assert len(num_tokens) > 1


def test_first_tokens_follow_the_exact_probabilities() -> None:
    model, prompt, num = tiny(), [3, 1, 4, 1, 5], 20_000
    sampling = SamplingParams(max_tokens=1, num_samples=num, temperature=1.3)
    completions = HFEngine(model).generate([prompt], sampling, seeds=[2718])
    counts = torch.bincount(torch.tensor([c.tokens[0] for c in completions]), minlength=VOCAB)
    expected = full_logprobs(model, prompt, [0], 1.3)[0].exp() * num
    assert chi_square_p(counts, expected) > 0.001
    assert chi_square_p(counts, full_logprobs(model, prompt, [0], 1.0)[0].exp() * num) < 1e-6


def test_consecutive_tokens_are_independent_draws() -> None:
    # A model whose next token is uniform whatever came before.
    model = tiny()
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    sampling = SamplingParams(max_tokens=2, num_samples=20_000)
    completions = HFEngine(model).generate([[1, 2]], sampling, seeds=[0])
    pairs = torch.tensor([c.tokens for c in completions]) * 10 // VOCAB
    table = torch.bincount(pairs[:, 0] * 10 + pairs[:, 1], minlength=100)
    assert chi_square_p(table, torch.full((100,), 200.0)) > 0.001


@pytest.mark.parametrize("stop", [(), (7,), tuple(range(100))])
def test_an_answer_ends_with_its_first_stop_token_or_at_the_limit(stop: tuple[int, ...]) -> None:
    sampling = replace(SAMPLING, stop=stop)
    for completion in HFEngine(tiny()).generate(some_prompts(), sampling, seeds=range(9)):
        *before, last = completion.tokens
        assert not set(before) & set(stop)
        assert len(completion.logprobs) == len(completion.tokens)
        if completion.finish_reason == "stop":
            assert last in stop
        else:
            assert len(completion.tokens) == 20
            assert last not in stop


def test_a_stop_token_at_the_limit_is_a_stop() -> None:
    sampling = replace(SAMPLING, stop=tuple(range(VOCAB)), max_tokens=1)
    completions = HFEngine(tiny()).generate(some_prompts(), sampling, seeds=range(9))
    assert {c.finish_reason for c in completions} == {"stop"}
    assert {len(c.tokens) for c in completions} == {1}


def test_what_stops_one_answer_does_not_change_the_others() -> None:
    engine, prompts = HFEngine(tiny()), some_prompts()
    free = engine.generate(prompts, replace(SAMPLING, stop=()), seeds=range(9))
    for whole, cut in zip(free, engine.generate(prompts, SAMPLING, seeds=range(9)), strict=True):
        assert whole.tokens[: len(cut.tokens)] == cut.tokens


@pytest.mark.usefixtures("_either_cache")
def test_junk_left_in_unused_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny(), some_prompts()
    engine = HFEngine(model, max_rows=6)
    clean = engine.generate(prompts, SAMPLING, seeds=range(9))
    new = Tensor.new_zeros
    monkeypatch.setattr(Tensor, "new_zeros", lambda *a, **k: new(*a, **k).fill_(1e4))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: new(*a, **k).fill_(math.nan))
    junk = engine.generate(prompts, SAMPLING, seeds=range(9))
    assert tokens_of(junk) == tokens_of(clean)
    assert [c.logprobs for c in junk] == [c.logprobs for c in clean]


def test_new_weights_change_what_is_drawn_and_the_learners_stay_its_own() -> None:
    learner, other = tiny(seed=0), tiny(seed=1)
    engine = HFEngine(copy.deepcopy(learner), live=False)
    prompts = some_prompts()
    before = tokens_of(engine.generate(prompts, SAMPLING, seeds=range(9)))
    engine.load_weights(other.state_dict().items())
    after = tokens_of(engine.generate(prompts, SAMPLING, seeds=range(9)))
    assert before == tokens_of(HFEngine(learner).generate(prompts, SAMPLING, seeds=range(9)))
    assert after == tokens_of(HFEngine(other).generate(prompts, SAMPLING, seeds=range(9)))
    assert before != after


def test_tied_weights_may_be_given_once() -> None:
    model = tiny("llama")
    names = dict(tiny("llama", seed=1).named_parameters())
    assert "lm_head.weight" not in names
    engine = HFEngine(model, live=False)
    engine.load_weights(names.items())
    assert torch.equal(model.lm_head.weight, names["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w.update({"model.layers.9.mlp": torch.zeros(1)}), "no weight named"),
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), "not given: model.layers.1.mlp"),
        (lambda w: w.update({"model.norm.weight": torch.zeros(1)}), r"shape \(1,\)"),
    ],
)
def test_weights_of_another_model_are_refused(change: object, reason: str) -> None:
    weights = dict(tiny().state_dict())
    change(weights)  # type: ignore[operator]
    with pytest.raises(EngineError, match=reason):
        HFEngine(tiny(), live=False).load_weights(weights.items())


def test_a_live_engine_follows_its_learner_and_leaves_it_as_it_was() -> None:
    learner = tiny()
    engine = HFEngineSettings().build(learner, context=BuildContext(device="cpu", seed=0))
    learner.train()
    learner.model.norm.eval()
    before = engine.generate(some_prompts(), SAMPLING, seeds=range(9))
    assert learner.training
    assert not learner.model.norm.training
    assert learner.config._attn_implementation == "sdpa"
    assert all(p.grad is None and not p.is_inference() for p in learner.parameters())
    with torch.no_grad():
        learner.model.norm.weight.mul_(2)
    engine.load_weights([])
    assert tokens_of(engine.generate(some_prompts(), SAMPLING, seeds=range(9))) != tokens_of(before)
    learner(torch.tensor([[1, 2]])).logits.sum().backward()


def test_another_dtype_is_a_copy_that_takes_the_learners_weights() -> None:
    learner = tiny()
    settings = HFEngineSettings(dtype="bfloat16")
    engine = settings.build(learner, context=BuildContext(device="cpu", seed=0))
    assert learner.dtype == torch.float32
    engine.load_weights(tiny(seed=1).state_dict().items())
    for index, c in enumerate(engine.generate(some_prompts(), SAMPLING, seeds=range(9))):
        expected = full_logprobs(tiny(seed=1), some_prompts()[index // 4], c.tokens)
        chosen = expected.gather(1, torch.tensor(c.tokens)[:, None])[:, 0]
        assert (chosen - torch.tensor(c.logprobs)).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("settings", "context"),
    [
        (HFEngineSettings(), BuildContext(device="cpu", seed=0, snapshot=True)),
        # Only the names differ here: a CPU has no second device.
        (HFEngineSettings(device="cpu"), BuildContext(device="cuda", seed=0)),
    ],
)
def test_a_snapshot_and_an_engine_elsewhere_hold_weights_of_their_own(
    settings: HFEngineSettings, context: BuildContext
) -> None:
    learner = tiny()
    engine = settings.build(learner, context=context)
    before = engine.generate(some_prompts(), SAMPLING, seeds=range(9))
    assert before == HFEngine(tiny()).generate(some_prompts(), SAMPLING, seeds=range(9))
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.mul_(2)
    assert engine.generate(some_prompts(), SAMPLING, seeds=range(9)) == before
    engine.load_weights(learner.state_dict().items())
    expected = HFEngine(learner).generate(some_prompts(), SAMPLING, seeds=range(9))
    assert engine.generate(some_prompts(), SAMPLING, seeds=range(9)) == expected != before


def test_an_engine_on_the_learners_device_by_another_name_is_its_own_module() -> None:
    assert is_same_device("cuda", "cuda:0")
    assert not is_same_device("cuda:1", "cuda")
    assert not is_same_device("cpu", "cuda")
    learner = tiny()
    settings = HFEngineSettings(device="cpu")
    engine = settings.build(learner, context=BuildContext(device="cpu", seed=0))
    assert engine._model is learner


def test_active_adapters_take_part() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        tiny(), peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    prompts = some_prompts()
    completions = HFEngine(model).generate(prompts, SAMPLING, seeds=range(9))
    for index, completion in enumerate(completions):
        expected = full_logprobs(model, prompts[index // 4], completion.tokens)
        chosen = expected.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        torch.testing.assert_close(
            torch.tensor(completion.logprobs), chosen.float(), atol=1e-4, rtol=0
        )
    assert tokens_of(completions) != tokens_of(
        HFEngine(tiny()).generate(prompts, SAMPLING, seeds=range(9))
    )


def test_a_copy_of_a_model_with_adapters_takes_merged_weights() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        tiny(), peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    settings = HFEngineSettings(dtype="bfloat16")
    engine = settings.build(model, context=BuildContext(device="cpu", seed=0), live=True)
    other = tiny(seed=1)
    engine.load_weights(other.state_dict().items())
    drawn = tokens_of(engine.generate(some_prompts(), SAMPLING, seeds=range(9)))
    expected = HFEngine(copy.deepcopy(other).bfloat16())
    assert drawn == tokens_of(expected.generate(some_prompts(), SAMPLING, seeds=range(9)))
    assert any("lora_A" in name for name, _ in model.named_parameters())


def test_progress_ends_with_everything_done() -> None:
    calls: list[tuple[int, int, int]] = []

    def record(*, done: int, total: int, tokens: int) -> None:
        calls.append((done, total, tokens))

    completions = HFEngine(tiny(), max_rows=8).generate(
        some_prompts(), SAMPLING, seeds=range(9), progress=record
    )
    assert calls[-1] == (36, 36, sum(len(c.tokens) for c in completions))
    assert calls == sorted(calls)
    assert len({done for done, _, _ in calls}) > 3


def test_a_window_that_sequences_outgrow_is_refused_and_a_wider_one_is_used() -> None:
    config = MistralConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        sliding_window=24,
    )
    torch.manual_seed(0)
    model = MistralForCausalLM(config).eval()
    engine = HFEngine(model)
    sampling = replace(SAMPLING, stop=())
    with pytest.raises(EngineError, match="window of 24"):
        engine.generate([[1] * 5], sampling, seeds=[0])
    for completion in engine.generate([[1, 2, 3], [4]], sampling, seeds=[0, 1])[:4]:
        expected = full_logprobs(model, [1, 2, 3], completion.tokens)
        chosen = expected.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        torch.testing.assert_close(
            torch.tensor(completion.logprobs), chosen.float(), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(
    ("prompts", "change", "reason"),
    [
        ([[1], []], {}, "without tokens"),
        ([[1]], {}, "1 prompts but 2 seeds"),
        ([[1], [2]], {"max_tokens": 0}, "max_tokens = 0"),
        ([[1], [2]], {"temperature": -1.0}, "temperature = -1.0"),
        ([[1], [2]], {"top_p": 0.0}, "top_p = 0.0"),
        ([[1], [2]], {"top_k": -1}, "top_k = -1"),
        ([[1], [2]], {"num_samples": 0}, "num_samples = 0"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    prompts: list[list[int]], change: dict[str, float], reason: str
) -> None:
    with pytest.raises(EngineError, match=reason):
        HFEngine(tiny()).generate(prompts, replace(SAMPLING, **change), seeds=[0, 1])


def test_no_prompts_have_no_completions() -> None:
    assert HFEngine(tiny()).generate([], SAMPLING, seeds=[]) == []


def test_the_registry_knows_the_engine() -> None:
    assert resolve("hf", kind="engine", registry=ENGINES) is HFEngineSettings


def test_a_recipe_can_set_it_up() -> None:
    read = TypeAdapter(HFEngineSettings).validate_python({"name": "hf", "dtype": "bfloat16"})
    assert read == HFEngineSettings(dtype="bfloat16")


def letters(tokens: Sequence[int]) -> str:
    """Two characters for each token, so that texts may begin within one."""
    return "".join(f"{chr(97 + token % 7)}{chr(65 + token % 5)}" for token in tokens)


@pytest.mark.parametrize("max_rows", [0, 3])
@pytest.mark.parametrize("texts", [("cD",), ("Db", "AaB"), ("no such text",)])
def test_an_answer_ends_where_a_stop_text_is_complete(
    texts: tuple[str, ...], max_rows: int
) -> None:
    model, prompts = tiny(), some_prompts()
    seeds = range(len(prompts))
    sampling = SamplingParams(max_tokens=40, num_samples=3)
    whole = HFEngine(model).generate(prompts, sampling, seeds=seeds)
    engine = HFEngine(model, max_rows=max_rows, decode=letters)
    cut = engine.generate(prompts, replace(sampling, stop_texts=texts), seeds=seeds)
    num_cut = 0
    for before, after in zip(whole, cut, strict=True):
        ends = [
            end
            for end in range(1, 41)
            if any(text in letters(before.tokens[:end]) for text in texts)
        ]
        num_cut += bool(ends)
        assert after.tokens == before.tokens[: ends[0] if ends else 40]
        assert after.finish_reason == ("stop" if ends else "length")
        assert len(after.logprobs) == len(after.tokens)
    assert num_cut > 0 or texts == ("no such text",)


def test_stop_texts_need_a_decode_function() -> None:
    sampling = SamplingParams(max_tokens=2, stop_texts=("x",))
    with pytest.raises(EngineError, match="decode function"):
        HFEngine(tiny()).generate([[1]], sampling, seeds=[0])


def test_every_completion_is_told_of_once_as_it_finishes() -> None:
    told: list[tuple[int, Completion]] = []
    completions = HFEngine(tiny(), max_rows=4).generate(
        some_prompts(),
        SAMPLING,
        seeds=range(9),
        on_completion=lambda index, completion: told.append((index, completion)),
    )
    assert dict(told) == dict(enumerate(completions))
    assert len(told) == len(completions)
    assert [index for index, _ in told] != sorted(index for index, _ in told)


@pytest.mark.usefixtures("_either_cache")
def test_a_device_that_holds_few_rows_draws_fewer_together_from_then_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, prompts = tiny(), some_prompts()
    expected = tokens_of(HFEngine(model).generate(prompts, SAMPLING, seeds=range(9)))
    finished: list[int] = []
    real, sizes = decoding.draw, []

    def small_device(logits_RV: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        sizes.append(len(logits_RV))
        # Not at once: what has finished before must not be drawn again.
        if len(logits_RV) > 5 and len(sizes) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return real(logits_RV, *args, **options)

    monkeypatch.setattr(decoding, "draw", small_device)
    engine = HFEngine(model, max_rows=24)
    told = engine.generate(
        prompts, SAMPLING, seeds=range(9), on_completion=lambda index, _: finished.append(index)
    )
    assert tokens_of(told) == expected
    assert sorted(finished) == list(range(36))
    warnings = capsys.readouterr().err
    # The rows that were in use fell from 24: 12, 6, 3.
    assert [f"at most {rows}." in warnings for rows in (12, 6, 3)] == [True] * 3
    assert warnings.count("What is drawn does not change") == 3
    sizes.clear()
    engine.generate(prompts, SAMPLING, seeds=range(9))
    assert max(sizes) == 3


def test_a_completion_that_does_not_fit_alone_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_device(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")

    monkeypatch.setattr(decoding, "draw", no_device)
    with pytest.raises(DeviceMemoryError, match=r"one completion \(21 tokens.*sampling.max_tokens"):
        HFEngine(tiny()).generate([[1]], SAMPLING, seeds=[0])
