"""Fitting reward models, on byte-level checkpoints made here."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from grlo.errors import DataError, ModelError, NonFiniteError
from grlo.rollout import ChatRenderer
from grlo.sequence_scores import conversation_tokens, load_sequence_scorer, score_sequences
from grlo.templates import TEMPLATES
from grlo.training.preferences import (
    RewardModelTraining,
    bradley_terry_loss,
    split_by_conversation,
    train_reward_model,
)
from grlo.types import Message, PreferencePair


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random causal language model whose tokenizer has no pad token of its own."""
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    config = Qwen3Config(
        vocab_size=272,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("base")
    Qwen3ForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def easy_pairs(num: int, *, seed: int = 0) -> list[PreferencePair]:
    """Praise is preferred to blame; lengths say nothing."""
    rng = random.Random(seed)
    return [
        PreferencePair(
            messages=(Message("user", "".join(rng.choices("abcdefgh", k=rng.randint(3, 12)))),),
            chosen=" ".join(["good"] * rng.randint(2, 6)),
            rejected=" ".join(["bad!"] * rng.randint(2, 6)),
        )
        for _ in range(num)
    ]


def settings(base: str, **changes: object) -> RewardModelTraining:
    defaults = RewardModelTraining(
        model=base,
        steps=30,
        template="chatml",
        pairs_per_batch=16,
        learning_rate=3e-3,
        held_out_fraction=0.2,
    )
    return replace(defaults, **changes)  # type: ignore[arg-type]


def test_the_loss_is_the_negative_log_likelihood_of_bradley_and_terry() -> None:
    chosen, rejected = torch.tensor([1.5, -2.0]), torch.tensor([0.5, 3.0])
    expected = [
        -math.log(math.exp(c) / (math.exp(c) + math.exp(r))) + 0.1 * (c * c + r * r) / 2
        for c, r in ((1.5, 0.5), (-2.0, 3.0))
    ]
    loss = bradley_terry_loss(chosen, rejected, value_penalty=0.1)
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_an_easy_preference_is_learned_and_generalises(base: str, tmp_path: Path) -> None:
    metrics = train_reward_model(settings(base), easy_pairs(150), out=tmp_path / "rm")
    assert metrics["accuracy"] > 0.9
    assert metrics["margin"] > 1
    assert metrics["num_held_out"] == 30
    assert metrics["num_pairs"] == 120
    assert metrics["num_truncated"] == 0


def test_reversed_preferences_are_learned_as_well(base: str, tmp_path: Path) -> None:
    pairs = [replace(p, chosen=p.rejected, rejected=p.chosen) for p in easy_pairs(150)]
    assert train_reward_model(settings(base), pairs, out=tmp_path)["accuracy"] > 0.9


@pytest.mark.parametrize("template", ["chatml", "plain"])
def test_plain_transformers_gives_the_checkpoint_the_same_scores(
    base: str, tmp_path: Path, template: str
) -> None:
    pairs = easy_pairs(40)
    train_reward_model(settings(base, template=template, steps=5), pairs, out=tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.num_labels == 1
    assert tokenizer.chat_template == TEMPLATES[template].text
    texts = [
        tokenizer.apply_chat_template(
            [
                {"role": "user", "content": pair.messages[0].content},
                {"role": "assistant", "content": pair.chosen},
            ],
            tokenize=False,
        )
        for pair in pairs
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.no_grad():
        theirs = model(batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0]

    renderer = ChatRenderer.from_pretrained(str(tmp_path))
    sequences = [
        conversation_tokens(renderer, p.messages, p.chosen, max_tokens=512)[0] for p in pairs
    ]
    scorer = load_sequence_scorer(str(tmp_path), dtype=torch.float32)
    ours = score_sequences(scorer, sequences, tokens_per_batch=256)
    assert theirs.std() > 1e-3
    torch.testing.assert_close(torch.tensor(ours), theirs, atol=1e-5, rtol=1e-4)


def test_training_is_a_function_of_its_seed(base: str, tmp_path: Path) -> None:
    pairs = easy_pairs(40)
    weights = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(weights))  # Junk that must not matter.
        train_reward_model(settings(base, steps=3, seed=seed), pairs, out=tmp_path / name)
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    for key, value in weights["a"].items():
        assert torch.equal(value, weights["b"][key])
    assert any(not torch.equal(value, weights["c"][key]) for key, value in weights["a"].items())


def test_micro_batches_do_not_change_the_gradient(base: str, tmp_path: Path) -> None:
    pairs = easy_pairs(40)
    trained = []
    for tokens in (10**6, 200):
        out = tmp_path / str(tokens)
        train_reward_model(
            settings(base, steps=3, micro_batch_tokens=tokens, learning_rate=1e-3), pairs, out=out
        )
        trained.append(load_file(out / "model.safetensors"))
    # Adam divides by the gradient's size, so that rounding is seen at a small part of the updates.
    for key, value in trained[0].items():
        torch.testing.assert_close(value, trained[1][key], atol=1e-4, rtol=0)


def test_training_continues_from_a_reward_model(base: str, tmp_path: Path) -> None:
    pairs = easy_pairs(100)
    first = train_reward_model(settings(base), pairs, out=tmp_path / "first")
    again = settings(str(tmp_path / "first"), template=None, steps=1, learning_rate=1e-9)
    second = train_reward_model(again, pairs, out=tmp_path / "second")
    assert second["margin"] == pytest.approx(first["margin"], rel=1e-3)


def test_a_checkpoint_can_be_saved_in_16_bit(base: str, tmp_path: Path) -> None:
    train_reward_model(settings(base, steps=1, save_dtype="bfloat16"), easy_pairs(20), out=tmp_path)
    assert {v.dtype for v in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


def test_pairs_of_one_conversation_stay_on_one_side() -> None:
    pairs = [replace(pair, chosen=str(k)) for pair in easy_pairs(30) for k in range(3)]
    tokens = [((i,), (i, i)) for i in range(len(pairs))]
    train, held_out = split_by_conversation(pairs, tokens, fraction=0.3, seed=0)
    sides = [{pairs[chosen[0]].messages for chosen, _ in side} for side in (train, held_out)]
    assert not sides[0] & sides[1]
    assert len(train) + len(held_out) == len(pairs)
    assert len(sides[1]) == math.ceil(0.3 * len({pair.messages for pair in pairs}))


def test_truncation_is_counted_and_spares_the_answers_end(base: str, tmp_path: Path) -> None:
    pairs = [
        replace(pair, messages=(Message("user", "x" * 300),), chosen="good", rejected="no")
        for i, pair in enumerate(easy_pairs(20))
    ]
    short = settings(base, steps=1, max_tokens=64, held_out_fraction=0.0)
    metrics = train_reward_model(short, pairs, out=tmp_path)
    assert metrics["num_truncated"] == 40
    assert "accuracy" not in metrics
    renderer = ChatRenderer.from_pretrained(base, template="chatml")
    tokens, cut = conversation_tokens(renderer, pairs[0].messages, "the end", max_tokens=64)
    assert cut
    assert len(tokens) == 64
    assert renderer.tokenizer.decode(list(tokens)).endswith("the end<|im_end|>\n")


def test_a_non_finite_loss_stops_before_anything_is_written(base: str, tmp_path: Path) -> None:
    broken = settings(base, value_penalty=float("inf"))
    with pytest.raises(NonFiniteError, match="step 1"):
        train_reward_model(broken, easy_pairs(20), out=tmp_path / "rm")
    assert not (tmp_path / "rm").exists()


def test_too_few_conversations_are_refused(base: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="held_out_fraction"):
        train_reward_model(settings(base), easy_pairs(1), out=tmp_path)


def test_a_causal_model_is_no_reward_model(base: str) -> None:
    with pytest.raises(ModelError, match="not a sequence classifier"):
        load_sequence_scorer(base, dtype=torch.float32)
