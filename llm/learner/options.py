"""Options of the loss, the update and the optimizer, under TRL's names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Level = Literal["token", "sequence"]
CorrectionMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW and its schedule (TRL's names).

    Parameters
    ----------
    learning_rate : float
        The highest learning rate of the schedule. The default suits adapters; training all weights
        takes a lower one, 1e-5 or (TRL's) 1e-6.
    weight_decay : float
        Weight decay, decoupled from the gradient.
    adam_beta1 : float
        Decay of the mean of gradients.
    adam_beta2 : float
        Decay of the mean of squared gradients.
    adam_epsilon : float
        Added to the root of the mean of squared gradients.
    lr_scheduler_type : str
        A schedule of `transformers.get_scheduler`: constant, linear, cosine, constant_with_warmup …
    warmup_steps : int
        Optimizer steps in which the learning rate rises from 0.
    """

    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    lr_scheduler_type: str = "constant"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "adam_epsilon"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"optimizer.{name}: {getattr(self, name)} is not a number ≥ 0")
        if not (0 <= self.adam_beta1 < 1 and 0 <= self.adam_beta2 < 1):
            raise ValueError(
                f"optimizer.adam_beta1, adam_beta2: {self.adam_beta1}, {self.adam_beta2} are not "
                "in [0, 1)"
            )
        if self.warmup_steps < 0:
            raise ValueError(f"optimizer.warmup_steps: {self.warmup_steps} is not ≥ 0")


LossType = Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo"]


@dataclass(frozen=True)
class LossConfig:
    """Settings of the token loss; names, meanings and defaults are TRL's.

    Attributes
    ----------
    loss_type : {"grpo", "dr_grpo", "dapo", "bnpo", "cispo"}
        Selects clipping or CISPO's truncation, and the average over tokens in `loss_weights`.
    importance_sampling_level : {"token", "sequence"}
        One ratio π/π_old per token, or one per row. GSPO as published is "grpo" with "sequence":
        in sums over tokens ("dapo", …), a row's ratio counts once for each of its tokens.
    epsilon : float
        The ratio is clipped to [1 − epsilon, 1 + epsilon_high].
    epsilon_high : float or None
        None is `epsilon`. For "cispo" it is the largest ratio itself (5.0 in ScaleRL,
        arXiv:2510.13786). It must then be given: TRL's default would cut all ratios to 0.2.
    beta : float
        Coefficient of the KL term; 0 needs no reference.
    use_bias_correction_kl : bool
        Multiply the KL term by the ratio, gradient included. The result has the gradient of the
        KL itself (DeepSeek-V3.2, arXiv:2512.02556).
    vllm_importance_sampling_correction : bool
        Weigh each token's loss by π_old/π_engine, where the engine reports log-probs.
    vllm_importance_sampling_mode : {"token_truncate", "token_mask", "sequence_truncate", \
"sequence_mask"}
        Use the ratio of each token, or the product over a row's trained tokens. Outside [clip_min,
        clip_max], clamp the ratio ("truncate") or set it to 0 ("mask").
    vllm_importance_sampling_clip_max : float or None
        Upper limit of that ratio; None is no limit.
    vllm_importance_sampling_clip_min : float or None
        Lower limit of that ratio; None is no limit.
    """

    loss_type: LossType = "dapo"
    importance_sampling_level: Level = "token"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    beta: float = 0.0
    use_bias_correction_kl: bool = True
    vllm_importance_sampling_correction: bool = True
    vllm_importance_sampling_mode: CorrectionMode = "sequence_mask"
    vllm_importance_sampling_clip_max: float | None = 3.0
    vllm_importance_sampling_clip_min: float | None = None

    def __post_init__(self) -> None:
        check_choice("loss_type", self.loss_type, LossType)
        check_choice("importance_sampling_level", self.importance_sampling_level, Level)
        check_choice(
            "vllm_importance_sampling_mode", self.vllm_importance_sampling_mode, CorrectionMode
        )
        for name in (
            "epsilon",
            "epsilon_high",
            "beta",
            "vllm_importance_sampling_clip_max",
            "vllm_importance_sampling_clip_min",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name}: {value} is not a finite number ≥ 0")
        if self.loss_type == "cispo" and (self.epsilon_high is None or self.epsilon_high < 1):
            raise ValueError(
                "epsilon_high: for loss_type 'cispo' it is the largest ratio itself and must be at"
                f" least 1 (5.0 is usual), not {self.epsilon_high}"
            )
        low, high = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"vllm_importance_sampling_clip_min: {low} is not below"
                f" vllm_importance_sampling_clip_max, {high}"
            )
        truncates = self.vllm_importance_sampling_mode.endswith("_truncate")
        if self.vllm_importance_sampling_correction and truncates and low is None and high is None:
            raise ValueError(
                f"vllm_importance_sampling_mode: {self.vllm_importance_sampling_mode!r} needs"
                " vllm_importance_sampling_clip_min or vllm_importance_sampling_clip_max"
            )


@dataclass(frozen=True)
class UpdateOptions:
    """How a batch of rows is split into optimizer steps (TRL's names).

    Parameters
    ----------
    num_iterations : int
        Passes over the batch (μ of GRPO). Optimizer steps after the first are off-policy, and rely
        on the clipped ratio.
    steps_per_generation : int
        Optimizer steps per pass, each on a part of the rows.
    per_device_train_batch_size : int
        Rows per forward pass of each process; with shared prefixes, as much work as for so many of
        the longest rows.
    share_prefixes : bool
        Compute a prefix that rows have in common once. Log-probs and gradients are those of
        separate rows, but for rounding. (With dropout, rows then share its noise too.)
    max_grad_norm : float
        Maximum norm of the gradient; 0 does not clip.
    mask_truncated_completions : bool
        Do not train on completions that were cut at a limit.
    full_determinism : bool
        On a GPU, use bitwise reproducible operations, even if others are faster.
    """

    num_iterations: int = 1
    steps_per_generation: int = 1
    per_device_train_batch_size: int = 32
    share_prefixes: bool = True
    max_grad_norm: float = 1.0
    mask_truncated_completions: bool = False
    full_determinism: bool = True

    def __post_init__(self) -> None:
        for name in ("num_iterations", "steps_per_generation", "per_device_train_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a whole number ≥ 1")
        if self.max_grad_norm < 0:
            raise ValueError(f"max_grad_norm: {self.max_grad_norm} is not ≥ 0")


def check_choice(name: str, value: str, choices: object) -> None:
    """Refuse a value that is not among the choices of a Literal."""
    if value not in get_args(choices):
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(get_args(choices))}")
