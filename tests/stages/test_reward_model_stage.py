"""Scoring, measuring and training reward models from files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from grlo.errors import DataError
from grlo.interfaces import BuildContext
from grlo.rewards.reward_model import RewardModelSettings
from grlo.stages.reward_model import accuracy, measure_accuracy, score, train
from grlo.training.preferences import RewardModelTraining
from grlo.types import Message


def jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def praise(num: int, *, reverse: bool = False) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for index in range(num):
        good, bad = "good " * (1 + index % 4), "bad " * (1 + index % 3)
        rows.append(
            {
                "messages": [{"role": "user", "content": f"q{index}"}],
                "chosen": bad if reverse else good,
                "rejected": good if reverse else bad,
            }
        )
    return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward model that the stage itself has fitted to praise."""
    path = tmp_path_factory.mktemp("stage")
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(
        path / "base"
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=257,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
    )
    Qwen3ForCausalLM(config).save_pretrained(path / "base")
    torch.set_num_threads(1)
    settings = RewardModelTraining(
        model=str(path / "base"),
        template="plain",
        steps=30,
        pairs_per_batch=8,
        learning_rate=3e-3,
        held_out_fraction=0.2,
        device="auto",
    )
    metrics = train(settings, [jsonl(path / "p.jsonl", praise(60))], out=path / "rm")
    assert metrics["accuracy"] > 0.9
    return str(path / "rm")


def test_training_prints_its_held_out_accuracy(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = RewardModelTraining(model=trained, steps=1, learning_rate=1e-9)
    metrics = train(settings, [jsonl(tmp_path / "p.jsonl", praise(40))], out=tmp_path / "rm")
    assert f"held-out accuracy {metrics['accuracy']:.1%}" in capsys.readouterr().out


def test_accuracy_is_measured_by_file(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tie = {**praise(1)[0], "meta": {"tie": True}}
    same = {**praise(1)[0], "rejected": praise(1)[0]["chosen"]}
    files = [
        jsonl(tmp_path / "right.jsonl", [*praise(20), tie]),
        jsonl(tmp_path / "wrong.jsonl", praise(20, reverse=True)),
        jsonl(tmp_path / "same.jsonl", [same]),
    ]
    results = accuracy(RewardModelSettings(model=trained), files)
    right, wrong, equal = (results[file.name] for file in files)
    assert right.accuracy > 0.9
    assert right.num_data_ties == 1
    assert right.num_pairs == 20
    assert wrong.accuracy == pytest.approx(1 - right.accuracy)
    assert wrong.margin == pytest.approx(-right.margin, abs=1e-4)
    assert (equal.num_ties, equal.accuracy) == (1, 0.5)
    printed = capsys.readouterr().out
    assert "right.jsonl" in printed
    assert f"{right.accuracy:.1%}" in printed


def test_the_interval_is_wilsons() -> None:
    # 8 of 10: the worked example of Brown, Cai and DasGupta's formula, solved for its roots.
    result = measure_accuracy([1.0] * 8 + [0.0] * 2, [0.5] * 10)
    for bound in (result.low, result.high):
        # A bound p is where |0.8 - p| equals 1.96 standard errors of p itself.
        assert abs(0.8 - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 10))
    assert result.low < 0.8 < result.high


def test_pairs_without_a_finite_score_are_left_out_and_counted() -> None:
    result = measure_accuracy([1.0, math.nan, 2.0], [0.0, 0.0, math.inf])
    assert (result.num_pairs, result.num_unscored, result.accuracy) == (1, 2, 1.0)
    with pytest.raises(DataError, match="none of 1"):
        measure_accuracy([math.nan], [0.0])


def test_scores_are_written_beside_the_rows(trained: str, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"messages": [{"role": "user", "content": "q"}], "response": text, "id": index}
        for index, text in enumerate(["good good", "bad bad", "مرحبا"])
    ]
    out = tmp_path / "scores.jsonl"
    settings = RewardModelSettings(model=trained)
    scores = score(settings, jsonl(tmp_path / "a.jsonl", rows), out=out)
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert written == [{**row, "score": s} for row, s in zip(rows, scores, strict=True)]
    reward = settings.build(context=BuildContext(device="cpu", seed=0))
    alone = [reward.score_answers([((Message("user", "q"),), str(r["response"]))])[0] for r in rows]
    assert scores == pytest.approx(alone, abs=1e-5)
    assert alone[0] > alone[1]


def test_malformed_answers_leave_no_file(trained: str, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"messages": [{"role": "user", "content": "q"}]}]
    answers, out = jsonl(tmp_path / "a.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"a\.jsonl:1: response"):
        score(RewardModelSettings(model=trained), answers, out=out)
    assert not out.exists()
