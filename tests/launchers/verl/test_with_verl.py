"""Against verl itself: its configuration, its loader, its reward loop, its numbers.

`make test-verl` makes an environment with verl and runs these; elsewhere they are skipped.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("verl", reason="verl is not installed: make test-verl")
pytest.importorskip("ray")

import ray
from hydra import compose, initialize_config_dir, initialize_config_module
from omegaconf import DictConfig, OmegaConf

import verl_shards
from grlo.algorithms import advantages, losses
from grlo.batch import loss_weights
from grlo.launchers.verl.converting import convert
from grlo.launchers.verl.exporting import arguments, configuration, write_export
from grlo.launchers.verl.expression import Cluster
from grlo.launchers.verl.folder import VerlFolder
from grlo.launchers.verl.process import require_verl
from grlo.launchers.verl.rows import prompt_of
from grlo.launchers.verl.scoring import Scorer, read_answers
from grlo.recipe import ASSETS, load_recipe
from grlo.rundir import flatten
from grlo.settings import OptimizerSettings
from grlo.training.learner import learning_rate
from verl_parts import answers_of_step, export, renderer_of, write_recipe

pytestmark = pytest.mark.timeout(600)
RECIPES = Path(__file__).parents[3] / "recipes"


def composed(folder: VerlFolder) -> DictConfig:
    """The configuration that Hydra makes of an export within verl's tree."""
    overrides = [word for word in arguments(folder, attempt="1")[2:] if not word.startswith("--")]
    with initialize_config_dir(str(folder.path), version_base=None):
        return compose("grlo", ["hydra.searchpath=[pkg://verl.trainer.config]", *overrides])


def composed_by_main(folder: VerlFolder) -> DictConfig:
    """The configuration that `main_ppo` makes of the very arguments that start it."""
    command = [sys.executable, *arguments(folder, attempt="1"), "--cfg", "job"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.path)
    assert done.returncode == 0, done.stderr[-3000:]
    config = OmegaConf.create(done.stdout)
    assert isinstance(config, DictConfig)
    return config


def validated(config: DictConfig) -> DictConfig:
    """As `main_ppo` does it."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    validate_config(
        config,
        use_reference_policy=need_reference_policy(config),
        use_critic=need_critic(config),
    )
    return config


def published(tmp_path: Path) -> VerlFolder:
    """The export of the paper's recipe; its model is not here, so prompts are not measured."""
    recipe = load_recipe(
        [RECIPES / "grlo-qwen3-4b.toml"], overrides=['prompts.sources=["prompts.jsonl"]']
    )
    answers = answers_of_step(write_recipe(tmp_path), 1)
    prompts = [prompt_of(answer.extra_info) for answer in answers]
    folder = VerlFolder(tmp_path / "published")
    folder.path.mkdir()
    write_export(
        folder,
        recipe,
        prompts=prompts,
        gold_prompts=[],
        cluster=Cluster(gpus_per_node=4),
        record={"recipe": {}},
        into=folder,
    )
    return folder


def test_the_version_that_is_installed_is_supported():
    require_verl()


def test_verls_hydra_tree_composes_with_the_published_settings_and_validates(tmp_path):
    config = composed_by_main(published(tmp_path))
    actor = config.actor_rollout_ref.actor
    assert config.algorithm.adv_estimator == "gae"
    assert (config.algorithm.gamma, config.algorithm.lam) == (1.0, 1.0)
    assert config.data.train_batch_size == 1024
    assert (config.data.max_prompt_length, config.data.max_response_length) == (1024, 3072)
    assert config.actor_rollout_ref.rollout.n == 1
    assert config.actor_rollout_ref.rollout.name == "vllm"
    assert actor.ppo_mini_batch_size == config.critic.ppo_mini_batch_size == 256
    assert actor.ppo_epochs == config.critic.ppo_epochs == 1
    assert (actor.optim.lr, config.critic.optim.lr) == (1e-6, 1e-5)
    assert list(actor.optim.betas) == [0.9, 0.999]
    assert (actor.optim.weight_decay, actor.optim.clip_grad) == (0.01, 1.0)
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.clip_ratio_c) == (0.2, 0.2, 3.0)
    assert config.critic.cliprange_value == 0.5
    assert not actor.use_kl_loss
    assert not config.algorithm.use_kl_in_reward
    assert (actor.entropy_coeff, actor.loss_agg_mode) == (0.0, "token-mean")
    assert (config.trainer.critic_warmup, config.trainer.total_training_steps) == (0, 60)
    assert config.reward.reward_kwargs.attempt == 1
    config.actor_rollout_ref.model.path = config.critic.model.path = str(ASSETS / "base")
    validated(config)


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.name=grpo", "critic=none", "algorithm.kl_coefficient=0.01"],
        ["algorithm.kl_coefficient=0.01", 'algorithm.kl_in="reward"', "critic.lora.rank=8"],
        ["algorithm.name=gspo", "critic=none", "algorithm.importance_cap=2.0"],
        ["algorithm.name=cispo", "critic=none", 'trackers.names=["tensorboard"]'],
        ["algorithm.name=rloo", "critic=none", "engine.name=vllm"],
        ["algorithm.name=reinforce_pp", "critic=none", 'policy.attention="sdpa"'],
    ],
    ids=["grpo", "kl-lora", "gspo", "cispo", "rloo", "reinforce_pp"],
)
def test_other_algorithms_compose_and_validate(tmp_path, overrides):
    config = validated(composed(export(tmp_path, *overrides)))
    assert config.trainer.n_gpus_per_node == 2
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn

    get_adv_estimator_fn(config.algorithm.adv_estimator)
    get_policy_loss_fn(config.actor_rollout_ref.actor.policy_loss.loss_mode)


def test_adapters_of_the_policy_are_told_to_verl(tmp_path):
    # verl's own check of a rank asks vLLM, which is not in this environment.
    config = composed(export(tmp_path, "policy.lora.rank=8", "policy.lora.alpha=16"))
    model = config.actor_rollout_ref.model
    assert (model.lora_rank, model.lora_alpha, model.target_modules) == (8, 16, "all-linear")


ADDED = (
    "reward.reward_kwargs",  # Read by `verl.experimental.reward_loop` without a default.
    "actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision",
    "critic.fsdp.mixed_precision",
    "actor_rollout_ref.model.override_config",
    "critic.model.override_config",
    "actor_rollout_ref.actor.optim.override_optimizer_config",
    "critic.optim.override_optimizer_config",
    "critic.ppo_infer_max_token_len_per_gpu",
)
"""Keys that verl reads and its tree has no value for."""


@pytest.mark.parametrize(
    "overrides",
    [
        ["policy.lora.rank=8", "critic.lora.rank=8", "algorithm.importance_cap=2.0"],
        ["engine.name=vllm", "engine.max_rows=8", 'algorithm.reduction="constant_length"'],
        ['training.offload=["optimizer", "reference", "critic"]', 'policy.template="chatml"'],
    ],
    ids=["lora", "engine", "offload"],
)
def test_every_key_that_is_written_is_one_that_verl_has(tmp_path, overrides):
    # Hydra takes an unknown key of a file without a word.
    folder = VerlFolder(tmp_path / "x")
    written = OmegaConf.create(configuration(folder, write_recipe(tmp_path, *overrides), Cluster()))
    with initialize_config_module("verl.trainer.config", version_base=None):
        known = compose("ppo_trainer")
    keys = [key for key, _ in flatten(OmegaConf.to_container(written))]
    unknown = [
        key
        for key in keys
        if not any(key.startswith(added) for added in ADDED) and not _has(known, key)
    ]
    assert len(keys) > 80
    assert unknown == []


def _has(config: Any, dotted: str) -> bool:
    for part in dotted.split("."):
        if not OmegaConf.is_dict(config) or part not in OmegaConf.to_container(config):
            return False
        config = config._get_node(part)
    return True


def test_verls_own_data_set_reads_the_rows_in_our_order(tmp_path):
    from torchdata.stateful_dataloader import StatefulDataLoader
    from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler
    from verl.utils import hf_tokenizer
    from verl.utils.dataset.rl_dataset import collate_fn

    folder = export(tmp_path)
    data = composed(folder).data
    tokenizer = hf_tokenizer(str(ASSETS / "base"))
    dataset = create_rl_dataset(data.train_files, data, tokenizer, None, is_train=True)
    assert len(dataset) == 20
    loader = StatefulDataLoader(
        dataset=dataset,
        batch_size=data.train_batch_size,
        drop_last=True,
        collate_fn=collate_fn,
        sampler=create_rl_sampler(data, dataset),
    )
    recipe = folder.recipe()
    for step, batch in enumerate(loader, start=1):
        expected = [a for a in answers_of_step(recipe, step) if a.sample == 0]
        prompts = [prompt_of(extra_info) for extra_info in batch["extra_info"]]
        assert prompts == [prompt_of(answer.extra_info) for answer in expected]
        written = [[message["content"] for message in one] for one in batch["raw_prompt"]]
        assert written == [[m.content for m in prompt.messages] for prompt in prompts]
    assert step == 5


# The reward loop ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _one_ray() -> Iterator[None]:
    ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def _ray(_one_ray) -> None:
    """Ray without the reward actors of another test, which are found by name."""
    for name in ray.util.list_named_actors():
        if name.startswith("grlo_reward"):
            ray.kill(ray.get_actor(name))


def as_verl_has_it(answers) -> Any:
    """Answers as the batch that verl's agent loop hands to its reward loop, one row each."""
    import numpy as np
    from tensordict import TensorDict
    from verl import DataProto

    width = {
        name: max(len(getattr(a, name)) for a in answers) for name in ("prompt_tokens", "tokens")
    }
    prompts = torch.zeros(len(answers), width["prompt_tokens"], dtype=torch.long)
    responses = torch.full((len(answers), width["tokens"]), 7)  # Junk behind the answers.
    mask = torch.zeros(len(answers), width["prompt_tokens"] + width["tokens"], dtype=torch.long)
    for row, answer in enumerate(answers):
        prompts[row, width["prompt_tokens"] - len(answer.prompt_tokens) :] = torch.tensor(
            answer.prompt_tokens
        )
        responses[row, : len(answer.tokens)] = torch.tensor(answer.tokens, dtype=torch.long)
        start = width["prompt_tokens"] - len(answer.prompt_tokens)
        mask[row, start : width["prompt_tokens"] + len(answer.tokens)] = 1
    batch = {"prompts": prompts, "responses": responses, "attention_mask": mask}
    infos = np.empty(len(answers), dtype=object)
    infos[:] = [dict(answer.extra_info) for answer in answers]
    return DataProto(
        batch=TensorDict(batch, batch_size=len(answers)),
        non_tensor_batch={
            "extra_info": infos,
            "session_id": np.array([answer.sample for answer in answers]),
            "global_steps": np.array([answer.step for answer in answers]),
        },
    )


@pytest.mark.usefixtures("_ray")
def test_verls_reward_loop_gives_the_values_of_our_reward_for_every_style(tmp_path):
    from verl.experimental.reward_loop import RewardLoopManager

    folder = export(tmp_path)
    config = composed(folder)
    config.reward.num_workers = 1
    answers = [a for step in (1, 2, 3) for a in answers_of_step(folder.recipe(), step)]
    manager = RewardLoopManager(config)
    scored = manager.compute_rm_score(as_verl_has_it(answers)).batch["rm_scores"]
    ours = Scorer(folder, attempt=9, actor=0, device="cpu").score(answers)
    styles = {prompt_of(answer.extra_info).style for answer in answers}
    assert styles == {"model", "rule", "both"}
    for answer, row, score in zip(answers, scored, ours, strict=True):
        assert score.value == pytest.approx(row.sum().item(), abs=1e-5)
        assert row.nonzero().flatten().tolist() in ([], [len(answer.tokens) - 1])
    rollouts = read_answers(folder, attempt=1, step=1, split="rollouts").rollouts
    assert [r.completion.tokens for r in rollouts] == [a.tokens for a in answers[:8]]


@pytest.mark.usefixtures("_ray")
def test_an_answer_without_a_score_fails_in_verls_reward_loop_and_is_no_zero(tmp_path):
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    folder = export(
        tmp_path,
        "reward.name=verified",
        "reward.verifier=math",
        'reward.styles=["model", "rule", "both"]',
    )
    config = composed(folder)
    answers = answers_of_step(folder.recipe(), 1)
    unscored = next(a for a in answers if prompt_of(a.extra_info).style == "model")
    scored = next(a for a in answers if prompt_of(a.extra_info).style == "rule")

    async def ask() -> tuple[Any, Any]:
        worker = RewardLoopWorker(config)
        good = await worker.compute_score(as_verl_has_it([scored]))
        with pytest.raises(Exception, match="unscored, so left out"):
            await worker.compute_score(as_verl_has_it([unscored]))
        return good

    assert "reward_score" in asyncio.run(ask())
    read = read_answers(folder, attempt=1, step=1, split="rollouts").scores
    assert sorted(score.value is None for score in read) == [False, True]


@pytest.mark.usefixtures("_ray")
def test_verls_trainer_draws_scores_and_samples_a_step_without_its_unscored_answers(tmp_path):
    """Everything of a step of verl before the models: its trainer's loader, queue, agent-loop and
    reward workers, and replay buffer; only the server of vLLM is a stand-in."""
    import transfer_queue as tq
    from verl.experimental.reward_loop import RewardLoopManager
    from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
    from verl.trainer.ppo.v1 import AgentLoopManagerTQ, get_trainer_cls
    from verl.utils import hf_tokenizer

    folder = export(
        tmp_path,
        "reward.name=verified",
        "reward.verifier=math",
        # Those of the style `model` have no reference, so there is no verdict.
        'reward.styles=["model", "rule", "both"]',
    )
    recipe, config = folder.recipe(), composed(folder)
    config.reward.num_workers = config.actor_rollout_ref.rollout.agent.num_workers = 1
    config.transfer_queue.backend.SimpleStorage.num_data_storage_units = 1
    config.transfer_queue.enable = True
    config.data.dataloader_num_workers = 0
    drawn = list(renderer_of(recipe).encode_answer("17"))

    class Server:
        async def generate(self, **request: Any) -> Any:
            from verl.workers.rollout.replica import TokenOutput

            steps = {"min_global_steps": 0, "max_global_steps": 0}
            return TokenOutput(token_ids=drawn, log_probs=[-0.5] * len(drawn), extra_fields=steps)

    tq.init(config.transfer_queue)
    try:
        cls = get_trainer_cls(config.trainer.v1.trainer_mode)
        trainer = object.__new__(cls)  # Its models would need GPUs.
        trainer.config, trainer.trainer_mode = config, "sync"
        trainer.global_steps = trainer.parameter_sync_step = 1
        trainer.tokenizer, trainer.processor = hf_tokenizer(str(ASSETS / "base")), None
        trainer._init_dataloader()
        trainer.replay_buffer = trainer._build_replay_buffer()
        rewards = RewardLoopManager(config)
        trainer.agent_loop_manager = AgentLoopManagerTQ.create(
            config=config,
            llm_client=Server(),
            reward_loop_worker_handles=rewards.reward_loop_worker_handles,
        )
        trainer._add_batch_to_generate()
        batch, _ = trainer.replay_buffer.sample(
            global_steps=1, partition_id="train", batch_size=config.data.train_batch_size
        )
        expected = answers_of_step(recipe, 1)
        scored = [a for a in expected if prompt_of(a.extra_info).style != "model"]
        assert 0 < len(batch.keys) == len(scored) < len(expected)
        data = tq.kv_batch_get(
            keys=batch.keys,
            partition_id="train",
            select_fields=["rm_scores", "responses", "response_mask", "extra_info"],
        )
        assert sorted(info["index"] for info in data["extra_info"]) == sorted(
            answer.extra_info["index"] for answer in scored
        )
        for info, scores, tokens in zip(
            data["extra_info"], data["rm_scores"], data["responses"], strict=True
        ):
            assert tokens.tolist() == drawn
            assert scores.sum().item() == (prompt_of(info).reference == "17")
            assert scores[:-1].abs().sum() == 0
        # What verl fills the step up with has no token that counts.
        whole = upsample_batch_to_divisible_size(batch, len(expected), 0)
        fill = [key for key in whole.keys if key not in batch.keys]
        assert len(fill) == len(expected) - len(scored)
        filled = tq.kv_batch_get(keys=fill, partition_id="train", select_fields=["response_mask"])
        assert sum(mask.sum().item() for mask in filled["response_mask"]) == 0
    finally:
        tq.close()
    found = read_answers(folder, attempt=1, step=1, split="rollouts")
    assert len(found.scores) == len(expected)
    assert sum(score.value is None for score in found.scores) == len(expected) - len(scored)


def test_verls_agent_loop_draws_with_our_tokens_and_stops(tmp_path):
    import hydra
    from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
    from verl.utils import hf_tokenizer
    from verl.workers.rollout.replica import TokenOutput

    folder = export(tmp_path)
    recipe, config = folder.recipe(), composed(folder)
    OmegaConf.resolve(config)
    asked: dict[str, Any] = {}

    class Server:
        async def generate(self, **request: Any) -> TokenOutput:
            asked.update(request)
            return TokenOutput(token_ids=list(range(5, 105)), log_probs=[-0.5] * 100)

    loop = hydra.utils.instantiate(
        config=OmegaConf.load(folder.agent_loop_file)[0],
        trainer_config=DictConfigWrap(config=config),
        server_manager=Server(),
        tokenizer=hf_tokenizer(str(ASSETS / "base")),
        processor=None,
        hf_model_type="qwen3",
        dataset_cls=object,
        data_config=DictConfigWrap(config.data),
        tools=ToolListWrap([]),
    )
    tricky = next(a for a in answers_of_step(recipe, 1) if prompt_of(a.extra_info).style == "both")
    row = {"extra_info": tricky.extra_info, "uid": "u", "session_id": 1, "raw_prompt": []}
    output = asyncio.run(loop.run({"temperature": 1.0, "logprobs": True}, **row))
    renderer = renderer_of(recipe)
    expected = renderer.encode(prompt_of(tricky.extra_info).messages)
    assert output.prompt_ids == asked["prompt_ids"] == list(expected)
    assert asked["sampling_params"]["stop_token_ids"] == list(renderer.stop_ids)
    assert asked["sampling_params"]["temperature"] == 1.0
    assert output.response_ids == list(range(5, 65))  # The limit of the recipe.
    assert len(output.response_logprobs) == len(output.response_mask) == 60
    fields = output.as_dict()
    assert fields["responses"].tolist() == output.response_ids


# Checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["whole", "lora"])
def test_shards_of_two_processes_become_one_hugging_face_model(tmp_path, free_port, kind):
    from transformers import AutoModelForCausalLM

    actor = tmp_path / "actor"
    actor.mkdir()
    script = Path(verl_shards.__file__)
    command = [sys.executable, script, "RANK", str(free_port), actor, kind]
    writers = [subprocess.Popen([*command[:2], str(rank), *command[3:]]) for rank in (0, 1)]
    assert [writer.wait(300) for writer in writers] == [0, 0]
    convert(actor, out=tmp_path / "model", renderer=renderer_of(write_recipe(tmp_path)))
    base = AutoModelForCausalLM.from_pretrained(ASSETS / "base", dtype=torch.float32)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    expected = dict(base.named_parameters())
    # B A alpha / r of adapters filled with one number is that of every weight.
    per_weight = verl_shards.RANK * verl_shards.FILL**2 * verl_shards.ALPHA / verl_shards.RANK
    for name, parameter in found.named_parameters():
        shift = verl_shards.SHIFT if kind == "whole" else per_weight * ("q_proj" in name)
        # The merger rounds to bfloat16, and adapters are merged in that.
        torch.testing.assert_close(parameter, expected[name] + shift, rtol=2**-7, atol=1e-4)
    assert not (tmp_path / "model" / "lora_adapter").exists()


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


# Numbers ------------------------------------------------------------------------------------------


@pytest.fixture
def rows() -> SimpleNamespace:
    """Six rows of two prompts with junk outside of the mask."""
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 3, 7, 1, 6, 4]
    mask = torch.tensor([[t < n for t in range(7)] for n in lengths])

    def noise(scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(6, 7, generator=generator)

    return SimpleNamespace(
        mask_BT=mask,
        scores_B=torch.tensor([1.0, -0.5, 2.0, 0.25, 0.0, 3.0]),
        groups_B=torch.tensor([0, 0, 0, 1, 1, 1]),
        values_BT=torch.where(mask, noise(), 1e3),
        old_BT=torch.where(mask, noise(0.5) - 2, 50.0),
        new_BT=torch.where(mask, noise(0.5) - 2, -50.0),
        reference_BT=torch.where(mask, noise(0.5) - 2, 5.0),
        advantages_BT=torch.where(mask, noise(), 99.0),
        returns_BT=torch.where(mask, noise(), 99.0),
    )


def inside(values_BT: torch.Tensor, rows: SimpleNamespace) -> torch.Tensor:
    return values_BT[rows.mask_BT]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (0.9, 0.8)])
def test_gae_and_whitening_are_verls(rows, gamma, gae_lambda):
    from verl.trainer.ppo.core_algos import compute_gae_advantage_return

    rewards_BT = advantages.last_token_rewards(rows.scores_B, rows.mask_BT)
    found, returns = advantages.generalized_advantages(
        rewards_BT, rows.values_BT, rows.mask_BT, gamma=gamma, gae_lambda=gae_lambda
    )
    mask = rows.mask_BT.float()
    theirs, their_returns = compute_gae_advantage_return(
        rewards_BT, rows.values_BT * mask, mask, gamma, gae_lambda
    )
    torch.testing.assert_close(
        inside(advantages.whiten(found, rows.mask_BT), rows), inside(theirs, rows)
    )
    torch.testing.assert_close(inside(returns, rows), inside(their_returns, rows))


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_group"])
def test_advantages_without_a_critic_are_verls(rows, name):
    from verl.trainer.ppo import core_algos

    rewards_BT = advantages.last_token_rewards(rows.scores_B, rows.mask_BT)
    index, mask = rows.groups_B.numpy(), rows.mask_BT.float()
    config = SimpleNamespace(gamma=0.9)
    deviations = advantages.group_advantages(rows.scores_B, rows.groups_B, scale_by_std=False)
    ours_B, theirs = {
        "grpo": lambda: (
            advantages.group_advantages(rows.scores_B, rows.groups_B, scale_by_std=True),
            core_algos.compute_grpo_outcome_advantage(rewards_BT, mask, index),
        ),
        "dr_grpo": lambda: (
            deviations,
            core_algos.compute_grpo_outcome_advantage(
                rewards_BT, mask, index, norm_adv_by_std_in_grpo=False
            ),
        ),
        "rloo": lambda: (
            advantages.leave_one_out_advantages(rows.scores_B, rows.groups_B),
            core_algos.compute_rloo_outcome_advantage(rewards_BT, mask, index),
        ),
        "reinforce_pp": lambda: (
            advantages.whiten(
                advantages.returns_to_go(rewards_BT, rows.mask_BT, gamma=0.9), rows.mask_BT
            ),
            core_algos.compute_reinforce_plus_plus_outcome_advantage(
                rewards_BT, mask, config=config
            ),
        ),
        "reinforce_pp_group": lambda: (
            advantages.whiten(deviations[:, None] * rows.mask_BT, rows.mask_BT),
            core_algos.compute_reinforce_plus_plus_baseline_outcome_advantage(
                rewards_BT, mask, index
            ),
        ),
    }[name]()
    ours_BT = ours_B if ours_B.dim() == 2 else ours_B[:, None] * rows.mask_BT
    torch.testing.assert_close(inside(ours_BT, rows), inside(theirs[0], rows))


def _actor_config(**settings: Any) -> Any:
    from verl.workers.config import FSDPActorConfig

    return FSDPActorConfig(
        strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True, ppo_mini_batch_size=1, **settings
    )


@pytest.mark.parametrize(
    ("reduction", "mode"),
    [
        ("token_mean", "token-mean"),
        ("sequence_mean_token_mean", "seq-mean-token-mean"),
        ("sequence_mean_token_sum", "seq-mean-token-sum"),
        ("constant_length", "seq-mean-token-sum-norm"),
    ],
)
@pytest.mark.parametrize("loss", ["vanilla", "vanilla-unbounded", "gspo", "cispo"])
def test_losses_and_their_gradients_are_verls(rows, reduction, mode, loss):
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    bound = 1e9 if "unbounded" in loss else 3.0
    config = _actor_config(clip_ratio_low=0.2, clip_ratio_high=0.3, clip_ratio_c=bound)
    if mode == "seq-mean-token-sum-norm":
        config.global_batch_info["loss_scale_factor"] = 11
    weights_BT = loss_weights(rows.mask_BT, reduction=reduction, horizon=11)
    clips: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.3}
    advantages_BT = rows.advantages_BT
    if loss == "gspo":  # One ratio for a response belongs to one advantage for it.
        advantages_BT = torch.where(rows.mask_BT, rows.scores_B[:, None] - 1, 99.0)

    ours_new = rows.new_BT.clone().requires_grad_()
    if loss == "gspo":
        ratio = losses.sequence_ratio(ours_new, rows.old_BT, rows.mask_BT).expand(6, 7)
    else:
        ratio = losses.importance_ratio(ours_new, rows.old_BT)
    if loss == "cispo":
        loss_BT = losses.clipped_weight_loss(ours_new, ratio, advantages_BT, **clips)
    else:
        dual = 3.0 if loss == "vanilla" else 0.0
        loss_BT = losses.clipped_policy_loss(ratio, advantages_BT, dual_clip=dual, **clips)
    ours = (torch.where(rows.mask_BT, loss_BT, 0.0) * weights_BT).sum()
    ours.backward()

    their_new = rows.new_BT.clone().requires_grad_()
    theirs, _ = get_policy_loss_fn(loss.removesuffix("-unbounded"))(
        old_log_prob=rows.old_BT,
        log_prob=their_new,
        advantages=torch.where(rows.mask_BT, advantages_BT, 0.0),
        response_mask=rows.mask_BT,
        loss_agg_mode=mode,
        config=config,
    )
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    assert ours_new.grad is not None
    assert their_new.grad is not None
    if loss == "gspo" and reduction != "sequence_mean_token_mean":
        return  # Both have the paper's gradient only where every response has one weight.
    torch.testing.assert_close(inside(ours_new.grad, rows), inside(their_new.grad, rows))


@pytest.mark.parametrize(("clip", "theirs"), [(0.5, 0.5), (0.0, 1e9)])
def test_the_loss_of_the_critic_is_verls(rows, clip, theirs):
    from verl.trainer.ppo.core_algos import compute_value_loss

    new_BT = rows.values_BT + torch.where(rows.mask_BT, rows.returns_BT, 0.0)
    loss_BT = losses.clipped_value_loss(new_BT, rows.values_BT, rows.returns_BT, clip=clip)
    ours = inside(loss_BT, rows).mean()
    found, _ = compute_value_loss(
        new_BT, rows.returns_BT, rows.values_BT, rows.mask_BT, cliprange_value=theirs
    )
    torch.testing.assert_close(ours, found)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_estimates_of_the_kl_divergence_are_verls(rows, estimator):
    from verl.trainer.ppo.core_algos import kl_penalty

    ours = losses.kl_estimate(rows.new_BT, rows.reference_BT, estimator=estimator)
    theirs = kl_penalty(rows.new_BT, rows.reference_BT, estimator)
    torch.testing.assert_close(inside(ours, rows), inside(theirs, rows))


def test_truncated_importance_weights_are_verls(rows):
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights

    ours, _ = losses.truncated_importance_weight(rows.old_BT, rows.new_BT, cap=2.0)
    theirs, _ = compute_rollout_correction_weights(
        rows.old_BT - rows.new_BT, rows.mask_BT.float(), rollout_is_threshold=2.0
    )
    torch.testing.assert_close(inside(ours, rows), inside(theirs, rows))
    assert (inside(theirs, rows) == 2.0).any()


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerSettings(learning_rate=0.5),
        OptimizerSettings(learning_rate=0.5, warmup_steps=4),
        OptimizerSettings(learning_rate=0.5, schedule="cosine"),
        OptimizerSettings(learning_rate=0.5, schedule="cosine", warmup_steps=3, final_fraction=0.1),
    ],
    ids=["constant", "warm-up", "cosine", "all"],
)
def test_learning_rates_are_those_of_grlo_train_at_every_step(tmp_path, optimizer):
    from verl.utils.torch_functional import get_cosine_schedule_with_warmup

    from grlo.launchers.verl.expression import express

    recipe = replace(write_recipe(tmp_path), optimizer=optimizer)
    keys = express(recipe, Cluster())
    prefix = "actor_rollout_ref.actor.optim"
    assert keys[f"{prefix}.lr_scheduler_type"] == "cosine"
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=keys[f"{prefix}.lr"])
    schedule = get_cosine_schedule_with_warmup(
        theirs,
        num_warmup_steps=keys[f"{prefix}.lr_warmup_steps"],
        num_training_steps=10,
        min_lr_ratio=keys[f"{prefix}.min_lr_ratio"],
        zero_indexed_step=keys[f"{prefix}.zero_indexed_step"],
    )
    for step in range(1, 11):
        ours = learning_rate(optimizer, step=step, num_steps=10)
        assert schedule.get_last_lr()[0] == pytest.approx(ours, abs=1e-12), step
        theirs.step()
        schedule.step()
