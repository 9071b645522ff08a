"""What a training run shows in the terminal while it works."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from grlo.interfaces import Progress
from grlo.types import StepResult

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN = (
    ("reward", "reward/mean", "{:.3f}"),
    ("spread", "reward/std", "{:.3f}"),
    ("gold", "gold/mean", "{:.3f}"),
    ("loss", "sft/loss", "{:.4f} nats"),
    ("held-out loss", "held_out/loss", "{:.4f} nats"),
    ("epoch", "sft/epoch", "{:.2f}"),
    ("unscored", "reward/unscored", "{:.1%}"),
    ("length", "response/length_mean", "{:.1f} tokens"),
    ("truncated", "response/truncated", "{:.1%}"),
    ("entropy", "policy/entropy", "{:.3f} nats"),
    ("KL to start", "policy/kl", "{:.4f} nats"),
    ("KL of update", "policy/approx_kl", "{:.5f} nats"),
    ("clipped", "policy/clip_fraction", "{:.2%}"),
    ("gradient", "policy/grad_norm", "{:.3f}"),
    ("critic explains", "critic/explained_variance", "{:.1%}"),
    ("engine gap", "engine/logprob_gap", "{:.1e} nats"),
    ("zero-spread groups", "group/zero_spread", "{:.1%}"),
    ("generated", "tokens_per_second/generate", "{:,.0f} tokens/s"),
    ("overall", "tokens_per_second/total", "{:,.0f} tokens/s"),
)
_PLAIN = (
    ("reward", "reward/mean", "{:.3f}"),
    ("±", "reward/std", "{:.3f}"),
    ("gold", "gold/mean", "{:.3f}"),
    ("loss", "sft/loss", "{:.4f}"),
    ("held-out", "held_out/loss", "{:.4f}"),
    ("epoch", "sft/epoch", "{:.2f}"),
    ("length", "response/length_mean", "{:.0f}"),
    ("truncated", "response/truncated", "{:.0%}"),
    ("KL", "policy/kl", "{:.4f}"),
    ("gap", "engine/logprob_gap", "{:.0e}"),
    ("seconds", "time/step", "{:.1f}"),
    ("tokens/s", "tokens_per_second/total", "{:,.0f}"),
)
_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], *, width: int = 40) -> str:
    """The last `width` values as a row of bars from their lowest to their highest."""
    recent = values[-width:]
    low, high = min(recent), max(recent)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in recent)


class LiveView:
    """A panel that follows a run; plain lines where the output is no terminal.

    Args:
        total_steps: Last step of the run.
        start_step: Steps done before.
    """

    def __init__(self, *, total_steps: int, start_step: int) -> None:
        from rich.console import Console

        self._console = Console()
        self.total: float = total_steps
        """Steps of the run, as far as that is known; a budget may end it before."""
        self._start = start_step
        self._rewards: list[tuple[float, int]] = []
        self._latest: Mapping[str, float] = {}
        self._step = start_step
        self._began = time.monotonic()
        self._phase = "starting"
        self._live = None

    def __enter__(self) -> LiveView:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._panel, console=self._console, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, result: StepResult) -> None:
        """Shows a finished step, as far as its metrics are there."""
        self._step, self._latest = result.step, result.metrics
        if "reward/mean" in result.metrics:
            self._rewards.append((result.metrics["reward/mean"], result.step))
        self._phase = "step done"
        if self._live is None:
            self._console.print(self._line(), markup=False, highlight=False, soft_wrap=True)
        else:
            self._live.refresh()

    def progress(self, phase: str) -> Progress:
        """A progress of the phase that is going on."""
        began = time.monotonic()

        def show(*, done: int, total: int, tokens: int) -> None:
            speed = tokens / max(time.monotonic() - began, 1e-9)
            self._phase = f"{phase} {done}/{total} · {speed:,.0f} tokens/s"

        return show

    def _eta(self) -> str:
        done = self._step - self._start
        if done == 0:
            return "--"
        left = (time.monotonic() - self._began) / done * (self.total - self._step)
        hours, rest = divmod(int(left), 3600)
        return f"{hours}:{rest // 60:02}:{rest % 60:02}"

    def _line(self) -> str:
        words = [f"{name} {text}" for name, text in self._values(_PLAIN)]
        return "  ".join([f"step {self._step}/{self.total:.0f}", *words, f"left {self._eta()}"])

    def _values(self, shown: tuple[tuple[str, str, str], ...]) -> list[tuple[str, str]]:
        return [
            (name, form.format(self._latest[key]))
            for name, key, form in shown
            if key in self._latest
        ]

    def _panel(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        parts = tuple(
            (key.removeprefix("reward/"), key, "{:.3f}")
            for key in self._latest
            if key.startswith("reward/part/")
        )
        rows = self._values((*_SHOWN[:2], *parts, *_SHOWN[2:]))
        half = (len(rows) + 1) // 2
        table = Table.grid(padding=(0, 2))
        for row in range(half):
            cells = rows[row] + (rows[half + row] if half + row < len(rows) else ())
            # Text, because a user's own reward may have brackets in the names of its parts.
            table.add_row(*(Text(cell) for cell in cells))
        below = []
        if self._rewards:
            best, step = max(self._rewards, key=lambda seen: seen[0])
            history = sparkline([reward for reward, _ in self._rewards])
            below.append(f"reward   {history}  best {best:.3f} in step {step}")
        phases = " · ".join(
            f"{key.removeprefix('time/')} {value:.1f}"
            for key, value in self._latest.items()
            if key.startswith("time/") and key != "time/step"
        )
        if phases:
            below.append(f"seconds  {phases}")
        title = f"step {self._step}/{self.total:.0f} · left {self._eta()}"
        # Not as a subtitle, which is cut to the width of the rest.
        body = Group(table, *(Text(line) for line in [*below, f"now      {self._phase}"]))
        return Panel(body, title=title, expand=False)
