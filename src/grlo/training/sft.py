"""Supervised fine-tuning: the policy imitates demonstrations by maximum likelihood."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grlo.batch import TokenBatch, loss_weights, take_rows, to_device
from grlo.errors import DataError, ModelError, NonFiniteError
from grlo.interfaces import Progress, silent
from grlo.ledger import Ledger
from grlo.model_shape import ModelShape
from grlo.prompts.rows import listed, prompt_id
from grlo.prompts.sampler import PromptSampler
from grlo.rollout import ChatRenderer
from grlo.seeding import derive_rng, derive_seed
from grlo.settings import OptimizerSettings, SFTRecipe
from grlo.training.flops import Reading, reading
from grlo.training.memory import MicroBatches, explained
from grlo.training.models import DTYPES, load_policy, token_logprobs
from grlo.training.optimizers import build_optimizer
from grlo.training.schedule import learning_rate
from grlo.types import Demonstration, LedgerEntry, StepResult


@dataclass(frozen=True)
class TokenizedDemonstration:
    """A demonstration as the policy sees it."""

    prompt_id: str
    """Hash of the messages."""
    prompt_tokens: Sequence[int]
    """Up to and including the header of the answer."""
    response_tokens: Sequence[int]
    """With the stop token, unless a limit cut it off."""


def tokenize(
    demonstrations: Sequence[Demonstration],
    renderer: ChatRenderer,
    *,
    max_tokens: int,
    overlong: Literal["drop", "cut", "error"],
    progress: Progress = silent,
) -> tuple[list[TokenizedDemonstration], int, int]:
    """Demonstrations as tokens.

    Args:
        demonstrations: What is to be imitated.
        renderer: Of the policy.
        max_tokens: Most tokens of prompt and response.
        overlong: What happens to longer ones; see `DemonstrationSettings`.
        progress: Told of demonstrations done.

    Returns:
        Those that remain, in order, and how many were dropped and how many cut.

    Raises:
        DataError: The chat template refuses some of the conversations, there are longer ones and
            `overlong` is `error`, or none remains.
    """
    kept: list[TokenizedDemonstration] = []
    long: list[str] = []
    refused: list[str] = []
    num_cut = num_tokens = 0
    for done, item in enumerate(demonstrations, start=1):
        try:
            prompt = renderer.encode(item.messages)
        except ModelError as error:
            refused.append(f"{item.source}: {error}")
            continue
        response = renderer.encode_answer(item.response)
        response = response if item.ends else response[:-1]
        num_tokens += len(prompt) + len(response)
        progress(done=done, total=len(demonstrations), tokens=num_tokens)
        room = max_tokens - len(prompt)
        if len(response) > room:
            long.append(f"{item.source}: {len(prompt)} + {len(response)} tokens")
            if overlong == "drop" or room < 1:
                continue
            response = response[:room]
            num_cut += 1
        # Arrays take a ninth of the memory of tuples, and there may be millions of rows.
        kept.append(
            TokenizedDemonstration(
                prompt_id(item.messages), array("i", prompt), array("i", response)
            )
        )
    if refused:
        raise DataError(f"{len(refused)} demonstrations cannot be rendered:\n{listed(refused)}")
    if long and (overlong == "error" or not kept):
        raise DataError(
            f"{len(long)} of {len(demonstrations)} demonstrations are longer than data.max_tokens "
            f"= {max_tokens} (prompt + response):\n{listed(long)}\nRaise the limit, shorten them, "
            "or set data.overlong to 'drop' or 'cut' (at least one must remain)."
        )
    return kept, len(demonstrations) - len(kept), num_cut


def split_held_out(
    rows: Sequence[TokenizedDemonstration], *, fraction: float, seed: int
) -> tuple[list[TokenizedDemonstration], list[TokenizedDemonstration]]:
    """Training and held-out demonstrations; those of one prompt stay together.

    Raises:
        DataError: Nothing would be left to train on.
    """
    prompts = sorted({row.prompt_id for row in rows})
    derive_rng(seed, "held_out").shuffle(prompts)
    held = set(prompts[: math.ceil(fraction * len(prompts))])
    training = [row for row in rows if row.prompt_id not in held]
    if not training:
        raise DataError(
            f"{len(prompts)} prompts leave none to train on with data.held_out_fraction = "
            f"{fraction}. Give more demonstrations or a smaller fraction."
        )
    return training, [row for row in rows if row.prompt_id in held]


def collate_demonstrations(rows: Sequence[TokenizedDemonstration], *, pad_id: int) -> TokenBatch:
    """Demonstrations as one batch; the mask is true on response tokens, the stop token included."""
    lengths = [len(row.prompt_tokens) + len(row.response_tokens) for row in rows]
    tokens_BT = torch.full((len(rows), max(lengths)), pad_id, dtype=torch.int64)
    mask_BT = torch.zeros(len(rows), max(lengths), dtype=torch.bool)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        tokens_BT[index, :length] = torch.tensor((*row.prompt_tokens, *row.response_tokens))
        mask_BT[index, len(row.prompt_tokens) : length] = True
    return TokenBatch(
        tokens_BT=tokens_BT,
        mask_BT=mask_BT,
        lengths_B=torch.tensor(lengths),
        groups_B=torch.arange(len(rows)),
    )


class SFTLearner:
    """The policy on one device with its optimizer.

    The loss of a step is the mean of `-log p(token)` over all its response tokens. The number of
    tokens is counted over the whole step before it is cut into micro-batches, so that the cut
    cannot change the gradient.

    Args:
        recipe: Model and optimizer.
        num_steps: Of the run, for the schedule of the learning rate; a budget may end it before.
        device: Where the model lives.
        checkpoint: Folder whose weights replace those of the recipe's model, except where adapters
            are trained: those are put back by `grlo.training.checkpoint.restore`.
    """

    critic: PreTrainedModel | None = None

    def __init__(
        self, recipe: SFTRecipe, *, num_steps: int, device: str, checkpoint: Path | None = None
    ) -> None:
        self._seed, self._device = recipe.seed, device
        self.num_steps: float = num_steps
        self.micro_batches = MicroBatches(recipe.training.micro_batch_tokens)
        self._compute_dtype = DTYPES[recipe.policy.compute_dtype]
        self._settings: OptimizerSettings = recipe.optimizer
        # New adapters are drawn from torch's generator.
        torch.manual_seed(derive_seed(recipe.seed, "init"))
        policy = recipe.policy
        if checkpoint is not None and policy.lora is None:
            policy = replace(policy, model=str(checkpoint), revision=None)
        self.policy = load_policy(policy, device=device)
        self.optimizers = {"policy": build_optimizer(self.policy, recipe.optimizer)}

    def at_work(self, name: str) -> AbstractContextManager[None]:
        """The policy and its optimizer's states are where they are used all the time."""
        return nullcontext()

    def models(self) -> dict[str, PreTrainedModel]:
        return {"policy": self.policy}

    def update(
        self, batch: TokenBatch, *, step: int, progress: Progress = silent
    ) -> dict[str, float]:
        """One update.

        Args:
            batch: The demonstrations of the step.
            step: 1 for the first step of the run; decides the learning rate.
            progress: Told of rows done.

        Returns:
            `sft/loss` before the update, in nats per response token, norm of the gradient,
            learning rate, and the micro-batches' budget of tokens.

        Raises:
            NonFiniteError: The loss or its gradient is not finite; the optimizer has not moved.
        """
        # Dropout, where a model has it, is the only randomness here.
        torch.manual_seed(derive_seed(self._seed, "update", step))
        optimizer = self.optimizers["policy"]
        rate = learning_rate(self._settings, step=step, num_steps=self.num_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        self.policy.train()
        loss = self._weighted_losses(batch, progress=progress, is_training=True)
        limit = self._settings.max_grad_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.policy.parameters(), limit))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteError(
                f"step {step}: loss {loss}, gradient norm {norm}; the optimizer has not moved and "
                "the last checkpoint is intact. Lower optimizer.learning_rate "
                f"({self._settings.learning_rate}), or compute in float32."
            )
        with explained("the optimizer's step"):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {
            "sft/loss": loss,
            "policy/grad_norm": norm,
            "policy/learning_rate": rate,
            "update/micro_batch_tokens": self.micro_batches.max_tokens,
        }

    @torch.no_grad()
    def loss(self, batch: TokenBatch, *, progress: Progress = silent) -> float:
        """Mean of `-log p(token)` over the response tokens of a batch, in nats."""
        self.policy.eval()
        return self._weighted_losses(batch, progress=progress, is_training=False)

    def _weighted_losses(
        self, batch: TokenBatch, *, progress: Progress, is_training: bool
    ) -> float:
        """The loss; in training the parameters are left with its gradient."""
        weights_BT = loss_weights(batch.mask_BT, reduction="token_mean", horizon=0)
        total, num_rows, num_tokens = 0.0, 0, 0

        def start() -> None:
            nonlocal total, num_rows, num_tokens
            total, num_rows, num_tokens = 0.0, 0, 0
            if is_training:
                self.optimizers["policy"].zero_grad(set_to_none=True)

        def accumulate(rows: Tensor) -> None:
            nonlocal total, num_rows, num_tokens
            micro = to_device(take_rows(batch, rows), self._device)
            weights = weights_BT[rows, : micro.tokens_BT.shape[1]].to(self._device)
            logprobs_BT, _ = token_logprobs(
                self.policy, micro, temperature=1.0, compute_dtype=self._compute_dtype
            )
            loss = -(logprobs_BT * weights).sum()
            if is_training:
                loss.backward()
            total += float(loss.detach())
            num_rows += len(rows)
            num_tokens += int(micro.lengths_B.sum())
            progress(done=num_rows, total=len(batch.tokens_BT), tokens=num_tokens)

        self.micro_batches.run(batch, accumulate, start=start)
        return total


def _silent_for(phase: str) -> Progress:
    return silent


@dataclass
class SFTTrainer:
    """Turns demonstrations into updates, one step at a time. It writes nothing and keeps no state
    besides the learner's: what a step sees is a function of the seed and the step."""

    learner: SFTLearner
    rows: Sequence[TokenizedDemonstration]
    held_out: Sequence[TokenizedDemonstration]
    rows_per_step: int
    num_steps: int
    num_rows: int | None
    """Demonstrations of the whole run, repetitions included; None lets every step be full."""
    evaluate_every: int
    pad_id: int
    shape: ModelShape
    ledger: Ledger
    seed: int
    num_adapter_weights: int | None = None
    """Of the adapters that are trained; None trains the model itself."""
    progress_of: Callable[[str], Progress] = _silent_for
    """Progress to report to, by phase."""

    def steps(self, *, start: int) -> Iterator[StepResult]:
        """Runs step `start` (1 is the first) and all after it, and yields after each.

        Raises:
            NonFiniteError: A loss or gradient is not finite.
        """
        sampler = PromptSampler(self.rows, prompts_per_step=self.rows_per_step, seed=self.seed)
        for step in range(start, self.num_steps + 1):
            seen = (step - 1) * self.rows_per_step
            rows = sampler.batch(step)
            if self.num_rows is not None:
                rows = rows[: self.num_rows - seen]
            with self.ledger.phase("update", step=step) as cost:
                cost.tokens = _num_tokens(rows)
                work = self._reading(rows).trained(num_adapter_weights=self.num_adapter_weights)
                cost.add({"policy": work})
                batch = collate_demonstrations(rows, pad_id=self.pad_id)
                metrics = self.learner.update(batch, step=step, progress=self.progress_of("update"))
            is_due = step % self.evaluate_every == 0 or step == self.num_steps
            if self.held_out and is_due:
                with self.ledger.phase("evaluate", step=step) as cost:
                    cost.tokens = _num_tokens(self.held_out)
                    cost.add({"policy": self._reading(self.held_out).forward()})
                    held_out = collate_demonstrations(self.held_out, pad_id=self.pad_id)
                    metrics["held_out/loss"] = self.learner.loss(
                        held_out, progress=self.progress_of("evaluate")
                    )
            metrics["sft/epoch"] = (seen + len(rows)) / len(self.rows)
            costs = self.ledger.drain()
            yield StepResult(
                step=step,
                metrics=metrics | _row_metrics(rows) | _cost_metrics(rows, costs),
                rollouts=(),
                scores=(),
                costs=costs,
            )

    def _reading(self, rows: Sequence[TokenizedDemonstration]) -> Reading:
        """One forward pass."""
        return reading(
            self.shape,
            (
                (index, len(row.prompt_tokens), len(row.response_tokens))
                for index, row in enumerate(rows)
            ),
        )


def _num_tokens(rows: Sequence[TokenizedDemonstration]) -> int:
    return sum(len(row.prompt_tokens) + len(row.response_tokens) for row in rows)


def _row_metrics(rows: Sequence[TokenizedDemonstration]) -> dict[str, float]:
    return {
        "prompt/length_mean": sum(len(row.prompt_tokens) for row in rows) / len(rows),
        "response/length_mean": sum(len(row.response_tokens) for row in rows) / len(rows),
    }


def _cost_metrics(
    rows: Sequence[TokenizedDemonstration], costs: Sequence[LedgerEntry]
) -> dict[str, float]:
    seconds = sum(cost.seconds for cost in costs)
    return {
        **{f"time/{cost.phase}": cost.seconds for cost in costs},
        "time/step": seconds,
        "tokens_per_second/total": _num_tokens(rows) / max(seconds, 1e-9),
    }
