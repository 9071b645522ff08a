"""verl's way to our reward: a reward manager that asks an actor of ours; verl imports it.

Which reward scores an answer is decided there, by the style of its row. An answer without a score
raises: verl then leaves it out of the step, as it does with every sample that fails, and fills up
with rows that no token of counts. It is never zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
from verl.experimental.reward_loop.reward_manager.base import (  # pyright: ignore[reportMissingImports]
    RewardManagerBase,
)

from grlo.errors import RewardError
from grlo.launchers.verl.folder import VerlFolder
from grlo.launchers.verl.scoring import Answer, Scorer, Together
from grlo.types import Score


class RewardActor:
    """Holds the rewards, on GPUs of its own if they need any."""

    def __init__(self, folder: str, *, attempt: int, actor: int, device: str) -> None:
        self._together = Together(
            Scorer(VerlFolder(Path(folder)), attempt=attempt, actor=actor, device=device)
        )

    async def score(self, answer: Answer) -> Score:
        """The score of an answer."""
        return await self._together.score(answer)


class OurReward(RewardManagerBase):
    """Passes verl's answers on to the reward actors.

    Args:
        config: verl's whole configuration; `reward.reward_kwargs` names the export.
        tokenizer: Of the policy, as verl loads it; ours is used instead.
        compute_score: A function of verl's that is not called.
        reward_router_address: Of a reward model that verl would serve; unused.
        reward_model_tokenizer: Likewise.
    """

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        super().__init__(config, tokenizer, compute_score)
        own = config.reward.reward_kwargs
        cluster = VerlFolder(Path(own.folder)).cluster()
        # By name, so that verl's workers share them.
        self._actors = [
            ray.remote(RewardActor)
            .options(
                name=f"grlo_reward_{number}",
                get_if_exists=True,
                num_gpus=cluster.reward_gpus,
                num_cpus=1,
                max_concurrency=100_000,
            )
            .remote(
                own.folder,
                attempt=own.attempt,
                actor=number,
                device="cuda" if cluster.reward_gpus else "cpu",
            )
            for number in range(cluster.reward_actors)
        ]

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The score of one answer.

        Raises:
            RewardError: There is none.
        """
        item = data[-1:][0]
        row, tensors = item.non_tensor_batch, item.batch
        extra_info = row["extra_info"]
        num_prompt = tensors["prompts"].shape[-1]
        mask = tensors["attention_mask"].bool()
        answer = Answer(
            extra_info=dict(extra_info),
            prompt_tokens=tuple(tensors["prompts"][mask[:num_prompt]].tolist()),
            tokens=tuple(tensors["responses"][mask[num_prompt:]].tolist()),
            sample=int(row.get("session_id", 0)),
            step=int(row.get("global_steps", 0)),
        )
        # All answers to a prompt go to one actor, which reads it once.
        actor = self._actors[extra_info["index"] % len(self._actors)]
        score: Score = await actor.score.remote(answer)
        if score.value is None:
            raise RewardError(f"unscored, so left out: {score.note or 'no reason given'}")
        return {"reward_score": score.value, "reward_extra_info": {}}
