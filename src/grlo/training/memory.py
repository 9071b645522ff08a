"""Micro-batches that get smaller when a device's memory does not hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from grlo.batch import TokenBatch, pack_groups, shared_prompt_lengths, take_rows
from grlo.errors import DeviceMemoryError
from grlo.memory.shortage import TokenBudget, is_out_of_memory, lacks_memory

_REMEDIES = (
    "Turn on policy.gradient_checkpointing, keep what a phase does not need in the CPU's memory "
    "(training.offload), lower sampling.max_tokens, or train adapters (policy.lora, critic.lora)."
)


class MicroBatches(TokenBudget):
    """Cuts batches by a budget of tokens, which falls where memory runs out and stays there.

    Args:
        max_tokens: The budget to begin with; see `grlo.batch.pack_groups`.
        fixed_by: As in `TokenBudget`.
    """

    def __init__(self, max_tokens: int, *, fixed_by: str = "") -> None:
        assert max_tokens > 0, "the plan of grlo.memory.plan is applied before"
        super().__init__(max_tokens, fixed_by)

    def limit(self, max_tokens: int | None) -> None:
        """Goes on with the budget that an earlier start of the run has come down to, if any."""
        self.max_tokens = min(self.max_tokens, max_tokens or self.max_tokens)

    def run(
        self,
        batch: TokenBatch,
        work: Callable[[Tensor], None],
        *,
        start: Callable[[], None] = lambda: None,
    ) -> None:
        """Does `work` on the rows of one micro-batch after another.

        If memory runs out, the budget becomes half of what the micro-batch had, and all of the
        batch is done again: a backward pass that has failed may have left its gradient in some
        parameters and not in others, which nothing could take out of them again.

        Args:
            batch: What to cut.
            work: Told the row numbers of each micro-batch.
            start: Called before the first micro-batch, each time anew: puts back what `work` adds
                to.

        Raises:
            DeviceMemoryError: A single row is too much.
        """
        while (failed := self._first_failure(batch, work, start)) is not None:
            rows, reason = failed
            self._lower(take_rows(batch, rows), reason)

    def _first_failure(
        self, batch: TokenBatch, work: Callable[[Tensor], None], start: Callable[[], None]
    ) -> tuple[Tensor, str] | None:
        """Rows that memory was too small for, with what the allocator said; None if all is done."""
        start()
        for rows in pack_groups(batch, max_tokens=self.max_tokens):
            reason = lacks_memory(partial(work, rows), clean_up=start)
            if reason is not None:
                return rows, reason
        return None

    def _lower(self, batch: TokenBatch, reason: str) -> None:
        longest, num_rows = int(batch.lengths_B.max()), len(batch.lengths_B)
        if num_rows == 1:
            raise DeviceMemoryError(
                f"memory does not hold one answer with its prompt ({longest} tokens) at a time: "
                f"{reason}. {_REMEDIES}"
            )
        self.halve(
            num_tokens=int(batch.lengths_B.sum()) - sum(shared_prompt_lengths(batch)),
            num_rows=num_rows,
            longest=longest,
            what="a micro-batch",
            same="Gradients",
            reason=reason,
        )


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Says what to do when memory runs out where nothing can be cut.

    Raises:
        DeviceMemoryError: Memory has run out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(f"out of memory in {what}: {error}. {_REMEDIES}") from error
