"""Memory of the learner: running out of it, keeping things out of it, and how it grows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from allocations import allocations
from grlo.algorithms.grpo import GRPO
from grlo.algorithms.ppo import PPO
from grlo.batch import AnnotatedBatch, Batch, TrainBatch, pack_groups, take_rows
from grlo.errors import DeviceMemoryError
from grlo.rollout import ChatRenderer
from grlo.sequence_scores import load_sequence_scorer, score_sequences
from grlo.settings import (
    CriticSettings,
    DemonstrationSettings,
    ModelSettings,
    OptimizerSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    SFTRecipe,
    SFTTrainingSettings,
    TrainingSettings,
)
from grlo.training import checkpoint
from grlo.training import learner as learner_module
from grlo.training import sft as sft_module
from grlo.training.learner import Learner
from grlo.training.memory import MicroBatches
from grlo.training.models import hidden_before_responses, load_policy
from grlo.training.sft import SFTLearner
from two_places import TwoPlaces

VOCAB = 61
RATE = OptimizerSettings(learning_rate=1e-3, eps=1e-3)


def make_learner(
    policy_path: Any,
    algorithm: object,
    *,
    checkpoint: Path | None = None,
    policy: dict[str, Any] | None = None,
    **training: Any,
) -> Learner:
    settings = {"steps": 10, "num_minibatches": 2, "micro_batch_tokens": 60} | training
    model = {"compute_dtype": "float32", "gradient_checkpointing": False} | (policy or {})
    recipe = Recipe(
        policy=ModelSettings(model=str(policy_path), **model),
        prompts=PromptSettings(sources=("unused.jsonl",)),
        reward=None,
        algorithm=algorithm,
        sampling=SamplingSettings(max_tokens=16),
        optimizer=RATE,
        critic=CriticSettings(optimizer=RATE),
        training=TrainingSettings(**settings),
    )
    return Learner(recipe, device="cpu", checkpoint=checkpoint)


def make_batch(seed: int = 0) -> Batch:
    """Sixteen rows in eight groups of two, with junk outside the mask."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 5), (3, 9), (6, 1), (6, 12), (2, 7), (2, 3), (9, 4), (9, 10)] * 2
    tokens = torch.randint(1, VOCAB, (len(shapes), 22), generator=generator)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (prompt, response) in enumerate(shapes):
        mask[row, prompt : prompt + response] = True
        if row % 2:
            tokens[row, :prompt] = tokens[row - 1, :prompt]
    return Batch(
        tokens_BT=tokens,
        mask_BT=mask,
        lengths_B=torch.tensor([p + r for p, r in shapes]),
        groups_B=torch.arange(len(shapes)) // 2,
        scores_B=torch.randn(len(shapes), generator=generator),
        truncated_B=torch.zeros(len(shapes), dtype=torch.bool),
        engine_logprobs_BT=torch.where(mask, -4.0, 99.0),
    )


def credit(learner: Learner, batch: Batch) -> TrainBatch:
    return learner.algorithm.assign_credit(learner.annotate(batch, step=1, score_std=1.0))


def weights(learner: Any) -> torch.Tensor:
    return torch.cat(
        [p.detach().flatten() for model in learner.models().values() for p in model.parameters()]
    )


class FailsOnce:
    """Raises at its `k`-th call, and never again; what it wraps runs before."""

    def __init__(self, wrapped: Callable[..., Any], k: int, error: Exception) -> None:
        self.wrapped, self.left, self.error = wrapped, k, error

    def __call__(self, *args: Any, **options: Any) -> Any:
        result = self.wrapped(*args, **options)
        self.left -= 1
        if self.left == 0:
            raise self.error
        return result


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.\nMore of it")


def real_out_of_memory() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    return caught.value


@pytest.mark.parametrize("make_error", [out_of_memory, real_out_of_memory])
@pytest.mark.parametrize(
    "which", [("token_logprobs", 1), ("token_logprobs", 3), ("token_values", 2)]
)
def test_out_of_memory_in_a_forward_pass_changes_no_update_and_is_said_once(
    policy_path, monkeypatch, capsys, make_error, which
):
    name, k = which
    expected = make_learner(policy_path, PPO())
    batch = credit(expected, make_batch())
    metrics = expected.update(batch, step=1)
    assert metrics["update/micro_batch_tokens"] == 60
    found = make_learner(policy_path, PPO())
    failing = FailsOnce(getattr(learner_module, name), k, make_error())
    monkeypatch.setattr(learner_module, name, failing)
    found_metrics = found.update(batch, step=1)
    assert failing.left < 0
    torch.testing.assert_close(weights(found), weights(expected), atol=1e-6, rtol=0)
    budget = found_metrics.pop("update/micro_batch_tokens")
    assert budget < 60
    del metrics["update/micro_batch_tokens"]
    assert found_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    warning = capsys.readouterr().err
    assert warning.count("out of memory") - warning.count("out of memory.") == 1
    assert f"at most {budget:.0f} instead of 60" in warning
    # It stays there, for every model and in the next step too.
    assert found.update(batch, step=2)["update/micro_batch_tokens"] == budget
    assert not capsys.readouterr().err


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("layer", [0, 1])
def test_out_of_memory_in_the_middle_of_a_backward_pass_leaves_no_partial_gradient(
    policy_path, k, layer
):
    expected = make_learner(policy_path, GRPO())
    batch = credit(expected, make_batch())
    expected.update(batch, step=1)
    found = make_learner(policy_path, GRPO())
    # The parameters of later layers have their gradient by then, those of earlier ones do not.
    parameter = found.policy.get_parameter(f"model.layers.{layer}.mlp.down_proj.weight")
    failing = FailsOnce(lambda gradient: gradient, k, out_of_memory())
    parameter.register_hook(failing)
    found.update(batch, step=1)
    assert failing.left < 0
    torch.testing.assert_close(weights(found), weights(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["token_logprobs", "token_values"])
def test_out_of_memory_in_annotation_changes_no_annotation(policy_path, monkeypatch, name):
    expected = make_learner(policy_path, PPO()).annotate(make_batch(), step=1, score_std=1.0)
    found = make_learner(policy_path, PPO())
    failing = FailsOnce(getattr(learner_module, name), 2, out_of_memory())
    monkeypatch.setattr(learner_module, name, failing)
    annotated = found.annotate(make_batch(), step=1, score_std=1.0)
    assert failing.left < 0
    for key in ("old_logprobs_BT", "old_values_BT"):
        torch.testing.assert_close(
            getattr(annotated, key), getattr(expected, key), atol=1e-6, rtol=0
        )
    assert found.micro_batches.max_tokens < 60


def test_a_device_that_holds_few_tokens_is_found_by_halving_and_each_halving_is_said(
    policy_path, monkeypatch, capsys
):
    expected = make_learner(policy_path, GRPO(), micro_batch_tokens=10_000)
    batch = credit(expected, make_batch())
    expected.update(batch, step=1)
    found = make_learner(policy_path, GRPO(), micro_batch_tokens=10_000)
    plain = learner_module.token_logprobs
    sizes = []

    def small_device(model: Any, micro: Any, **options: Any) -> Any:
        sizes.append(micro.tokens_BT.numel())
        if sizes[-1] > 40:
            raise out_of_memory()
        return plain(model, micro, **options)

    monkeypatch.setattr(learner_module, "token_logprobs", small_device)
    found.update(batch, step=1)
    torch.testing.assert_close(weights(found), weights(expected), atol=1e-6, rtol=0)
    failures = sum(size > 40 for size in sizes)
    assert failures == capsys.readouterr().err.count("Gradients do not change") > 1


def test_a_row_that_does_not_fit_alone_ends_the_run_with_what_to_do(policy_path, monkeypatch):
    learner = make_learner(policy_path, GRPO())
    batch = credit(learner, make_batch())
    before = weights(learner)

    def full(*args: Any, **options: Any) -> Any:
        raise out_of_memory()

    monkeypatch.setattr(learner_module, "token_logprobs", full)
    with pytest.raises(DeviceMemoryError, match=r"one answer.*3\.00 GiB.*training\.offload"):
        learner.update(batch, step=1)
    assert torch.equal(weights(learner), before)


def test_out_of_memory_in_the_optimizer_is_explained(policy_path, monkeypatch):
    learner = make_learner(policy_path, GRPO())
    batch = credit(learner, make_batch())
    optimizer = learner.optimizers["policy"]
    monkeypatch.setattr(optimizer, "step", FailsOnce(lambda: None, 1, out_of_memory()))
    with pytest.raises(DeviceMemoryError, match="step of the policy's optimizer"):
        learner.update(batch, step=1)


def test_other_errors_are_not_taken_for_a_lack_of_memory(policy_path, monkeypatch):
    learner = make_learner(policy_path, GRPO())
    batch = credit(learner, make_batch())
    failing = FailsOnce(learner_module.token_logprobs, 1, RuntimeError("size mismatch"))
    monkeypatch.setattr(learner_module, "token_logprobs", failing)
    with pytest.raises(RuntimeError, match="size mismatch"):
        learner.update(batch, step=1)


@pytest.mark.long
def test_every_halving_cuts_the_micro_batch_that_failed():
    """Rows of one length and of many, prompts shared or not: the same rows never come again."""
    batches = [make_batch(seed) for seed in range(3)]
    alone = replace(batches[0], groups_B=torch.arange(16))
    for batch in [*batches, alone, take_rows(alone, torch.tensor([3, 3, 3, 7]))]:
        micro_batches = MicroBatches(10_000)
        seen: list[list[int]] = []

        def work(rows: torch.Tensor, seen: list[list[int]] = seen) -> None:
            seen.append(sorted(rows.tolist()))
            if len(rows) > 1:
                raise out_of_memory()

        micro_batches.run(batch, work)
        failed = [rows for rows in seen if len(rows) > 1]
        assert len({tuple(rows) for rows in failed}) == len(failed)
        assert len(pack_groups(batch, max_tokens=micro_batches.max_tokens)) == len(batch.lengths_B)


def test_a_resumed_run_goes_on_with_the_lower_budget():
    micro_batches = MicroBatches(100)
    micro_batches.limit(None)
    assert micro_batches.max_tokens == 100
    micro_batches.limit(40)
    micro_batches.limit(70)
    assert micro_batches.max_tokens == 40


def test_fine_tuning_goes_on_after_running_out_of_memory(policy_path, monkeypatch):
    recipe = SFTRecipe(
        policy=ModelSettings(
            model=str(policy_path), compute_dtype="float32", gradient_checkpointing=False
        ),
        data=DemonstrationSettings(sources=("unused",)),
        training=SFTTrainingSettings(steps=20, micro_batch_tokens=60),
        optimizer=RATE,
    )
    expected, found = (SFTLearner(recipe, num_steps=20, device="cpu") for _ in range(2))
    metrics = expected.update(make_batch(), step=1)
    failing = FailsOnce(sft_module.token_logprobs, 3, out_of_memory())
    monkeypatch.setattr(sft_module, "token_logprobs", failing)
    found_metrics = copy.copy(found.update(make_batch(), step=1))
    torch.testing.assert_close(weights(found), weights(expected), atol=1e-6, rtol=0)
    assert found_metrics["sft/loss"] == pytest.approx(metrics["sft/loss"], rel=1e-6)
    assert found_metrics["update/micro_batch_tokens"] < 60


# Offloading ---------------------------------------------------------------------------------------


def states(learner: Learner, name: str) -> list[torch.Tensor]:
    return [t for s in learner.optimizers[name].state.values() for t in s.values()]


def test_offloading_changes_no_bit_and_leaves_nothing_on_the_device(policy_path, monkeypatch):
    algorithm = PPO(kl_coefficient=0.1)
    plain = make_learner(policy_path, algorithm)
    places = TwoPlaces(monkeypatch)
    offload = ("optimizer", "reference", "critic", "reward_model")
    moved = make_learner(policy_path, algorithm, offload=offload)

    def check() -> None:
        assert places.are_away(moved.critic.parameters())
        assert places.are_away(moved._reference.parameters())
        assert not places.are_away(moved.policy.parameters())

    seen = []
    plain_logprobs, plain_values = learner_module.token_logprobs, learner_module.token_values

    def logprobs(model, *args, **options):
        assert not places.are_away(model.parameters())
        if model is moved.policy and torch.is_grad_enabled() and states(moved, "policy"):
            assert places.are_away(states(moved, "policy"))
            assert places.are_away(moved.critic.parameters())
            seen.append("policy")
        return plain_logprobs(model, *args, **options)

    def values(model, *args, **options):
        assert not places.are_away(model.parameters())
        seen.append("critic")
        return plain_values(model, *args, **options)

    check()
    for step in (1, 2):
        expected = credit(plain, make_batch(step))
        plain.update(expected, step=step)
        with monkeypatch.context() as patch:
            patch.setattr(learner_module, "token_logprobs", logprobs)
            patch.setattr(learner_module, "token_values", values)
            found = credit(moved, make_batch(step))
            check()
            moved.update(found, step=step)
        check()
        for name in ("policy", "critic"):
            assert places.are_away(states(moved, name))
        for key in ("reference_logprobs_BT", "old_values_BT"):
            assert torch.equal(getattr(found, key), getattr(expected, key))
    assert set(seen) == {"policy", "critic"}
    assert torch.equal(weights(moved), weights(plain))


@pytest.mark.parametrize("offload", [("critic",), ("optimizer",), ("optimizer", "critic")])
def test_a_run_with_offloading_resumes_bit_for_bit(
    chat_policy_path, monkeypatch, tmp_path, offload
):
    renderer = ChatRenderer.from_pretrained(str(chat_policy_path))
    places = TwoPlaces(monkeypatch)
    whole = make_learner(chat_policy_path, PPO(), offload=offload)
    whole.update(credit(whole, make_batch(1)), step=1)
    path = tmp_path / "step_000001"
    checkpoint.save(path, whole, renderer, state={"step": 1})
    whole.update(credit(whole, make_batch(2)), step=2)

    resumed = make_learner(chat_policy_path, PPO(), offload=offload, checkpoint=path)
    checkpoint.restore(path, resumed)
    for name in ("policy", "critic"):
        assert places.are_away(states(resumed, name)) == ("optimizer" in offload)
    assert places.are_away(resumed.critic.parameters()) == ("critic" in offload)
    resumed.update(credit(resumed, make_batch(2)), step=2)
    assert torch.equal(weights(whole), weights(resumed))


# Peaks --------------------------------------------------------------------------------------------


def repeated(batch: Batch, times: int) -> Batch:
    """As many copies of every group, as groups of their own."""
    rows = torch.arange(len(batch.tokens_BT)).repeat(times)
    return replace(take_rows(batch, rows), groups_B=torch.arange(len(rows)) // 2)


@pytest.fixture(scope="module")
def wide_path(tmp_path_factory) -> Path:
    """A model whose activations outweigh the few numbers that a batch has for each token."""
    path = tmp_path_factory.mktemp("wide")
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=48,
    )
    Qwen3ForCausalLM(config).save_pretrained(path)
    return path


@pytest.mark.parametrize(("attention", "checkpointing"), [("packed", True), ("sdpa", False)])
def test_peak_memory_of_learning_grows_with_the_token_budget_and_not_with_the_batch(
    wide_path, attention, checkpointing
):
    def peaks(times: int, micro_batch_tokens: int) -> tuple[int, int]:
        policy = {"attention": attention, "gradient_checkpointing": checkpointing}
        learner = make_learner(
            wide_path,
            PPO(),
            micro_batch_tokens=micro_batch_tokens,
            num_minibatches=1,
            policy=policy,
        )
        # Groups of one kind, so that the largest micro-batch is full in every case.
        batch = repeated(take_rows(make_batch(), torch.tensor([6, 7])), times)

        def annotate() -> AnnotatedBatch:
            return learner.annotate(batch, step=1, score_std=1.0)

        train_batch = learner.algorithm.assign_credit(annotate())
        learner.update(train_batch, step=1)  # States of the optimizer are made here.
        update = allocations(lambda: learner.update(train_batch, step=2)).peak
        return update, allocations(annotate).peak

    # Two micro-batches at least: gradients are there from the second on.
    small = peaks(14, 150)
    many_rows, more_tokens = peaks(8 * 14, 150), peaks(8 * 14, 4 * 150)
    for before, rows, tokens in zip(small, many_rows, more_tokens, strict=True):
        assert rows < 1.1 * before
        assert tokens > 1.5 * before


@pytest.mark.parametrize("trains", [False, True])
def test_weights_are_converted_layer_by_layer(tmp_path, trains):
    """Not all of them are in memory in both types."""
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
    )
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    settings = ModelSettings(
        model=str(tmp_path), compute_dtype="bfloat16", gradient_checkpointing=True
    )
    model = load_policy(settings, device="cpu")
    batch = take_rows(make_batch(), torch.tensor([6, 7]))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def work() -> None:
        with torch.set_grad_enabled(trains):
            hidden = hidden_before_responses(model, batch, compute_dtype=torch.bfloat16)
        if trains:
            hidden.float().sum().backward()

    converted = sum(2 * m.weight.numel() for m in model.model.layers.modules() if is_linear(m))
    assert allocations(work).peak < converted / 2


def is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)


def test_peak_memory_of_scoring_grows_with_the_token_budget_and_not_with_the_batch(
    reward_model_path,
):
    model = load_sequence_scorer(str(reward_model_path), dtype=torch.float32).eval()

    def peak(times: int, tokens_per_batch: int) -> int:
        generator = torch.Generator().manual_seed(0)
        lengths = [9, 14, 22, 30] * 8 * times
        sequences = [
            tuple(torch.randint(1, VOCAB, (length,), generator=generator).tolist())
            for length in lengths
        ]
        return allocations(
            lambda: score_sequences(model, sequences, tokens_per_batch=tokens_per_batch)
        ).peak

    before, rows, tokens = peak(1, 300), peak(8, 300), peak(8, 1200)
    assert rows < 1.1 * before
    assert tokens > 2 * before
