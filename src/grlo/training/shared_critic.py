"""A critic on the policy's trunk: one pass forward and one back for log-probabilities and values.

Policy and value function share all weights but their heads, so their losses are one (Schulman et
al. 2017, arXiv 1707.06347, eq. 9, negated; the entropy bonus belongs to the policy's part):

    L = L_policy + c1 L_value

c1 is `critic.value_coefficient`. Each part is reduced by weights of its own: the algorithm's for
the policy, the mean over tokens for the values. The joint gradient moves the trunk by the policy's
optimizer and the head by the critic's: AdamW with two groups of parameters, each with learning
rate and gradient clipping of its own. During critic warm-up, and with `critic.detach`, the value
loss trains the head alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from grlo.batch import TokenBatch
from grlo.errors import CheckpointError
from grlo.modeling.passes import whole_pass
from grlo.training.models import (
    EntropyMode,
    hidden_before_responses,
    logprobs_of_hidden,
    plain_model,
    spread,
)

FILE = "value_head.safetensors"
"""In the folder `critic` of a checkpoint."""


class ValueHead(nn.Module):
    """V = w h, a scalar linear map of the trunk's last hidden state; zero to begin with."""

    def __init__(self, hidden_size: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden_size, dtype=dtype))

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Values of states, [N].

        In float32 whatever the trunk computes in: bfloat16 would round a value of 10 to 0.06, and
        a product with one vector costs nothing.
        """
        with torch.autocast(hidden_ND.device.type, enabled=False):
            return hidden_ND.float() @ self.weight.float()


def load_value_head(policy: PreTrainedModel, *, checkpoint: Path | None) -> ValueHead:
    """A new head for the policy, or that of a checkpoint, in the type of the policy's weights.

    Raises:
        CheckpointError: The checkpoint holds no such head.
    """
    weight = next(policy.parameters())
    hidden_size = plain_model(policy).config.get_text_config().hidden_size
    head = ValueHead(hidden_size, dtype=weight.dtype)
    if checkpoint is not None:
        file = checkpoint / "critic" / FILE
        if not file.is_file():
            raise CheckpointError(
                f"checkpoint {checkpoint} has no critic/{FILE}: its critic is a model of its own. "
                "Resume with the recipe that wrote it."
            )
        head.load_state_dict(load_file(file))
    return head.to(weight.device)


def save_value_head(folder: Path, head: ValueHead) -> None:
    """Writes the head into the folder `critic` of a checkpoint."""
    folder.mkdir()
    save_file(head.state_dict(), folder / FILE)


def token_logprobs_and_values(
    policy: nn.Module,
    head: ValueHead,
    batch: TokenBatch,
    *,
    temperature: float,
    compute_dtype: torch.dtype,
    entropy: EntropyMode = "none",
    detach: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, entropy and value of every response token from one pass of the trunk.

    Args:
        policy: A causal language model, possibly with adapters.
        head: The value head on its trunk.
        batch: Rows on the model's device.
        temperature: That of the sampling.
        compute_dtype: Type of the trunk's matrix products.
        entropy: As in `grlo.training.models.token_logprobs`.
        detach: Gradients of the values end at the head.

    Returns:
        Three float32 tensors [B, T], zero outside the mask.
    """

    def work() -> tuple[Tensor, Tensor, Tensor]:
        hidden_ND = hidden_before_responses(policy, batch, compute_dtype=compute_dtype)
        logprobs_BT, entropy_BT = logprobs_of_hidden(
            policy,
            hidden_ND,
            batch,
            temperature=temperature,
            compute_dtype=compute_dtype,
            entropy=entropy,
        )
        values_N = head(hidden_ND.detach() if detach else hidden_ND)
        return logprobs_BT, entropy_BT, spread(values_N, batch.mask_BT)

    return whole_pass(policy, work)


def values_of_frozen_trunk(
    policy: nn.Module, head: ValueHead, batch: TokenBatch, *, compute_dtype: torch.dtype
) -> Tensor:
    """Value of every response token, with a gradient for the head alone; float32 [B, T]."""

    def work() -> Tensor:
        return hidden_before_responses(policy, batch, compute_dtype=compute_dtype)

    with torch.no_grad():
        hidden_ND = whole_pass(policy, work)
    return spread(head(hidden_ND), batch.mask_BT)
