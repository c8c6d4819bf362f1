"""Optimizer steps on the rows of a training step.

The weight of every token in the loss is fixed for the whole optimizer step, before its rows are
split into micro-batches and over ranks. Gradients add up, so the split changes only rounding.
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
    pad,
    shard_micro_batches,
)
from llm.learner.tries import Pack, pack, plan_packs, shard_packs, trie_cost, why_not_shared
from llm.models.fsdp import full_tensor, local_shard
from llm.models.logprobs import CompletionLogprobs
from llm.models.policy import trainable
from llm.models.tree_attention import attention_width


class TrainingError(ReportedError):
    """Training cannot continue; the failed step was not taken."""

    def __init__(self, message: str, diagnosis: dict[str, Any]) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis


class _NonFinite(NamedTuple):
    """A quantity that is not finite: a loss with its rows and tokens, or a gradient norm."""

    name: str
    value: float
    rows: list[int]
    tokens: dict[str, int]


class PolicyUpdater:
    """Optimizer steps on a policy.

    Parameters
    ----------
    policy : PreTrainedModel, PeftModel, or one sharded by `llm.models.fsdp.shard`
    optimizer : torch.optim.Optimizer
    scheduler : torch learning-rate scheduler
    loss : LossConfig
    options : UpdateOptions
    max_completion_length : int
        Divisor of "dr_grpo".
    temperature, top_p : float
        Completions were sampled, and log-probs are computed, at this temperature and top-p.
    bf16 : bool
        Compute in bfloat16 with autocast.
    reference : model, optional
        Reference of the KL term; by default the policy without its adapters.

    Attributes
    ----------
    between_batches : bool
        Whether the optimizer has taken all steps of a batch or none.
    why_not_shared : str
        Why prefixes that rows have in common are computed for each of them; "" if only once.
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
        top_p: float = 1.0,
        bf16: bool = False,
        reference: Any = None,
    ) -> None:
        self.forward = _forward(policy)
        self.policy = self.forward.model
        self.optimizer, self.scheduler = optimizer, scheduler
        self.loss, self.options = loss, options
        self.max_completion_length = max_completion_length
        self.temperature, self.top_p = temperature, top_p
        self.bf16 = bf16
        self.reference = None if reference is None else _forward(reference)
        self.device = next(self.policy.parameters()).device
        if options.full_determinism:
            prepare(self.device)
        self.between_batches = True
        self.width = attention_width(self.policy.config)
        self.why_not_shared = "it is off"
        if options.share_prefixes:
            self.why_not_shared = why_not_shared(
                self.policy, lambda batch: self._forward_batch(self.forward, batch)
            )

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
            Splits the rows where a pass has several steps.
        progress : function of int
            Called with the trained tokens of each finished micro-batch, summed over ranks.

        Returns
        -------
        dict of float
            TRL's metrics, averaged over the optimizer steps. `update/tokens` counts the tokens of
            all rows that can move the policy, prompts included. `update/computed_tokens` counts
            those that go through the model: a prefix that rows share, only once.

        Raises
        ------
        TrainingError
            If a loss or a gradient is not finite; that step was not taken.
        ValueError
            If `full_determinism` is set and the model has an operation without support for it.
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
        self.between_batches = True
        return {
            name: float(np.mean([r[name] for r in records if name in r]))
            for name in dict.fromkeys(name for record in records for name in record)
        }

    def logprobs(self, batch: MicroBatch, model: CompletionLogprobs | None = None) -> torch.Tensor:
        """Log-probs of the trained tokens of a micro-batch under the policy or `model`, (N,)."""
        forward = self.forward if model is None else model
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self._forward_batch(forward, batch)

    def _forward_batch(self, forward: CompletionLogprobs, batch: MicroBatch) -> torch.Tensor:
        logprobs: torch.Tensor = forward(
            batch.input_ids, batch.attention_mask, batch.mask,
            self.temperature, self.top_p, batch.tries,
        )  # fmt: skip
        return logprobs

    @torch.no_grad()
    def _reference_logprobs(self, batch: MicroBatch) -> torch.Tensor:
        if self.reference is not None:
            return self.logprobs(batch, self.reference)
        with self.policy.disable_adapter():
            return self.logprobs(batch)

    def _informative(self, rows: Sequence[Row], part: Sequence[int]) -> list[int]:
        """Indices of the rows that can move the policy; the others need no forward pass."""
        return [i for i in part if rows[i].moves(self.loss.beta)]

    def _old_logprobs(self, rows: Sequence[Row]) -> dict[int, torch.Tensor]:
        """Log-probs of each row's trained tokens before the first step."""
        old: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            plan = self._plan(rows, self._informative(rows, range(len(rows))))
            for batch, _ in self._batches(rows, plan):
                lengths = [rows[i].trained for i in batch.members]
                parts = self.logprobs(batch).cpu().split(lengths) if lengths else ()
                old.update(zip(batch.members, parts, strict=True))
        # Later steps shard the rows differently.
        return {i: values for part in gather(old) for i, values in part.items()}

    def _plan(self, rows: Sequence[Row], part: Sequence[int]) -> list[list[list[Pack]]]:
        """Packs of each micro-batch and rank; of single rows if prefixes are not shared."""
        size = self.options.per_device_train_batch_size
        if self.why_not_shared:
            return [
                [[Pack([i], len(rows[i].ids)) for i in members] for members in by_rank]
                for by_rank in shard_micro_batches(rows, part, size, world_size())
            ]
        # As much work and memory as `size` of the longest rows take.
        longest = max((len(rows[i].ids) for i in part), default=0)
        limit = size * trie_cost(longest, self.width)
        packs = plan_packs(rows, part, self.width, limit)
        return shard_packs(packs, self.width, longest, limit, world_size())

    def _batches(
        self, rows: Sequence[Row], plan: list[list[list[Pack]]]
    ) -> Iterator[tuple[MicroBatch, int]]:
        """Micro-batches of this rank, as many as on every rank, and their tokens on all ranks."""
        for by_rank in plan:
            tokens = sum(rows[i].trained for packs in by_rank for one in packs for i in one.rows)
            mine = by_rank[rank()]
            if all(len(one.rows) == 1 for one in mine):  # dense masks would only cost time
                yield pad(rows, [one.rows[0] for one in mine], self.device), tokens
            else:
                yield pack(rows, mine, self.device), tokens

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
        # Zero, not None: a step without any advantage is still a step of the optimizer.
        for parameter in trainable(self.policy).values():
            parameter.grad = torch.zeros_like(parameter)
        loss, tokens, informative = 0.0, [], self._informative(rows, part)
        non_finite: _NonFinite | None = None
        plan = self._plan(rows, informative)
        for batch, done in self._batches(rows, plan):
            out = policy_loss(self._inputs(batch, old, weight, betas), self.loss)
            value = out.loss.item()
            if not math.isfinite(value):
                suspects = [i for i in batch.members if not math.isfinite(rows[i].advantage)]
                non_finite = non_finite or _NonFinite(
                    "loss", value, suspects or batch.members, _count_non_finite(out.tokens)
                )
                if world_size() == 1:
                    break
            out.loss.backward()  # a collective: on all ranks, also after a non-finite loss on one
            loss += value
            tokens.append(out.tokens)
            progress(done)
        losses, all_tokens, failures = _gather_results(loss, tokens, non_finite)
        for failure in filter(None, failures):
            raise self._error(failure, rows)
        metrics = {"loss": sum(losses)}
        clip = self.options.max_grad_norm or math.inf
        norm = full_tensor(torch.nn.utils.clip_grad_norm_(trainable(self.policy).values(), clip))
        if not torch.isfinite(norm):
            raise self._error(_NonFinite("grad_norm", float(norm), [], {}), rows)
        learning_rate = self.scheduler.get_last_lr()[0]
        self.between_batches = False
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        metrics |= {
            "grad_norm": float(norm),
            "learning_rate": learning_rate,
            "update/tokens": sum(len(rows[i].ids) for i in informative),
            "update/computed_tokens": sum(
                one.tokens for by_rank in plan for packs in by_rank for one in packs
            ),
        }
        if all_tokens:
            joined = {name: torch.cat([t[name] for t in all_tokens]) for name in all_tokens[0]}
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
        # Of all micro-batches: the pass is a collective of all ranks.
        if self.loss.beta > 0 or any(betas.values()):
            ref_logprobs = self._reference_logprobs(batch)
            row_betas = [betas[i] for i in batch.members] or [0.0]
            beta = torch.tensor(row_betas, dtype=torch.float64, device=self.device)
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

    def _error(self, failure: _NonFinite, rows: Sequence[Row]) -> TrainingError:
        """The error for a non-finite quantity, with a diagnosis of its cause."""
        local = [
            n for n, p in self.policy.named_parameters() if not torch.isfinite(local_shard(p)).all()
        ]
        weights = list(dict.fromkeys(name for names in gather(local) for name in names))
        largest = float(np.max(np.abs([row.advantage for row in rows])))  # a NaN is the largest
        diagnosis = {
            failure.name: str(failure.value),
            "learning_rate": self.scheduler.get_last_lr()[0],
            "rows": failure.rows,
            "largest_advantage": largest if math.isfinite(largest) else str(largest),
            "tokens_not_finite": failure.tokens,
            "parameters_not_finite": weights,
        }
        cause = (
            f"the weights of {weights[0]} are not finite"
            if weights
            else f"an advantage is {largest}"
            if not math.isfinite(largest)
            else f"not finite per token: {', '.join(failure.tokens)}"
            if failure.tokens
            else "the gradient overflows"
        )
        message = (
            f"{failure.name} is {failure.value} ({cause}); lower learning_rate or max_grad_norm"
        )
        return on_all_ranks(TrainingError(message, diagnosis))


def _forward(model: Any) -> CompletionLogprobs:
    return model if isinstance(model, CompletionLogprobs) else CompletionLogprobs(model)


def _joined(values: dict[int, torch.Tensor], batch: MicroBatch) -> torch.Tensor:
    """The values of a micro-batch's rows, concatenated."""
    parts = [values[i] for i in batch.members]
    return torch.cat(parts).to(batch.logprobs.device) if parts else batch.logprobs


def _count_non_finite(tokens: dict[str, torch.Tensor]) -> dict[str, int]:
    """Non-finite values of each kind of token value; kinds without any are left out."""
    counts = {name: int((~torch.isfinite(values)).sum()) for name, values in tokens.items()}
    return {name: count for name, count in counts.items() if count}


def _gather_results(
    loss: float, tokens: list[dict[str, torch.Tensor]], failure: _NonFinite | None
) -> tuple[list[float], list[dict[str, torch.Tensor]], list[_NonFinite | None]]:
    """Losses, token values and failures of all ranks."""
    if world_size() > 1:
        tokens = [{name: values.cpu() for name, values in each.items()} for each in tokens]
    losses, parts, failures = zip(*gather((loss, tokens, failure)), strict=True)
    return list(losses), [each for part in parts for each in part], list(failures)
