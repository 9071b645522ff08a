"""What verl can be told of a recipe: every setting has a rule, and what has no words is an error.

`TABLE` is the whole of it. A rule turns the value of a setting into keys of verl's configuration,
or raises `Inexpressible`; a new setting without a rule is an error too, so none is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

from grlo.algorithms.cispo import CISPO
from grlo.algorithms.clipped import ClippedPolicy
from grlo.algorithms.dapo import DAPO
from grlo.algorithms.grpo import GRPO
from grlo.algorithms.gspo import GSPO
from grlo.algorithms.ppo import PPO
from grlo.algorithms.reinforce_pp import ReinforcePlusPlus
from grlo.algorithms.rloo import RLOO
from grlo.engines.hf import HFEngineSettings
from grlo.engines.vllm import VLLMEngineSettings
from grlo.errors import RecipeError
from grlo.rewards.judge import JudgeSettings
from grlo.rewards.mixture import MixtureSettings
from grlo.rewards.random_reward import RandomRewardSettings
from grlo.rewards.reward_model import RewardModelSettings
from grlo.rewards.shuffled import ShuffledRewardSettings
from grlo.rewards.verified import VerifiedSettings
from grlo.settings import (
    BudgetSettings,
    CheckpointSettings,
    CriticSettings,
    EvaluationSettings,
    GoldSettings,
    LoraSettings,
    ModelSettings,
    OptimizerSettings,
    PriceSettings,
    PromptSettings,
    Recipe,
    SamplingSettings,
    ShapingSettings,
    TrackerSettings,
    TrainingSettings,
)
from grlo.templates import TEMPLATES

Keys = dict[str, Any]
"""Dotted keys of verl's configuration with their values."""

UNBOUNDED = 1e9
"""A limit that nothing reaches: ratios end at exp(20) = 4.9e8, where log-ratios are clamped."""

_ROLLOUT, _ACTOR = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
_MODEL = "actor_rollout_ref.model"
_OPTIMIZERS = {"optimizer": f"{_ACTOR}.optim", "critic.optimizer": "critic.optim"}
_MODELS = {"policy.lora": _MODEL, "critic.lora": "critic.model"}
_DTYPES = {"float32": "fp32", "bfloat16": "bf16"}
_REDUCTIONS = {
    "token_mean": "token-mean",
    "sequence_mean_token_mean": "seq-mean-token-mean",
    "sequence_mean_token_sum": "seq-mean-token-sum",
    "constant_length": "seq-mean-token-sum-norm",
}


class Inexpressible(Exception):  # noqa: N818 -- caught and listed, it ends nothing by itself.
    """A value that verl has no words for; the message is the reason, and what to do."""


@dataclass(frozen=True)
class Cluster:
    """What a run has to itself. No part of a recipe: it changes speed, not numbers."""

    nodes: int = 1
    gpus_per_node: int = 8
    """GPUs of each node for policy, critic, reference and vLLM, which share them."""
    reward_gpus: float = 0.0
    """GPUs of each reward actor, besides those; 0 scores on CPUs."""
    reward_actors: int = 1
    """Copies of the reward; the answers to a prompt all go to one of them."""

    @property
    def num_devices(self) -> int:
        """All GPUs that are occupied, a part of one as a whole."""
        return self.nodes * self.gpus_per_node + math.ceil(self.reward_actors * self.reward_gpus)


@dataclass(frozen=True)
class Place:
    """Where a setting stands."""

    recipe: Recipe
    section: str
    """Dotted, such as `critic.optimizer`; empty at the top."""
    settings: Any
    """The section."""


Rule = Callable[[Any, Place], Keys]


def express(recipe: Recipe, cluster: Cluster) -> Keys:
    """The recipe as keys of verl's configuration, without those that name files.

    Raises:
        RecipeError: Lists every setting that verl cannot express, with the reason.
    """
    keys: Keys = dict(_FIXED)
    problems: list[str] = []
    for place in sections(recipe):
        table = rules_of(type(place.settings))
        if table is None:
            known = ", ".join(sorted({cls.__name__ for cls in TABLE}))
            problems.append(
                f"{place.section}: verl knows nothing of {type(place.settings).__qualname__}; it "
                f"has words for {known}."
            )
            continue
        for field in fields(place.settings):
            key = ".".join(filter(None, (place.section, field.name)))
            if field.name not in table:
                problems.append(f"{key}: it has no rule in grlo.launchers.verl.expression.")
                continue
            value = getattr(place.settings, field.name)
            try:
                keys |= table[field.name](value, place)
            except Inexpressible as reason:
                problems.append(f"{key}: {value!r} {reason}")
    if problems:
        count = "1 setting" if len(problems) == 1 else f"{len(problems)} settings"
        raise RecipeError("\n  ".join([f"verl cannot express {count} of the recipe:", *problems]))
    return keys | {
        "trainer.nnodes": cluster.nodes,
        "trainer.n_gpus_per_node": cluster.gpus_per_node,
    }


def sections(recipe: Recipe) -> Iterator[Place]:
    """The recipe and all settings in it, a critic's only where there is one."""
    yield Place(recipe, "", recipe)
    yield Place(recipe, "policy", recipe.policy)
    if recipe.policy.lora is not None:
        yield Place(recipe, "policy.lora", recipe.policy.lora)
    for name in ("prompts", "sampling", "training", "optimizer"):
        yield Place(recipe, name, getattr(recipe, name))
    yield Place(recipe, "algorithm", recipe.algorithm)
    yield Place(recipe, "engine", recipe.engine)
    if getattr(recipe.algorithm, "needs_critic", False):
        yield Place(recipe, "critic", recipe.critic)
        yield Place(recipe, "critic.optimizer", recipe.critic.optimizer)
        if recipe.critic.lora is not None:
            yield Place(recipe, "critic.lora", recipe.critic.lora)
    for name in ("budget", "prices", "checkpoint", "shaping", "trackers", "gold", "evaluation"):
        if (settings := getattr(recipe, name)) is not None:
            yield Place(recipe, name, settings)
    yield from _rewards(recipe, "reward", recipe.reward)
    if recipe.gold is not None:
        yield from _rewards(recipe, "gold.reward", recipe.gold.reward)


def rules_of(cls: type) -> Mapping[str, Rule] | None:
    """Rules of a class of settings, those that it inherits included; None for a class without."""
    if cls not in TABLE:
        return None
    return {
        name: rule for base in reversed(cls.__mro__) for name, rule in TABLE.get(base, {}).items()
    }


def _rewards(recipe: Recipe, key: str, reward: object) -> Iterator[Place]:
    """A reward of ours and its parts; one of the user's own runs as it is."""
    if type(reward) in TABLE:
        yield Place(recipe, key, reward)
    for name, part in getattr(reward, "parts", {}).items():
        yield from _rewards(recipe, f"{key}.parts.{name}", part)


# Kinds of rules -----------------------------------------------------------------------------------


def _to(*keys: str) -> Rule:
    """The value under these keys."""
    return lambda value, place: dict.fromkeys(keys, value)


def _by_us(value: object, place: Place) -> Keys:
    """Nothing to tell verl: it is in the data that are written, or done by our own code there."""
    return {}


def _only(*allowed: object, because: str) -> Rule:
    """An error for other values; those allowed are what verl does anyway."""

    def rule(value: object, place: Place) -> Keys:
        if value not in allowed:
            raise Inexpressible(because)
        return {}

    return rule


def _if_critic(place: Place, keys: Keys) -> Keys:
    return keys if getattr(place.recipe.algorithm, "needs_critic", False) else {}


# Single rules -------------------------------------------------------------------------------------


def _seed(value: int, place: Place) -> Keys:
    keys = ["data.seed", f"{_ROLLOUT}.seed", f"{_ACTOR}.data_loader_seed"]
    keys += [f"{_ACTOR}.fsdp_config.seed", "actor_rollout_ref.ref.fsdp_config.seed"]
    of_critic = dict.fromkeys(["critic.data_loader_seed", "critic.fsdp.seed"], value)
    return dict.fromkeys(keys, value) | _if_critic(place, of_critic)


def _template(value: str | None, place: Place) -> Keys:
    return {} if value is None else {f"{_MODEL}.custom_chat_template": TEMPLATES[value].text}


def _param_dtype(value: str, place: Place) -> Keys:
    name = _DTYPES[value]
    keys = {f"{_ACTOR}.fsdp_config.model_dtype": name}
    return keys | _if_critic(place, {"critic.fsdp.model_dtype": name})


def _compute_dtype(value: str, place: Place) -> Keys:
    has_critic = getattr(place.recipe.algorithm, "needs_critic", False)
    flash = place.recipe.policy.attention in ("packed", "flash_attention_2")
    if value == "float32" and (flash or has_critic):
        raise Inexpressible(
            "is a type that FlashAttention 2 does not have, which verl's critic always runs on, "
            "and the policy with this attention. Use 'bfloat16'."
        )
    parts = [f"{_ACTOR}.fsdp_config", "actor_rollout_ref.ref.fsdp_config"]
    parts += _if_critic(place, {"critic.fsdp": None})
    keys: Keys = {f"{_ROLLOUT}.dtype": value}
    for part in parts:
        keys[f"{part}.dtype"] = value
        keys[f"{part}.mixed_precision.param_dtype"] = _DTYPES[value]
        keys[f"{part}.mixed_precision.reduce_dtype"] = "fp32"
        keys[f"{part}.mixed_precision.buffer_dtype"] = "fp32"
    return keys


def _gradient_checkpointing(value: object, place: Place) -> Keys:
    if value == "selective":
        raise Inexpressible("keeps some products; verl keeps all or none. Use true or false.")
    name = "enable_gradient_checkpointing"
    return {f"{_MODEL}.{name}": value} | _if_critic(place, {f"critic.model.{name}": value})


def _attention(value: str, place: Place) -> Keys:
    # Without padding is what verl calls it as well; samples do not share their prompt there.
    packed = value == "packed"
    name = "flash_attention_2" if packed else value
    keys: Keys = {}
    models = [_MODEL, *_if_critic(place, {"critic.model": None})]
    for model in models:
        keys[f"{model}.use_remove_padding"] = packed
        keys[f"{model}.override_config.attn_implementation"] = name
    return keys


def _critic_model(value: str | None, place: Place) -> Keys:
    return {"critic.model.path": value or place.recipe.policy.model}


def _lora(name: str) -> Rule:
    def rule(value: object, place: Place) -> Keys:
        given = list(value) if isinstance(value, tuple) else value
        return {f"{_MODELS[place.section]}.{name}": given}

    return rule


def _optimizer(name: str) -> Rule:
    return lambda value, place: {f"{_OPTIMIZERS[place.section]}.{name}": value}


def _betas(value: tuple[float, float], place: Place) -> Keys:
    return {f"{_OPTIMIZERS[place.section]}.betas": list(value)}


def _eps(value: float, place: Place) -> Keys:
    return {f"{_OPTIMIZERS[place.section]}.override_optimizer_config": {"eps": value}}


def _max_grad_norm(value: float, place: Place) -> Keys:
    return {f"{_OPTIMIZERS[place.section]}.clip_grad": value or UNBOUNDED}


def _schedule(value: str, place: Place) -> Keys:
    optimizer, prefix = cast(OptimizerSettings, place.settings), _OPTIMIZERS[place.section]
    if value == "linear":
        raise Inexpressible("decays linearly; verl has 'constant' and 'cosine'.")
    warms_up_late = place.section == "optimizer" and (
        getattr(place.recipe.algorithm, "critic_warmup_steps", 0) > 0
    )
    if warms_up_late and (value != "constant" or optimizer.warmup_steps):
        raise Inexpressible(
            "with warmup_steps or a decay, and algorithm.critic_warmup_steps: verl's schedule of "
            "the policy stands still while only the critic is trained. Remove one of them."
        )
    # verl's constant schedule with a warm-up begins at 0; its cosine that ends where it began is
    # constant, and begins with 1 as ours does.
    return {
        f"{prefix}.lr_scheduler_type": "cosine",
        f"{prefix}.min_lr_ratio": 1.0 if value == "constant" else optimizer.final_fraction,
        f"{prefix}.lr_warmup_steps": optimizer.warmup_steps,
        f"{prefix}.zero_indexed_step": False,
    }


def _minibatches(value: int, place: Place) -> Keys:
    prompts = place.recipe.sampling.prompts_per_step
    if prompts % value:
        raise Inexpressible(
            f"does not divide sampling.prompts_per_step = {prompts}; verl's mini-batches are of "
            "equal size."
        )
    name = "ppo_mini_batch_size"
    size = prompts // value
    return {f"{_ACTOR}.{name}": size} | _if_critic(place, {f"critic.{name}": size})


def _epochs(value: int, place: Place) -> Keys:
    return {f"{_ACTOR}.ppo_epochs": value} | _if_critic(place, {"critic.ppo_epochs": value})


def _micro_batch_tokens(value: int, place: Place) -> Keys:
    # A micro-batch holds at least one row; its size changes memory and no gradient.
    longest = place.recipe.prompts.max_prompt_tokens + place.recipe.sampling.max_tokens
    size = max(value or TrainingSettings(steps=1).micro_batch_tokens, longest)
    keys = {f"{_ACTOR}.ppo_max_token_len_per_gpu": size}
    of_critic = {
        "critic.ppo_max_token_len_per_gpu": size,
        "critic.ppo_infer_max_token_len_per_gpu": size,
    }
    return keys | _if_critic(place, of_critic)


def _offload(value: tuple[str, ...], place: Place) -> Keys:
    if "reward_model" in value:
        raise Inexpressible(
            "names reward_model, which has GPUs of its own beside verl (--reward-gpus). Remove it."
        )
    keys: Keys = {}
    if "optimizer" in value:
        keys[f"{_ACTOR}.fsdp_config.optimizer_offload"] = True
        keys |= _if_critic(place, {"critic.fsdp.optimizer_offload": True})
    if "reference" in value:
        keys["actor_rollout_ref.ref.fsdp_config.param_offload"] = True
    if "critic" in value:
        keys |= _if_critic(place, {"critic.fsdp.param_offload": True})
    return keys


def _kl(value: float, place: Place) -> Keys:
    algorithm = cast(ClippedPolicy, place.settings)
    in_loss, in_reward = (value > 0 and algorithm.kl_in == part for part in ("loss", "reward"))
    return {
        f"{_ACTOR}.use_kl_loss": in_loss,
        f"{_ACTOR}.kl_loss_coef": value,
        f"{_ACTOR}.kl_loss_type": algorithm.kl_estimator,
        "algorithm.use_kl_in_reward": in_reward,
        "algorithm.kl_penalty": algorithm.kl_estimator,
        "algorithm.kl_ctrl.type": "fixed",
        "algorithm.kl_ctrl.kl_coef": value,
    }


def _reduction(value: str, place: Place) -> Keys:
    keys: Keys = {f"{_ACTOR}.loss_agg_mode": _REDUCTIONS[value]}
    if value == "constant_length":
        keys[f"{_ACTOR}.loss_scale_factor"] = place.recipe.sampling.max_tokens
    return keys


def _dual_clip(value: float, place: Place) -> Keys:
    return {f"{_ACTOR}.clip_ratio_c": value or UNBOUNDED}


def _importance_cap(value: float, place: Place) -> Keys:
    if value == 0:
        return {"algorithm.rollout_correction.rollout_is": None}
    prefix = "algorithm.rollout_correction"
    return {f"{prefix}.rollout_is": "token", f"{prefix}.rollout_is_threshold": value}


def _algorithm(value: str, place: Place) -> Keys:
    """Estimator of the advantages, and loss of the policy."""
    algorithm = place.settings
    if isinstance(algorithm, ReinforcePlusPlus):
        suffix = "_baseline" if algorithm.baseline == "group" else ""
        estimator = f"reinforce_plus_plus{suffix}"
    else:
        estimator = {PPO: "gae", RLOO: "rloo"}.get(type(algorithm), "grpo")
    loss = {GSPO: "gspo", CISPO: "cispo"}.get(type(algorithm), "vanilla")
    return {"algorithm.adv_estimator": estimator, f"{_ACTOR}.policy_loss.loss_mode": loss}


def _value_clip(value: float, place: Place) -> Keys:
    return {"critic.cliprange_value": value or UNBOUNDED}


def _critic_warmup(value: int, place: Place) -> Keys:
    # verl trains the policy from the step of this number on; steps count from 1.
    return {"trainer.critic_warmup": value + 1 if value else 0}


def _engine_name(value: str, place: Place) -> Keys:
    # vLLM draws from the same distribution as our reference engine: nobody chose that one.
    return {f"{_ROLLOUT}.name": "vllm"}


def _engine_dtype(value: str | None, place: Place) -> Keys:
    return {} if value is None else {f"{_ROLLOUT}.dtype": value}


def _gpu_memory(value: float, place: Place) -> Keys:
    # Ours is a share of what the learner leaves free, verl's one of the whole GPU: our default
    # leaves verl its own.
    default = VLLMEngineSettings().gpu_memory_utilization
    return {} if value == default else {f"{_ROLLOUT}.gpu_memory_utilization": value}


def _unless_zero(key: str) -> Rule:
    return lambda value, place: {key: value} if value else {}


def _keep_last(value: int, place: Place) -> Keys:
    # At least two, so that one can be converted while verl writes the next.
    kept = max(2, value)
    keys = {"trainer.max_actor_ckpt_to_keep": kept}
    return keys | _if_critic(place, {"trainer.max_critic_ckpt_to_keep": kept})


def _best_by(value: str, place: Place) -> Keys:
    if value.startswith("eval/"):
        raise Inexpressible("is a score of benchmarks, which verl does not run. Use reward/mean.")
    return {}


def _gold_sources(value: tuple[str, ...], place: Place) -> Keys:
    if not value:
        raise Inexpressible(
            "scores rollouts of training, which verl has no place for. Name held-out prompts."
        )
    return {}


def _gold_samples(value: int, place: Place) -> Keys:
    prefix = f"{_ROLLOUT}.val_kwargs"
    temperature = place.recipe.sampling.temperature
    return {f"{prefix}.n": value, f"{prefix}.do_sample": True, f"{prefix}.temperature": temperature}


def _trackers(value: tuple[str, ...], place: Place) -> Keys:
    return {"trainer.logger": ["console", "file", *value]}


def _unit(value: str, place: Place) -> Keys:
    if value == "spread" and cast(ShapingSettings, place.settings).is_on:
        raise Inexpressible(
            "counts penalties in the running spread of the reward, which needs whole steps in "
            "order; verl asks for one answer at a time. Use 'absolute'."
        )
    return {}


def _opponent(value: str, place: Place) -> Keys:
    if value == "group":
        raise Inexpressible(
            "compares answers to one prompt with each other; verl asks for one answer at a time. "
            "Use 'reference', or mode = 'graded'."
        )
    return {}


_STEPS = "needs the scores of whole steps in order; verl asks for one answer at a time."
_AT_ONCE = f"{_STEPS} Set it to false."

_CLIPPED: Mapping[str, Rule] = {
    "name": _algorithm,
    "clip_low": _to(f"{_ACTOR}.clip_ratio_low"),
    "clip_high": _to(f"{_ACTOR}.clip_ratio_high", f"{_ACTOR}.clip_ratio"),
    "dual_clip": _dual_clip,
    "entropy_coefficient": _to(f"{_ACTOR}.entropy_coeff"),
    "kl_coefficient": _kl,
    "kl_estimator": _by_us,
    "kl_in": _by_us,
    "reduction": _reduction,
    "importance_cap": _importance_cap,
}
_GROUPED: Mapping[str, Rule] = {"scale_by_std": _to("algorithm.norm_adv_by_std_in_grpo")}
_REWARD_MODEL: Mapping[str, Rule] = dict.fromkeys(
    (
        "name",
        "model",
        "revision",
        "template",
        "dtype",
        "max_tokens",
        "tokens_per_batch",
        "compile",
        "strip_thoughts",
    ),
    _by_us,
) | {"standardize": _only(False, because=_AT_ONCE)}

TABLE: Mapping[type, Mapping[str, Rule]] = {
    Recipe: {
        "seed": _seed,
        "evaluation": _only(
            None,
            because="is run during training, which verl does not do. Remove the section, and run "
            "grlo evaluate on the checkpoints.",
        ),
        # Sections, which have rules of their own.
        **dict.fromkeys(
            (
                "policy",
                "prompts",
                "reward",
                "algorithm",
                "training",
                "sampling",
                "engine",
                "optimizer",
                "critic",
                "budget",
                "prices",
                "checkpoint",
                "shaping",
                "gold",
                "trackers",
            ),
            _by_us,
        ),
    },
    ModelSettings: {
        "model": _to(f"{_MODEL}.path"),
        "revision": _only(
            None, because="is one of the hub's; verl loads the newest. Name a folder as the model."
        ),
        "template": _template,
        "param_dtype": _param_dtype,
        "compute_dtype": _compute_dtype,
        "gradient_checkpointing": _gradient_checkpointing,
        "attention": _attention,
        "compile": _only(False, because="is of our learner; verl has its own. Leave it out."),
        "lora": _by_us,
    },
    LoraSettings: {
        "rank": _lora("lora_rank"),
        "alpha": _lora("lora_alpha"),
        "dropout": _only(0.0, because="is dropout, which verl's adapters do not have. Use 0."),
        "target_modules": _lora("target_modules"),
    },
    PromptSettings: {
        "max_prompt_tokens": _to("data.max_prompt_length"),
        **dict.fromkeys(("sources", "overlong", "limit", "default_style", "suffixes"), _by_us),
    },
    SamplingSettings: {
        "prompts_per_step": _to("data.train_batch_size"),
        "samples_per_prompt": _to(f"{_ROLLOUT}.n"),
        "max_tokens": _to("data.max_response_length"),
        "temperature": _to(f"{_ROLLOUT}.temperature"),
        "max_draws": _only(
            1,
            because="bounds the draws of a step; verl draws until it has enough groups. Use 1, "
            "after grlo pass-rate has left out what is always right or wrong.",
        ),
    },
    OptimizerSettings: {
        "learning_rate": _optimizer("lr"),
        "name": _only("adamw", because="is not tried with verl's shards. Use adamw."),
        "betas": _betas,
        "eps": _eps,
        "weight_decay": _optimizer("weight_decay"),
        "max_grad_norm": _max_grad_norm,
        "schedule": _schedule,
        "warmup_steps": _by_us,
        "decay_start": _only(0.0, because="starts a decay later; verl's starts after the warm-up."),
        "final_fraction": _by_us,
    },
    CriticSettings: {
        "model": _critic_model,
        "lora": _by_us,
        "share_trunk": _only(
            False, because="is a head on the policy; verl's critic is a second model. Use false."
        ),
        "value_coefficient": _by_us,
        "detach": _by_us,
        "optimizer": _by_us,
    },
    TrainingSettings: {
        "steps": _to("trainer.total_training_steps"),
        "num_minibatches": _minibatches,
        "num_epochs": _epochs,
        "micro_batch_tokens": _micro_batch_tokens,
        "offload": _offload,
        "device": _only(
            "auto", "cuda", because="is no GPU; verl draws by vLLM on GPUs. Use grlo train."
        ),
        "num_threads": _only(0, because="are threads of torch, which verl leaves to it. Use 0."),
        "sharding": _only(
            "auto", "fsdp", because="keeps whole copies; verl shards its models by FSDP."
        ),
        "overlap": _only(
            False, because="draws one step ahead, which verl's synchronous trainer does not."
        ),
    },
    BudgetSettings: dict.fromkeys(
        ("device_hours", "generated_tokens", "trained_tokens", "flops", "prompts"),
        _only(0.0, because="ends a run early; verl runs all steps. Lower training.steps."),
    ),
    PriceSettings: {"device_hour": _by_us, "currency": _by_us},
    CheckpointSettings: {
        "every": _to("trainer.save_freq"),
        "keep_last": _keep_last,
        "keep_best": _by_us,
        "best_by": _best_by,
    },
    TrackerSettings: {"names": _trackers, "project": _to("trainer.project_name")},
    ShapingSettings: {
        "clip": _only(0.0, because=f"{_STEPS} Use 0."),
        "standardize": _only(False, because=_AT_ONCE),
        "unit": _unit,
        **dict.fromkeys(
            (
                "overlong_buffer",
                "overlong_penalty",
                "missing_end_penalty",
                "repetition_penalty",
                "repetition_ngram",
                "repetition_threshold",
                "length_difference_penalty",
                "length_difference_cap",
            ),
            _by_us,
        ),
    },
    GoldSettings: {
        "reward": _by_us,
        "every": _to("trainer.test_freq"),
        "sources": _gold_sources,
        "num_prompts": _by_us,
        "samples_per_prompt": _gold_samples,
        "stop_after": _only(0, because="ends a run early; verl runs all steps. Use 0."),
        "stop_margin": _by_us,
    },
    # Named by Recipe.evaluation, which is an error as a whole.
    EvaluationSettings: dict.fromkeys(
        (
            "suite",
            "benchmarks",
            "every",
            "rows",
            "limit",
            "max_tokens",
            "num_samples",
            "data",
            "judge",
        ),
        _by_us,
    ),
    PPO: {
        **_CLIPPED,
        "gamma": _to("algorithm.gamma"),
        "gae_lambda": _to("algorithm.lam"),
        "whiten_advantages": _only(
            True, because="leaves advantages as they are; verl whitens them always. Use true."
        ),
        "value_clip": _value_clip,
        "value_clip_unit": _only(
            "raw", because="is the running spread; verl clips in units of the score. Use 'raw'."
        ),
        "critic_warmup_steps": _critic_warmup,
    },
    GRPO: {**_CLIPPED, **_GROUPED},
    DAPO: {},
    GSPO: {
        "dual_clip": _only(0.0, because="bounds ratios; verl's GSPO has no such bound. Use 0."),
    },
    CISPO: {"dual_clip": _by_us},
    RLOO: {**_CLIPPED},
    ReinforcePlusPlus: {**_CLIPPED, "baseline": _by_us, "gamma": _to("algorithm.gamma")},
    HFEngineSettings: {
        "name": _engine_name,
        "dtype": _engine_dtype,
        **{
            name: _only(
                getattr(HFEngineSettings(), name),
                because="is of the engine 'hf'; verl draws by vLLM. Take engine.name = 'vllm'.",
            )
            for name in ("max_rows", "prefill_tokens", "device", "cuda_graphs")
        },
    },
    VLLMEngineSettings: {
        "name": _engine_name,
        "dtype": _engine_dtype,
        "tensor_parallel": _to(f"{_ROLLOUT}.tensor_model_parallel_size"),
        "gpu_memory_utilization": _gpu_memory,
        "cache_gib": _only(
            0.0, because="is a size of the cache; verl has gpu_memory_utilization alone."
        ),
        "max_model_len": _unless_zero(f"{_ROLLOUT}.max_model_len"),
        "max_rows": _unless_zero(f"{_ROLLOUT}.max_num_seqs"),
        "enforce_eager": _to(f"{_ROLLOUT}.enforce_eager"),
        "enable_sleep_mode": _to(f"{_ROLLOUT}.free_cache_engine"),
    },
    RewardModelSettings: _REWARD_MODEL,
    VerifiedSettings: dict.fromkeys(
        ("verifier", "name", "right", "wrong", "unparsed", "styles"), _by_us
    ),
    JudgeSettings: {
        "opponent": _opponent,
        **dict.fromkeys(
            (
                "endpoint",
                "name",
                "mode",
                "scale",
                "num_opponents",
                "asks_strength",
                "instructions",
                "max_answer_chars",
                "strip_thoughts",
                "styles",
            ),
            _by_us,
        ),
    },
    MixtureSettings: dict.fromkeys(("name", "parts", "routes"), _by_us),
    ShuffledRewardSettings: {
        "name": _only(
            None,
            because="deals out the scores of a step among its answers; verl asks for one "
            "answer at a time. Train this control with grlo train.",
        ),
    },
    RandomRewardSettings: {
        "name": _only(
            None,
            because="draws by the number of a call, of which verl makes another with every "
            "run. Train this control with grlo train.",
        ),
        "distribution": _by_us,
        "styles": _by_us,
    },
}
"""Class of settings -> field -> rule; those of a base class hold for what inherits from it."""

_FIXED: Keys = {
    # The data hold every step's prompts in order; see `exporting`.
    "data.shuffle": False,
    "data.filter_overlong_prompts": False,
    "data.truncation": "error",
    "trainer.total_epochs": 1,
    "trainer.resume_mode": "auto",
    "trainer.val_before_train": False,
    "trainer.test_freq": -1,
    "trainer.device": "cuda",
    "trainer.use_v1": True,
    "trainer.v1.trainer_mode": "sync",
    f"{_ACTOR}.strategy": "fsdp2",
    "critic.strategy": "fsdp2",
    f"{_ACTOR}.use_dynamic_bsz": True,
    f"{_ACTOR}.shuffle": False,
    "critic.shuffle": False,
    # The whole distribution is sampled: see `SamplingSettings`.
    f"{_ROLLOUT}.top_p": 1.0,
    f"{_ROLLOUT}.top_k": -1,
    f"{_ROLLOUT}.tensor_model_parallel_size": 1,
    f"{_ROLLOUT}.calculate_log_probs": True,
    f"{_ROLLOUT}.mode": "async",
    "reward.reward_model.enable": False,
}
"""What holds for every recipe."""
