"""How much of a step's work is done at a time, which memory is estimated from."""

from __future__ import annotations

LOGIT_CHUNK_ELEMENTS = 2**27
"""Logits that the learner computes at a time; see `grlo.training.output_head`."""

# On a CPU: what its caches hold, but rows worth a product.
_CPU_LOGITS = 2**20
_CPU_ROWS = 256

GRADIENT_BUCKET_ELEMENTS = 2**26
"""Entries of gradients that replicated learners add up at a time: messages worth sending; see
`grlo.training.distributed.sharing`."""

SCORED_TOKENS = {"cpu": 4096, "cuda": 32768}
"""Tokens that a reward model reads at a time, by device: rows worth a forward pass on a GPU, and
rows whose activations stay in a CPU's cache; see `grlo.rewards.reward_model`."""


def chunk_rows(vocab_size: int, device_type: str) -> int:
    """Positions whose logits the learner computes together."""
    most = max(1, LOGIT_CHUNK_ELEMENTS // vocab_size)
    return min(most, max(_CPU_ROWS, _CPU_LOGITS // vocab_size)) if device_type == "cpu" else most
