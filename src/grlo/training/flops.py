"""Estimated work of each phase of a step: tokens and floating-point operations by component.

Counted is what the models take, in the sense of model FLOPs (PaLM, Chowdhery et al. 2022, appendix
B): products of matrices, causal attention as the triangle that it is, nothing for padding, and
nothing that is computed twice to save memory (gradient checkpointing, logits).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from grlo.model_shape import ModelShape, forward_flops, weight_flops
from grlo.types import Rollout, Work


@dataclass(frozen=True)
class Reading:
    """A forward pass of a model over whole sequences."""

    tokens: int
    flops: float
    weight_flops: float
    """Those of them that multiply by weights; the others are attention."""

    def forward(self) -> Work:
        """The pass alone."""
        return Work(self.tokens, self.flops)

    def trained(self, *, num_adapter_weights: int | None = None, times: int = 1) -> Work:
        """The pass and the one back, `times` times over.

        The gradient of a product has two products of its size, one for each factor (Kaplan et al.
        2020, section 2.1). Under adapters there is none for the weights of the model, and the
        adapters' own come in addition.

        Args:
            num_adapter_weights: Of the adapters that are trained; None trains the model itself.
            times: Passes.
        """
        flops = 3 * self.flops
        if num_adapter_weights is not None:
            flops += 3 * 2 * num_adapter_weights * self.tokens - self.weight_flops
        return Work(times * self.tokens, times * flops)


def reading(
    shape: ModelShape, rows: Iterable[tuple[Hashable, int, int]], *, has_outputs: bool = True
) -> Reading:
    """What a forward pass takes with outputs at the tokens of the answers only.

    Args:
        shape: Of the model.
        rows: Key of a prompt, its tokens, and tokens of an answer to it. Rows of one key share
            their prompt: it is read once.
        has_outputs: Without, the pass ends at the last hidden state.
    """
    seen: set[Hashable] = set()
    tokens, flops, by_weights = 0, 0.0, 0.0
    for key, num_prompt, num_answer in rows:
        if key not in seen:
            seen.add(key)
            tokens += num_prompt
            flops += forward_flops(shape, num_tokens=num_prompt, num_outputs=0)
            by_weights += weight_flops(shape, num_tokens=num_prompt, num_outputs=0)
        tokens += num_answer
        outputs = num_answer if has_outputs else 0
        flops += forward_flops(
            shape, num_tokens=num_answer, num_cached=num_prompt, num_outputs=outputs
        )
        by_weights += weight_flops(shape, num_tokens=num_answer, num_outputs=outputs)
    return Reading(tokens, flops, by_weights)


def scoring(shape: ModelShape, rows: Collection[tuple[Hashable, int, int]]) -> Work:
    """What scores at the last tokens of texts take; rows as in `reading`.

    The last layer's attention and MLP are needed for these tokens only, of the others keys and
    values: what is not computed is not counted.
    """
    read = reading(shape, rows, has_outputs=False)
    flops = read.flops + 2 * shape.head_parameters * len(rows)
    if shape.reads_few_tokens:
        per_key = 4 * shape.num_heads * shape.head_dim
        attention = (read.flops - read.weight_flops) / shape.num_layers
        keys = sum(num_prompt + num_answer for _, num_prompt, num_answer in rows)
        flops -= attention - per_key * keys
        flops -= 2 * shape.mlp_parameters * (read.tokens - len(rows))
    return Work(read.tokens, flops)


def generation(shape: ModelShape, rows: Iterable[tuple[Sequence[int], int]]) -> Work:
    """What drawing answers takes: equal prompts once but for their last token, which is fed to the
    model like every drawn token but the last, with an output each.

    Args:
        shape: Of the model.
        rows: Tokens of a prompt, and how many were drawn behind it.
    """
    fed = ((tuple(prompt), len(prompt) - 1, num_drawn) for prompt, num_drawn in rows)
    return reading(shape, fed).forward()


@dataclass(frozen=True)
class FlopCounter:
    """Counts from lengths and shapes; phases that only move weights take nothing.

    A reward model's texts are taken to be as long in its tokens as in the policy's.
    """

    policy: ModelShape
    critic: ModelShape | None
    rewards: tuple[tuple[ModelShape, frozenset[str]], ...]
    """Reward models, each with the styles of the prompts whose answers it scores."""
    has_reference: bool
    annotates_policy: bool
    """Whether the policy's log-probabilities are computed before every update."""
    num_epochs: int
    critic_warmup_steps: int = 0
    """First steps in which the critic alone is updated."""
    shares_prompts: bool = True
    """Whether samples of a prompt share its computation, as packed attention lets them."""
    adapters: Mapping[str, int] = field(default_factory=dict)
    """Weights of the adapters that are trained instead of `policy` or `critic`."""
    shares_trunk: bool = False
    """Whether the critic is a scalar head on the policy's trunk; `critic` is None then."""
    detaches_values: bool = False
    """Whether such a head alone has the gradient of the value loss."""

    def __call__(
        self, phase: str, rollouts: Sequence[Rollout], *, step: int = 0
    ) -> dict[str, Work]:
        """Work of `phase` by component for rollouts of a step."""
        if phase == "generate":
            rows = [(r.prompt_tokens, len(r.completion.tokens)) for r in rollouts]
            return {"engine": generation(self.policy, rows)}
        if phase == "score":
            return self._score(rollouts)
        has_critic = self.critic is not None or self.shares_trunk
        trains_policy = not has_critic or step > self.critic_warmup_steps
        if self.shares_trunk and phase in ("annotate", "update"):
            return self._shared(phase, rollouts, trains_policy=trains_policy)
        if phase == "annotate":
            read = {
                "policy": self.policy if self.annotates_policy or not trains_policy else None,
                "reference": self.policy if self.has_reference else None,
                "critic": self.critic,
            }
            return {
                name: self._reading(shape, rollouts).forward()
                for name, shape in read.items()
                if shape is not None
            }
        if phase == "update":
            trained = {"policy": self.policy if trains_policy else None, "critic": self.critic}
            return {
                name: self._reading(shape, rollouts).trained(
                    num_adapter_weights=self.adapters.get(name), times=self.num_epochs
                )
                for name, shape in trained.items()
                if shape is not None
            }
        return {}

    def _shared(
        self, phase: str, rollouts: Sequence[Rollout], *, trains_policy: bool
    ) -> dict[str, Work]:
        """One pass of the trunk for log-probabilities and values, and the head's products."""
        answers = sum(len(rollout.completion.tokens) for rollout in rollouts)
        head = 2.0 * self.policy.hidden_size * answers
        whole = self._reading(self.policy, rollouts)
        trunk = self._reading(self.policy, rollouts, has_outputs=False)
        if phase == "annotate":
            read = whole if self.annotates_policy or not trains_policy else trunk
            reference = {"reference": whole.forward()} if self.has_reference else {}
            return {"policy": read.forward(), **reference, "critic": Work(answers, head)}
        if trains_policy:
            trained = whole.trained(
                num_adapter_weights=self.adapters.get("policy"), times=self.num_epochs
            )
        else:
            trained = Work(self.num_epochs * trunk.tokens, self.num_epochs * trunk.flops)
        # The gradient of the head's weights, and of the hidden states unless it ends here.
        products = 3 if trains_policy and not self.detaches_values else 2
        times = self.num_epochs
        return {"policy": trained, "critic": Work(times * answers, times * products * head)}

    def _score(self, rollouts: Sequence[Rollout]) -> dict[str, Work]:
        """Reward models read each distinct answer once, and a prompt once for all its answers."""
        works = [
            scoring(
                shape,
                {
                    (r.prompt.id, r.text): (
                        r.prompt.id,
                        len(r.prompt_tokens),
                        len(r.completion.tokens),
                    )
                    for r in rollouts
                    if r.prompt.style in styles
                }.values(),
            )
            for shape, styles in self.rewards
        ]
        if not works:
            return {}
        tokens, flops = sum(work.tokens for work in works), sum(work.flops for work in works)
        return {"reward_model": Work(tokens, flops)}

    def _reading(
        self, shape: ModelShape, rollouts: Sequence[Rollout], *, has_outputs: bool = True
    ) -> Reading:
        return reading(
            shape,
            (
                (
                    rollout.group if self.shares_prompts else index,
                    len(rollout.prompt_tokens),
                    len(rollout.completion.tokens),
                )
                for index, rollout in enumerate(rollouts)
            ),
            has_outputs=has_outputs,
        )
