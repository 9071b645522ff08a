"""The learner: log-probabilities, gradients and what must not change them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from allocations import allocations
from grlo.algorithms.cispo import CISPO
from grlo.algorithms.dapo import DAPO
from grlo.algorithms.grpo import GRPO
from grlo.algorithms.gspo import GSPO
from grlo.algorithms.ppo import PPO
from grlo.algorithms.reinforce_pp import ReinforcePlusPlus
from grlo.algorithms.rloo import RLOO
from grlo.batch import Batch, TrainBatch
from grlo.errors import ModelError, NonFiniteError
from grlo.modeling import packed, products
from grlo.modeling.adapters import merged_weights
from grlo.settings import (
    CriticSettings,
    LoraSettings,
    ModelSettings,
    OptimizerSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    TrainingSettings,
)
from grlo.training import output_head
from grlo.training.learner import Learner, explained_variance, learning_rate
from grlo.training.models import load_policy, token_logprobs, token_values

VOCAB = 61
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
ALGORITHMS = {
    "ppo": PPO(),
    "ppo_reward_kl": PPO(kl_coefficient=0.1, kl_in="reward", kl_estimator="k1"),
    "ppo_entropy": PPO(entropy_coefficient=0.01, value_clip_unit="reward_std"),
    "grpo": GRPO(),
    "grpo_kl": GRPO(kl_coefficient=0.1, kl_estimator="k3"),
    "dr_grpo": GRPO(scale_by_std=False, reduction="constant_length"),
    "dapo": DAPO(),
    "gspo": GSPO(),
    "cispo": CISPO(),
    "rloo": RLOO(),
    "reinforce_pp": ReinforcePlusPlus(),
    "reinforce_pp_group": ReinforcePlusPlus(baseline="group"),
}


def make_recipe(policy_path, algorithm, *, policy=None, eps=1e-8, **training) -> Recipe:
    settings = {
        "steps": 10,
        "num_minibatches": 1,
        "micro_batch_tokens": 10_000,
        "device": "cpu",
    } | training
    return Recipe(
        policy=replace(
            ModelSettings(
                model=str(policy_path), compute_dtype="float32", gradient_checkpointing=False
            ),
            **(policy or {}),
        ),
        prompts=PromptSettings(sources=("unused.jsonl",)),
        reward=None,
        algorithm=algorithm,
        sampling=SamplingSettings(temperature=0.7, max_tokens=16),
        optimizer=OptimizerSettings(learning_rate=1e-3, eps=eps),
        critic=CriticSettings(optimizer=OptimizerSettings(learning_rate=1e-3, eps=eps)),
        training=TrainingSettings(**settings),
    )


def make_batch(*, seed: int = 0, padding: int = 0) -> Batch:
    """Eight rows in four groups, prompts and responses of many lengths, junk in the padding."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 5), (3, 9), (6, 1), (6, 12), (2, 7), (2, 3), (9, 4), (9, 10)]
    num_tokens = max(p + r for p, r in shapes) + padding
    tokens = torch.randint(1, VOCAB, (len(shapes), 40), generator=generator)[:, :num_tokens]
    for row in range(1, len(shapes), 2):  # A group's samples begin with the same prompt.
        prompt = shapes[row][0]
        tokens[row, :prompt] = tokens[row - 1, :prompt]
    mask = torch.zeros(len(shapes), num_tokens, dtype=torch.bool)
    for row, (prompt, response) in enumerate(shapes):
        mask[row, prompt : prompt + response] = True
    return Batch(
        tokens_BT=tokens,
        mask_BT=mask,
        lengths_B=torch.tensor([p + r for p, r in shapes]),
        groups_B=torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]),
        scores_B=torch.randn(len(shapes), generator=generator),
        truncated_B=torch.zeros(len(shapes), dtype=torch.bool),
        engine_logprobs_BT=torch.where(mask, -4.0, math.nan),
    )


def credit(learner: Learner, batch: Batch, step: int = 1) -> TrainBatch:
    annotated = learner.annotate(batch, step=step, score_std=1.0)
    return learner.algorithm.assign_credit(annotated)


def weights(learner: Learner) -> torch.Tensor:
    return torch.cat(
        [p.detach().flatten() for model in learner.models().values() for p in model.parameters()]
    )


@pytest.mark.parametrize("attention", [packed.ATTENTION, "sdpa", "eager"])
def test_logprobs_and_entropy_equal_a_plain_forward_of_every_row_alone(policy_path, attention):
    model = AutoModelForCausalLM.from_pretrained(policy_path, attn_implementation=attention)
    batch = make_batch()
    logprobs, entropy = token_logprobs(
        model, batch, temperature=0.7, compute_dtype=torch.float32, entropy="detached"
    )
    for row, length in enumerate(batch.lengths_B.tolist()):
        tokens = batch.tokens_BT[row, :length]
        logits = model(tokens[None]).logits[0] / 0.7
        distribution = logits.log_softmax(-1)
        for t in torch.nonzero(batch.mask_BT[row]).flatten().tolist():
            expected = distribution[t - 1, tokens[t]]
            torch.testing.assert_close(logprobs[row, t], expected, atol=1e-5, rtol=0)
            exact = -(distribution[t - 1].exp() * distribution[t - 1]).sum()
            torch.testing.assert_close(entropy[row, t], exact, atol=1e-5, rtol=0)
    assert not logprobs[~batch.mask_BT].any()


def test_chunks_of_the_output_head_change_neither_values_nor_gradients(policy_path, monkeypatch):
    batch = make_batch()
    results = []
    for rows in (10_000, 7):
        monkeypatch.setattr(output_head, "chunk_rows", lambda *_, rows=rows: rows)
        model = AutoModelForCausalLM.from_pretrained(policy_path)
        logprobs, entropy = token_logprobs(
            model, batch, temperature=0.7, compute_dtype=torch.float32, entropy="gradient"
        )
        (logprobs.sum() + entropy.sum()).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        results.append((logprobs.detach(), gradient))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-5, rtol=1e-5)


def test_values_are_those_of_the_position_before_the_token(reward_model_path):
    critic = AutoModelForSequenceClassification.from_pretrained(reward_model_path)
    batch = make_batch()
    values = token_values(critic, batch, compute_dtype=torch.float32)
    for row, t in torch.nonzero(batch.mask_BT).tolist():
        # The model's own pooling scores a text at its last token.
        expected = critic(batch.tokens_BT[row : row + 1, :t]).logits[0, 0]
        torch.testing.assert_close(values[row, t], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_micro_batch_size_padding_and_junk_do_not_change_an_update(
    policy_path, name, num_minibatches
):
    results = []
    for micro_batch_tokens, padding in ((10_000, 0), (30, 5), (1, 0)):
        recipe = make_recipe(
            policy_path,
            ALGORITHMS[name],
            num_minibatches=num_minibatches,
            micro_batch_tokens=micro_batch_tokens,
            # AdamW turns rounding noise on a zero gradient into a full step unless eps is large.
            eps=1e-3,
        )
        learner = Learner(recipe, device="cpu")
        metrics = {}
        for step in (1, 2):
            batch = make_batch(seed=step, padding=padding)
            metrics = learner.update(credit(learner, batch, step), step=step)
        results.append((weights(learner), metrics))
    for other, metrics in results[1:]:
        torch.testing.assert_close(results[0][0], other, atol=3e-6, rtol=0)
        for key, value in results[0][1].items():
            if key.startswith(("engine/", "update/")):
                continue
            assert math.isclose(metrics[key], value, rel_tol=2e-3, abs_tol=2e-5), key


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_update_makes_rewarded_answers_more_probable(policy_path, name):
    recipe = make_recipe(policy_path, ALGORITHMS[name], num_minibatches=2)
    learner = Learner(recipe, device="cpu")
    batch = make_batch()
    before = learner.annotate(batch, step=1, score_std=1.0).old_logprobs_BT
    for step in range(1, 6):
        learner.update(credit(learner, batch, step), step=step)
    after = learner.annotate(batch, step=1, score_std=1.0).old_logprobs_BT
    gain = ((after - before) * batch.mask_BT).sum(1)
    for group in range(4):
        rows = torch.nonzero(batch.groups_B == group).flatten()
        better = rows[batch.scores_B[rows].argmax()]
        worse = rows[batch.scores_B[rows].argmin()]
        if name in ("ppo", "ppo_reward_kl", "ppo_entropy", "reinforce_pp"):
            continue  # These compare across prompts; see the correlation below.
        assert gain[better] > gain[worse]
    per_token = gain / batch.mask_BT.sum(1)
    assert torch.corrcoef(torch.stack([per_token, batch.scores_B]))[0, 1] > 0.3


@pytest.mark.parametrize("name", ["grpo", "gspo", "dapo", "cispo"])
def test_the_first_update_is_the_policy_gradient_of_the_advantages(policy_path, name):
    """With one update the gradient is -E[A grad log pi], by autograd on plain logits."""
    recipe = make_recipe(policy_path, ALGORITHMS[name], num_minibatches=1)
    learner = Learner(recipe, device="cpu")
    batch = credit(learner, make_batch())
    captured = {}
    optimizer = learner.optimizers["policy"]
    optimizer.register_step_pre_hook(
        lambda *_: captured.update(
            {n: p.grad.clone() for n, p in learner.policy.named_parameters()}
        )
    )
    learner._optimizer_settings["policy"] = OptimizerSettings(learning_rate=1e-3, max_grad_norm=0)
    assert batch.old_logprobs_BT is None
    learner.update(batch, step=1)
    model = AutoModelForCausalLM.from_pretrained(policy_path)
    loss = torch.zeros(())
    for row, length in enumerate(batch.lengths_B.tolist()):
        tokens = batch.tokens_BT[row, :length]
        distribution = (model(tokens[None]).logits[0] / 0.7).log_softmax(-1)
        steps = torch.nonzero(batch.mask_BT[row]).flatten().tolist()
        logprobs = torch.stack([distribution[t - 1, tokens[t]] for t in steps])
        if name in ("grpo", "gspo"):
            likelihood = logprobs.mean() / len(batch.lengths_B)
        else:
            likelihood = logprobs.sum() / batch.mask_BT.sum()
        loss = loss - batch.advantages_BT[row, steps[0]] * likelihood
    loss.backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(captured[key], parameter.grad, atol=1e-6, rtol=1e-4)


def test_beta_zero_loads_no_reference_and_beta_measures_the_divergence(policy_path):
    assert Learner(make_recipe(policy_path, GRPO()), device="cpu")._reference is None
    learner = Learner(make_recipe(policy_path, ALGORITHMS["grpo_kl"]), device="cpu")
    first = learner.update(credit(learner, make_batch()), step=1)
    second = learner.update(credit(learner, make_batch(seed=1), 2), step=2)
    assert first["policy/kl"] == pytest.approx(0, abs=1e-6)
    assert second["policy/kl"] > 1e-6


def test_critic_warmup_trains_the_critic_alone(policy_path):
    recipe = make_recipe(policy_path, PPO(critic_warmup_steps=1))
    learner = Learner(recipe, device="cpu")
    policy = torch.cat([p.detach().flatten() for p in learner.policy.parameters()])
    critic = torch.cat([p.detach().flatten() for p in learner.critic.parameters()])
    learner.update(credit(learner, make_batch(), 1), step=1)
    assert torch.equal(policy, torch.cat([p.flatten() for p in learner.policy.parameters()]))
    assert not torch.equal(critic, torch.cat([p.flatten() for p in learner.critic.parameters()]))
    learner.update(credit(learner, make_batch(), 2), step=2)
    assert not torch.equal(policy, torch.cat([p.flatten() for p in learner.policy.parameters()]))


def test_a_critic_from_the_policy_starts_at_zero_and_from_a_reward_model_keeps_its_head(
    policy_path, reward_model_path
):
    recipe = make_recipe(policy_path, PPO())
    values = credit(Learner(recipe, device="cpu"), make_batch()).old_values_BT
    assert not values.any()
    recipe = replace(recipe, critic=replace(recipe.critic, model=str(reward_model_path)))
    learner = Learner(recipe, device="cpu")
    stored = AutoModelForSequenceClassification.from_pretrained(reward_model_path)
    assert torch.equal(learner.critic.score.weight, stored.score.weight)


def test_a_critic_learns_the_return(policy_path):
    learner = Learner(make_recipe(policy_path, PPO(value_clip=0)), device="cpu")
    batch = credit(learner, make_batch())
    first = explained_variance(batch)
    for step in range(1, 25):
        batch = credit(learner, make_batch(), step)
        learner.update(batch, step=min(step, 10))
    assert first == pytest.approx(0, abs=1e-6)
    assert explained_variance(credit(learner, make_batch())) > 0.5


@pytest.mark.parametrize("what", ["score", "weight"])
def test_a_non_finite_loss_stops_before_the_optimizer_moves(policy_path, what):
    learner = Learner(make_recipe(policy_path, GRPO()), device="cpu")
    batch = credit(learner, make_batch())
    if what == "score":
        batch = replace(batch, advantages_BT=batch.advantages_BT * math.inf)
    else:
        with torch.no_grad():
            next(learner.policy.parameters())[5] = math.nan
    before = weights(learner)
    with pytest.raises(NonFiniteError, match="has not moved"):
        learner.update(batch, step=1)
    assert torch.equal(weights(learner).nan_to_num(7), before.nan_to_num(7))


def test_packing_rows_changes_no_gradient(policy_path):
    results = []
    for attention in ("sdpa", "packed"):
        recipe = make_recipe(policy_path, PPO(), policy={"attention": attention}, eps=1e-3)
        learner = Learner(recipe, device="cpu")
        for step in (1, 2):
            learner.update(credit(learner, make_batch(), step), step=step)
        results.append(weights(learner))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=0)


def test_a_model_with_sliding_attention_is_not_packed(tmp_path):
    config = Qwen3Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="attention = 'sdpa'"):
        Learner(make_recipe(tmp_path, GRPO()), device="cpu")


def test_products_in_bfloat16_give_nearly_the_update_of_float32(policy_path):
    start = weights(Learner(make_recipe(policy_path, PPO()), device="cpu"))
    moves = []
    for dtype in ("float32", "bfloat16"):
        recipe = make_recipe(policy_path, PPO(), policy={"compute_dtype": dtype}, eps=1e-3)
        learner = Learner(recipe, device="cpu")
        learner.update(credit(learner, make_batch()), step=1)
        moves.append(weights(learner) - start)
        assert {p.dtype for p in learner.policy.parameters()} == {torch.float32}
    assert torch.cosine_similarity(moves[0], moves[1], dim=0) > 0.98
    assert not torch.equal(moves[0], moves[1])


def test_gradient_checkpointing_changes_no_gradient(policy_path):
    results = []
    for flag in (False, True, "selective"):
        recipe = make_recipe(policy_path, GRPO(), policy={"gradient_checkpointing": flag})
        learner = Learner(recipe, device="cpu")
        learner.update(credit(learner, make_batch()), step=1)
        results.append(weights(learner))
    torch.testing.assert_close(results[0], results[1], atol=1e-7, rtol=0)
    torch.testing.assert_close(results[0], results[2], atol=1e-7, rtol=0)


def linear_flops(x, weight, *_, **__):
    """Of `grlo.modeling.products`, which torch's counter does not know."""
    return 2 * math.prod(x) * weight[0]


ONEDNN_FLOPS = {torch.ops.mkldnn._linear_pointwise: linear_flops} if products.uses_onednn() else {}


def test_selective_recomputation_keeps_less_than_all_and_does_no_product_twice(policy_path):
    """Bytes that the allocator has handed out after a forward pass, and products of a backward."""
    kept, flops = {}, {}
    for flag in (False, True, "selective"):
        settings = make_recipe(policy_path, GRPO(), policy={"gradient_checkpointing": flag}).policy
        model = load_policy(settings, device="cpu")
        options = {"temperature": 0.7, "compute_dtype": torch.float32}
        kept[flag] = allocations(
            lambda model=model, options=options: token_logprobs(model, make_batch(), **options)
        ).kept
        results = token_logprobs(model, make_batch(), **options)
        with FlopCounterMode(display=False, custom_mapping=ONEDNN_FLOPS) as counter:
            results[0].sum().backward()
        flops[flag] = counter.get_total_flops()
    assert kept[True] < 0.7 * kept["selective"]
    assert kept["selective"] < 0.8 * kept[False]
    # Rotary frequencies and the like are products of next to nothing.
    assert flops["selective"] == pytest.approx(flops[False], rel=0.01)
    assert flops[False] < 0.8 * flops[True]


def test_adapters_train_alone_serve_their_own_reference_and_merge_exactly(policy_path):
    pytest.importorskip("peft")
    lora = LoraSettings(rank=4, alpha=8)
    recipe = make_recipe(
        policy_path, ALGORITHMS["grpo_kl"], policy={"lora": lora}, num_minibatches=2
    )
    learner = Learner(recipe, device="cpu")
    base = {n: p.clone() for n, p in learner.policy.named_parameters() if not p.requires_grad}
    assert base
    metrics = {}
    for step in (1, 2, 3):
        metrics = learner.update(credit(learner, make_batch(), step), step=step)
    assert metrics["policy/kl"] > 0
    for name, parameter in learner.policy.named_parameters():
        if name in base:
            assert torch.equal(parameter, base[name])
    batch = make_batch()
    options = {"temperature": 1.0, "compute_dtype": torch.float32}
    expected, _ = token_logprobs(learner.policy, batch, **options)
    plain = AutoModelForCausalLM.from_pretrained(policy_path)
    unchanged, _ = token_logprobs(plain, batch, **options)
    plain.load_state_dict({k: v.detach() for k, v in merged_weights(learner.policy)})
    merged, _ = token_logprobs(plain, batch, **options)
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=0)
    assert (merged - unchanged).abs().max() > 1e-3


@pytest.mark.parametrize("adapted", [False, True])
def test_pending_memory_is_what_the_first_update_leaves_in_the_optimizers(policy_path, adapted):
    lora = LoraSettings(rank=4) if adapted else None
    if adapted:
        pytest.importorskip("peft")
    recipe = make_recipe(policy_path, PPO(), policy={"lora": lora})
    learner = Learner(recipe, device="cpu")
    pending = learner.pending_bytes
    learner.update(credit(learner, make_batch()), step=1)
    moments = [
        tensor
        for optimizer in learner.optimizers.values()
        for state in optimizer.state.values()
        for name, tensor in state.items()
        if name != "step"
    ]
    assert pending == sum(tensor.nbytes for tensor in moments) > 0
    assert learner.pending_bytes == 0


def test_a_model_with_a_soft_cap_on_its_logits_is_refused(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.01,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be trained yet"):
        Learner(make_recipe(tmp_path, GRPO(), policy={"attention": "eager"}), device="cpu")


def test_a_missing_model_is_a_clear_error(tmp_path):
    with pytest.raises(ModelError, match="cannot load"):
        Learner(make_recipe(tmp_path / "nothing", GRPO()), device="cpu")


def test_learning_rate_warms_up_stays_and_decays():
    settings = OptimizerSettings(
        learning_rate=1.0, schedule="linear", warmup_steps=4, decay_start=0.5, final_fraction=0.1
    )
    rates = [learning_rate(settings, step=step, num_steps=20) for step in range(1, 21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:10] == [1.0] * 6
    assert rates[14] == pytest.approx(0.1 + 0.9 * 0.5)
    assert rates[-1] == pytest.approx(0.1)
    cosine = replace(settings, schedule="cosine")
    assert learning_rate(cosine, step=15, num_steps=20) == pytest.approx(0.1 + 0.9 * 0.5)
    constant = OptimizerSettings(learning_rate=2.0)
    assert {learning_rate(constant, step=s, num_steps=9) for s in range(1, 10)} == {2.0}
