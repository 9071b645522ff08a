"""What is compared: models, prompts, group size, lengths, threads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import grlo.nano

ASSETS = Path(grlo.nano.__file__).parent / "assets"
SPREAD = "-spread"
MEAN_LENGTH = 0.4
"""Mean length of answers of the `-spread` models, as a share of the limit."""

# Hidden size, layers, vocabulary.
SIZES = {"0.9M": (128, 4, 1024), "10M": (320, 8, 4096)}
GRADIENT_LIMIT = 1e-4
"""Of the relative difference of gradients; float32 sums in another order differ by about 1e-6."""

MODELS = ("nano", *SIZES, *(f"{size}{SPREAD}" for size in SIZES))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement of one trainer."""

    model: str
    """Of `MODELS`."""
    folder: str
    """Where `files.make_files` has put the models and prompts."""
    num_prompts: int = 64
    num_samples: int = 8
    max_tokens: int = 128
    beta: float = 0.0
    """Coefficient of the KL term against the initial policy (k3, in the loss)."""
    threads: int = 1
    warmup_steps: int = 1
    """Steps that are not counted."""
    steps: int = 1
    trl_rows: int = 64
    """Rows of TRL's micro-batch."""
    learning_rate: float = 1e-6

    @property
    def num_rows(self) -> int:
        return self.num_prompts * self.num_samples

    @property
    def policy(self) -> Path:
        return ASSETS / "base" if self.model == "nano" else Path(self.folder) / "policy"

    @property
    def reward(self) -> Path:
        return ASSETS / "reward_model" if self.model == "nano" else Path(self.folder) / "reward"

    @property
    def prompts(self) -> Path:
        return Path(self.folder) / "prompts.jsonl"

    def texts(self) -> list[str]:
        lines = self.prompts.read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["prompt"] for line in lines]
