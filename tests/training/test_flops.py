"""Work of phases against the matrix products that torch counts while the real code runs."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from conftest import byte_chat_tokenizer
from grlo.algorithms.grpo import GRPO
from grlo.algorithms.ppo import PPO
from grlo.batch import TrainBatch, collate
from grlo.engines.hf import HFEngineSettings
from grlo.model_shape import ModelShape, forward_flops, shape_from_config
from grlo.modeling import shared_prefix_attention
from grlo.modeling.products import uses_onednn
from grlo.rewards.reward_model import RewardModelSettings
from grlo.rewards.verified import VerifiedSettings
from grlo.rollout import ChatRenderer
from grlo.settings import (
    CriticSettings,
    DemonstrationSettings,
    LoraSettings,
    ModelSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    SFTRecipe,
    SFTTrainingSettings,
    TrainingSettings,
)
from grlo.stages.runs import model_shape, num_adapter_weights
from grlo.stages.train_parts import build_trainer
from grlo.training.flops import FlopCounter, generation, reading
from grlo.training.sft import SFTLearner, TokenizedDemonstration, collate_demonstrations
from grlo.training.trainer import Trainer
from grlo.types import Completion, Message, Prompt, Rollout, SamplingParams, Score
from grlo.verifiers.choice import ChoiceSettings

NUM_GROUPS, NUM_SAMPLES, ANSWER = 4, 2, 40
"""Rows are of one length, so that there is no padding to be counted."""


def flop_counter() -> FlopCounterMode:
    """Torch's counter, which also knows the products that oneDNN makes for us."""

    def linear_flops(x: torch.Size, weight: torch.Size, *args: Any, **kwargs: Any) -> int:
        return 2 * math.prod(x) * weight[0]

    known = {torch.ops.mkldnn._linear_pointwise: linear_flops} if uses_onednn() else {}
    return FlopCounterMode(display=False, custom_mapping=known)


KINDS = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification),
    "llama": (LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification),
}


def random_models(folder: Path, kind: str, seed: int, **changes: Any) -> tuple[Path, Path]:
    """A policy and a reward model of random shapes."""
    rng = random.Random(f"{kind} {seed}")
    config_class, policy_class, reward_class = KINDS[kind]

    def config(**more: Any) -> Any:
        heads = rng.choice([4, 8])
        sizes = {
            "vocab_size": rng.randint(259, 900),
            "hidden_size": rng.choice([96, 128, 160]),
            "intermediate_size": rng.randint(200, 400),
            "num_hidden_layers": rng.randint(2, 5),
            "num_attention_heads": heads,
            "num_key_value_heads": rng.choice([2, heads]),
            "head_dim": rng.choice([8, 12, 16]),
            "max_position_embeddings": 512,
            "tie_word_embeddings": rng.choice([True, False]),
            "pad_token_id": 256,
        }
        return config_class(**(sizes | changes | more))

    torch.manual_seed(seed)
    policy, reward = folder / f"{kind}_{seed}", folder / f"{kind}_{seed}_reward"
    policy_class(config()).save_pretrained(policy)
    reward_class(config(num_labels=1)).save_pretrained(reward)
    for path in (policy, reward):
        byte_chat_tokenizer().save_pretrained(path)
    return policy, reward


@pytest.fixture(scope="module", params=["qwen3-0", "qwen3-1", "llama-0", "llama-1"])
def models(request, tmp_path_factory) -> tuple[Path, Path]:
    kind, seed = request.param.split("-")
    return random_models(tmp_path_factory.mktemp("models"), kind, int(seed))


def make_trainer(
    models: tuple[Path, Path],
    algorithm: object,
    *,
    training: dict[str, Any] | None = None,
    reward: object = None,
    critic: CriticSettings | None = None,
    **model: Any,
) -> Trainer:
    policy, reward_model = models
    settings = {"compute_dtype": "float32", "gradient_checkpointing": False} | model
    recipe = Recipe(
        policy=ModelSettings(model=str(policy), **settings),
        prompts=PromptSettings(sources=("unused",)),
        reward=reward or RewardModelSettings(model=str(reward_model)),
        algorithm=algorithm,
        critic=critic or CriticSettings(),
        training=TrainingSettings(steps=9, **({"num_minibatches": 2} | (training or {}))),
        sampling=SamplingSettings(
            prompts_per_step=NUM_GROUPS, samples_per_prompt=NUM_SAMPLES, max_tokens=ANSWER
        ),
        engine=HFEngineSettings(),
    )
    renderer = ChatRenderer.from_pretrained(str(policy))
    return build_trainer(recipe, renderer=renderer, prompts=make_prompts(), device="cpu")


def make_prompts(length: int = 12) -> list[Prompt]:
    texts = [f"{group}" + "?" * (length - 1) for group in range(NUM_GROUPS)]
    return [Prompt(id=text, messages=(Message("user", text),)) for text in texts]


def make_rollouts(renderer: ChatRenderer, *, prompt_length: int = 12) -> list[Rollout]:
    """Answers that a reward model reads as the very tokens that the policy wrote."""
    rollouts = []
    for group, prompt in enumerate(make_prompts(prompt_length)):
        for sample in range(NUM_SAMPLES):
            text = f"{group}{sample}" + "." * (ANSWER - 3)
            tokens = tuple(renderer.encode_answer(text))
            assert len(tokens) == ANSWER
            completion = Completion(tokens, (-1.0,) * ANSWER, "stop")
            prompt_tokens = tuple(renderer.encode(prompt.messages))
            rollouts.append(Rollout(prompt, group, prompt_tokens, completion, text))
    return rollouts


def counted(run: Callable[[], object], *, causal_length: int = 0) -> float:
    """Operations of all matrix products while something runs, forward and back.

    The fused attention kernels of a CPU are invisible to the counter: attention is made of plain
    products here. Those multiply whole squares of `causal_length` tokens, of which causal attention
    is the lower triangle; products of two activations (`bmm`) are attention and nothing else.
    """
    in_grids = mock.patch.object(shared_prefix_attention, "kernel_for", return_value=None)
    with in_grids, sdpa_kernel(SDPBackend.MATH), flop_counter() as mode:
        run()
    by_operator = {str(name): flops for name, flops in mode.get_flop_counts()["Global"].items()}
    known = {"aten.mm", "aten.addmm", "aten.bmm", "mkldnn._linear_pointwise"}
    assert set(by_operator) <= known, "another kernel has run"
    assert by_operator["aten.bmm"] > 0, "attention has to be seen"
    masked = (causal_length - 1) / (2 * causal_length) if causal_length else 0.0
    return sum(by_operator.values()) - masked * by_operator["aten.bmm"]


def annotated(trainer: Trainer, rollouts: list[Rollout], *, step: int = 1) -> TrainBatch:
    scores = [Score(float(index)) for index in range(len(rollouts))]
    batch = collate(rollouts, scores, pad_id=trainer.renderer.pad_id)
    annotated = trainer.learner.annotate(batch, step=step, score_std=1.0)
    return trainer.algorithm.assign_credit(annotated)


def flops_of(trainer: Trainer, phase: str, rollouts: list[Rollout]) -> dict[str, float]:
    work = trainer.count_flops(phase, rollouts, step=1)
    return {name: done.flops for name, done in work.items()}


def close(flops: float) -> Any:
    return pytest.approx(flops, rel=0.05)


def length_of(rollouts: list[Rollout]) -> int:
    [length] = {len(r.prompt_tokens) + len(r.completion.tokens) for r in rollouts}
    return length


def test_generation_is_what_the_engine_multiplies(models):
    trainer = make_trainer(models, GRPO())
    encoded = [trainer.renderer.encode(prompt.messages) for prompt in make_prompts()]
    sampling = SamplingParams(max_tokens=ANSWER, num_samples=NUM_SAMPLES)
    completions = []
    flops = counted(
        lambda: completions.extend(
            trainer.engine.generate(encoded, sampling, seeds=range(NUM_GROUPS))
        )
    )
    assert all(len(completion.tokens) == ANSWER for completion in completions)
    drawn = [
        replace(rollout, completion=completion)
        for rollout, completion in zip(make_rollouts(trainer.renderer), completions, strict=True)
    ]
    assert flops_of(trainer, "generate", drawn) == {"engine": close(flops)}


def test_scoring_is_what_the_reward_model_multiplies(models):
    trainer = make_trainer(models, GRPO())
    rollouts = make_rollouts(trainer.renderer)
    flops = counted(partial(trainer.reward.score, rollouts), causal_length=length_of(rollouts))
    assert flops_of(trainer, "score", rollouts) == {"reward_model": close(flops)}
    # Equal answers are scored once.
    doubled = [*rollouts, *(replace(rollout, group=9) for rollout in rollouts)]
    assert flops_of(trainer, "score", doubled) == flops_of(trainer, "score", rollouts)


def test_annotation_is_what_policy_reference_and_critic_multiply(models):
    algorithms = [GRPO(), GRPO(kl_coefficient=0.1), PPO()]
    found, expected = [], []
    for algorithm in algorithms:
        trainer = make_trainer(models, algorithm)
        rollouts = make_rollouts(trainer.renderer)
        expected.append(
            counted(partial(annotated, trainer, rollouts), causal_length=length_of(rollouts))
        )
        found.append(flops_of(trainer, "annotate", rollouts))
    policy, reference, critic = expected[0], expected[1] - expected[0], expected[2] - expected[0]
    assert found == [
        {"policy": close(policy)},
        {"policy": close(policy), "reference": close(reference)},
        {"policy": close(policy), "critic": close(critic)},
    ]


def test_an_update_is_what_policy_and_critic_multiply_forward_and_back(models):
    found, expected = [], []
    # In a warm-up step the critic is trained alone.
    for algorithm in (PPO(critic_warmup_steps=3), PPO()):
        trainer = make_trainer(models, algorithm)
        rollouts = make_rollouts(trainer.renderer)
        batch = annotated(trainer, rollouts)
        expected.append(
            counted(
                partial(trainer.learner.update, batch, step=1),
                causal_length=length_of(rollouts),
            )
        )
        found.append(flops_of(trainer, "update", rollouts))
    critic, both = expected
    assert found == [
        {"critic": close(critic)},
        {"policy": close(both - critic), "critic": close(critic)},
    ]


@pytest.mark.parametrize("has_warmup", [False, True])
@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_a_critic_on_the_policys_trunk_takes_no_second_pass(models, has_warmup, num_minibatches):
    """The head's own products, one per hidden unit and token, are invisible to the counter."""
    trainer = make_trainer(
        models,
        PPO(critic_warmup_steps=3 if has_warmup else 0),
        critic=CriticSettings(share_trunk=True),
        training={"num_minibatches": num_minibatches},
    )
    rollouts = make_rollouts(trainer.renderer)
    batches: list[TrainBatch] = []
    annotation = counted(
        lambda: batches.append(annotated(trainer, rollouts)), causal_length=length_of(rollouts)
    )
    update = counted(
        partial(trainer.learner.update, batches[0], step=1), causal_length=length_of(rollouts)
    )
    found = {phase: flops_of(trainer, phase, rollouts) for phase in ("annotate", "update")}
    assert {phase: work["policy"] for phase, work in found.items()} == {
        "annotate": close(annotation),
        "update": close(update),
    }
    head = 2 * trainer.count_flops.policy.hidden_size * NUM_GROUPS * NUM_SAMPLES * ANSWER
    assert found["annotate"]["critic"] == head
    assert found["update"]["critic"] == (2 if has_warmup else 3) * head


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_with_adapters_takes_no_gradient_of_frozen_weights(kind, tmp_path):
    pytest.importorskip("peft")
    models = random_models(tmp_path, kind, 5, num_hidden_layers=8)
    estimates = []
    for lora in (None, LoraSettings(rank=4)):
        # In a warm-up step the critic is trained alone.
        trainer = make_trainer(models, PPO(critic_warmup_steps=3), critic=CriticSettings(lora=lora))
        rollouts = make_rollouts(trainer.renderer)
        batch = annotated(trainer, rollouts)
        flops = counted(
            partial(trainer.learner.update, batch, step=1), causal_length=length_of(rollouts)
        )
        estimates.append(flops_of(trainer, "update", rollouts)["critic"])
        assert estimates[-1] == close(flops)
    assert estimates[1] < 0.8 * estimates[0]


def test_rows_that_are_not_read_take_nothing(models):
    """The trainer counts the rows that the learner says it reads."""
    trainer = make_trainer(models, GRPO())
    rollouts = make_rollouts(trainer.renderer)
    scores = [Score(float(index) if index < 4 else 0.0) for index in range(len(rollouts))]
    trainer._learn(1, rollouts, scores, is_last=True)
    (entry,) = [entry for entry in trainer.ledger.drain() if entry.phase == "update"]
    assert entry.flops_by == flops_of(trainer, "update", rollouts[:4])
    assert entry.tokens == 4 * length_of(rollouts)
    batch = collate(rollouts, scores, pad_id=trainer.renderer.pad_id)
    batch = trainer.learner.annotate(batch, step=1, score_std=1.0)
    update = partial(trainer.learner.update, trainer.algorithm.assign_credit(batch), step=1)
    assert entry.flops == close(counted(update, causal_length=length_of(rollouts)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_an_update_changes_its_estimate(kind, tmp_path):
    """Epochs, attention that shares no prompts, and adapters."""
    pytest.importorskip("peft")
    # With few layers the first one, whose input has no gradient under adapters, would count.
    models = random_models(tmp_path, kind, 5, num_hidden_layers=8)
    plain: dict[str, Any] = {}
    cases = {
        "plain": plain,
        "epochs": {"training": {"num_epochs": 2}},
        "sdpa": {"attention": "sdpa"},
        "adapters": {"lora": LoraSettings(rank=4)},
    }
    estimates = {}
    for name, changes in cases.items():
        trainer = make_trainer(models, GRPO(), **changes)
        # Prompts that are long, so that it matters whether they are shared.
        rollouts = make_rollouts(trainer.renderer, prompt_length=30)
        batch = annotated(trainer, rollouts)
        flops = counted(
            partial(trainer.learner.update, batch, step=1),
            causal_length=length_of(rollouts),
        )
        estimates[name] = flops_of(trainer, "update", rollouts)["policy"]
        assert estimates[name] == close(flops), name
    assert estimates["epochs"] == 2 * estimates["plain"]
    assert estimates["sdpa"] > 1.2 * estimates["plain"]
    assert estimates["adapters"] < 0.8 * estimates["plain"]


def test_what_gradient_checkpointing_repeats_is_not_counted(tmp_path):
    models = random_models(tmp_path, "qwen3", 6)
    estimates, products = [], []
    for checkpoints in (False, True):
        trainer = make_trainer(models, GRPO(), gradient_checkpointing=checkpoints)
        rollouts = make_rollouts(trainer.renderer)
        batch = annotated(trainer, rollouts)
        estimates.append(flops_of(trainer, "update", rollouts))
        products.append(
            counted(
                partial(trainer.learner.update, batch, step=1),
                causal_length=length_of(rollouts),
            )
        )
    assert estimates[0] == estimates[1]
    assert products[1] > 1.2 * products[0], "the forward pass is done twice"


def test_fine_tuning_is_what_the_policy_multiplies(models):
    recipe = SFTRecipe(
        policy=ModelSettings(
            model=str(models[0]), compute_dtype="float32", gradient_checkpointing=False
        ),
        data=DemonstrationSettings(sources=("unused",)),
        training=SFTTrainingSettings(steps=1),
    )
    learner = SFTLearner(recipe, num_steps=1, device="cpu")
    rows = [TokenizedDemonstration(str(i), (5,) * 20, (6 + i,) * 30) for i in range(6)]
    batch = collate_demonstrations(rows, pad_id=0)
    estimate = reading(model_shape(learner.policy), [(i, 20, 30) for i in range(6)])
    update = counted(partial(learner.update, batch, step=1), causal_length=50)
    held_out = counted(partial(learner.loss, batch), causal_length=50)
    adapters = num_adapter_weights(learner.policy)
    assert adapters is None
    assert estimate.trained(num_adapter_weights=adapters).flops == close(update)
    assert estimate.forward().flops == close(held_out)
    assert estimate.tokens == 6 * 50


# By hand ------------------------------------------------------------------------------------------


@pytest.fixture
def counter(policy_path) -> FlopCounter:
    shape = shape_from_config(json.loads((policy_path / "config.json").read_text()))
    return FlopCounter(
        policy=shape,
        critic=None,
        rewards=(),
        has_reference=False,
        annotates_policy=True,
        num_epochs=1,
    )


def hand_rollouts() -> list[Rollout]:
    """Two groups: prompts of 20 and 5 tokens with answers of 10 and 30, 40 and 1."""
    made = []
    for group, (num_prompt, lengths) in enumerate([(20, (10, 30)), (5, (40, 1))]):
        for length in lengths:
            prompt = Prompt(id=str(group), messages=(Message("user", "?"),))
            completion = Completion((1,) * length, (-1.0,) * length, "stop")
            made.append(Rollout(prompt, group, (group,) * num_prompt, completion, str(length)))
    return made


def test_phases_that_move_weights_and_rewards_without_a_model_take_nothing(counter):
    for phase in ("sync", "load", "checkpoint", "score"):
        assert counter(phase, hand_rollouts()) == {}


def test_tokens_are_those_that_went_through_each_model(counter):
    rollouts = hand_rollouts()
    both = replace(counter, critic=counter.policy, has_reference=True, num_epochs=3)
    assert {n: w.tokens for n, w in both("annotate", rollouts).items()} == {
        "policy": 25 + 81,
        "reference": 25 + 81,
        "critic": 25 + 81,
    }
    assert both("update", rollouts, step=1)["policy"].tokens == 3 * (25 + 81)
    apart = replace(counter, shares_prompts=False)
    assert apart("annotate", rollouts)["policy"].tokens == 2 * 25 + 81
    # All but the last token of each prompt once, then a token in for each token out.
    assert counter("generate", rollouts)["engine"].tokens == 19 + 4 + 81


def test_a_single_update_without_old_log_probabilities_annotates_nothing(counter):
    single = replace(counter, annotates_policy=False)
    assert single("annotate", hand_rollouts(), step=1) == {}
    warming = replace(single, critic=counter.policy, critic_warmup_steps=2)
    assert set(warming("annotate", hand_rollouts(), step=2)) == {"policy", "critic"}
    assert set(warming("annotate", hand_rollouts(), step=3)) == {"critic"}


def test_reward_models_score_the_styles_that_reach_them(counter):
    small, large = counter.policy, replace(counter.policy, num_layers=9)
    routed = replace(
        counter, rewards=((small, frozenset({"model"})), (large, frozenset({"model", "judge"})))
    )
    rollouts = hand_rollouts()
    judged = replace(rollouts[0], prompt=replace(rollouts[0].prompt, style="judge"))
    below = replace(large, num_layers=8)
    whole = forward_flops(below, num_tokens=20, num_outputs=0) + forward_flops(
        below, num_tokens=10, num_cached=20, num_outputs=1
    )
    # In the last layer one token has an MLP, and 30 keys.
    whole += 2 * large.attention_parameters * 30 + 2 * large.mlp_parameters
    whole += 4 * large.num_heads * large.head_dim * 30
    assert routed("score", [judged])["reward_model"].flops == pytest.approx(whole)
    assert routed("score", [judged])["reward_model"].tokens == 30
    assert routed("score", rollouts)["reward_model"].tokens == 2 * (25 + 81), "prompts once"


def test_equal_prompts_are_computed_once_in_generation():
    shape = ModelShape(50, 16, 32, 2, 2, 2, 8, 64)
    once, twice = (generation(shape, [((1, 2, 3), 5)] * times) for times in (1, 2))
    assert (once.tokens, twice.tokens) == (2 + 5, 2 + 10)


def test_a_verifier_takes_no_operations(tmp_path):
    models = random_models(tmp_path, "qwen3", 7)
    trainer = make_trainer(models, GRPO(), reward=VerifiedSettings(verifier=ChoiceSettings()))
    rollouts = make_rollouts(trainer.renderer)
    assert trainer.count_flops("score", rollouts, step=1) == {}
