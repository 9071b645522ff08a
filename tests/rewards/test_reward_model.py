"""The reward model against plain single-row forward passes, on tiny checkpoints made here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev

import pytest
import torch
from pydantic import TypeAdapter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from grlo.errors import ModelError, RewardError
from grlo.interfaces import BuildContext
from grlo.registry import resolve
from grlo.rewards import REWARDS
from grlo.rewards.reward_model import (
    RewardModel,
    RewardModelSettings,
    _is_other_gpu,
    without_thoughts,
)
from grlo.templates import TEMPLATES
from grlo.types import Completion, Message, Prompt, Rollout, Score

LLAMA_SPECIALS = ["<|bos|>", "<|eos|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# Like Skywork's: the template writes the BOS that the tokenizer would add as well.
LLAMA_TEMPLATE = "{{ bos_token }}" + TEMPLATES["llama3"].text
SHAPE = {
    "vocab_size": 272,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
}


def save_tokenizer(
    path: Path, specials: Sequence[str], *, chat_template: str, **roles: str
) -> None:
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(specials))
    if bos := roles.get("bos_token"):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(path)


def save_model(path: Path, model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    model.save_pretrained(path)  # type: ignore[operator]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """No pad token anywhere, and answers end with the tokenizer's end of text."""
    path = tmp_path_factory.mktemp("llama")
    save_tokenizer(
        path,
        LLAMA_SPECIALS,
        chat_template=LLAMA_TEMPLATE,
        bos_token="<|bos|>",
        eos_token="<|eot_id|>",
    )
    torch.manual_seed(0)
    save_model(path, LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=1)))
    return str(path)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("qwen")
    save_tokenizer(
        path,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        chat_template=TEMPLATES["chatml"].text,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    torch.manual_seed(1)
    config = Qwen3Config(**SHAPE, head_dim=8, num_labels=1, pad_token_id=256)
    save_model(path, Qwen3ForSequenceClassification(config))
    return str(path)


def build(model: str, **settings: object) -> RewardModel:
    return RewardModelSettings(model=model, **settings).build(  # type: ignore[arg-type]
        context=BuildContext(device="cpu", seed=0)
    )


def rollout(question: str, answer: str, *, policy_tokens: tuple[int, ...] = (1, 2)) -> Rollout:
    return Rollout(
        prompt=Prompt(id=question, messages=(Message("user", question),)),
        group=0,
        prompt_tokens=(9,),
        completion=Completion(policy_tokens, (0.0,) * len(policy_tokens), "stop"),
        text=answer,
    )


ROLLOUTS = [
    rollout("Hi", "Hello!"),
    rollout("Why is the sky blue?", "Rayleigh scattering of sunlight. " * 3),
    rollout("Say nothing.", ""),
    rollout("مرحبا", "أهلا 👋🏽"),
    rollout("What ends a turn?", "The token <|eot_id|> or <|im_end|>."),
]


def values(scores: Sequence[Score]) -> list[float]:
    assert all(score.value is not None for score in scores)
    return [score.value for score in scores if score.value is not None]


def llama_text(question: str, answer: str) -> list[int | str]:
    return [
        256,
        258,
        "user",
        259,
        f"\n\n{question}",
        260,
        258,
        "assistant",
        259,
        f"\n\n{answer}",
        260,
    ]


def llama_tokens(question: str, answer: str) -> list[int]:
    """The conversation token by token, written by hand: bytes between control tokens."""
    order = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens: list[int] = []
    for piece in llama_text(question, answer):
        if isinstance(piece, int):
            tokens.append(piece)
        else:
            tokens += [order[c] for c in "".join(s for s, _ in splitter.pre_tokenize_str(piece))]
    return tokens


def test_a_score_is_that_of_the_unpadded_conversation_alone(llama: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(llama, dtype=torch.float32)
    scores = values(build(llama).score(ROLLOUTS))
    for item, score in zip(ROLLOUTS, scores, strict=True):
        # One BOS, no token of the policy, and its text's control tokens spelled out in bytes.
        tokens = llama_tokens(item.prompt.messages[0].content, item.text.strip())
        assert tokens.count(256) == 1
        with torch.no_grad():
            expected = model(torch.tensor([tokens])).logits[0, 0].item()
        assert score == pytest.approx(expected, abs=1e-5)
    assert pstdev(scores) > 0.1


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 10**6])
def test_neither_batches_nor_order_nor_padding_change_a_score(
    llama: str, qwen: str, tokens_per_batch: int
) -> None:
    for model in (llama, qwen):
        alone = [values(build(model).score([item]))[0] for item in ROLLOUTS]
        reward = build(model, tokens_per_batch=tokens_per_batch)
        assert values(reward.score(ROLLOUTS[::-1])) == pytest.approx(alone[::-1], abs=1e-5)


def test_plain_transformers_agrees_on_a_padded_batch(qwen: str) -> None:
    reward = build(qwen)
    sequences = [
        reward._renderer.encode_conversation(
            (*item.prompt.messages, Message("assistant", item.text))
        )
        for item in ROLLOUTS
    ]
    longest = max(map(len, sequences))
    tokens_BT = torch.tensor([[*s, *[256] * (longest - len(s))] for s in sequences])
    model = AutoModelForSequenceClassification.from_pretrained(qwen, dtype=torch.float32)
    with torch.no_grad():
        theirs = model(tokens_BT, attention_mask=(tokens_BT != 256).long()).logits[:, 0]
    assert values(reward.score(ROLLOUTS)) == pytest.approx(theirs.tolist(), abs=1e-5)


def test_what_the_policy_drew_does_not_matter_only_its_text(llama: str) -> None:
    item = ROLLOUTS[1]
    junk = replace(item, prompt_tokens=(7, 7, 7), completion=Completion((5,), (-1.0,), "length"))
    assert values(build(llama).score([item])) == values(build(llama).score([junk]))


def test_equal_conversations_are_scored_once(llama: str) -> None:
    reward = build(llama)
    totals: list[tuple[int, int]] = []

    def record(*, done: int, total: int, tokens: int) -> None:
        totals.append((done, total))

    rollouts = [ROLLOUTS[0], ROLLOUTS[1], ROLLOUTS[0], rollout("Hi", "Hello."), ROLLOUTS[0]]
    scores = values(reward.score(rollouts, progress=record))
    assert totals[-1] == (3, 3)
    assert scores[0] == scores[2] == scores[4]
    assert len(set(scores)) == 3
    assert reward.metrics()["reward/distinct"] == pytest.approx(3 / 5)


@pytest.mark.parametrize("drawn_on", ["elsewhere", "cpu", ""])
def test_answers_are_scored_while_others_are_drawn_on_other_devices(
    llama: str, drawn_on: str
) -> None:
    plain = build(llama)
    expected = values(plain.score(ROLLOUTS))
    reward = build(llama)
    reward.begin(ROLLOUTS[:2], drawn_on=drawn_on)
    num_begun = 2 if drawn_on == "elsewhere" else 0
    assert len(reward._begun) == num_begun
    totals: list[int] = []
    scores = reward.score(ROLLOUTS, progress=lambda *, done, total, tokens: totals.append(total))
    assert values(scores) == pytest.approx(expected, abs=1e-5)
    assert totals[-1] == len({rollout.text for rollout in ROLLOUTS}) - num_begun
    assert reward.metrics() == pytest.approx(plain.metrics())
    assert not reward._begun, "a score serves one call"


@pytest.mark.parametrize(
    ("drawn_on", "own", "is_other"),
    [
        ("cuda:1", "cuda:0", True),
        ("cuda", "cuda:1", True),
        ("cuda", "cuda:0", False),
        ("cuda:0", "cuda", False),
        ("cpu", "cuda:0", False),
        ("cuda:0", "cpu", False),
    ],
)
def test_only_another_gpu_is_free(drawn_on: str, own: str, is_other: bool) -> None:
    assert _is_other_gpu(drawn_on, torch.device(own)) == is_other


def test_truncation_is_counted_and_keeps_bos_and_the_answers_end(llama: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(llama, dtype=torch.float32)
    reward = build(llama, max_tokens=40)
    rollouts = [rollout("x" * 100, "the end"), rollout("a", "b")]
    scores = values(reward.score(rollouts))
    assert reward.metrics()["reward/truncated"] == 0.5
    tokens = llama_tokens("x" * 100, "the end")
    with torch.no_grad():
        expected = model(torch.tensor([[tokens[0], *tokens[-39:]]])).logits[0, 0].item()
    assert scores[0] == pytest.approx(expected, abs=1e-5)
    reward.score(rollouts[1:])
    assert reward.metrics()["reward/truncated"] == 0


def test_scores_that_are_not_finite_are_no_scores(llama: str) -> None:
    reward = build(llama, standardize=True)
    byte = llama_tokens("", "Z")[-2]
    with torch.no_grad():
        reward._model.get_input_embeddings().weight[byte] = float("nan")
    rollouts = [rollout("a", "b"), rollout("a", "Zebra"), rollout("b", "a")]
    good, bad, other = reward.score(rollouts)
    assert bad.value is None
    assert "nan" in bad.note
    assert good.value == pytest.approx(-other.value, abs=1e-6)  # type: ignore[operator]
    assert reward.metrics()["reward/unscored"] == pytest.approx(1 / 3)
    assert all(
        math.isfinite(v) for v in [*reward.state_dict().values(), *reward.metrics().values()]
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("plain", "plain"),
        ("<think>hm</think>\n\nanswer", "answer"),
        ("hm</think>answer", "answer"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think>never ends", ""),
    ],
)
def test_thoughts_are_not_scored(llama: str, text: str, answer: str) -> None:
    assert without_thoughts(text) == answer
    stripping = build(llama, strip_thoughts=True)
    with_thought, without = values(stripping.score([rollout("q", text), rollout("q", answer)]))
    assert with_thought == without
    if text != answer:
        kept = values(build(llama).score([rollout("q", text)]))[0]
        assert kept != pytest.approx(without, abs=1e-4)


def test_standardised_scores_use_all_scores_so_far(llama: str) -> None:
    plain, reward = build(llama), build(llama, standardize=True)
    raw = values(plain.score(ROLLOUTS))
    first = reward.score(ROLLOUTS[:3])
    assert values(first) == pytest.approx(
        [(r - fmean(raw[:3])) / pstdev(raw[:3]) for r in raw[:3]], abs=1e-5
    )
    assert [score.parts["raw"] for score in first] == pytest.approx(raw[:3], abs=1e-6)
    second = values(reward.score(ROLLOUTS[3:]))
    assert second == pytest.approx([(r - fmean(raw)) / pstdev(raw) for r in raw[3:]], abs=1e-5)


def test_running_statistics_survive_a_checkpoint(llama: str) -> None:
    whole, first, second = (build(llama, standardize=True) for _ in range(3))
    whole.score(ROLLOUTS[:3])
    first.score(ROLLOUTS[:3])
    second.load_state_dict(first.state_dict())
    assert second.score(ROLLOUTS[3:]) == whole.score(ROLLOUTS[3:])
    assert second.state_dict() == whole.state_dict()


def test_a_state_of_another_recipe_is_refused(llama: str) -> None:
    plain, reward = build(llama), build(llama, standardize=True)
    assert plain.state_dict() == {}
    plain.load_state_dict({})
    with pytest.raises(RewardError, match="standardize is false"):
        plain.load_state_dict(reward.state_dict())
    with pytest.raises(RewardError, match="standardize is true"):
        reward.load_state_dict({})


def test_a_single_answer_standardises_to_zero(llama: str) -> None:
    assert values(build(llama, standardize=True).score(ROLLOUTS[:1])) == [0.0]


def test_no_rollouts_have_no_scores(llama: str) -> None:
    assert build(llama).score([]) == []


def two_labels(path: Path) -> None:
    save_model(path, LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=2)))


def encoder(path: Path) -> None:
    shape = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
    save_model(path, BertForSequenceClassification(BertConfig(**shape, num_labels=1)))


def small_vocabulary(path: Path) -> None:
    config = LlamaConfig(**{**SHAPE, "vocab_size": 200}, num_labels=1)
    save_model(path, LlamaForSequenceClassification(config))


def pickled(path: Path) -> None:
    model = LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=1))
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(path)
    torch.save(model.state_dict(), path / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (two_labels, "2 labels"),
        (encoder, "no linear `score` head"),
        (small_vocabulary, "0 to 199"),
        (pickled, "no sequence classifier could be loaded"),
    ],
)
def test_what_is_no_reward_model_is_refused(
    make: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    save_tokenizer(
        tmp_path,
        LLAMA_SPECIALS,
        chat_template=LLAMA_TEMPLATE,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
    )
    make(tmp_path)
    with pytest.raises(ModelError, match=reason):
        build(str(tmp_path))


def test_a_recipe_can_name_it() -> None:
    settings = resolve("reward_model", kind="reward", registry=REWARDS)
    assert settings is RewardModelSettings
    section = {"model": "m", "standardize": True, "dtype": "bfloat16"}
    read = TypeAdapter(RewardModelSettings).validate_python(section)
    assert read == RewardModelSettings(model="m", standardize=True, dtype="bfloat16")
