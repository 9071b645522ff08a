"""The vLLM engine against plain forward passes and the transformers engine, on the same weights.

Most of it needs vLLM (a CPU build is enough): `make test-vllm`. Kernels of the two differ in
rounding; with float32 weights of this size, log-probabilities agree to `TOLERANCE`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from grlo.engines import ENGINES
from grlo.engines.hf import HFEngine
from grlo.engines.vllm import VLLMEngine, VLLMEngineSettings
from grlo.errors import EngineError, MissingExtraError, ModelError
from grlo.interfaces import BuildContext
from grlo.registry import resolve
from grlo.types import Completion, SamplingParams

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"
)

TOLERANCE = 1e-4
VOCAB = 259
EOS = 256
CONTEXT = BuildContext(device="cuda" if torch.cuda.is_available() else "cpu", seed=0)
SETTINGS = VLLMEngineSettings(dtype="float32", cache_gib=0.25, enforce_eager=True)
SAMPLING = SamplingParams(max_tokens=20, num_samples=4, stop=tuple(range(7, 20)))


def tiny(*, seed: int) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # The smallest that vLLM's attention for CPUs has.
        intermediate_size=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    for parameter in model.parameters():
        # Sharper distributions than those of a fresh model, so that mistakes show.
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return tiny(seed=0)


@pytest.fixture(scope="module")
def model_path(
    model: Qwen3ForCausalLM, chat_policy_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model that ends at token 0 by its own settings; its tokenizer puts a BOS before texts."""
    path = tmp_path_factory.mktemp("vllm_policy")
    model.save_pretrained(path)
    GenerationConfig(
        eos_token_id=[0, EOS], do_sample=True, temperature=0.3, top_k=2
    ).save_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(chat_policy_path)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", EOS)]
    )
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(model_path: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(model_path)


@pytest.fixture(scope="module")
def engine(model_path: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[VLLMEngine]:
    engine = SETTINGS.build_from_path(
        str(model_path), context=replace(CONTEXT, decode=tokenizer.decode)
    )
    yield engine
    engine.close()


def some_prompts(num: int = 9, *, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB) for _ in range(rng.choice([1, 2, 5, 9, 17]))] for _ in range(num)]


def full_logprobs(
    model: Qwen3ForCausalLM,
    prompt: Sequence[int],
    answer: Sequence[int],
    temperature: float = 1.0,
) -> Tensor:
    """Log-probabilities [T, V] at every answer position, from one forward pass without a cache."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return (logits.double() / temperature).log_softmax(-1)


def assert_logprobs_are_the_models(
    model: Qwen3ForCausalLM,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    temperature: float = 1.0,
) -> None:
    each = len(completions) // len(prompts)
    for index, completion in enumerate(completions):
        expected = full_logprobs(model, prompts[index // each], completion.tokens, temperature)
        chosen = expected.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        torch.testing.assert_close(
            torch.tensor(completion.logprobs), chosen.float(), atol=TOLERANCE, rtol=0
        )


def tokens_of(completions: Sequence[Completion]) -> list[tuple[int, ...]]:
    return [completion.tokens for completion in completions]


# These start engines of their own, and there may be one at a time: they come before the one that
# all others share.


@needs_vllm
def test_a_start_that_fails_says_why_and_leaves_room_for_another(
    model_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for settings, reason in [
        (replace(SETTINGS, max_model_len=513), r"max_model_len \(513\)"),
        (replace(SETTINGS, cache_gib=1e6), "less than requested memory"),
    ]:
        with pytest.raises(EngineError, match=reason):
            settings.build_from_path(str(model_path), context=CONTEXT)
    tokens = []
    for _ in range(2):
        engine = SETTINGS.build_from_path(str(model_path), context=CONTEXT)
        tokens.append(tokens_of(engine.generate([[1, 2]], SAMPLING, seeds=[0])))
        with pytest.raises(EngineError, match="close the other"):
            SETTINGS.build_from_path(str(model_path), context=CONTEXT)
        with pytest.raises(EngineError, match="no tokenizer"):
            engine.generate([[1]], replace(SAMPLING, stop_texts=("a",)), seeds=[0])
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            engine.generate([[1, 2]], SAMPLING, seeds=[0])
    assert tokens[0] == tokens[1]
    assert "INFO" not in "".join(capfd.readouterr())


@needs_vllm
def test_a_device_that_the_installed_vllm_is_not_for_is_refused(model_path: Path) -> None:
    with pytest.raises(EngineError, match="'xpu'"):
        VLLMEngineSettings().build_from_path(
            str(model_path), context=BuildContext(device="xpu", seed=0)
        )


@needs_vllm
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_a_plain_forward_pass(
    engine: VLLMEngine, model: Qwen3ForCausalLM, temperature: float
) -> None:
    prompts = some_prompts()
    sampling = replace(SAMPLING, temperature=temperature)
    completions = engine.generate(prompts, sampling, seeds=range(9))
    assert len(completions) == 36
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    assert_logprobs_are_the_models(model, prompts, completions, temperature)


@needs_vllm
@pytest.mark.parametrize(("top_p", "top_k"), [(0.6, 0), (1.0, 5), (0.8, 7)])
def test_truncated_distributions_are_renormalised_over_what_they_keep(
    engine: VLLMEngine, model: Qwen3ForCausalLM, top_p: float, top_k: int
) -> None:
    prompts = some_prompts()
    sampling = replace(SAMPLING, temperature=1.2, top_p=top_p, top_k=top_k)
    for index, completion in enumerate(engine.generate(prompts, sampling, seeds=range(9))):
        rows = full_logprobs(model, prompts[index // 4], completion.tokens, 1.2).exp()
        for token, logprob, row in zip(
            completion.tokens, completion.logprobs, rows.tolist(), strict=True
        ):
            ranked = sorted(range(VOCAB), key=lambda t: -row[t])[: top_k or VOCAB]
            total = sum(row[t] for t in ranked)
            kept: list[int] = []
            while sum(row[t] for t in kept) < top_p * total and len(kept) < len(ranked):
                kept.append(ranked[len(kept)])
            assert token in kept
            share = torch.tensor(row[token] / sum(row[t] for t in kept))
            assert logprob == pytest.approx(float(share.log()), abs=TOLERANCE)


@needs_vllm
def test_greedy_answers_and_their_logprobs_are_those_of_the_transformers_engine(
    engine: VLLMEngine, model: Qwen3ForCausalLM
) -> None:
    prompts = some_prompts(20)
    sampling = replace(SAMPLING, temperature=0.0, num_samples=1, max_tokens=40)
    ours = engine.generate(prompts, sampling, seeds=range(20))
    theirs = HFEngine(model).generate(prompts, sampling, seeds=range(20))
    assert tokens_of(ours) == tokens_of(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.finish_reason == other.finish_reason
        assert one.logprobs == pytest.approx(other.logprobs, abs=TOLERANCE)


@needs_vllm
def test_every_stop_id_ends_a_completion_and_is_part_of_it(engine: VLLMEngine) -> None:
    sampling = replace(SAMPLING, num_samples=16, stop=(*SAMPLING.stop, VOCAB + 5))
    ends = set()
    for completion in engine.generate(some_prompts(), sampling, seeds=range(9)):
        *before, last = completion.tokens
        assert not set(before) & set(sampling.stop)
        assert (last in sampling.stop) == (completion.finish_reason == "stop")
        assert completion.finish_reason == "stop" or len(completion.tokens) == 20
        ends.add(last)
    assert len(ends & set(sampling.stop)) > 5


@needs_vllm
def test_the_checkpoints_own_stop_ids_and_sampling_defaults_do_not_count(
    engine: VLLMEngine,
) -> None:
    sampling = replace(SAMPLING, num_samples=64, temperature=2.0, stop=())
    completions = engine.generate(some_prompts(), sampling, seeds=range(9))
    assert {(c.finish_reason, len(c.tokens)) for c in completions} == {("length", 20)}
    assert {0, EOS} <= {token for c in completions for token in c.tokens[:-1]}


@needs_vllm
def test_a_sample_depends_on_its_seed_and_number_alone(engine: VLLMEngine) -> None:
    prompts = some_prompts()
    whole = tokens_of(engine.generate(prompts, SAMPLING, seeds=range(9)))
    assert tokens_of(engine.generate(prompts, SAMPLING, seeds=range(9))) == whole
    order = [4, 8, 0, 2, 6, 1, 3, 7, 5]
    shuffled = engine.generate([prompts[i] for i in order], SAMPLING, seeds=order)
    assert tokens_of(shuffled) == [whole[4 * i + j] for i in order for j in range(4)]
    fewer = engine.generate(prompts, replace(SAMPLING, num_samples=2), seeds=range(9))
    assert tokens_of(fewer) == [whole[4 * i + j] for i in range(9) for j in range(2)]


@needs_vllm
def test_prompts_beyond_what_one_step_takes_are_answered_as_they_are_alone(
    engine: VLLMEngine, model: Qwen3ForCausalLM
) -> None:
    prompts = [random.Random(i).choices(range(VOCAB), k=200 + 7 * i) for i in range(40)]
    sampling = replace(SAMPLING, num_samples=1)
    together = engine.generate(prompts, sampling, seeds=range(40))
    assert_logprobs_are_the_models(model, prompts, together)
    for i in (0, 11, 12, 39):
        alone = engine.generate([prompts[i]], sampling, seeds=[i])
        assert tokens_of(alone) == [together[i].tokens]


@needs_vllm
def test_samples_of_neighbouring_seeds_share_nothing(engine: VLLMEngine) -> None:
    sampling = replace(SAMPLING, num_samples=8, stop=())
    completions = engine.generate([[1, 2, 3]] * 4, sampling, seeds=[5, 6, 7, 5])
    drawn = tokens_of(completions)
    assert drawn[24:] == drawn[:8]
    assert len(set(drawn[:24])) == 24


@needs_vllm
def test_first_tokens_follow_the_exact_probabilities(
    engine: VLLMEngine, model: Qwen3ForCausalLM
) -> None:
    num, prompt = 4000, [3, 1, 4, 1, 5]
    sampling = SamplingParams(max_tokens=1, num_samples=num, temperature=1.3)
    completions = engine.generate([prompt], sampling, seeds=[2718])
    observed = torch.bincount(torch.tensor([c.tokens[0] for c in completions]), minlength=VOCAB)
    expected = full_logprobs(model, prompt, [0], 1.3)[0].exp() * num
    often = expected >= 5  # Rarer tokens count together.
    observed = torch.cat([observed[often], observed[~often].sum()[None]]).double()
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    statistic = ((observed - expected) ** 2 / expected).sum()
    p_value = torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2), statistic / 2)
    assert float(p_value) > 1e-3


@needs_vllm
def test_no_second_bos_stands_before_a_prompt(
    engine: VLLMEngine, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    with_bos = tokenizer.encode("Is it?")
    assert with_bos[0] == EOS
    prompts = [with_bos, with_bos[1:]]
    sampling = replace(SAMPLING, stop_texts=("never to be drawn",))
    for drawn_with in (SAMPLING, sampling):
        completions = engine.generate(prompts, drawn_with, seeds=[0, 1])
        assert_logprobs_are_the_models(model, prompts, completions)


@needs_vllm
def test_a_completion_ends_with_the_token_that_completes_a_stop_text(
    engine: VLLMEngine, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompts = some_prompts()
    free = engine.generate(prompts, replace(SAMPLING, stop=(), num_samples=8), seeds=range(9))
    # Two letters in a row that some of the answers have.
    texts = tuple(sorted({"".join(tokenizer.decode(c.tokens[4:6])) for c in free[::9]}))
    texts = tuple(text for text in texts if len(text) == 2 and "\ufffd" not in text)
    assert len(texts) > 1
    sampling = replace(SAMPLING, num_samples=8, stop=(), stop_texts=texts)
    completions = engine.generate(prompts, sampling, seeds=range(9))
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for completion, whole in zip(completions, free, strict=True):
        num = len(completion.tokens)
        assert completion.tokens == whole.tokens[:num]
        assert len(completion.logprobs) == num
        before, text = (
            tokenizer.decode(tokens, skip_special_tokens=True)
            for tokens in (completion.tokens[:-1], completion.tokens)
        )
        assert not any(stop in before for stop in texts)
        assert any(stop in text for stop in texts) == (completion.finish_reason == "stop")
        assert completion.finish_reason == "stop" or num == 20


@needs_vllm
def test_stop_texts_end_greedy_answers_where_the_transformers_engine_ends_them(
    engine: VLLMEngine, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    # Tokens are bytes here; like a text, each prompt ends with a whole character.
    prompts = [[*prompt, 33 + i] for i, prompt in enumerate(some_prompts(40))]
    sampling = replace(SAMPLING, temperature=0.0, num_samples=1, max_tokens=40, stop=())
    whole = engine.generate(prompts, sampling, seeds=range(40))
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    pairs = [decode(c.tokens[at : at + 2]) for c in whole for at in range(39)]
    texts = tuple(sorted({text for text in pairs if text.isascii() and text.isprintable()} - {""}))
    sampling = replace(sampling, stop_texts=texts[::4])
    ours = engine.generate(prompts, sampling, seeds=range(40))
    theirs = HFEngine(model, decode=decode).generate(prompts, sampling, seeds=range(40))
    assert tokens_of(ours) == tokens_of(theirs)
    assert {c.finish_reason for c in ours} == {"stop", "length"}
    assert [c.finish_reason for c in ours] == [c.finish_reason for c in theirs]


@needs_vllm
def test_weights_that_are_loaded_are_the_ones_it_draws_with(
    engine: VLLMEngine, model: Qwen3ForCausalLM
) -> None:
    # Longer than the blocks in which vLLM keeps keys and values of prompts for later.
    prompts = [random.Random(i).choices(range(VOCAB), k=300) for i in range(2)]
    before = engine.generate(prompts, SAMPLING, seeds=[0, 1])
    assert_logprobs_are_the_models(model, prompts, before)
    other = tiny(seed=1)
    for _ in range(2):
        engine.load_weights(other.state_dict().items())
        after = engine.generate(prompts, SAMPLING, seeds=[0, 1])
        assert_logprobs_are_the_models(other, prompts, after)
    assert tokens_of(after) != tokens_of(before)
    # Without the second name of the tied weight.
    engine.load_weights(model.named_parameters())
    again = engine.generate(prompts, SAMPLING, seeds=[0, 1])
    assert tokens_of(again) == tokens_of(before)
    assert_logprobs_are_the_models(model, prompts, again)


@needs_vllm
def test_weights_of_another_model_are_refused_and_change_nothing(
    engine: VLLMEngine, model: Qwen3ForCausalLM
) -> None:
    good = dict(model.named_parameters())
    name = "model.layers.1.mlp.up_proj.weight"
    for weights, reason in [
        (good | {"model.extra": torch.zeros(1)}, r"no weight named 'model\.extra'"),
        (good | {name: torch.zeros(2, 3)}, r"has shape \(2, 3\)"),
        ({n: t for n, t in good.items() if n != name}, f"not given: {name}"),
    ]:
        with pytest.raises(EngineError, match=reason):
            engine.load_weights(weights.items())
    prompts = some_prompts()
    assert_logprobs_are_the_models(
        model, prompts, engine.generate(prompts, SAMPLING, seeds=range(9))
    )


@needs_vllm
def test_each_completion_is_told_once_with_its_place_as_it_finishes(engine: VLLMEngine) -> None:
    told: dict[int, Completion] = {}
    calls: list[tuple[int, int, int]] = []

    def tell(index: int, completion: Completion) -> None:
        assert index not in told
        told[index] = completion

    def record(*, done: int, total: int, tokens: int) -> None:
        assert done == len(told)
        calls.append((done, total, tokens))

    completions = engine.generate(
        some_prompts(), SAMPLING, seeds=range(9), progress=record, on_completion=tell
    )
    assert [told[index] for index in range(36)] == completions
    assert list(told) != sorted(told)
    assert calls == sorted(calls)
    assert calls[-1] == (36, 36, sum(len(c.tokens) for c in completions))


@needs_vllm
def test_after_an_interruption_the_next_call_starts_afresh(engine: VLLMEngine) -> None:
    def interrupt(index: int, completion: Completion) -> None:
        raise KeyboardInterrupt

    whole = engine.generate(some_prompts(), SAMPLING, seeds=range(9))
    with pytest.raises(KeyboardInterrupt):
        engine.generate(some_prompts(seed=1), SAMPLING, seeds=range(9), on_completion=interrupt)
    assert engine.generate(some_prompts(), SAMPLING, seeds=range(9)) == whole


@needs_vllm
@pytest.mark.parametrize(
    ("prompts", "change", "reason"),
    [
        ([[1], []], {}, "without tokens"),
        ([[1], [VOCAB]], {}, "vocabulary of 259"),
        ([[1], [-1]], {}, "vocabulary of 259"),
        ([[1]], {}, "1 prompts but 2 seeds"),
        ([[1], [2]], {"max_tokens": 0}, "max_tokens = 0"),
        ([[1], [2]], {"max_tokens": 512}, "513 tokens, but has room for 512"),
        ([[1], [2]], {"temperature": -1.0}, "temperature = -1.0"),
        ([[1], [2]], {"temperature": 0.001}, r"0 or at least 0\.01"),
        ([[1], [2]], {"top_p": 0.0}, "top_p = 0.0"),
        ([[1], [2]], {"top_k": -1}, "top_k = -1"),
        ([[1], [2]], {"num_samples": 0}, "num_samples = 0"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    engine: VLLMEngine, prompts: list[list[int]], change: dict[str, float], reason: str
) -> None:
    with pytest.raises(EngineError, match=reason):
        engine.generate(prompts, replace(SAMPLING, **change), seeds=[0, 1])


@needs_vllm
def test_no_prompts_have_no_completions(engine: VLLMEngine) -> None:
    assert engine.generate([], SAMPLING, seeds=[]) == []


@needs_vllm
def test_threads_can_still_be_set_while_it_runs(engine: VLLMEngine) -> None:
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_without_vllm_it_says_what_to_install(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'grlo\[vllm\]'"):
        VLLMEngineSettings().build_from_path(str(model_path), context=CONTEXT)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no language model could be found"):
        VLLMEngineSettings().build_from_path(str(tmp_path), context=CONTEXT)


def test_the_registry_knows_the_engine() -> None:
    assert resolve("vllm", kind="engine", registry=ENGINES) is VLLMEngineSettings


def test_a_recipe_can_set_it_up() -> None:
    read = TypeAdapter(VLLMEngineSettings).validate_python({"name": "vllm", "max_rows": 8})
    assert read == VLLMEngineSettings(max_rows=8)
    with pytest.raises(ValueError, match="within \\(0, 1\\]"):
        VLLMEngineSettings(gpu_memory_utilization=1.5)
