"""verl's way to our tokens: an agent loop that asks for one answer; verl imports it.

verl's own would write the prompt by the tokenizer's template, and end answers at the tokens of the
generation config: a base model that was given a template would talk on past its turn.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from verl.experimental.agent_loop.agent_loop import (  # pyright: ignore[reportMissingImports]
    AgentLoopBase,
    AgentLoopMetrics,
    AgentLoopOutput,
)
from verl.utils.profiler import simple_timer  # pyright: ignore[reportMissingImports]

from grlo.launchers.verl.rows import prompt_of
from grlo.rollout import ChatRenderer


class OneAnswer(AgentLoopBase):
    """Tokens of the prompt and stop tokens by our renderer, tokens of the answer as drawn.

    Args:
        policy: Folder or hub id of the policy, for its tokenizer.
        template: Named chat template of ours; None takes the tokenizer's own.
        arguments: verl's.
    """

    def __init__(self, *, policy: str, template: str | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._renderer = _renderer(policy, template)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """The answer to a row."""
        prompt_tokens = list(self._renderer.encode(prompt_of(row["extra_info"]).messages))
        metrics: dict[str, Any] = {}
        with simple_timer("generate_sequences", metrics):
            drawn = await self.server_manager.generate(
                request_id=f"{row['uid']}_{row['session_id']}",
                prompt_ids=prompt_tokens,
                sampling_params={
                    **sampling_params,
                    "stop_token_ids": list(self._renderer.stop_ids),
                },
            )
        tokens = drawn.token_ids[: self.rollout_config.response_length]
        return AgentLoopOutput(
            prompt_ids=prompt_tokens,
            response_ids=tokens,
            response_mask=[1] * len(tokens),
            response_logprobs=drawn.log_probs[: len(tokens)] if drawn.log_probs else None,
            num_turns=2,
            metrics=AgentLoopMetrics(**metrics),
            extra_fields={**drawn.extra_fields, "turn_scores": [], "tool_rewards": []},
        )


@cache
def _renderer(policy: str, template: str | None) -> ChatRenderer:
    """verl makes an agent loop for every answer."""
    return ChatRenderer.from_pretrained(policy, template=template)
