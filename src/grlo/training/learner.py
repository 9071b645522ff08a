"""Annotates batches with what the models say of them, and updates policy and critic."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grlo.batch import (
    AnnotatedBatch,
    Batch,
    TokenLoss,
    TrainBatch,
    loss_weights,
    split_minibatches,
    take_rows,
    to_device,
)
from grlo.errors import NonFiniteError
from grlo.interfaces import ActorCritic, Algorithm, Progress, silent
from grlo.offload import Offload
from grlo.seeding import derive_seed
from grlo.settings import OptimizerSettings, Recipe
from grlo.training.memory import MicroBatches, explained
from grlo.training.models import (
    DTYPES,
    load_critic,
    load_policy,
    load_reference,
    merged_weights,
    token_logprobs,
    token_values,
    without_adapters,
)
from grlo.training.optimizers import build_optimizer


class Learner:
    """Policy, critic and reference on one device, with their optimizers.

    Batches come and go on the CPU; micro-batches of a token budget visit the device. Weights of the
    loss are made over a whole mini-batch before it is cut, so that the cut cannot change the
    gradient.
    """

    def __init__(self, recipe: Recipe, *, device: str, checkpoint: Path | None = None) -> None:
        """Loads the models the recipe names, or full-size ones from a checkpoint of the run.

        Args:
            recipe: Models, algorithm and optimizers.
            device: Where the models live.
            checkpoint: Folder whose weights replace those of policy and critic, except where
                adapters are trained: those are put back by `grlo.training.checkpoint.restore`.
        """
        self.algorithm = cast(Algorithm, recipe.algorithm)
        self.settings = recipe.training
        self.num_steps: float = recipe.training.steps
        """Steps of the run, for the schedule of the learning rate; a budget may end it before."""
        self.device = device
        self.micro_batches = MicroBatches(recipe.training.micro_batch_tokens)
        self._offload = Offload(recipe.training.offload, device=device)
        self._temperature = recipe.sampling.temperature
        self._horizon = recipe.sampling.max_tokens
        self._compute_dtype = DTYPES[recipe.policy.compute_dtype]
        self._optimizer_settings = {"policy": recipe.optimizer, "critic": recipe.critic.optimizer}

        self._seed = recipe.seed
        # New heads and adapters are drawn from torch's generator.
        torch.manual_seed(derive_seed(recipe.seed, "init"))
        policy, critic = recipe.policy, recipe.critic
        if checkpoint is not None and policy.lora is None:
            policy = replace(policy, model=str(checkpoint), revision=None)
        if checkpoint is not None and critic.lora is None:
            critic = replace(critic, model=str(checkpoint / "critic"))
        self.policy = load_policy(policy, device=device)
        self.critic: PreTrainedModel | None = None
        if self.algorithm.needs_critic:
            self.critic = load_critic(recipe.policy, critic, device=device)
        self._reference: PreTrainedModel | None = None
        if self.algorithm.needs_reference and recipe.policy.lora is None:
            self._reference = load_reference(recipe.policy, device=device)
        for name, model in (("critic", self.critic), ("reference", self._reference)):
            if model is not None:
                with self._offload.model(name, model):
                    pass  # What is not at work waits in the CPU's memory.
        self.optimizers = {
            name: build_optimizer(model, self._optimizer_settings[name])
            for name, model in self.models().items()
        }

    def models(self) -> dict[str, PreTrainedModel]:
        """The models that are trained, in the order of their updates: `critic` if any, `policy`."""
        critic = {} if self.critic is None else {"critic": self.critic}
        return {**critic, "policy": self.policy}

    @contextmanager
    def at_work(self, name: str) -> Iterator[None]:
        """Has one of `models` and its optimizer's states where they are used."""
        model, optimizer = self.models()[name], self.optimizers[name]
        with self._offload.model(name, model), self._offload.states(optimizer):
            yield

    def policy_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Weights of the policy under their checkpoint names, adapters merged in."""
        with torch.no_grad():
            yield from merged_weights(self.policy)

    @property
    def num_updates(self) -> int:
        """Policy updates per step, when there are at least as many groups as mini-batches."""
        return self.settings.num_minibatches * self.settings.num_epochs

    @torch.no_grad()
    def annotate(self, batch: Batch, *, step: int, score_std: float) -> AnnotatedBatch:
        """Log-probabilities and values of the models as they stand before any update of the step.

        The policy's own are left out when the step makes a single update: the update then starts
        from exactly these weights, and the ratio is 1.
        """
        needs_old = (
            self.num_updates > 1
            or self.algorithm.needs_old_logprobs
            or not self._trains_policy(step)
        )
        old_BT = self._logprobs(self.policy, batch) if needs_old else None
        reference_BT = None
        if self.algorithm.needs_reference:
            if self._reference is not None:
                with self._offload.model("reference", self._reference):
                    reference_BT = self._logprobs(self._reference, batch)
            else:
                with without_adapters(self.policy) as reference:
                    reference_BT = self._logprobs(reference, batch)
        old_values_BT = None
        if self.critic is not None:
            with self._offload.model("critic", self.critic):
                old_values_BT = self._values(self.critic, batch)
        return AnnotatedBatch(
            **vars(batch),
            score_std=score_std,
            old_logprobs_BT=old_BT,
            reference_logprobs_BT=reference_BT,
            old_values_BT=old_values_BT,
        )

    def update(
        self, batch: TrainBatch, *, step: int, progress: Progress = silent
    ) -> dict[str, float]:
        """All mini-batch updates of a step.

        Args:
            batch: The step's rollouts with credit assigned.
            step: 1 for the first step of the run; decides learning rate and critic warm-up.
            progress: Told of rows done, over all models and epochs.

        Returns:
            Metrics, averaged over the response tokens of all updates.

        Raises:
            NonFiniteError: A loss or gradient is not finite; that optimizer has not moved.
        """
        # Dropout, where a model has it, is the only randomness here.
        torch.manual_seed(derive_seed(self._seed, "update", step))
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    self._optimizer_settings[name], step=step, num_steps=self.num_steps
                )
        names = [name for name in self.models() if name != "policy" or self._trains_policy(step)]
        averages = _TokenAverages(
            progress, num_rows=len(batch.tokens_BT) * self.settings.num_epochs * len(names)
        )
        metrics = {"policy/learning_rate": self.optimizers["policy"].param_groups[0]["lr"]}
        if batch.old_logprobs_BT is not None:
            metrics |= logprob_gap(batch.old_logprobs_BT, batch)
        if batch.old_values_BT is not None:
            metrics["critic/explained_variance"] = explained_variance(batch)
        for _ in range(self.settings.num_epochs):
            for rows in split_minibatches(batch.groups_B, self.settings.num_minibatches):
                minibatch = take_rows(batch, rows)
                for name in names:
                    with self._offload.model(name, self.models()[name]):
                        self._update(name, minibatch, averages, metrics)
        metrics["update/micro_batch_tokens"] = self.micro_batches.max_tokens
        return metrics | averages.means()

    def _update(
        self, name: str, minibatch: TrainBatch, averages: _TokenAverages, metrics: dict[str, float]
    ) -> None:
        """One optimizer step on one mini-batch, cut into micro-batches."""
        model, optimizer = self.models()[name], self.optimizers[name]
        reduction = self.algorithm.reduction if name == "policy" else "token_mean"
        weights_BT = loss_weights(minibatch.mask_BT, reduction=reduction, horizon=self._horizon)
        model.train()
        averages.mark()

        def start() -> None:
            optimizer.zero_grad(set_to_none=True)
            averages.rewind()

        def accumulate(rows: Tensor) -> None:
            micro = self._micro_batch(minibatch, rows)
            weights = weights_BT[rows, : micro.tokens_BT.shape[1]].to(self.device)
            if name == "policy":
                token_loss = self._policy_loss(model, micro, metrics)
            else:
                token_loss = self._value_loss(model, micro)
            loss = (torch.where(micro.mask_BT, token_loss.loss_BT, 0.0) * weights).sum()
            if not torch.isfinite(loss):
                raise NonFiniteError(_non_finite(f"{name} loss is {loss.item()}"))
            loss.backward()
            averages.add(token_loss.metrics_BT, micro.mask_BT)

        self.micro_batches.run(minibatch, accumulate, start=start)
        limit = self._optimizer_settings[name].max_grad_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), limit))
        if not math.isfinite(norm):
            raise NonFiniteError(_non_finite(f"{name} gradient norm is {norm}"))
        with explained(f"the step of the {name}'s optimizer"), self._offload.states(optimizer):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        metrics[f"{name}/grad_norm"] = max(norm, metrics.get(f"{name}/grad_norm", 0.0))

    def _policy_loss(
        self, model: nn.Module, micro: TrainBatch, metrics: dict[str, float]
    ) -> TokenLoss:
        logprobs_BT, entropy_BT = token_logprobs(
            model,
            micro,
            temperature=self._temperature,
            compute_dtype=self._compute_dtype,
            # Only an algorithm that says so is known not to use the entropy's gradient.
            entropy="gradient"
            if getattr(self.algorithm, "entropy_coefficient", 1.0) != 0
            else "detached",
        )
        token_loss = self.algorithm.policy_loss(logprobs_BT, entropy_BT, micro)
        if micro.old_logprobs_BT is not None:
            return token_loss
        gap_BT = (logprobs_BT.detach() - micro.engine_logprobs_BT).abs() * micro.mask_BT
        largest = metrics.get("engine/logprob_gap_max", 0.0)
        metrics["engine/logprob_gap_max"] = max(largest, float(gap_BT.max()))
        return TokenLoss(
            token_loss.loss_BT, {**token_loss.metrics_BT, "engine/logprob_gap": gap_BT}
        )

    def _value_loss(self, model: nn.Module, micro: TrainBatch) -> TokenLoss:
        values_BT = token_values(model, micro, compute_dtype=self._compute_dtype)
        return cast(ActorCritic, self.algorithm).value_loss(values_BT, micro)

    def _trains_policy(self, step: int) -> bool:
        if self.critic is None:
            return True
        return step > cast(ActorCritic, self.algorithm).critic_warmup_steps

    def _micro_batch(self, batch: Batch, rows: Tensor) -> TrainBatch:
        return to_device(take_rows(cast(TrainBatch, batch), rows), self.device)

    def _logprobs(self, model: nn.Module, batch: Batch) -> Tensor:
        logprobs_BT = torch.zeros_like(batch.engine_logprobs_BT)

        def annotate(rows: Tensor) -> None:
            values, _ = token_logprobs(
                model,
                self._micro_batch(batch, rows),
                temperature=self._temperature,
                compute_dtype=self._compute_dtype,
            )
            logprobs_BT[rows, : values.shape[1]] = values.cpu()

        self.micro_batches.run(batch, annotate)
        return logprobs_BT

    def _values(self, model: nn.Module, batch: Batch) -> Tensor:
        values_BT = torch.zeros_like(batch.engine_logprobs_BT)

        def annotate(rows: Tensor) -> None:
            micro = self._micro_batch(batch, rows)
            values = token_values(model, micro, compute_dtype=self._compute_dtype)
            values_BT[rows, : values.shape[1]] = values.cpu()

        self.micro_batches.run(batch, annotate)
        return values_BT


def learning_rate(settings: OptimizerSettings, *, step: int, num_steps: float) -> float:
    """The rate of a step (1 is the first): linear warm-up, constant, then the schedule's decay."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    start = max(settings.warmup_steps, settings.decay_start * num_steps)
    done = min(max((step - start) / max(num_steps - start, 1), 0.0), 1.0)
    left = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate * (settings.final_fraction + (1 - settings.final_fraction) * left)


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


class _TokenAverages:
    """Means of per-token quantities over all micro-batches of a step, as far as it has come."""

    def __init__(self, progress: Progress, *, num_rows: int) -> None:
        self._progress, self._num_rows = progress, num_rows
        self._rows = self._tokens = 0
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self.mark()

    def mark(self) -> None:
        """Remembers what has been added up to here."""
        self._marked = (self._rows, self._tokens, dict(self._sums), dict(self._counts))

    def rewind(self) -> None:
        """Forgets what has been added since `mark`."""
        self._rows, self._tokens, sums, counts = self._marked
        self._sums, self._counts = defaultdict(float, sums), defaultdict(int, counts)

    def add(self, metrics_BT: Mapping[str, Tensor], mask_BT: Tensor) -> None:
        count = int(mask_BT.sum())
        for name, values_BT in metrics_BT.items():
            self._sums[name] += float(values_BT[mask_BT].sum())
            self._counts[name] += count
        self._rows += len(mask_BT)
        self._tokens += count
        self._progress(done=self._rows, total=self._num_rows, tokens=self._tokens)

    def means(self) -> dict[str, float]:
        return {name: total / self._counts[name] for name, total in self._sums.items()}


def _non_finite(what: str) -> str:
    return (
        f"{what}; the optimizer has not moved and the last checkpoint is intact. Look at the "
        "rollouts of the step, lower the learning rate, or compute in float32."
    )
