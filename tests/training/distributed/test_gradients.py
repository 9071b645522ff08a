"""Two ranks have the gradients of one process, metrics included, and stay together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import LlamaConfig, LlamaForCausalLM

from grlo.algorithms.grpo import GRPO
from grlo.algorithms.ppo import PPO
from grlo.batch import Batch, TrainBatch, take_rows
from grlo.modeling.adapters import whole_tensor
from grlo.settings import LoraSettings, Recipe
from grlo.training import learner as learner_module
from grlo.training.distributed.ranks import Ranks
from grlo.training.distributed.shares import balanced_share, stretch
from grlo.training.learner import Learner
from small_updates import credit, make_batch, make_recipe
from tiny_policies import needs_compiler
from two_ranks import division, on_ranks

SHARDINGS = ("ddp", "fsdp")
STEPS = 5
NO_SPREAD = [1.0, 1.0, 0.5, -0.5, 2.0, 2.0, 0.0, 0.0]
"""Scores of which only the second group has any spread."""

Made = dict[str, Any]


def make(path: Path, name: str) -> Recipe:
    """Recipes of every kind of pass; micro-batches hold a few of the eight rows.

    Adam divides a gradient by its own size, also one that all but cancels and is no more than the
    rounding of sums in another order. With its epsilon above such rounding, what is left between
    two trajectories is the fault of the code.
    """
    small = {"micro_batch_tokens": 24, "optimizer": {"eps": 1e-6}}
    return {
        "ppo": lambda: make_recipe(path, PPO(), num_minibatches=2, num_epochs=2, **small),
        "ppo, warm-up": lambda: make_recipe(
            path,
            PPO(critic_warmup_steps=2),
            model={"gradient_checkpointing": "selective"},
            **small,
        ),
        "ppo, shared trunk": lambda: make_recipe(
            path, PPO(entropy_coefficient=0.01), critic={"share_trunk": True}, **small
        ),
        "ppo, shared trunk, warm-up": lambda: make_recipe(
            path,
            PPO(critic_warmup_steps=2),
            critic={"share_trunk": True},
            num_minibatches=2,
            **small,
        ),
        "grpo": lambda: make_recipe(path, GRPO(), **small),
        "grpo, reference": lambda: make_recipe(
            path, GRPO(kl_coefficient=0.1), num_minibatches=2, **small
        ),
        "grpo, checkpointing": lambda: make_recipe(
            path, GRPO(), model={"gradient_checkpointing": True}, **small
        ),
        "grpo, padded": lambda: make_recipe(path, GRPO(), model={"attention": "sdpa"}, **small),
    }[name]()


KINDS = (
    "ppo",
    "ppo, warm-up",
    "ppo, shared trunk",
    "ppo, shared trunk, warm-up",
    "grpo",
    "grpo, reference",
    "grpo, checkpointing",
    "grpo, padded",
)


def train(
    recipe: Recipe,
    ranks: Ranks | None = None,
    sharding: str = "ddp",
    *,
    batch: Callable[[int], Batch] = lambda step: make_batch(seed=step),
    steps: int = STEPS,
) -> Made:
    """Some steps: gradients of the first optimizer steps, metrics, annotations and weights."""
    options = {} if ranks is None else {"division": division(ranks, sharding)}
    learner = Learner(recipe, device="cpu", **options)
    gradients: Made = {}

    def hook(name: str) -> Any:
        def keep(*_: object) -> None:
            for key, p in learner.models()[name].named_parameters():
                if p.requires_grad and f"{name}.{key}" not in gradients:
                    grad = None if p.grad is None else whole_tensor(p.grad.detach()).clone()
                    gradients[f"{name}.{key}"] = grad

        return keep

    for name, optimizer in learner.optimizers.items():
        optimizer.register_step_pre_hook(hook(name))
    made: Made = {"gradients": gradients, "metrics": [], "annotations": []}
    for step in range(1, steps + 1):
        rows = credit(learner, batch(step), step=step)
        kept = (rows.old_logprobs_BT, rows.reference_logprobs_BT, rows.old_values_BT)
        made["annotations"].append([None if x is None else x.clone() for x in kept])
        made["metrics"].append(learner.update(rows, step=step))
    made["weights"] = {
        f"{name}.{key}": whole_tensor(p.detach()).clone()
        for name, model in learner.models().items()
        for key, p in model.named_parameters()
    }
    return made


def require_equal(found: Made, expected: Made, *, drift: float = 2e-5) -> None:
    """Gradients within 1e-5, and after some steps of at most 1e-3 a weight, the weights."""
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        if gradient is None:
            assert found["gradients"][name] is None, name
        else:
            torch.testing.assert_close(found["gradients"][name], gradient, atol=1e-5, rtol=0)
    for ours, theirs in zip(found["annotations"], expected["annotations"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    for ours, theirs in zip(found["metrics"], expected["metrics"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4, rel=1e-3)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, atol=drift, rtol=0)


def moved(made: Made, recipe: Recipe) -> float:
    """How far the first weights have gone, which says that the comparison is one."""
    start = train(recipe, steps=0)["weights"]
    return max(float((made["weights"][name] - start[name]).abs().max()) for name in start)


@pytest.mark.long
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_as_one_process_does(policy_path, kind, sharding):
    recipe = make(policy_path, kind)
    expected = train(recipe)
    assert moved(expected, recipe) > 1e-3
    one, two = on_ranks(lambda ranks: train(recipe, ranks, sharding))
    require_equal(one, expected, drift=1e-5)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, atol=0, rtol=0)
    assert one["metrics"] == two["metrics"]


@needs_compiler
@pytest.mark.long
def test_compiled_layers_train_as_plain_ones_do(policy_path):
    """In one process and in shards; policy, critic and reference."""
    options: dict[str, Any] = {"micro_batch_tokens": 24, "num_minibatches": 2}
    algorithm = GRPO(kl_coefficient=0.1)
    expected = train(make_recipe(policy_path, algorithm, **options))
    recipe = make_recipe(policy_path, algorithm, model={"compile": True}, **options)
    counters.clear()
    require_equal(train(recipe), expected)
    assert counters["stats"]["unique_graphs"]
    for sharding in SHARDINGS:
        one, two = on_ranks(lambda ranks: train(recipe, ranks, sharding))  # noqa: B023
        require_equal(one, expected)
        for name, weight in one["weights"].items():
            torch.testing.assert_close(two["weights"][name], weight, atol=0, rtol=0)


@pytest.fixture(scope="module")
def llama_path(tmp_path_factory) -> Path:
    """A head of its own, and layers of another kind."""
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(4)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=61,
            hidden_size=40,
            intermediate_size=50,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=1,
            max_position_embeddings=128,
            tie_word_embeddings=False,
            attention_bias=True,
        )
    ).save_pretrained(path)
    return path


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_three_ranks_train_a_model_whose_head_is_its_own_and_whose_sizes_do_not_divide(
    llama_path, sharding
):
    recipe = make_recipe(llama_path, PPO(), micro_batch_tokens=24, num_minibatches=2)
    expected = train(recipe)
    one, _, _ = on_ranks(lambda ranks: train(recipe, ranks, sharding), size=3)
    require_equal(one, expected)


def test_shards_that_are_gathered_in_bfloat16_have_nearly_the_gradients_of_autocast(policy_path):
    recipe = make_recipe(
        policy_path, PPO(), model={"compute_dtype": "bfloat16"}, micro_batch_tokens=24
    )
    expected = train(recipe, steps=1)["gradients"]
    one, _ = on_ranks(lambda ranks: train(recipe, ranks, "fsdp", steps=1))
    ours = torch.cat([g.flatten() for g in one["gradients"].values() if g is not None])
    theirs = torch.cat([g.flatten() for g in expected.values() if g is not None])
    assert ours.dtype == torch.float32
    assert float((ours - theirs).norm() / theirs.norm()) < 0.03
    assert all(weight.dtype == torch.float32 for weight in one["weights"].values())


def test_adapters_train_as_in_one_process(policy_path):
    lora = LoraSettings(rank=4, alpha=8)
    recipe = make_recipe(
        policy_path, PPO(), model={"lora": lora}, critic={"lora": lora}, micro_batch_tokens=24
    )
    expected = train(recipe)
    one, two = on_ranks(lambda ranks: train(recipe, ranks))
    require_equal(one, expected)
    torch.testing.assert_close(one["weights"], two["weights"], atol=0, rtol=0)


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_rows_without_an_advantage_leave_a_rank_with_nothing_to_read(policy_path, sharding):
    """One group is read, by one rank; then none at all, and momentum moves the weights."""
    recipe = make_recipe(policy_path, GRPO(), micro_batch_tokens=24)
    scores = {1: NO_SPREAD, 2: [1.0] * 8}

    def batch(step: int) -> Batch:
        return make_batch(seed=step, scores=scores.get(step))

    expected = train(recipe, batch=batch)
    assert expected["metrics"][0]["update/skipped_rows"] == 0.75
    one, two = on_ranks(lambda ranks: train(recipe, ranks, sharding, batch=batch))
    require_equal(one, expected)
    torch.testing.assert_close(one["weights"], two["weights"], atol=0, rtol=0)


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_batch_may_have_fewer_groups_than_there_are_ranks(policy_path, sharding):
    recipe = make_recipe(policy_path, PPO(), micro_batch_tokens=12)

    def batch(step: int) -> Batch:
        return take_rows(make_batch(seed=step), torch.arange(2))

    expected = train(recipe, batch=batch)
    one, _ = on_ranks(lambda ranks: train(recipe, ranks, sharding, batch=batch))
    require_equal(one, expected)


def _fails(ranks: Ranks, recipe: Recipe, sharding: str, damage: Callable[[Any], Any]) -> str:
    """What an update says whose policy losses are damaged on the last rank only."""
    learner = Learner(recipe, device="cpu", division=division(ranks, sharding))
    rows = credit(learner, make_batch())
    if ranks.rank == ranks.size - 1:
        learner._policy_loss = damage(learner._policy_loss)  # type: ignore[method-assign]
    before = {n: whole_tensor(p.detach()).clone() for n, p in learner.policy.named_parameters()}
    try:
        learner.update(rows, step=1)
    except Exception as error:
        after = {n: whole_tensor(p.detach()) for n, p in learner.policy.named_parameters()}
        torch.testing.assert_close(after, before, atol=0, rtol=0)
        return f"{type(error).__name__}: {error}"
    return "no failure"


def _infinite(original: Callable[..., Any]) -> Callable[..., Any]:
    def damaged(*arguments: Any) -> Any:
        loss = original(*arguments)
        return replace(loss, loss_BT=loss.loss_BT + math.inf)

    return damaged


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_loss_that_is_not_finite_on_one_rank_stops_all_before_any_optimizer_moves(
    policy_path, sharding
):
    recipe = make_recipe(policy_path, GRPO(), micro_batch_tokens=24)
    found = on_ranks(lambda ranks: _fails(ranks, recipe, sharding, _infinite))
    assert found[0] == found[1]
    assert found[0].startswith("NonFiniteError: policy loss is inf")


def test_out_of_memory_names_the_setting_instead_of_going_on_with_smaller_parts(
    policy_path, monkeypatch
):
    recipe = make_recipe(policy_path, GRPO(), micro_batch_tokens=40)

    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")

    def fail(ranks: Ranks) -> str:
        learner = Learner(recipe, device="cpu", division=division(ranks, "ddp"))
        rows: TrainBatch = credit(learner, make_batch())
        learner_module.token_logprobs = full  # type: ignore[assignment]
        with pytest.raises(Exception, match="out of memory") as caught:
            learner.update(rows, step=1)
        return f"{type(caught.value).__name__}: {caught.value}"

    for text in on_ranks(fail):
        assert text.startswith("DeviceMemoryError")
        assert "lower training.micro_batch_tokens (now 40)" in text


def test_groups_stay_whole_and_no_rank_has_much_more_than_its_share():
    groups = [7, 7, 7, 1, 1, 5, 5, 9, 9, 9]
    lengths = [10, 12, 9, 30, 31, 2, 2, 20, 21, 22]
    shares = [balanced_share(groups, lengths, rank=rank, size=2) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == list(range(10))
    for share in shares:
        assert share == sorted(share)
        for place in share:
            assert all(other in share for other in range(10) if groups[other] == groups[place])
    loads = [sum(lengths[place] for place in share) for share in shares]
    assert max(loads) <= 4 / 3 * math.ceil(sum(lengths) / 2)


@pytest.mark.parametrize("count", [0, 1, 5, 16])
def test_stretches_are_the_list_cut_in_pieces_of_nearly_equal_length(count):
    parts = [list(stretch(count, part=part, num_parts=3)) for part in range(3)]
    assert [place for part in parts for place in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
