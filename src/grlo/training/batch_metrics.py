"""Metrics that an annotated batch has before its update."""

from __future__ import annotations

from torch import Tensor

from grlo.batch import Batch, TrainBatch


def logprob_gap(logprobs_BT: Tensor, batch: Batch) -> dict[str, float]:
    """Mean and largest absolute difference to the engine's log-probabilities, in nats."""
    gap = (logprobs_BT - batch.engine_logprobs_BT)[batch.mask_BT].abs()
    return {
        "engine/logprob_gap": float(gap.mean()),
        "engine/logprob_gap_max": float(gap.max()),
    }


def explained_variance(batch: TrainBatch) -> float:
    """1 - Var(R - V_old) / Var(R) over response tokens; 0 where the returns have no spread."""
    assert batch.returns_BT is not None
    assert batch.old_values_BT is not None
    returns = batch.returns_BT[batch.mask_BT]
    spread = float(returns.var(correction=0))
    if spread == 0:
        return 0.0
    residual = returns - batch.old_values_BT[batch.mask_BT]
    return 1 - float(residual.var(correction=0)) / spread
