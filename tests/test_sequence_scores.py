"""Scores of conversations that share their beginnings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from grlo import sequence_scores
from grlo.errors import DeviceMemoryError
from grlo.memory.shortage import TokenBudget
from grlo.modeling import packed
from grlo.sequence_scores import forward_scores, load_sequence_scorer, score_sequences

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "num_labels": 1,
    "pad_token_id": 0,
}
SYSTEM, ONE, OTHER = (1, 2, 3), (4, 5, 6, 7), (8, 9)
SEQUENCES = [
    (*SYSTEM, *ONE, 10, 11, 12),
    (*SYSTEM, *OTHER, 13),
    (*SYSTEM, *ONE, 10, 11),
    (*SYSTEM, *OTHER, 20, 21, 22, 23, 24),
    (*SYSTEM, *ONE, 30),
    (*SYSTEM, *ONE, 10, 11, 12),
    (*SYSTEM, *ONE),
]
GROUPS = ["one", "other", "one", "other", "one", "one", "one"]


def random_scorer(folder: Path, model: torch.nn.Module) -> str:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    model.save_pretrained(folder)  # type: ignore[operator]
    return str(folder)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification(Qwen3Config(**SHAPE))
    return random_scorer(tmp_path_factory.mktemp("qwen"), model)


def alone(path: str) -> list[float]:
    """Plain transformers, a row at a time, in float64."""
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float64)
    with torch.no_grad():
        return [model(torch.tensor([s])).logits.item() for s in SEQUENCES]


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("tokens_per_batch", [1, 12, 30, 10_000])
def test_scores_are_those_of_each_conversation_alone(qwen, groups, tokens_per_batch) -> None:
    scorer = load_sequence_scorer(qwen, dtype=torch.float32)
    scores = score_sequences(scorer, SEQUENCES, tokens_per_batch=tokens_per_batch, groups=groups)
    assert scores == pytest.approx(alone(qwen), abs=1e-4)
    assert scores[0] == scores[5]
    assert len({round(score, 3) for score in scores}) == 6


def tokens_read(scorer: torch.nn.Module, run) -> int:  # type: ignore[no-untyped-def]
    """Tokens that go through the first layer."""
    counts: list[int] = []
    layer = scorer.base_model.layers[0]  # type: ignore[union-attr]
    handle = layer.register_forward_pre_hook(
        lambda module, inputs: counts.append(inputs[0].shape[:2].numel())
    )
    run()
    handle.remove()
    return sum(counts)


def test_a_group_reads_what_its_conversations_share_once(qwen) -> None:
    scorer = load_sequence_scorer(qwen, dtype=torch.float32)

    def run(groups: list[str] | None) -> int:
        return tokens_read(
            scorer,
            lambda: score_sequences(scorer, SEQUENCES, tokens_per_batch=10_000, groups=groups),
        )

    # A prompt of 7 tokens, behind it 10 11 12 and 30; of the other's 5 the first 3 are the same,
    # behind it 13 and 20 to 24.
    assert run(GROUPS) == (7 + 3 + 1) + (2 + 1 + 5)
    assert run(None) > run(GROUPS)


def test_gradients_of_neighbours_that_share_add_up(qwen) -> None:
    scorer = load_sequence_scorer(qwen, dtype=torch.float64)
    weights = torch.arange(1.0, len(SEQUENCES) + 1, dtype=torch.float64)

    def gradient(parts: list[list[int]]) -> torch.Tensor:
        scorer.zero_grad()
        for part in parts:
            scores = forward_scores(scorer, [SEQUENCES[i] for i in part]).double()
            (scores * weights[part]).sum().backward()
        return torch.cat([p.grad.flatten() for p in scorer.parameters()])  # type: ignore[union-attr]

    one_by_one = gradient([[i] for i in range(len(SEQUENCES))])
    torch.testing.assert_close(gradient([[0, 5, 2, 4, 6, 1, 3]]), one_by_one, rtol=1e-4, atol=1e-5)
    assert one_by_one.abs().max() > 1


def test_an_answer_that_breaks_the_model_leaves_its_group_alone(qwen) -> None:
    scorer = load_sequence_scorer(qwen, dtype=torch.float32)
    expected = alone(qwen)
    with torch.no_grad():
        scorer.get_input_embeddings().weight[30] = float("nan")
    scores = score_sequences(scorer, SEQUENCES, tokens_per_batch=10_000, groups=GROUPS)
    assert scores[4] != scores[4], "a score that is not a number stays one"
    kept = [index for index in range(len(SEQUENCES)) if index != 4]
    assert [scores[i] for i in kept] == pytest.approx([expected[i] for i in kept], abs=1e-4)


def test_a_model_with_sliding_attention_is_scored_in_padded_batches(tmp_path) -> None:
    torch.manual_seed(0)
    config = MistralConfig(**SHAPE, sliding_window=4)
    path = random_scorer(tmp_path, MistralForSequenceClassification(config))
    scorer = load_sequence_scorer(path, dtype=torch.float32)
    assert packed.is_supported(scorer) is (scorer.config._attn_implementation == packed.ATTENTION)
    scores = score_sequences(scorer, SEQUENCES, tokens_per_batch=30, groups=GROUPS)
    assert scores == pytest.approx(alone(path), abs=1e-4)


def test_a_device_that_holds_few_tokens_scores_in_smaller_batches_from_then_on(
    qwen, monkeypatch, capsys
) -> None:
    scorer = load_sequence_scorer(qwen, dtype=torch.float64).eval()
    expected = score_sequences(scorer, SEQUENCES, tokens_per_batch=10_000, groups=GROUPS)
    sizes = []

    def small_device(model, sequences):
        sizes.append(len(sequences))
        scores = forward_scores(model, sequences)
        if len(sequences) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return scores

    monkeypatch.setattr(sequence_scores, "forward_scores", small_device)
    budget = TokenBudget(10_000)
    found = score_sequences(scorer, SEQUENCES, tokens_per_batch=budget, groups=GROUPS)
    assert found == pytest.approx(expected, abs=1e-12)
    # Every distinct conversation once, besides what has failed.
    assert sum(size for size in sizes if size <= 2) == len(set(SEQUENCES))
    failures = sum(size > 2 for size in sizes)
    warning = capsys.readouterr().err
    assert failures == warning.count("Scores do not change") > 0
    assert f"at most {budget.max_tokens} instead of" in warning
    score_sequences(scorer, SEQUENCES, tokens_per_batch=budget, groups=GROUPS)
    assert failures == sum(size > 2 for size in sizes)


def test_a_conversation_that_does_not_fit_alone_is_told_with_what_to_do(qwen, monkeypatch) -> None:
    def full(model, sequences):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")

    monkeypatch.setattr(sequence_scores, "forward_scores", full)
    scorer = load_sequence_scorer(qwen, dtype=torch.float32).eval()
    with pytest.raises(DeviceMemoryError, match=r"one conversation.*3\.00 GiB.*training\.offload"):
        score_sequences(scorer, SEQUENCES, tokens_per_batch=10_000, groups=GROUPS)
