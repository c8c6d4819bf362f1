"""Policy losses over a flat list of trained tokens, in TRL's names (`trl.GRPOConfig`, 1.16).

The inputs are the N trained tokens, each in one of R rows (sequences). Prompts, reset prefixes and
padding never enter. With the ratio r_t = π(token t)/π_old(token t) and the advantage A of its row,
the loss of a token is

    −min(r A, clip(r, 1 − ε_low, 1 + ε_high) A)        grpo, dr_grpo, dapo, bnpo
    −stop(min(r, ε_high)) A log π                      cispo (MiniMax-M1, arXiv:2506.13585)
    −f(π) A,  f(π) = π/(π + γ)                         rows of another policy, for all types

times the correction between engine and trainer, plus β times the k3 estimate of KL(π ‖ reference).
`importance_sampling_level="sequence"` has one ratio per row, the geometric mean of its tokens'
ratios (GSPO, arXiv:2507.18071; with loss_type="grpo").

The loss is Σ weight · token loss. `loss_weights` computes the weights once for a whole optimizer
step. Micro-batches of whole rows therefore add up, however the step is split: losses, gradients,
and the token values that `loss_metrics` reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.learner.options import LossConfig, LossType, check_choice


@dataclass(frozen=True, eq=False)
class LossInputs:
    """N trained tokens of R rows; a row's tokens are all in one `LossInputs`.

    Attributes
    ----------
    logprobs : Tensor (N,)
        log π of each token, with a graph.
    old_logprobs : Tensor (N,) or None
        log π_old of the policy before the first step on this batch; None before that step.
    sampling_logprobs : Tensor (N,) or None
        The engine's log-probs; NaN where it has none, None if it has none at all.
    ref_logprobs : Tensor (N,) or None
        The reference's log-probs, for beta > 0.
    advantages : Tensor (R,)
    row : Tensor (N,) of int64
        Each token's row, in 0, …, R − 1.
    weights : Tensor (N,)
        Each token's weight in the loss: `loss_weights(…)[row]`.
    gammas : Tensor (R,) or None
        γ > 0 marks a row sampled by another policy, or after another prompt. It has no ratio. The
        loss of its tokens is −f(π) A with f(π) = π/(π + γ) (LUFFY, arXiv:2504.14945). It is never
        clipped, and its gradient fades for tokens that are already likely.
    betas : Tensor (R,) or None
        Coefficient of each row's KL term; None: `LossConfig.beta`.
    """

    logprobs: Tensor
    old_logprobs: Tensor | None
    sampling_logprobs: Tensor | None
    ref_logprobs: Tensor | None
    advantages: Tensor
    row: Tensor
    weights: Tensor
    gammas: Tensor | None = None
    betas: Tensor | None = None

    def __post_init__(self) -> None:
        if self.logprobs.ndim != 1:
            raise ValueError(f"logprobs: shape {tuple(self.logprobs.shape)} is not (tokens,)")
        if self.advantages.ndim != 1:
            raise ValueError(f"advantages: shape {tuple(self.advantages.shape)} is not (rows,)")
        if self.row.dtype != torch.int64:
            raise ValueError(f"row: dtype {self.row.dtype} is not torch.int64")
        for name in ("old_logprobs", "sampling_logprobs", "ref_logprobs", "row", "weights"):
            values = getattr(self, name)
            if values is not None and values.shape != self.logprobs.shape:
                raise ValueError(
                    f"{name}: shape {tuple(values.shape)} is not that of logprobs,"
                    f" {tuple(self.logprobs.shape)}"
                )
        for name in ("gammas", "betas"):
            values = getattr(self, name)
            if values is not None and values.shape != self.advantages.shape:
                raise ValueError(
                    f"{name}: shape {tuple(values.shape)} is not that of advantages,"
                    f" {tuple(self.advantages.shape)}"
                )


@dataclass(frozen=True, eq=False)
class LossOutputs:
    """A loss, and values at each token.

    Attributes
    ----------
    loss : Tensor ()
        Σ weight · token loss.
    tokens : dict of Tensor (N,)
        Values without a graph, for `loss_metrics`; concatenate them over micro-batches.

        - "ratio": π/π_old of the token or of its row;
        - "ratio_share": the token's share of that ratio, 1 or 1/(tokens in the row);
        - "clipped_low" and "clipped_high", or "clipped_cispo": 1 where the gradient (for CISPO,
          the ratio) is cut; "…_in_row" is the mean over the row;
        - "kl": the KL estimate, with beta;
        - "sampling_logp_difference": |log π_old − log π_engine|, with the engine's log-probs;
        - "is_ratio" and "is_ratio_share": the correction as applied, and the token's share of it.
    """

    loss: Tensor
    tokens: dict[str, Tensor]


def loss_weights(
    row_lengths: Tensor, loss_type: LossType, max_completion_length: int | None = None
) -> Tensor:
    """Weight in the loss of each row's tokens, for one optimizer step.

    Parameters
    ----------
    row_lengths : Tensor (R,) of integers
        Trained tokens in each row of the whole step, before it is split into micro-batches. Rows
        without trained tokens count, too.
    loss_type : str
        See `LossConfig`.
    max_completion_length : int, optional
        Maximum number of tokens of a row; "dr_grpo" needs it.

    Returns
    -------
    Tensor (R,)
        1/(R · length) for "grpo", 1/(R · max_completion_length) for "dr_grpo" and 1/Σ lengths for
        "dapo", "bnpo" and "cispo".

    Notes
    -----
    TRL's "bnpo" divides by the tokens of the micro-batch, so its loss depends on how a step is
    split. Here "bnpo" divides by the tokens of the step, and equals "dapo".
    """
    check_choice("loss_type", loss_type, LossType)
    if row_lengths.ndim != 1 or row_lengths.is_floating_point() or bool((row_lengths < 0).any()):
        raise ValueError(f"row_lengths: {row_lengths} is not a list of integers ≥ 0")
    lengths = row_lengths.to(torch.get_default_dtype())
    if loss_type == "grpo":
        return 1 / (len(lengths) * lengths.clamp(min=1))
    if loss_type == "dr_grpo":
        if max_completion_length is None or max_completion_length < 1:
            raise ValueError(
                f"max_completion_length: 'dr_grpo' divides by it; {max_completion_length} is not"
                " an integer ≥ 1"
            )
        return torch.full_like(lengths, 1 / (max(len(lengths), 1) * max_completion_length))
    return torch.ones_like(lengths) / lengths.sum().clamp(min=1)


def policy_loss(inputs: LossInputs, config: LossConfig) -> LossOutputs:
    """Σ weight · token loss; only `inputs.logprobs` has a gradient.

    Parameters
    ----------
    inputs : LossInputs
        The tokens of a micro-batch, which may be empty.
    config : LossConfig

    Returns
    -------
    LossOutputs

    Notes
    -----
    TRL's loss is `GRPOTrainer._compute_loss`. TRL computes the correction before the first step, in
    `GRPOTrainer._generate_and_score_completions`.
    """
    logprobs, row, rows = inputs.logprobs, inputs.row, len(inputs.advantages)
    advantages = inputs.advantages.to(logprobs.dtype)[row]
    old = (logprobs if inputs.old_logprobs is None else inputs.old_logprobs).detach()
    one = torch.ones_like(old)
    share = 1 / _row_sum(one, row, rows)

    log_ratio = logprobs - old
    by_row = config.importance_sampling_level == "sequence"
    if by_row:
        log_ratio = _row_sum(log_ratio * share, row, rows)
    ratio = log_ratio.exp()
    losses, clipped = _surrogate(logprobs, ratio, advantages, config)
    if inputs.gammas is not None:
        gamma = inputs.gammas.to(logprobs.dtype)[row]
        shaped = gamma > 0
        probs = logprobs.exp()
        # `where` multiplies the gradient of the unused branch by 0, which would keep a NaN.
        f = probs / (probs + torch.where(shaped, gamma, 1.0))
        losses = torch.where(shaped, -f * advantages, losses)
        clipped = {name: flags.masked_fill(shaped, 0.0) for name, flags in clipped.items()}
    tokens = {"ratio": ratio, "ratio_share": share if by_row else one, **clipped}
    for name, flags in clipped.items():
        tokens[f"{name}_in_row"] = _row_sum(flags * share, row, rows)

    if inputs.sampling_logprobs is not None:
        mismatch = old - inputs.sampling_logprobs.detach()
        tokens["sampling_logp_difference"] = mismatch.abs()
        if config.vllm_importance_sampling_correction:
            # Without an engine log-prob there is no correction, as in TRL. A NaN of π_old stays.
            known = torch.where(inputs.sampling_logprobs.isnan(), 0.0, mismatch)
            by_row = config.vllm_importance_sampling_mode.startswith("sequence_")
            correction = _limited((_row_sum(known, row, rows) if by_row else known).exp(), config)
            losses = losses * correction
            tokens["is_ratio"] = correction
            tokens["is_ratio_share"] = share if by_row else one

    if config.beta > 0 or inputs.betas is not None:
        if inputs.ref_logprobs is None:
            raise ValueError(f"ref_logprobs: beta = {config.beta} needs those of a reference")
        beta = config.beta if inputs.betas is None else inputs.betas.to(logprobs.dtype)[row]
        log_ref = inputs.ref_logprobs.detach() - logprobs
        kl = log_ref.exp() - log_ref - 1  # k3 of Schulman (2020), "Approximating KL divergence"
        if config.use_bias_correction_kl:
            kl = kl * ratio
        losses = losses + beta * kl
        tokens["kl"] = kl

    loss = (inputs.weights.to(losses.dtype) * losses).sum()
    return LossOutputs(loss, {name: values.detach() for name, values in tokens.items()})


def loss_metrics(tokens: dict[str, Tensor]) -> dict[str, float]:
    """TRL's metrics of a step.

    Parameters
    ----------
    tokens : dict of Tensor (N,)
        As in `LossOutputs`, concatenated over the step's micro-batches.

    Returns
    -------
    dict of float
        Empty without tokens. Means are over tokens, or over rows where rows have ratios.
        "clip_ratio/low_min" and "clip_ratio/high_max" are extremes of the rows' means. Unlike in
        TRL, rows without trained tokens do not count.
    """
    metrics: dict[str, float] = {}
    if not tokens["ratio"].numel():
        return metrics

    def mean(name: str, share: str) -> float:
        parts = tokens[share].double()
        return float((tokens[name].double() * parts).sum() / parts.sum())

    if "clipped_cispo" in tokens:
        metrics["cispo_clip_ratio"] = mean("clipped_cispo", "ratio_share")
    else:
        low, high = mean("clipped_low", "ratio_share"), mean("clipped_high", "ratio_share")
        metrics["clip_ratio/low_mean"] = low
        metrics["clip_ratio/low_min"] = float(tokens["clipped_low_in_row"].min())
        metrics["clip_ratio/high_mean"] = high
        metrics["clip_ratio/high_max"] = float(tokens["clipped_high_in_row"].max())
        metrics["clip_ratio/region_mean"] = low + high  # no token is in both
    if "kl" in tokens:
        metrics["kl"] = float(tokens["kl"].double().mean())
    if "sampling_logp_difference" in tokens:
        difference = tokens["sampling_logp_difference"]
        difference = difference[~difference.isnan()]
        if difference.numel():
            metrics["sampling/sampling_logp_difference/mean"] = float(difference.double().mean())
            metrics["sampling/sampling_logp_difference/max"] = float(difference.max())
    if "is_ratio" in tokens:
        name = "sampling/importance_sampling_ratio"
        metrics[f"{name}/min"] = float(tokens["is_ratio"].min())
        metrics[f"{name}/mean"] = mean("is_ratio", "is_ratio_share")
        metrics[f"{name}/max"] = float(tokens["is_ratio"].max())
    return metrics


def _surrogate(
    logprobs: Tensor, ratio: Tensor, advantages: Tensor, config: LossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Advantage loss of each token (N,), and flags of clipped tokens."""
    high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    if config.loss_type == "cispo":
        losses = -ratio.detach().clamp(max=high) * advantages * logprobs
        return losses, {"clipped_cispo": ((ratio > high) & (advantages > 0)).to(ratio.dtype)}
    bounded = ratio.clamp(1 - config.epsilon, 1 + high)
    losses = -torch.minimum(ratio * advantages, bounded * advantages)
    too_low = (ratio < 1 - config.epsilon) & (advantages < 0)
    too_high = (ratio > 1 + high) & (advantages > 0)
    return losses, {
        "clipped_low": too_low.to(ratio.dtype),
        "clipped_high": too_high.to(ratio.dtype),
    }


def _limited(ratio: Tensor, config: LossConfig) -> Tensor:
    """The correction ratio; outside its limits it is truncated or set to 0."""
    low, high = config.vllm_importance_sampling_clip_min, config.vllm_importance_sampling_clip_max
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if config.vllm_importance_sampling_mode.endswith("_truncate"):
        return ratio.clamp(low, high)
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)


def _row_sum(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """At each token (N,), the sum over the tokens of its row."""
    return values.new_zeros(rows).index_add(0, row, values)[row]
