"""Supervised fine-tuning against an independent cross-entropy, and what must not change it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from grlo.errors import DataError, NonFiniteError
from grlo.ledger import Ledger
from grlo.rollout import ChatRenderer
from grlo.settings import (
    DemonstrationSettings,
    LoraSettings,
    ModelSettings,
    OptimizerSettings,
    SFTRecipe,
    SFTTrainingSettings,
)
from grlo.stages.runs import model_shape
from grlo.training.sft import (
    SFTLearner,
    SFTTrainer,
    TokenizedDemonstration,
    collate_demonstrations,
    split_held_out,
    tokenize,
)
from grlo.types import Demonstration, Message


def make_recipe(policy: Path, **model: Any) -> SFTRecipe:
    return SFTRecipe(
        policy=ModelSettings(
            model=str(policy), compute_dtype="float32", gradient_checkpointing=False, **model
        ),
        data=DemonstrationSettings(sources=("unused",)),
        training=SFTTrainingSettings(steps=20, micro_batch_tokens=60),
        optimizer=OptimizerSettings(learning_rate=1e-2, weight_decay=0.0),
    )


def make_learner(recipe: SFTRecipe) -> SFTLearner:
    return SFTLearner(recipe, num_steps=20, device="cpu")


def make_rows(count: int = 7, seed: int = 0) -> list[TokenizedDemonstration]:
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(1, 61) for _ in range(rng.randint(low, high)))

    return [TokenizedDemonstration(f"p{i}", tokens(1, 9), tokens(1, 12)) for i in range(count)]


def gradients(learner: SFTLearner, rows: Sequence[TokenizedDemonstration]) -> dict[str, Any]:
    """What the optimizer would be given for a step of these rows."""
    grads: dict[str, torch.Tensor] = {}

    def keep(*_: object, **__: object) -> None:
        for name, parameter in learner.policy.named_parameters():
            if parameter.grad is not None:
                grads[name] = parameter.grad.clone()

    learner.optimizers["policy"].step = keep  # pyright: ignore[reportAttributeAccessIssue]
    metrics = learner.update(collate_demonstrations(rows, pad_id=0), step=1)
    return {"metrics": metrics, "grads": grads}


@pytest.mark.parametrize("attention", ["packed", "sdpa"])
def test_loss_and_gradient_are_those_of_cross_entropy_over_response_tokens(
    policy_path: Path, attention: Any
) -> None:
    rows = make_rows()
    recipe = make_recipe(policy_path, attention=attention)
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, max_grad_norm=0.0))
    found = gradients(make_learner(recipe), rows)

    # One row at a time, without padding, by the model's own logits.
    model = AutoModelForCausalLM.from_pretrained(policy_path, dtype=torch.float32)
    total, count = torch.tensor(0.0), 0
    for row in rows:
        tokens = torch.tensor([[*row.prompt_tokens, *row.response_tokens]])
        labels = tokens.clone()
        labels[:, : len(row.prompt_tokens)] = -100
        logits = model(input_ids=tokens).logits
        total = total + cross_entropy(
            logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum"
        )
        count += len(row.response_tokens)
    loss = total / count
    loss.backward()
    assert found["metrics"]["sft/loss"] == pytest.approx(loss.item(), rel=1e-5)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found["grads"].keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found["grads"][name], grad, rtol=1e-4, atol=1e-6)
    norm = math.sqrt(sum(float(grad.square().sum()) for grad in expected.values()))
    assert found["metrics"]["policy/grad_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("micro_batch_tokens", [1, 17, 10_000])
def test_neither_micro_batch_size_nor_order_of_rows_changes_the_gradient(
    policy_path: Path, micro_batch_tokens: int
) -> None:
    rows = make_rows(9)
    recipe = make_recipe(policy_path)
    expected = gradients(make_learner(recipe), rows)
    training = replace(recipe.training, micro_batch_tokens=micro_batch_tokens)
    random.Random(1).shuffle(rows)
    found = gradients(make_learner(replace(recipe, training=training)), rows)
    assert found["metrics"].pop("update/micro_batch_tokens") == micro_batch_tokens
    del expected["metrics"]["update/micro_batch_tokens"]
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)
    for name, grad in expected["grads"].items():
        torch.testing.assert_close(found["grads"][name], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attention", ["packed", "sdpa"])
def test_padding_and_what_follows_a_response_do_not_matter(
    policy_path: Path, attention: Any
) -> None:
    learner = make_learner(make_recipe(policy_path, attention=attention))
    rows = make_rows(4)
    clean, junk = (collate_demonstrations(rows, pad_id=pad_id) for pad_id in (0, 57))
    assert not torch.equal(clean.tokens_BT, junk.tokens_BT)
    assert learner.loss(clean) == learner.loss(junk)


def test_a_prompt_token_is_no_target_and_the_stop_token_is_one(policy_path: Path) -> None:
    rows = [TokenizedDemonstration("a", (5, 6, 7), (8, 9))]
    batch = collate_demonstrations(rows, pad_id=0)
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.mask_BT.tolist() == [[False, False, False, True, True]]


def test_a_longer_demonstration_weighs_more_than_a_shorter_one(policy_path: Path) -> None:
    learner = make_learner(make_recipe(policy_path))
    short = TokenizedDemonstration("a", (5, 6), (8,))
    long = TokenizedDemonstration("b", (3,), (1, 2, 3, 4, 5, 6, 7, 8, 9))
    losses = [learner.loss(collate_demonstrations([row], pad_id=0)) for row in (short, long)]
    both = learner.loss(collate_demonstrations([short, long], pad_id=0))
    assert both == pytest.approx((losses[0] + 9 * losses[1]) / 10, rel=1e-5)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, alpha=8)])
def test_the_loss_falls(policy_path: Path, lora: LoraSettings | None) -> None:
    pytest.importorskip("peft")
    learner = make_learner(make_recipe(policy_path, lora=lora))
    rows = make_rows()
    batch = collate_demonstrations(rows, pad_id=0)
    before = learner.loss(batch)
    for step in range(1, 16):
        metrics = learner.update(batch, step=step)
    after = learner.loss(batch)
    assert metrics["sft/loss"] < before - 0.3
    assert after < metrics["sft/loss"]


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(policy_path: Path) -> None:
    learner = make_learner(make_recipe(policy_path))
    with torch.no_grad():
        learner.policy.lm_head.weight[3] = float("nan")
    before = [parameter.clone() for parameter in learner.policy.parameters()]
    with pytest.raises(NonFiniteError, match="step 1: loss nan"):
        learner.update(collate_demonstrations(make_rows(), pad_id=0), step=1)
    for old, new in zip(before, learner.policy.parameters(), strict=True):
        torch.testing.assert_close(new.data, old.data, rtol=0, atol=0, equal_nan=True)


# Steps --------------------------------------------------------------------------------------------


def make_trainer(policy_path: Path, **changes: Any) -> SFTTrainer:
    rows = make_rows(7)
    learner = make_learner(make_recipe(policy_path))
    settings: dict[str, Any] = {
        "learner": learner,
        "rows": rows,
        "held_out": [],
        "rows_per_step": 3,
        "num_steps": 5,
        "num_rows": 14,
        "evaluate_every": 2,
        "pad_id": 0,
        "shape": model_shape(learner.policy),
        "ledger": Ledger(device="cpu", num_devices=1, attempt=0),
        "seed": 0,
    }
    return SFTTrainer(**(settings | changes))


def test_every_epoch_sees_every_demonstration_once_and_the_last_step_takes_the_rest(
    policy_path: Path,
) -> None:
    trainer = make_trainer(policy_path)
    seen: list[tuple[int, ...]] = []
    update = trainer.learner.update

    def spy(batch: Any, **options: Any) -> dict[str, float]:
        seen.extend(
            tuple(row[:length].tolist())
            for row, length in zip(batch.tokens_BT, batch.lengths_B, strict=True)
        )
        return update(batch, **options)

    trainer.learner.update = spy  # pyright: ignore[reportAttributeAccessIssue]
    results = list(trainer.steps(start=1))
    assert [result.metrics["sft/epoch"] for result in results] == pytest.approx(
        [3 / 7, 6 / 7, 9 / 7, 12 / 7, 2]
    )
    everything = sorted((*row.prompt_tokens, *row.response_tokens) for row in trainer.rows)
    assert sorted(seen[:7]) == everything
    assert sorted(seen[7:]) == everything
    assert seen[:7] != seen[7:]


def test_the_held_out_loss_is_measured_after_the_update_every_few_steps_and_last(
    policy_path: Path,
) -> None:
    held_out = make_rows(2, seed=5)
    trainer = make_trainer(policy_path, held_out=held_out)
    with_loss = []
    for result in trainer.steps(start=1):
        if "held_out/loss" in result.metrics:
            with_loss.append(result.step)
            batch = collate_demonstrations(held_out, pad_id=9)
            assert result.metrics["held_out/loss"] == trainer.learner.loss(batch)
            assert {cost.phase for cost in result.costs} == {"update", "evaluate"}
    assert with_loss == [2, 4, 5]


def test_costs_count_every_token_and_the_operations_of_a_training_step(policy_path: Path) -> None:
    trainer = make_trainer(policy_path, rows_per_step=7, num_steps=1)
    (result,) = trainer.steps(start=1)
    (cost,) = result.costs
    num_tokens = sum(len(r.prompt_tokens) + len(r.response_tokens) for r in trainer.rows)
    assert (cost.phase, cost.tokens) == ("update", num_tokens)
    # Six per weight and token in the layers, and as much of the head at response tokens.
    layers = 6 * trainer.shape.active_parameters * num_tokens
    head = 6 * 61 * 32 * sum(len(r.response_tokens) for r in trainer.rows)
    assert layers + head < cost.flops < 1.3 * (layers + head)


# Demonstrations as tokens -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def renderer(chat_policy_path: Path) -> ChatRenderer:
    return ChatRenderer.from_pretrained(str(chat_policy_path))


def demonstration(response: str, prompt: str = "?") -> Demonstration:
    return Demonstration((Message("user", prompt),), response, f"file:{response[:3]}")


def test_a_demonstration_is_the_conversation_that_the_template_writes(
    renderer: ChatRenderer,
) -> None:
    (row,), *_ = tokenize([demonstration("Hi")], renderer, max_tokens=99, overlong="error")
    text = renderer.tokenizer.decode([*row.prompt_tokens, *row.response_tokens])
    assert text == "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>"
    assert renderer.tokenizer.decode(row.response_tokens) == "Hi<|im_end|>"


def test_long_demonstrations_are_dropped_cut_or_refused(renderer: ChatRenderer) -> None:
    items = [demonstration("abc"), demonstration("defghi"), demonstration("jkl", "?" * 50)]
    limit = len(renderer.encode(items[0].messages)) + 4  # "abc" and the stop token fit exactly.
    rows, num_dropped, num_cut = tokenize(items, renderer, max_tokens=limit, overlong="drop")
    assert [renderer.decode(row.response_tokens) for row in rows] == ["abc"]
    assert (num_dropped, num_cut) == (2, 0)
    rows, num_dropped, num_cut = tokenize(items, renderer, max_tokens=limit, overlong="cut")
    assert [renderer.decode(row.response_tokens) for row in rows] == ["abc", "defg"]
    assert (num_dropped, num_cut) == (1, 1)
    assert rows[1].response_tokens[-1] not in renderer.stop_ids
    with pytest.raises(DataError, match=r"(?s)2 of 3 demonstrations.*file:def.*file:jkl"):
        tokenize(items, renderer, max_tokens=limit, overlong="error")
    with pytest.raises(DataError, match="at least one must remain"):
        tokenize(items, renderer, max_tokens=3, overlong="cut")


def test_conversations_that_the_template_refuses_are_all_named(chat_policy_path: Path) -> None:
    renderer = ChatRenderer.from_pretrained(str(chat_policy_path))
    renderer.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    system = Demonstration((Message("system", "s"), Message("user", "u")), "a", "file:2")
    with pytest.raises(DataError, match=r"(?s)2 demonstrations cannot.*file:2: .*no system"):
        tokenize([demonstration("abc"), system, system], renderer, max_tokens=99, overlong="drop")


def test_held_out_demonstrations_share_no_prompt_with_the_others() -> None:
    rows = [replace(row, prompt_id=f"p{i % 10}") for i, row in enumerate(make_rows(40))]
    training, held_out = split_held_out(rows, fraction=0.25, seed=1)
    assert len(held_out) == 12  # Three of ten prompts, rounded up.
    assert not {row.prompt_id for row in training} & {row.prompt_id for row in held_out}
    assert sorted(map(id, training + held_out)) == sorted(map(id, rows))
    assert split_held_out(rows, fraction=0.25, seed=1) == (training, held_out)
    assert split_held_out(rows, fraction=0.0, seed=1) == (rows, [])
    with pytest.raises(DataError, match="leave none to train on"):
        split_held_out(rows[:1], fraction=0.5, seed=1)
