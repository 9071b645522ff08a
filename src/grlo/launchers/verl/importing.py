"""What verl logs, in our words: metrics of a step, and what its phases cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from grlo.launchers.verl.folder import VerlFolder
from grlo.rundir import read_jsonl
from grlo.types import LedgerEntry, Usage, Work

PHASES: Mapping[str, str] = {
    "gen": "generate",
    "reward": "score",
    "old_log_prob": "annotate",
    "ref": "annotate",
    "values": "annotate",
    "adv": "annotate",
    "update_critic": "update",
    "update_actor": "update",
    "update_weights": "sync",
    "save_checkpoint": "checkpoint",
    "testing": "evaluate",
}
"""verl's sections of a step -> our phases. Answers are scored while others are drawn, so that the
time of our reward is in `gen`; what is left of a step is `idle`."""
SAME: Mapping[str, str] = {
    "actor/pg_loss": "policy/loss",
    "actor/entropy": "policy/entropy",
    "actor/grad_norm": "policy/grad_norm",
    "actor/pg_clipfrac": "policy/clip_fraction",
    "actor/lr": "policy/learning_rate",
    "actor/kl_loss": "policy/kl",
    "critic/vf_loss": "critic/loss",
    "critic/grad_norm": "critic/grad_norm",
    "critic/vf_explained_var": "critic/explained_variance",
    "critic/lr": "critic/learning_rate",
}
"""verl's metrics that are ours by another name; all others keep theirs behind `OTHER`."""
OTHER = "verl/"


@dataclass(frozen=True)
class LoggedStep:
    """A row of verl's log."""

    attempt: int
    step: int
    data: Mapping[str, float]
    """verl's metrics; those that are not finite numbers are left out."""

    def metrics(self) -> dict[str, float]:
        """verl's metrics by our names; times stand in the ledger."""
        found = {}
        for name, value in self.data.items():
            if not name.startswith(("timing_s/", "timing_per_token_ms/")):
                found[SAME.get(name, OTHER + name)] = value
        return found

    def costs(
        self,
        *,
        num_devices: int,
        device: str,
        tokens: Mapping[str, int],
        work: Callable[[str], Mapping[str, Work]],
        usage: Usage,
    ) -> list[LedgerEntry]:
        """What the phases of the step took; their seconds add up to verl's, and its evaluations'.

        Args:
            num_devices: That the run occupies.
            device: Name of them.
            tokens: By phase.
            work: Estimated operations of a phase by component.
            usage: What the reward asked of remote services.
        """
        # Scoring has no time of its own, and yet has work.
        seconds = {"score": 0.0}
        for name, phase in PHASES.items():
            spent = self.data.get(f"timing_s/{name}")
            if spent is not None:
                seconds[phase] = seconds.get(phase, 0.0) + spent
        within = sum(spent for phase, spent in seconds.items() if phase != "evaluate")
        seconds["idle"] = max(0.0, self.data.get("timing_s/step", within) - within)
        entries = []
        for phase, spent in seconds.items():
            done, asked = work(phase), usage if phase == "score" else Usage()
            entries.append(
                LedgerEntry(
                    step=self.step,
                    phase=phase,
                    seconds=spent,
                    num_devices=num_devices,
                    device=device,
                    tokens=tokens.get(phase, 0),
                    flops=math.fsum(part.flops for part in done.values()),
                    peak_memory_bytes=self._peak_bytes(),
                    attempt=self.attempt,
                    requests=asked.requests,
                    input_tokens=asked.input_tokens,
                    output_tokens=asked.output_tokens,
                    dollars=asked.dollars,
                    flops_by={name: part.flops for name, part in done.items()},
                    tokens_by={name: part.tokens for name, part in done.items()},
                )
            )
        return entries

    def _peak_bytes(self) -> int:
        """verl tells it in GiB, of the whole run so far and of one GPU."""
        name = "perf/max_memory_allocated_gb"
        of_roles = (self.data.get(f"{role}/{name}", 0.0) for role in ("actor", "critic"))
        return int(max(of_roles) * 2**30)


def logged_steps(folder: VerlFolder) -> Iterator[LoggedStep]:
    """All rows of all starts, oldest first; a start that was resumed has some steps again.

    Raises:
        DataError: A log is damaged.
    """
    for attempt in folder.attempts():
        for row in read_jsonl(folder.metrics_file(attempt)):
            data = {
                name: float(value)
                for name, value in row["data"].items()
                if isinstance(value, (int, float)) and math.isfinite(value)
            }
            # Rows of verl's evaluations before the first step have no step of training.
            if "training/global_step" in data:
                yield LoggedStep(attempt, int(row["step"]), data)
