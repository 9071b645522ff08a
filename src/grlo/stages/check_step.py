"""One small step of training with the real weights; nothing of it is kept."""

from __future__ import annotations

from dataclasses import replace

from grlo.errors import ModelError
from grlo.interfaces import Reward
from grlo.rollout import ChatRenderer
from grlo.settings import Recipe
from grlo.stages.check_findings import Findings, heading
from grlo.stages.check_rewards import SAMPLE_ANSWER
from grlo.types import Completion, Prompt, Rollout

TRIAL_PROMPTS, TRIAL_SAMPLES, TRIAL_TOKENS = 2, 2, 16
"""Size of the step that is tried."""


def try_step(
    recipe: Recipe,
    renderer: ChatRenderer,
    prompts: list[Prompt],
    findings: Findings,
    *,
    num_devices: int,
) -> None:
    """Loads the models and makes one small step of training on one device; nothing is written."""
    import torch
    from safetensors import SafetensorError

    from grlo.stages.memory import plan_for
    from grlo.stages.runs import choose_device
    from grlo.stages.train_data import load_gold_prompts
    from grlo.stages.train_parts import build_gold, build_trainer

    sampling = replace(
        recipe.sampling,
        prompts_per_step=min(recipe.sampling.prompts_per_step, TRIAL_PROMPTS),
        samples_per_prompt=min(recipe.sampling.samples_per_prompt, TRIAL_SAMPLES),
        max_tokens=min(recipe.sampling.max_tokens, TRIAL_TOKENS),
    )
    buffer = min(recipe.shaping.overlong_buffer, sampling.max_tokens)
    recipe = replace(
        recipe, sampling=sampling, shaping=replace(recipe.shaping, overlong_buffer=buffer)
    )
    longest = sorted(prompts, key=lambda prompt: sum(len(m.content) for m in prompt.messages))
    device = choose_device(recipe.training.device)
    heading("One small step with the longest prompts")
    with findings.collect():
        try:
            plan = plan_for(recipe, device=device, num_devices=num_devices)
            if plan.sharding == "fsdp" and num_devices > 1:
                findings.unchecked.append(
                    f"one step with the real weights: their shards take {num_devices} devices"
                )
                return
            recipe = plan.applied(recipe)
            trainer = build_trainer(
                recipe,
                renderer=renderer,
                prompts=longest[-TRIAL_PROMPTS:],
                device=device,
            )
            try:
                _probe_reward(trainer.reward, prompts[0], findings, key="reward")
                if recipe.gold is not None:
                    held_out = load_gold_prompts(recipe, renderer, training=prompts)
                    gold = build_gold(recipe, trainer, prompts=held_out, device=device)
                    assert gold is not None
                    example = (held_out or prompts)[0]
                    _probe_reward(gold.reward, example, findings, key="gold.reward")
                # Not as the last step of a run: with overlap that one draws nothing ahead.
                result = next(trainer.steps(start=1, stop=2))
            finally:
                trainer.engine.close()
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"out of memory in a step of {sampling.prompts_per_step} prompts: {error}. Train "
                "adapters (policy.lora, critic.lora), or lower training.micro_batch_tokens."
            ) from error
        except SafetensorError as error:
            raise ModelError(
                f"the weights of a policy, critic or reward model are damaged: {error}. Fetch or "
                "copy them again."
            ) from error
        for name, value in sorted(result.metrics.items()):
            print(f"{name:32} {value:.5g}")


def _probe_reward(reward: Reward, prompt: Prompt, findings: Findings, *, key: str) -> None:
    """Scores of an answer and of none, for people to look at."""
    texts = {"an empty answer": "", repr(SAMPLE_ANSWER): SAMPLE_ANSWER}
    completion = Completion(tokens=(), logprobs=(), finish_reason="stop")
    rollouts = [
        Rollout(prompt=prompt, group=0, prompt_tokens=(), completion=completion, text=text)
        for text in texts.values()
    ]
    for name, score in zip(texts, reward.score(rollouts), strict=True):
        print(f"{key}: score of {name}: {score.value}")
        if score.value is None:
            findings.problems.append(f"{key}: {name} could not be scored: {score.note}")
