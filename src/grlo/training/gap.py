"""Whether the engine draws from the policy that is trained, as seen from log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LIMITS = {"float32": 1e-3, "bfloat16": 0.05}
"""Mean gap in nats per token, by the coarsest type that either side computes in.

Rounding alone leaves about 5e-7 in float32 and 2e-3 to 4e-3 in bfloat16 (the miniature, engines
`hf` and `vllm`), more in deeper models; weights that are one update old, 2e-2 there. Below a limit
the engine may still lag by an update that is small; the gap then grows with every step.
"""


def gap_problem(metrics: Mapping[str, float], *, dtypes: Iterable[str]) -> str:
    """What is wrong with the gap of a step in words; empty where it is no more than rounding.

    The learner measures the gap before the step's first update. The engine has had the newest
    weights since the step before, so that a large gap means that it does not use them.

    Args:
        metrics: Of the step.
        dtypes: Types that learner and engine compute in, keys of `LIMITS`.
    """
    gap, limit = metrics.get("engine/logprob_gap", 0.0), max(LIMITS[dtype] for dtype in dtypes)
    if gap <= limit:
        return ""
    return (
        f"engine and learner differ by {gap:.2g} nats a token right after a sync, where rounding "
        f"leaves less than {limit:g}: the engine does not draw from the policy that is trained"
    )
