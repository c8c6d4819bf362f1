"""The optimizer's part of a training step: rows in, new weights and metrics out.

How rows are split into micro-batches, and these among the processes of a job, changes nothing but
rounding: the weight of every token in the loss is fixed for the whole optimizer step before the
rows are split, and gradients add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch

from llm.common.errors import ReportedError
from llm.distributed.determinism import deterministic, prepare
from llm.distributed.processes import (
    gather,
    on_all_ranks,
    rank,
    world_size,
)
from llm.learner.losses import (
    LossInputs,
    loss_metrics,
    loss_weights,
    policy_loss,
)
from llm.learner.options import LossConfig, UpdateOptions
from llm.learner.rows import (
    MicroBatch,
    Row,
    deal,
    pad,
)
from llm.models.fsdp import full_tensor, local_shard
from llm.models.logprobs import CompletionLogprobs
from llm.models.policy import trainable


class TrainingError(ReportedError):
    """Training cannot go on; the message says why. The step that failed was not taken."""

    def __init__(self, message: str, diagnosis: dict[str, Any]) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis


class _Found(NamedTuple):
    """Something that is not finite: a loss with its rows and tokens, or a gradient's length."""

    what: str
    value: float
    rows: list[int]
    tokens: dict[str, int]


class PolicyUpdater:
    """Optimizer steps on a policy.

    Parameters
    ----------
    policy : PreTrainedModel, PeftModel, or what `llm.models.fsdp.shard` made of one
    optimizer : torch.optim.Optimizer
    scheduler : torch learning-rate scheduler
    loss : LossConfig
    options : UpdateOptions
    max_completion_length : int
        What "dr_grpo" divides by.
    temperature : float
        At which completions were sampled; log-probs are taken at the same.
    bf16 : bool
        Compute in bfloat16 by autocast.
    reference : model, optional
        For the KL term; by default the policy without its adapters.

    Attributes
    ----------
    whole : bool
        Whether the optimizer is between two batches, not within the steps of one.
    """

    def __init__(
        self,
        policy: Any,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        loss: LossConfig,
        options: UpdateOptions,
        *,
        max_completion_length: int,
        temperature: float = 1.0,
        bf16: bool = False,
        reference: Any = None,
    ) -> None:
        self.forward = _forward(policy)
        self.policy = self.forward.model
        self.optimizer, self.scheduler = optimizer, scheduler
        self.loss, self.options = loss, options
        self.max_completion_length, self.temperature = max_completion_length, temperature
        self.bf16 = bf16
        self.reference = None if reference is None else _forward(reference)
        self.device = next(self.policy.parameters()).device
        if options.full_determinism:
            prepare(self.device)
        self.whole = True

    def __call__(
        self,
        rows: Sequence[Row],
        rng: np.random.Generator,
        progress: Callable[[int], None] = lambda tokens: None,
    ) -> dict[str, float]:
        """Take the optimizer steps of one batch.

        Parameters
        ----------
        rows : sequence of Row
        rng : numpy Generator
            Deals the rows out where there are several steps a pass.
        progress : function of int
            Told the trained tokens of each micro-batch that is done, in all processes.

        Returns
        -------
        dict of float
            TRL's metrics, averaged over the optimizer steps.

        Raises
        ------
        TrainingError
            If a loss or a gradient is not finite. The step that found it was not taken.
        ValueError
            If `full_determinism` is asked of a model that has an operation without it.
        """
        repeats = deterministic(self.device) if self.options.full_determinism else nullcontext()
        with repeats:
            return self._steps(rows, rng, progress)

    def _steps(
        self, rows: Sequence[Row], rng: np.random.Generator, progress: Callable[[int], None]
    ) -> dict[str, float]:
        """All optimizer steps of a batch."""
        options = self.options
        self.policy.train()
        single = options.num_iterations * options.steps_per_generation == 1
        old = None if single else self._old_logprobs(rows)
        records = []
        for _ in range(options.num_iterations):
            order = np.arange(len(rows))
            if options.steps_per_generation > 1:
                order = rng.permutation(len(rows))
            for part in np.array_split(order, options.steps_per_generation):
                records.append(self._step(rows, sorted(part.tolist()), old, rng, progress))
        self.whole = True
        return {
            name: float(np.mean([r[name] for r in records if name in r]))
            for name in dict.fromkeys(name for record in records for name in record)
        }

    def logprobs(self, batch: MicroBatch, model: CompletionLogprobs | None = None) -> torch.Tensor:
        """Log-probs of the trained tokens of a micro-batch under the policy or `model`, (N,)."""
        forward = self.forward if model is None else model
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logprobs: torch.Tensor = forward(
                batch.input_ids, batch.attention_mask, batch.mask, self.temperature
            )
        return logprobs

    @torch.no_grad()
    def _reference_logprobs(self, batch: MicroBatch) -> torch.Tensor:
        if self.reference is not None:
            return self.logprobs(batch, self.reference)
        with self.policy.disable_adapter():
            return self.logprobs(batch)

    def _informative(self, rows: Sequence[Row], part: Sequence[int]) -> list[int]:
        """Rows that can move the policy: the others need no pass through the model."""
        return [i for i in part if rows[i].moves(self.loss.beta)]

    def _old_logprobs(self, rows: Sequence[Row]) -> dict[int, torch.Tensor]:
        """Log-probs of each row's trained tokens before the first step."""
        old: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            for batch, _ in self._batches(rows, self._informative(rows, range(len(rows)))):
                lengths = [rows[i].trained for i in batch.members]
                parts = self.logprobs(batch).cpu().split(lengths) if lengths else ()
                old.update(zip(batch.members, parts, strict=True))
        # Later steps deal the rows anew.
        return {i: values for part in gather(old) for i, values in part.items()}

    def _batches(
        self, rows: Sequence[Row], part: Sequence[int]
    ) -> Iterator[tuple[MicroBatch, int]]:
        """Our micro-batches, as many as every process has, and the tokens of everybody's."""
        size = self.options.per_device_train_batch_size
        for hands in deal(rows, part, size, world_size()):
            tokens = sum(rows[i].trained for members in hands for i in members)
            yield pad(rows, hands[rank()], self.device), tokens

    def _step(
        self,
        rows: Sequence[Row],
        part: Sequence[int],
        old: dict[int, torch.Tensor] | None,
        rng: np.random.Generator,
        progress: Callable[[int], None],
    ) -> dict[str, float]:
        """One optimizer step on some of the rows."""
        lengths = torch.tensor([rows[i].trained for i in part])
        weights = loss_weights(lengths, self.loss.loss_type, self.max_completion_length)
        weight = dict(zip(part, weights.tolist(), strict=True))
        betas = {i: rows[i].kl(self.loss.beta) for i in part}
        # Zero rather than none: a step without any advantage is still a step of the optimizer.
        for parameter in trainable(self.policy).values():
            parameter.grad = torch.zeros_like(parameter)
        loss, tokens = 0.0, []
        found: _Found | None = None
        for batch, done in self._batches(rows, self._informative(rows, part)):
            out = policy_loss(self._inputs(batch, old, weight, betas), self.loss)
            value = out.loss.item()
            if not math.isfinite(value):
                found = found or _Found("loss", value, batch.members, _odd(out.tokens))
                if world_size() == 1:
                    break
            out.loss.backward()  # by all or by none, whatever one has found
            loss += value
            tokens.append(out.tokens)
            progress(done)
        losses, everyones, finds = _everyones(loss, tokens, found)
        for found in filter(None, finds):
            raise self._not_finite(found, rows)
        metrics = {"loss": sum(losses)}
        clip = self.options.max_grad_norm or math.inf
        norm = full_tensor(torch.nn.utils.clip_grad_norm_(trainable(self.policy).values(), clip))
        if not torch.isfinite(norm):
            raise self._not_finite(_Found("grad_norm", float(norm), [], {}), rows)
        learning_rate = self.scheduler.get_last_lr()[0]
        self.whole = False
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        metrics |= {"grad_norm": float(norm), "learning_rate": learning_rate}
        if everyones:
            joined = {name: torch.cat([t[name] for t in everyones]) for name in everyones[0]}
            metrics.update(loss_metrics(joined))
        return metrics

    def _inputs(
        self,
        batch: MicroBatch,
        old: dict[int, torch.Tensor] | None,
        weight: dict[int, float],
        betas: dict[int, float],
    ) -> LossInputs:
        per_row = torch.tensor([weight[i] for i in batch.members], device=self.device)
        ref_logprobs = beta = None
        if any(betas.values()):  # those of all micro-batches: all processes need the pass, or none
            ref_logprobs = self._reference_logprobs(batch)
            found = [betas[i] for i in batch.members] or [0.0]
            beta = torch.tensor(found, dtype=torch.float64, device=self.device)
        return LossInputs(
            logprobs=self.logprobs(batch),
            old_logprobs=None if old is None else _joined(old, batch),
            sampling_logprobs=batch.logprobs,
            ref_logprobs=ref_logprobs,
            advantages=batch.advantages,
            row=batch.row,
            weights=per_row[batch.row],
            gammas=batch.gammas,
            betas=beta,
        )

    def _not_finite(self, found: _Found, rows: Sequence[Row]) -> TrainingError:
        """What a person needs to find the cause."""
        here = [
            n for n, p in self.policy.named_parameters() if not torch.isfinite(local_shard(p)).all()
        ]
        weights = list(dict.fromkeys(name for names in gather(here) for name in names))
        largest = float(np.max(np.abs([row.advantage for row in rows])))  # a NaN is the largest
        diagnosis = {
            found.what: str(found.value),
            "learning_rate": self.scheduler.get_last_lr()[0],
            "rows": found.rows,
            "largest_advantage": largest if math.isfinite(largest) else str(largest),
            "tokens_not_finite": found.tokens,
            "parameters_not_finite": weights,
        }
        cause = (
            f"the weights of {weights[0]} are not finite"
            if weights
            else f"an advantage is {largest}"
            if not math.isfinite(largest)
            else f"not finite per token: {', '.join(found.tokens)}"
            if found.tokens
            else "the gradient overflows"
        )
        message = f"{found.what} is {found.value} ({cause}); lower learning_rate or max_grad_norm"
        return on_all_ranks(TrainingError(message, diagnosis))


def _forward(model: Any) -> CompletionLogprobs:
    return model if isinstance(model, CompletionLogprobs) else CompletionLogprobs(model)


def _joined(values: dict[int, torch.Tensor], batch: MicroBatch) -> torch.Tensor:
    """The values of a micro-batch's rows, in a row."""
    parts = [values[i] for i in batch.members]
    return torch.cat(parts).to(batch.logprobs.device) if parts else batch.logprobs


def _odd(tokens: dict[str, torch.Tensor]) -> dict[str, int]:
    """How many of the values that loss saw are not finite, where there are any."""
    odd = {name: int((~torch.isfinite(values)).sum()) for name, values in tokens.items()}
    return {name: count for name, count in odd.items() if count}


def _everyones(
    loss: float, tokens: list[dict[str, torch.Tensor]], found: _Found | None
) -> tuple[list[float], list[dict[str, torch.Tensor]], list[_Found | None]]:
    """Losses, tokens and finds of all processes."""
    if world_size() > 1:
        tokens = [{name: values.cpu() for name, values in each.items()} for each in tokens]
    losses, parts, finds = zip(*gather((loss, tokens, found)), strict=True)
    return list(losses), [each for part in parts for each in part], list(finds)
