"""What is done where a device's memory runs out: smaller batches, or an explanation."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from grlo.errors import DeviceMemoryError

# A CPU has no class of its own for this, and cuBLAS none for a workspace that it cannot have.
_MESSAGES = ("DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocator said no."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        message in str(error) for message in _MESSAGES
    )


def lacks_memory(
    work: Callable[[], None], *, clean_up: Callable[[], None] = lambda: None
) -> str | None:
    """Does the work, and frees what it leaves where memory runs out.

    Args:
        work: What to do.
        clean_up: Called where memory has run out: lets go of what the work has stored.

    Returns:
        What the allocator said; None if the work is done.
    """
    try:
        work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
    else:
        return None
    # Here and not above: the exception holds the frames, and they the tensors.
    clean_up()
    gc.collect()  # The graph of a failed pass may hold itself in a cycle.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return reason


@dataclass
class TokenBudget:
    """The most tokens of a batch (`grlo.batch.pack_shared`): it falls where memory runs out, and
    stays there."""

    max_tokens: int
    fixed_by: str = ""
    """The setting to lower by hand where other processes work in step, so that it must not fall."""

    def halve(
        self, *, num_tokens: int, num_rows: int, longest: int, what: str, same: str, reason: str
    ) -> None:
        """Goes down to half of what a batch had that was too large, and says so.

        Args:
            num_tokens: Tokens of the batch, shared ones counted once.
            num_rows: Its rows, two at least.
            longest: Tokens of the longest.
            what: What the batch is, for the warning.
            same: What smaller batches do not change.
            reason: What the allocator said.

        Raises:
            DeviceMemoryError: The budget must not fall.
        """
        # What the budget bounds: distinct tokens, and half the attention grid.
        before, size = self.max_tokens, max(num_tokens, num_rows * longest // 2)
        if self.fixed_by:
            raise DeviceMemoryError(
                f"out of memory in {what} of {size} tokens: {reason}. With several processes it is "
                f"not made smaller on the way: lower {self.fixed_by} (now {before}), and run the "
                "same command again."
            )
        self.max_tokens = size // 2
        print(
            f"out of memory in {what} of {size} tokens; from here on they have at most "
            f"{self.max_tokens} instead of {before}. {same} do not change. "
            f"The allocator said: {reason}",
            file=sys.stderr,
        )
