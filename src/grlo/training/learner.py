"""Annotates batches with what the models say of them, and updates policy and critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grlo.batch import (
    AnnotatedBatch,
    Batch,
    TokenBatch,
    TokenLoss,
    TrainBatch,
    loss_weights,
    split_minibatches,
    take_rows,
    to_device,
)
from grlo.errors import NonFiniteError
from grlo.interfaces import ActorCritic, Algorithm, Progress, silent
from grlo.memory.offload import Offload
from grlo.modeling.adapters import merged_weights, whole_tensor
from grlo.seeding import derive_seed
from grlo.settings import Recipe
from grlo.training.averages import TokenAverages
from grlo.training.batch_metrics import explained_variance, logprob_gap
from grlo.training.memory import MicroBatches, explained
from grlo.training.metrics import with_effective_sample_size
from grlo.training.models import (
    DTYPES,
    EntropyMode,
    load_critic,
    load_policy,
    load_reference,
    token_logprobs,
    token_values,
    without_adapters,
)
from grlo.training.optimizers import build_optimizer, moment_bytes
from grlo.training.schedule import learning_rate
from grlo.training.shared_critic import (
    ValueHead,
    load_value_head,
    token_logprobs_and_values,
    values_of_frozen_trunk,
)
from grlo.training.undivided import Undivided


class Learner:
    """Policy, critic and reference on one device, with their optimizers.

    Batches come and go on the CPU; micro-batches of a token budget visit the device. Weights of the
    loss are made over a whole mini-batch before it is cut, so that the cut cannot change the
    gradient. Where several processes train together each has a learner, all are given the same
    batches, and each reads its share of the rows.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        device: str,
        checkpoint: Path | None = None,
        division: Undivided | None = None,
    ) -> None:
        """Loads the models the recipe names, or full-size ones from a checkpoint of the run.

        Args:
            recipe: Models, algorithm and optimizers.
            device: Where the models live.
            checkpoint: Folder whose weights replace those of policy and critic, except where
                adapters are trained: those are put back by `grlo.training.checkpoint.restore`.
            division: How work is divided among processes; None is one process.
        """
        self.division = division or Undivided()
        self.algorithm = cast(Algorithm, recipe.algorithm)
        self.settings = recipe.training
        self.num_steps: float = recipe.training.steps
        """Steps of the run, for the schedule of the learning rate; a budget may end it before."""
        self.device = device
        self.micro_batches = MicroBatches(
            recipe.training.micro_batch_tokens,
            # The others would go on with micro-batches of another size, and what a failed pass of
            # a sharded model owes them is not known.
            fixed_by="training.micro_batch_tokens" if self.division.size > 1 else "",
        )
        offload = () if self.division.is_sharded else recipe.training.offload
        self._offload = Offload(offload, device=device)
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
        if checkpoint is not None and critic.lora is None and not critic.share_trunk:
            critic = replace(critic, model=str(checkpoint / "critic"))
        loaded, dtype = self.division.load_device(device), self._compute_dtype
        self.policy = load_policy(policy, device=loaded)
        self.critic: PreTrainedModel | ValueHead | None = None
        if self.algorithm.needs_critic and critic.share_trunk:
            self.critic = load_value_head(self.policy, checkpoint=checkpoint)
        elif self.algorithm.needs_critic:
            self.critic = load_critic(recipe.policy, critic, device=loaded)
            self.critic = self.division.place(self.critic, "critic", dtype=dtype)
        self._critic_settings = critic
        self._reference: PreTrainedModel | None = None
        if self.algorithm.needs_reference and recipe.policy.lora is None:
            self._reference = load_reference(recipe.policy, device=loaded)
            self._reference = self.division.place(self._reference, "reference", dtype=dtype)
        self.policy = self.division.place(self.policy, "policy", dtype=dtype)
        if isinstance(self.critic, ValueHead):
            self.critic.to(device)
        for name, model in (("critic", self.critic), ("reference", self._reference)):
            if model is not None:
                with self._offload.model(name, model):
                    pass  # What is not at work waits in the CPU's memory.
        self.optimizers = {
            name: build_optimizer(model, self._optimizer_settings[name])
            for name, model in self.models().items()
        }

    def models(self) -> dict[str, nn.Module]:
        """The models that are trained, in the order of their updates: `critic` if any, `policy`.

        A critic on the policy's trunk is its head.
        """
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

    def tell_checkpoint(self, folder: Path) -> None:
        """Has other processes write their share of a checkpoint, where they have one."""

    @property
    def pending_bytes(self) -> int:
        """Memory that both moments will take from the first update on, and keep."""
        if "optimizer" in self.settings.offload:
            return 0
        return sum(
            moment_bytes(parameter, self._optimizer_settings[name]) // self.division.num_shards
            for name, optimizer in self.optimizers.items()
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter not in optimizer.state
        )

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
        if needs_old and isinstance(self.critic, ValueHead):
            old_BT, values_BT = self._logprobs_and_values(batch)
        else:
            old_BT = self._logprobs(self.policy, batch) if needs_old else None
            values_BT = None
            if self.critic is not None:
                with self._present(["critic"]):
                    values_BT = self._values(batch)
        reference_BT = None
        if self.algorithm.needs_reference:
            if self._reference is not None:
                with self._offload.model("reference", self._reference):
                    reference_BT = self._logprobs(self._reference, batch)
            else:
                with without_adapters(self.policy) as reference:
                    reference_BT = self._logprobs(reference, batch)
        return AnnotatedBatch(
            **vars(batch),
            score_std=score_std,
            old_logprobs_BT=old_BT,
            reference_logprobs_BT=reference_BT,
            old_values_BT=values_BT,
        )

    def rows_to_read(self, batch: TrainBatch) -> Tensor:
        """Numbers of the rows that updates read; others add nothing to any gradient.

        Left out are rows whose advantages are all exactly zero (groups without spread), where the
        algorithm says that they have no other gradient and there is no critic to learn from them.
        """
        if self._unread_metrics is None:
            return torch.arange(len(batch.tokens_BT))
        return (batch.mask_BT & (batch.advantages_BT != 0)).any(1).nonzero().flatten()

    @property
    def _unread_metrics(self) -> Mapping[str, float] | None:
        """Metrics of a token that is not read; None where all are read."""
        if self.critic is not None:
            return None
        # Only an algorithm that says so is known to have no other gradient.
        return getattr(self.algorithm, "zero_advantage_metrics", None)

    def update(
        self, batch: TrainBatch, *, step: int, progress: Progress = silent
    ) -> dict[str, float]:
        """All mini-batch updates of a step.

        Args:
            batch: The step's rollouts with credit assigned.
            step: 1 for the first step of the run; decides learning rate and critic warm-up.
            progress: Told of rows done, over all models and epochs.

        Returns:
            Metrics, averaged over the response tokens of all updates. Where rows may be left out
            (`rows_to_read`), `update/skipped_rows` is their share; losses and clip fractions are
            still means over all tokens, but what only a forward pass can tell (entropy,
            approximate KL, gap to the engine) is a mean over the tokens that were read.

        Raises:
            NonFiniteError: A loss or gradient is not finite; that optimizer has not moved.
        """
        # Dropout, where a model has it, is the only randomness here.
        others = (self.division.rank,) if self.division.rank else ()
        torch.manual_seed(derive_seed(self._seed, "update", step, *others))
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    self._optimizer_settings[name], step=step, num_steps=self.num_steps
                )
        passes = self._passes(step)
        averages = TokenAverages(
            progress,
            num_rows=len(batch.tokens_BT) * self.settings.num_epochs * len(passes),
            num_processes=self.division.size,
        )
        metrics = {"policy/learning_rate": self.optimizers["policy"].param_groups[0]["lr"]}
        if batch.old_logprobs_BT is not None:
            metrics |= logprob_gap(batch.old_logprobs_BT, batch)
        if batch.old_values_BT is not None:
            metrics["critic/explained_variance"] = explained_variance(batch)
        if self._unread_metrics is not None:
            num_read, num_rows = len(self.rows_to_read(batch)), len(batch.tokens_BT)
            metrics["update/skipped_rows"] = (num_rows - num_read) / num_rows
        for _ in range(self.settings.num_epochs):
            for rows in split_minibatches(batch.groups_B, self.settings.num_minibatches):
                minibatch = take_rows(batch, rows)
                for names in passes:
                    with self._present(names):
                        self._update(names, minibatch, averages, metrics)
        metrics["update/micro_batch_tokens"] = self.micro_batches.max_tokens
        averages.become_sum(self.division.gather(averages.part()))
        return metrics | averages.largest | with_effective_sample_size(averages.means())

    def _passes(self, step: int) -> list[tuple[str, ...]]:
        """The models that each pass over a mini-batch trains."""
        names = tuple(self.models()) if self._trains_policy(step) else ("critic",)
        return [names] if isinstance(self.critic, ValueHead) else [(name,) for name in names]

    @contextmanager
    def _present(self, names: Iterable[str]) -> Iterator[None]:
        """Has the weights of these of `models` on the device."""
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(self._offload.model(name, self.models()[name]))
            yield

    def _update(
        self,
        names: tuple[str, ...],
        minibatch: TrainBatch,
        averages: TokenAverages,
        metrics: dict[str, float],
    ) -> None:
        """One step of the optimizers of a pass on one mini-batch, cut into micro-batches."""
        weights_BT = {}
        for name in names:
            reduction = self.algorithm.reduction if name == "policy" else "token_mean"
            weights_BT[name] = loss_weights(
                minibatch.mask_BT, reduction=reduction, horizon=self._horizon
            )
            self.models()[name].train()
        averages.mark()

        def start() -> None:
            averages.rewind()
            for name in names:
                self.optimizers[name].zero_grad(set_to_none=True)

        def accumulate(rows: Tensor | None, micro: TrainBatch) -> None:
            loss = torch.zeros((), device=self.device)
            token_losses = self._token_losses(names, micro)
            for name, token_loss in token_losses.items():
                weights: Tensor | float = 0.0
                if rows is not None:
                    weights = weights_BT[name][rows, : micro.tokens_BT.shape[1]].to(self.device)
                part = (torch.where(micro.mask_BT, token_loss.loss_BT, 0.0) * weights).sum()
                if rows is not None and not torch.isfinite(part):
                    error = NonFiniteError(_non_finite(f"{name} loss is {part.item()}"))
                    self.division.note(error)
                loss = loss + part
            loss.backward()
            if rows is None:
                return
            if micro.old_logprobs_BT is None and "policy" in token_losses:
                gap_BT = token_losses["policy"].metrics_BT["engine/logprob_gap"]
                averages.add_largest("engine/logprob_gap_max", float(gap_BT.max()))
            averages.add(
                {key: x for part in token_losses.values() for key, x in part.metrics_BT.items()},
                micro.mask_BT,
            )

        read = self.rows_to_read(minibatch)
        self._by_micro_batches(minibatch, accumulate, rows=read, start=start)
        self.division.agree()
        if self._unread_metrics is not None:
            if self.division.rank == 0:  # Once for all.
                is_unread_B = torch.ones(len(minibatch.tokens_BT), dtype=torch.bool)
                is_unread_B[read] = False
                averages.add_unread(self._unread_metrics, minibatch.mask_BT[is_unread_B])
            if not len(read):
                # A gradient of zero still moves weights, by momentum and weight decay.
                _fill_gradients(self.policy)
        for name in names:
            self.division.sum_gradients(self.models()[name])
        norms = {name: self._clip_gradient(name) for name in names}
        for name, norm in norms.items():
            optimizer = self.optimizers[name]
            with explained(f"the step of the {name}'s optimizer"), self._offload.states(optimizer):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            metrics[f"{name}/grad_norm"] = max(norm, metrics.get(f"{name}/grad_norm", 0.0))

    def _clip_gradient(self, name: str) -> float:
        """Norm of a model's gradient before it was clipped."""
        limit = self._optimizer_settings[name].max_grad_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.models()[name].parameters(), limit)
        norm = float(whole_tensor(norm))
        if not math.isfinite(norm):
            raise NonFiniteError(_non_finite(f"{name} gradient norm is {norm}"))
        return norm

    def _token_losses(self, names: tuple[str, ...], micro: TrainBatch) -> dict[str, TokenLoss]:
        """The losses of a pass by model, as they are added up."""
        # Only an algorithm that says so is known not to use the entropy's gradient.
        has_entropy = getattr(self.algorithm, "entropy_coefficient", 1.0) != 0
        entropy: EntropyMode = "gradient" if has_entropy else "detached"
        if names == ("critic",):
            return {"critic": self._value_loss(self._micro_values(micro), micro)}
        if names == ("policy",):
            logprobs_BT, entropy_BT = token_logprobs(
                self.policy,
                micro,
                temperature=self._temperature,
                compute_dtype=self._compute_dtype,
                entropy=entropy,
            )
            return {"policy": self._policy_loss(logprobs_BT, entropy_BT, micro)}
        logprobs_BT, entropy_BT, values_BT = self._shared_pass(micro, entropy=entropy)
        return {
            "critic": self._value_loss(values_BT, micro),
            "policy": self._policy_loss(logprobs_BT, entropy_BT, micro),
        }

    def _shared_pass(
        self, micro: TokenBatch, *, entropy: EntropyMode = "none"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropy and values, where the critic sits on the policy's trunk."""
        return token_logprobs_and_values(
            self.policy,
            cast(ValueHead, self.critic),
            micro,
            temperature=self._temperature,
            compute_dtype=self._compute_dtype,
            entropy=entropy,
            detach=self._critic_settings.detach,
        )

    def _policy_loss(self, logprobs_BT: Tensor, entropy_BT: Tensor, micro: TrainBatch) -> TokenLoss:
        token_loss = self.algorithm.policy_loss(logprobs_BT, entropy_BT, micro)
        if micro.old_logprobs_BT is not None:
            return token_loss
        gap_BT = (logprobs_BT.detach() - micro.engine_logprobs_BT).abs()
        gap_BT = torch.where(micro.mask_BT, gap_BT, 0.0)
        return TokenLoss(
            token_loss.loss_BT, {**token_loss.metrics_BT, "engine/logprob_gap": gap_BT}
        )

    def _value_loss(self, values_BT: Tensor, micro: TrainBatch) -> TokenLoss:
        token_loss = cast(ActorCritic, self.algorithm).value_loss(values_BT, micro)
        if not isinstance(self.critic, ValueHead):
            return token_loss
        scaled_BT = self._critic_settings.value_coefficient * token_loss.loss_BT
        return TokenLoss(scaled_BT, token_loss.metrics_BT)

    def _trains_policy(self, step: int) -> bool:
        if self.critic is None:
            return True
        return step > cast(ActorCritic, self.algorithm).critic_warmup_steps

    def _by_micro_batches(
        self,
        batch: Batch,
        work: Callable[[Tensor | None, TrainBatch], None],
        *,
        rows: Tensor | None = None,
        start: Callable[[], None] = lambda: None,
    ) -> None:
        """Does `work` on this process's share of rows of a batch, in parts that fit the device.

        Args:
            batch: What to cut.
            work: Told the row numbers of each part, and given the part on the device. Without
                numbers its results count nowhere: others are not done yet.
            rows: Row numbers to divide; None is all.
            start: As in `MicroBatches.run`.
        """
        rows = torch.arange(len(batch.tokens_BT)) if rows is None else rows
        batch = cast(TrainBatch, batch)

        def part(rows: Tensor) -> TrainBatch:
            return to_device(take_rows(batch, rows), self.device)

        own = self.division.rows(batch, rows)
        if len(own):
            self.micro_batches.run(
                take_rows(batch, own),
                lambda places: work(own[places], part(own[places])),
                start=start,
            )
        else:
            start()
        self.division.finish(lambda: work(None, part(_shortest(batch, rows))))

    def _logprobs(self, model: nn.Module, batch: Batch) -> Tensor:
        logprobs_BT = torch.zeros_like(batch.engine_logprobs_BT)

        def annotate(rows: Tensor | None, micro: TrainBatch) -> None:
            values, _ = token_logprobs(
                model,
                micro,
                temperature=self._temperature,
                compute_dtype=self._compute_dtype,
            )
            if rows is not None:
                logprobs_BT[rows, : values.shape[1]] = values.cpu()

        self._by_micro_batches(batch, annotate)
        return self.division.total(logprobs_BT)

    def _values(self, batch: Batch) -> Tensor:
        values_BT = torch.zeros_like(batch.engine_logprobs_BT)

        def annotate(rows: Tensor | None, micro: TrainBatch) -> None:
            values = self._micro_values(micro)
            if rows is not None:
                values_BT[rows, : values.shape[1]] = values.cpu()

        self._by_micro_batches(batch, annotate)
        return self.division.total(values_BT)

    def _micro_values(self, micro: TokenBatch) -> Tensor:
        """Values without log-probabilities; a trunk that is the policy's takes no gradient."""
        assert self.critic is not None
        if isinstance(self.critic, ValueHead):
            return values_of_frozen_trunk(
                self.policy, self.critic, micro, compute_dtype=self._compute_dtype
            )
        return token_values(self.critic, micro, compute_dtype=self._compute_dtype)

    def _logprobs_and_values(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logprobs_BT, values_BT = (torch.zeros_like(batch.engine_logprobs_BT) for _ in range(2))

        def annotate(rows: Tensor | None, micro: TrainBatch) -> None:
            logprobs, _, values = self._shared_pass(micro)
            if rows is not None:
                logprobs_BT[rows, : values.shape[1]] = logprobs.cpu()
                values_BT[rows, : values.shape[1]] = values.cpu()

        self._by_micro_batches(batch, annotate)
        return self.division.total(logprobs_BT), self.division.total(values_BT)


def _shortest(batch: Batch, rows: Tensor) -> Tensor:
    """The row that takes least to read."""
    return rows[batch.lengths_B[rows].argmin()][None]


def _fill_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def _non_finite(what: str) -> str:
    return (
        f"{what}; the optimizer has not moved and the last checkpoint is intact. Look at the "
        "rollouts of the step, lower the learning rate, or compute in float32."
    )
