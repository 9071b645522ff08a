"""What a run may spend, so that runs of different kinds can be compared at equal cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

from grlo.settings import BudgetSettings
from grlo.types import LedgerEntry

TRAINING_PHASES = ("generate", "score", "annotate", "update", "sync")
"""What is charged. Loading, checkpoints, evaluations, failures and repeated work are not: they say
how a run was looked after, not what it learnt from."""


class Budget:
    """Charges the steps of a run to its budget.

    A run ends after the step at which it is nearest to its budget: with less than half a step left
    the next one would overshoot by more.

    Args:
        settings: What may be spent; what is 0 has no limit.
        prompts_per_step: Prompts of a drawn batch, or rows of a step of fine-tuning.
        ledger: Entries of the run so far.
        step: The step it goes on from; entries of later ones are to be done again.
    """

    def __init__(
        self,
        settings: BudgetSettings,
        *,
        prompts_per_step: int,
        ledger: Sequence[LedgerEntry] = (),
        step: int = 0,
    ) -> None:
        limits = {item.name: float(getattr(settings, item.name)) for item in fields(settings)}
        self._limits = {name: limit for name, limit in limits.items() if limit}
        self._prompts_per_step = prompts_per_step
        self.spent: dict[str, float] = dict.fromkeys(limits, 0.0)
        """By field of `BudgetSettings`."""
        self.reason = ""
        """Why the run is to end; empty while it is not."""
        self._drawn_ahead: list[LedgerEntry] = []
        last_attempt = {entry.step: entry.attempt for entry in ledger}
        steps: dict[int, list[LedgerEntry]] = {}
        for entry in ledger:
            if 0 < entry.step <= step and entry.attempt == last_attempt[entry.step]:
                steps.setdefault(entry.step, []).append(entry)
        for number, entries in sorted(steps.items()):
            self.charge(number, entries)

    def charge(self, step: int, costs: Sequence[LedgerEntry]) -> None:
        """Adds the costs of a step, and decides whether it is the last one.

        What was drawn beside the update is charged to the next step, which trains on it.
        """
        ahead = [entry for entry in costs if entry.overlapped_seconds > 0]
        own = [entry for entry in costs if entry.overlapped_seconds == 0]
        found = self._charges([*self._drawn_ahead, *own])
        self._drawn_ahead = ahead
        for name, cost in found.items():
            self.spent[name] += cost
        for name, limit in self._limits.items():
            if not self.reason and limit - self.spent[name] < found[name] / 2:
                unit = name.replace("_", " ")
                self.reason = (
                    f"{self.spent[name]:,.6g} of {limit:,.6g} {unit} are spent after step {step} "
                    f"({100 * (self.spent[name] / limit - 1):+.1f} %)"
                )

    def expected_steps(self, done: int, *, most: int) -> float:
        """Steps the run will have when it ends, if further ones cost what those before them did.

        Args:
            done: Steps that were charged.
            most: Where it ends in any case.
        """
        share = max((self.spent[name] / limit for name, limit in self._limits.items()), default=0)
        return most if share == 0 else min(most, max(done, done / share))

    def _charges(self, costs: Iterable[LedgerEntry]) -> Mapping[str, float]:
        own = [entry for entry in costs if entry.phase in TRAINING_PHASES and entry.status == "ok"]
        tokens = {
            phase: sum(e.tokens for e in own if e.phase == phase) for phase in TRAINING_PHASES
        }
        # Fine-tuning draws nothing: its rows come with the update.
        drawing = "generate" if any(entry.phase == "generate" for entry in own) else "update"
        return {
            "device_hours": sum(entry.seconds * entry.num_devices for entry in own) / 3600,
            "generated_tokens": tokens["generate"],
            "trained_tokens": tokens["update"],
            "flops": sum(entry.flops for entry in own),
            "prompts": self._prompts_per_step * sum(entry.phase == drawing for entry in own),
        }
