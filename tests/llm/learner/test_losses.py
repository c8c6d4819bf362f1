"""Losses against hand-computed arrays, identities, finite differences and TRL's numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from llm.learner.losses import (
    LossInputs,
    loss_metrics,
    loss_weights,
    policy_loss,
)
from llm.learner.options import CorrectionMode, LossConfig, LossType
from tests.cpi.worlds import repeatable

LOSS_TYPES: tuple[LossType, ...] = get_args(LossType)
MODES: tuple[CorrectionMode, ...] = get_args(CorrectionMode)
CLIPPED: tuple[LossType, ...] = ("grpo", "dr_grpo", "dapo", "bnpo")
loss_types = pytest.mark.parametrize("loss_type", LOSS_TYPES)
LENGTH = 8  # max_completion_length


def f64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def config(loss_type: LossType = "dapo", **changes: Any) -> LossConfig:
    if loss_type == "cispo":
        changes.setdefault("epsilon_high", 1.25)
    return LossConfig(loss_type=loss_type, **changes)


def case(
    logprobs: Any,
    row: Any,
    advantages: Any,
    *,
    old: Any = None,
    sampling: Any = None,
    ref: Any = None,
    weights: Any = None,
) -> LossInputs:
    """Float64 inputs from lists; logprobs have a graph, weights are 1 by default."""
    return LossInputs(
        logprobs=f64(logprobs).requires_grad_(),
        old_logprobs=None if old is None else f64(old),
        sampling_logprobs=None if sampling is None else f64(sampling),
        ref_logprobs=None if ref is None else f64(ref),
        advantages=f64(advantages),
        row=torch.tensor(row, dtype=torch.int64),
        weights=torch.ones(len(logprobs), dtype=torch.float64) if weights is None else f64(weights),
    )


def slope(inputs: LossInputs, settings: LossConfig) -> Tensor:
    (gradient,) = torch.autograd.grad(policy_loss(inputs, settings).loss, inputs.logprobs)
    return gradient


def random_case(seed: int, lengths: list[int], loss_type: LossType = "dapo") -> LossInputs:
    """Inputs with ratios and corrections on both sides of every bound, and one engine NaN."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor(lengths, dtype=torch.int64)
    row = torch.arange(len(lengths)).repeat_interleave(counts)
    logprobs = -3 * torch.rand(len(row), generator=generator, dtype=torch.float64)

    def noise(size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    old = logprobs + 0.3 * noise(len(row))
    sampling = old + 0.4 * noise(len(row))
    sampling[len(row) // 2 : len(row) // 2 + 1] = math.nan
    return LossInputs(
        logprobs=logprobs.requires_grad_(),
        old_logprobs=old,
        sampling_logprobs=sampling,
        ref_logprobs=old + 0.5 * noise(len(row)),
        advantages=noise(len(lengths)),
        row=row,
        weights=loss_weights(counts, loss_type, LENGTH).double()[row],
    )


# --- weights


def test_loss_weights__by_hand() -> None:
    lengths = torch.tensor([1, 4, 0, 3])
    assert_close(
        loss_weights(lengths, "grpo", 10)[[0, 1, 3]], torch.tensor([1 / 4, 1 / 16, 1 / 12])
    )
    assert_close(loss_weights(lengths, "dr_grpo", 10), torch.full((4,), 1 / 40))
    for loss_type in ("dapo", "bnpo", "cispo"):
        assert_close(loss_weights(lengths, loss_type), torch.full((4,), 1 / 8))


@loss_types
def test_loss_weights__sum_over_tokens(loss_type: LossType) -> None:
    lengths = torch.tensor([5, 2, 7, 8])
    total = float((lengths * loss_weights(lengths, loss_type, LENGTH)).sum())
    assert total == pytest.approx(22 / 32 if loss_type == "dr_grpo" else 1, rel=1e-6)


@loss_types
def test_loss_weights__types_agree_on_full_rows(loss_type: LossType) -> None:
    lengths = torch.full((3,), LENGTH)
    assert_close(loss_weights(lengths, loss_type, LENGTH), torch.full((3,), 1 / (3 * LENGTH)))


@loss_types
def test_loss_weights__finite_without_tokens(loss_type: LossType) -> None:
    assert loss_weights(torch.zeros(3, dtype=torch.int64), loss_type, LENGTH).isfinite().all()
    assert loss_weights(torch.zeros(0, dtype=torch.int64), loss_type, LENGTH).shape == (0,)


@pytest.mark.parametrize("lengths", [[[1, 2]], [1.0, 2.0], [1, -1]])
def test_loss_weights__bad_lengths_refused(lengths: Any) -> None:
    with pytest.raises(ValueError, match=r"row_lengths: .* is not a list of integers ≥ 0"):
        loss_weights(torch.tensor(lengths), "dapo")


@pytest.mark.parametrize("length", [None, 0])
def test_loss_weights__dr_grpo_needs_max_completion_length(length: int | None) -> None:
    with pytest.raises(ValueError, match=r"max_completion_length: 'dr_grpo' .* is not an integer"):
        loss_weights(torch.tensor([1]), "dr_grpo", length)


# --- the surrogate, by hand


def test_policy_loss__on_policy_gradient_is_reinforce() -> None:
    # ∇ = −w A, at ratio 1, for every loss type: REINFORCE.
    for loss_type in LOSS_TYPES:
        inputs = case([-1.0, -2.0, -0.5], [0, 0, 1], [2.0, -3.0], weights=[0.5, 0.25, 0.125])
        out = policy_loss(inputs, config(loss_type))
        assert_close(slope(inputs, config(loss_type)), f64([-1.0, -0.5, 0.375]))
        assert_close(out.tokens["ratio"], f64([1.0, 1.0, 1.0]))
        # Σ −w A log π = 1 + 1 − 0.1875, or Σ −w A = −1 − 0.5 + 0.375.
        expected = 1.8125 if loss_type == "cispo" else -1.125
        assert float(out.loss.detach()) == pytest.approx(expected)


def test_policy_loss__sequence_level_shares_gradient_over_row() -> None:
    # ∂ exp(mean log r)/∂ log π_t = 1/len; each of the row's tokens has that slope.
    inputs = case([-1.0, -2.0, -0.5], [0, 0, 1], [2.0, -3.0], weights=[0.5, 0.25, 0.125])
    actual = slope(inputs, config("grpo", importance_sampling_level="sequence"))
    assert_close(actual, f64([-0.75, -0.75, 0.375]))


def test_policy_loss__old_logprobs_default_to_current() -> None:
    inputs = random_case(0, [3, 1, 2])
    without = replace(inputs, old_logprobs=None)
    equal = replace(inputs, old_logprobs=inputs.logprobs.detach().clone())
    for loss_type in LOSS_TYPES:
        settings = config(loss_type, beta=0.2)
        assert_close(policy_loss(without, settings).loss, policy_loss(equal, settings).loss)
        assert_close(slope(without, settings), slope(equal, settings))


#: ratio, advantage → loss, slope in log π, clipped low, clipped high (ε = 0.2, ε_high = 0.5).
CLIPS = [
    (1.0, 2.0, -2.0, -2.0, 0, 0),
    (1.4, 2.0, -2.8, -2.8, 0, 0),
    (1.6, 2.0, -3.0, 0.0, 0, 1),
    (0.5, 2.0, -1.0, -1.0, 0, 0),  # good token, ratio below the range: not clipped
    (0.9, -2.0, 1.8, 1.8, 0, 0),
    (0.7, -2.0, 1.6, 0.0, 1, 0),
    (3.0, -2.0, 6.0, 6.0, 0, 0),  # bad token, ratio above the range: not clipped
    (3.0, 0.0, 0.0, 0.0, 0, 0),
    (0.1, 0.0, 0.0, 0.0, 0, 0),
]


@pytest.mark.parametrize("loss_type", CLIPPED)
@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient", "low", "high"), CLIPS)
def test_policy_loss__clipping(
    loss_type: LossType,
    ratio: float,
    advantage: float,
    loss: float,
    gradient: float,
    low: int,
    high: int,
) -> None:
    inputs = case([math.log(ratio) - 2], [0], [advantage], old=[-2.0])
    settings = config(loss_type, epsilon=0.2, epsilon_high=0.5)
    out = policy_loss(inputs, settings)
    assert float(out.loss.detach()) == pytest.approx(loss, abs=1e-12)
    assert_close(slope(inputs, settings), f64([gradient]))
    assert_close(out.tokens["ratio"], f64([ratio]))
    assert (float(out.tokens["clipped_low"]), float(out.tokens["clipped_high"])) == (low, high)


def test_policy_loss__epsilon_high_defaults_to_epsilon() -> None:
    inputs = case([math.log(1.3)], [0], [1.0], old=[0.0])
    for settings, loss in ((config(), -1.2), (config(epsilon=0.25), -1.25)):
        assert float(policy_loss(inputs, settings).loss.detach()) == pytest.approx(loss)
    assert float(policy_loss(inputs, config(epsilon_high=0.28)).loss.detach()) == pytest.approx(
        -1.28
    )


def test_policy_loss__cispo_truncates_ratio_not_gradient() -> None:
    for ratio, advantage, weight, cut in (
        (0.1, 2.0, 0.1, 0),
        (1.2, -2.0, 1.2, 0),
        (9.0, 2.0, 5.0, 1),
        (9.0, -2.0, 5.0, 0),  # TRL counts only tokens with A > 0
    ):
        inputs = case([math.log(ratio) - 3], [0], [advantage], old=[-3.0])
        settings = config("cispo", epsilon_high=5.0)
        out = policy_loss(inputs, settings)
        assert_close(slope(inputs, settings), f64([-weight * advantage]))
        expected = -weight * advantage * (math.log(ratio) - 3)
        assert float(out.loss.detach()) == pytest.approx(expected)
        assert float(out.tokens["clipped_cispo"]) == cut


def test_policy_loss__gspo_geometric_mean_of_row() -> None:
    ratios, row = f64([2.0, 0.5, 1.331, 1.2, 1.1]), [0, 1, 0, 1, 1]
    inputs = case(ratios.log().tolist(), row, [1.0, 1.0], old=[0.0] * 5)
    settings = config("grpo", importance_sampling_level="sequence", epsilon=0.9)
    first, second = math.sqrt(2.0 * 1.331), (0.5 * 1.2 * 1.1) ** (1 / 3)
    tokens = policy_loss(inputs, settings).tokens
    assert_close(tokens["ratio"], f64([first, second, first, second, second]))
    # Each of the row's n tokens has the loss −r with slope −r/n in each log π; the sum is −r.
    assert_close(slope(inputs, settings), -tokens["ratio"])


def test_policy_loss__gspo_clips_rows() -> None:
    logprobs = [math.log(3.0), math.log(0.4), math.log(1.5), math.log(1.5)]
    inputs = case(logprobs, [0, 0, 1, 1], [1.0, 1.0], old=[0.0] * 4)
    out = policy_loss(inputs, config("grpo", importance_sampling_level="sequence"))
    assert_close(out.tokens["clipped_high"], f64([0, 0, 1, 1]))  # √1.2 < 1.2 < 1.5
    actual = slope(inputs, config("grpo", importance_sampling_level="sequence"))
    assert_close(actual, f64([-math.sqrt(1.2), -math.sqrt(1.2), 0, 0]))


def test_policy_loss__levels_agree_on_one_token_rows() -> None:
    inputs = random_case(3, [1] * 9)
    for loss_type in LOSS_TYPES:
        token, sequence = (
            config(loss_type, importance_sampling_level=level, beta=0.1)
            for level in ("token", "sequence")
        )
        assert_close(policy_loss(inputs, token).loss, policy_loss(inputs, sequence).loss)
        assert_close(slope(inputs, token), slope(inputs, sequence))


# --- the KL term


@pytest.mark.parametrize("unbiased", [True, False])
def test_kl__k3_by_hand(unbiased: bool) -> None:
    # k3 = q/p − log(q/p) − 1 with q/p = 2; its slope in log p is 1 − q/p = −1, times β = 0.5.
    k3, ratio = 2 - math.log(2) - 1, 1.1
    inputs = case([-1.0], [0], [0.0], old=[-1.0 - math.log(ratio)], ref=[math.log(2) - 1.0])
    settings = config(beta=0.5, use_bias_correction_kl=unbiased)
    out = policy_loss(inputs, settings)
    kl = k3 * ratio if unbiased else k3
    assert float(out.loss.detach()) == pytest.approx(0.5 * kl)
    assert float(out.tokens["kl"]) == pytest.approx(kl)
    expected = 0.5 * (ratio * (k3 - 1) if unbiased else -1)
    assert_close(slope(inputs, settings), f64([expected]))


@repeatable
@given(logprob=st.floats(-9, 0), ref=st.floats(-9, 0))
def test_kl__k3_nonnegative_and_zero_at_equality(logprob: float, ref: float) -> None:
    for other in (ref, logprob):
        inputs = case([logprob], [0], [0.0], ref=[other])
        kl = float(policy_loss(inputs, config(beta=1.0)).tokens["kl"])
        assert kl >= -1e-12
        assert (kl > 0) == (other != logprob) or abs(other - logprob) < 1e-6


def test_kl__no_gradient_at_reference() -> None:
    inputs = random_case(1, [2, 3])
    inputs = replace(inputs, ref_logprobs=inputs.logprobs.detach())
    for unbiased in (True, False):
        with_kl = config(beta=7.0, use_bias_correction_kl=unbiased)
        assert_close(slope(inputs, with_kl), slope(inputs, config()))


def test_kl__bias_correction_gives_gradient_of_kl() -> None:
    # E_{x~π}[∇ (r k3)] at π_old = π, summed over all of a small vocabulary, is ∇ KL(π ‖ ref);
    # without the correction it is that of the reversed KL(ref ‖ π).
    scores, ref = f64([0.3, -0.2, 1.0]).requires_grad_(), f64([0.5, 0.1, -0.4]).log_softmax(0)
    logp = scores.log_softmax(0)
    for unbiased in (True, False):
        inputs = LossInputs(
            logprobs=logp,
            old_logprobs=None,
            sampling_logprobs=None,
            ref_logprobs=ref,
            advantages=torch.zeros(3, dtype=torch.float64),
            row=torch.arange(3),
            weights=logp.detach().exp(),
        )
        settings = config(beta=1.0, use_bias_correction_kl=unbiased)
        loss = policy_loss(inputs, settings).loss
        kl = (logp.exp() * (logp - ref)).sum() if unbiased else (ref.exp() * (ref - logp)).sum()
        (actual,) = torch.autograd.grad(loss, scores, retain_graph=True)
        (expected,) = torch.autograd.grad(kl, scores, retain_graph=True)
        assert_close(actual, expected)


def test_kl__needs_reference() -> None:
    with pytest.raises(ValueError, match=r"ref_logprobs: beta = 0\.1 needs those of a reference"):
        policy_loss(case([-1.0], [0], [1.0]), config(beta=0.1))


# --- the correction between engine and trainer

#: π_old/π_engine of tokens in rows 0, 0, 1; the rows' products are 3 and 0.4.
MISMATCH = [1.5, 2.0, 0.4]
CORRECTIONS = [
    ("token_truncate", 1.8, None, [1.5, 1.8, 0.4]),
    ("token_truncate", None, 0.5, [1.5, 2.0, 0.5]),
    ("token_truncate", 1.8, 0.5, [1.5, 1.8, 0.5]),
    ("token_mask", 1.8, None, [1.5, 0.0, 0.4]),
    ("token_mask", None, 0.5, [1.5, 2.0, 0.0]),
    ("token_mask", None, None, [1.5, 2.0, 0.4]),
    ("sequence_truncate", 2.5, None, [2.5, 2.5, 0.4]),
    ("sequence_truncate", None, 0.5, [3.0, 3.0, 0.5]),
    ("sequence_mask", 2.5, None, [0.0, 0.0, 0.4]),
    ("sequence_mask", 3.5, 0.5, [3.0, 3.0, 0.0]),
    ("sequence_mask", 3.5, None, [3.0, 3.0, 0.4]),
]


@loss_types
@pytest.mark.parametrize(("mode", "high", "low", "expected"), CORRECTIONS)
def test_engine_correction__by_hand(
    loss_type: LossType, mode: Any, high: float, low: float, expected: list[float]
) -> None:
    inputs = case([-1.0, -2.0, -0.5], [0, 0, 1], [2.0, -1.0], old=[-1.1, -1.9, -0.45])
    assert inputs.old_logprobs is not None
    corrected = replace(inputs, sampling_logprobs=inputs.old_logprobs - f64(MISMATCH).log())
    settings = config(
        loss_type,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_max=high,
        vllm_importance_sampling_clip_min=low,
    )
    tokens = policy_loss(corrected, settings).tokens
    assert_close(tokens["is_ratio"], f64(expected))
    assert_close(tokens["sampling_logp_difference"], f64(MISMATCH).log().abs())
    # The correction is a constant factor of each token's loss and gradient.
    assert_close(slope(corrected, settings), f64(expected) * slope(inputs, settings))
    assert_close(
        policy_loss(corrected, settings).loss,
        policy_loss(replace(inputs, weights=f64(expected)), settings).loss,
    )


def test_engine_correction__default_masks_rows_above_three() -> None:
    inputs = case([-1.0] * 4, [0, 0, 1, 1], [1.0, 1.0], sampling=[-1.5, -1.5, -1.6, -1.6])
    tokens = policy_loss(inputs, LossConfig()).tokens
    assert_close(tokens["is_ratio"], f64([math.e, math.e, 0, 0]))  # e < 3 < e^1.2


def test_policy_loss__no_gradient_through_correction() -> None:
    inputs = case([-1.0, -2.0], [0, 1], [2.0, 3.0], sampling=[-1.1, -1.8])
    expected = [-2 * math.exp(0.1), -3 * math.exp(-0.2)]
    assert_close(slope(inputs, config()), f64(expected))


def test_engine_correction__not_applied_to_kl() -> None:
    inputs = case([-1.0], [0], [0.0], sampling=[-5.0], ref=[-2.0])
    masked = policy_loss(inputs, config(beta=1.0))
    assert float(masked.tokens["is_ratio"]) == 0
    assert float(masked.loss.detach()) == pytest.approx(math.exp(-1))  # e^−1 + 1 − 1


def test_engine_correction__skips_missing_logprobs() -> None:
    inputs = case([-1.0] * 3, [0, 0, 1], [1.0, 1.0], sampling=[-1.5, math.nan, math.nan])
    for mode in MODES:
        out = policy_loss(inputs, config(vllm_importance_sampling_mode=mode))
        by_row = mode.startswith("sequence")
        expected = [math.exp(0.5), math.exp(0.5) if by_row else 1.0, 1.0]
        assert_close(out.tokens["is_ratio"], f64(expected))
        assert out.loss.isfinite()
        metrics = loss_metrics(out.tokens)
        assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(0.5)
        assert metrics["sampling/sampling_logp_difference/max"] == pytest.approx(0.5)


def test_engine_correction__keeps_nan_of_old_logprobs() -> None:
    inputs = case([-1.0, math.nan], [0, 1], [1.0, 1.0], sampling=[-1.0, -1.0])
    out = policy_loss(inputs, config())
    assert out.loss.isnan()
    assert out.tokens["is_ratio"].isnan().tolist() == [False, True]


def test_engine_correction__disabled_still_reports_difference() -> None:
    inputs = random_case(2, [3, 2])
    settings = config(vllm_importance_sampling_correction=False)
    out = policy_loss(inputs, settings)
    assert_close(out.loss, policy_loss(replace(inputs, sampling_logprobs=None), config()).loss)
    assert "is_ratio" not in out.tokens
    assert "sampling/sampling_logp_difference/mean" in loss_metrics(out.tokens)


# --- TRL's own numbers

#: Loss and gradient of `GRPOTrainer._compute_loss` of trl 1.16.0 in float64, called on a stand-in
#: for the trainer whose model returns these log-probabilities; rows of 3, 1 and 2 tokens, and
#: max_completion_length 8. The ratio to the engine is that of `_generate_and_score_completions`.
TRL_CASE: dict[str, Any] = {
    "logprobs": [-0.5, -1.2, -0.9, -2.0, -0.3, -1.6],
    "old": [-0.8, -1.1, -0.95, -1.9, -0.35, -1.2],
    "sampling": [-0.9, -0.9, -1.4, -1.8, -0.4, -1.6],
    "ref": [-0.7, -1.0, -0.9, -2.2, -0.1, -1.9],
    "row": [0, 0, 0, 1, 2, 2],
    "advantages": [1.5, -0.5, -1.0],
}
TRL: list[tuple[dict[str, Any], float, list[float]]] = [
    (
        {"loss_type": "grpo"},
        -0.1261049,
        [0.0, -0.214004236, -0.24863745, 0.136455126, 0.274786878, 0.0],
    ),
    (
        {"loss_type": "dr_grpo"},
        -0.141890015,
        [0.0, -0.080251589, -0.093239044, 0.017056891, 0.06869672, 0.0],
    ),
    (
        {"loss_type": "dapo"},
        -0.567560061,
        [0.0, -0.321006354, -0.372956174, 0.068227563, 0.274786878, 0.0],
    ),
    (
        {"loss_type": "bnpo"},  # with one micro-batch, both divide by the same
        -0.567560061,
        [0.0, -0.321006354, -0.372956174, 0.068227563, 0.274786878, 0.0],
    ),
    (
        {"loss_type": "cispo", "epsilon_high": 1.25},
        0.443367338,
        [-0.443458609, -0.321006354, -0.372956174, 0.068227563, 0.274786878, 0.175211849],
    ),
    (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        -0.195896449,
        [-0.257065044, -0.257065044, -0.257065044, 0.136455126, 0.219421779, 0.219421779],
    ),
    (
        {"epsilon_high": 0.4, "beta": 0.1},
        -0.618867344,
        [-0.474385678, -0.324022479, -0.372956174, 0.071243687, 0.271282641, 0.0033516],
    ),
    (
        {"beta": 0.1, "use_bias_correction_kl": False},
        -0.565541973,
        [0.003021154, -0.3246964, -0.372956174, 0.071248717, 0.271096832, 0.004319696],
    ),
    (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.1},
        -0.193976294,
        [-0.254714347, -0.259577301, -0.256903484, 0.142487375, 0.216759409, 0.223483244],
    ),
    (
        {
            "vllm_importance_sampling_mode": "token_truncate",
            "vllm_importance_sampling_clip_max": 1.2,
            "vllm_importance_sampling_clip_min": 0.9,
        },
        -0.438098308,
        [0.0, -0.203588419, -0.315381329, 0.068227563, 0.184195153, 0.0],
    ),
    (
        {
            "vllm_importance_sampling_mode": "token_mask",
            "vllm_importance_sampling_clip_max": 1.2,
        },
        -0.264333115,
        [0.0, -0.185204555, 0.0, 0.068227563, 0.184195153, 0.0],
    ),
    (
        {
            "vllm_importance_sampling_mode": "sequence_truncate",
            "vllm_importance_sampling_clip_max": 1.45,
        },
        -0.604064715,
        [0.0, -0.321006354, -0.372956174, 0.068227563, 0.254057182, 0.0],
    ),
    (
        {
            "vllm_importance_sampling_mode": "sequence_mask",
            "vllm_importance_sampling_clip_max": 1.45,
        },
        -1.05145523,
        [0.0, -0.321006354, -0.372956174, 0.068227563, 0.0, 0.0],
    ),
]


@pytest.mark.parametrize(("settings", "loss", "gradient"), TRL)
def test_policy_loss__matches_trl(
    settings: dict[str, Any], loss: float, gradient: list[float]
) -> None:
    inputs = case(**TRL_CASE)
    settings_ = LossConfig(**settings)
    weights = loss_weights(torch.tensor([3, 1, 2]), settings_.loss_type, LENGTH).double()
    inputs = replace(inputs, weights=weights[inputs.row])
    actual = float(policy_loss(inputs, settings_).loss.detach())
    assert actual == pytest.approx(loss, rel=1e-6, abs=1e-8)
    assert_close(slope(inputs, settings_), f64(gradient), rtol=1e-6, atol=1e-8)


def test_loss_config__defaults_match_trl() -> None:
    # trl/trainer/grpo_config.py, 1.16.0
    assert vars(LossConfig()) == {
        "loss_type": "dapo",
        "importance_sampling_level": "token",
        "epsilon": 0.2,
        "epsilon_high": None,
        "beta": 0.0,
        "use_bias_correction_kl": True,
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "sequence_mask",
        "vllm_importance_sampling_clip_max": 3.0,
        "vllm_importance_sampling_clip_min": None,
    }


# --- identities


@loss_types
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_policy_loss__gradient_matches_finite_differences(loss_type: LossType, level: Any) -> None:
    # CISPO treats the ratio as a constant. Finite differences therefore agree only where all ratios
    # are cut; all ratios are e.
    inputs = random_case(5, [3, 1, 4], loss_type)
    if loss_type == "cispo":
        inputs = replace(inputs, old_logprobs=inputs.logprobs.detach() - 1)
    settings = config(
        loss_type,
        importance_sampling_level=level,
        beta=0.3,
        vllm_importance_sampling_mode="token_truncate",
    )

    def loss(logprobs: Tensor) -> Tensor:
        return policy_loss(replace(inputs, logprobs=logprobs), settings).loss

    assert torch.autograd.gradcheck(loss, (inputs.logprobs,))


@loss_types
def test_policy_loss__gradient_of_policy_only(loss_type: LossType) -> None:
    inputs = random_case(6, [2, 2])
    given_ = ("old_logprobs", "sampling_logprobs", "ref_logprobs")
    leaves = {name: getattr(inputs, name).clone().requires_grad_() for name in given_}
    settings = config(loss_type, beta=0.3)
    out = policy_loss(replace(inputs, **leaves), settings)
    actual = torch.autograd.grad(out.loss, list(leaves.values()), allow_unused=True)
    assert actual == (None, None, None)
    assert not any(values.requires_grad for values in out.tokens.values())


def test_policy_loss__grpo_equals_dapo_for_equal_lengths() -> None:
    for lengths, same in (([3, 3, 3], True), ([3, 1, 5], False)):
        grpo, dapo = random_case(7, lengths, "grpo"), random_case(7, lengths, "dapo")
        difference = policy_loss(grpo, config("grpo")).loss - policy_loss(dapo, config("dapo")).loss
        assert (abs(float(difference.detach())) < 1e-8) == same


@repeatable
@given(
    seed=st.integers(0, 10**6), shift=st.floats(-5, 5), level=st.sampled_from(["token", "sequence"])
)
def test_policy_loss__invariant_to_shift_of_all_logprobs(
    seed: int, shift: float, level: Any
) -> None:
    # In CISPO log π itself is a factor of the loss, so only its gradient is invariant.
    inputs = random_case(seed, [2, 0, 3])
    moved = replace(inputs, logprobs=(inputs.logprobs + shift).detach().requires_grad_())
    for name in ("old_logprobs", "sampling_logprobs", "ref_logprobs"):
        moved = replace(moved, **{name: getattr(inputs, name) + shift})
    for loss_type in LOSS_TYPES:
        settings = config(loss_type, importance_sampling_level=level, beta=0.1)
        assert_close(slope(moved, settings), slope(inputs, settings))
        if loss_type != "cispo":
            assert_close(policy_loss(moved, settings).loss, policy_loss(inputs, settings).loss)


@repeatable
@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    cuts=st.sets(st.integers(0, 6)),
    loss_type=st.sampled_from(LOSS_TYPES),
    level=st.sampled_from(["token", "sequence"]),
    mode=st.sampled_from(MODES),
)
def test_policy_loss__micro_batches_add_up(
    seed: int,
    lengths: list[int],
    cuts: set[int],
    loss_type: LossType,
    level: Any,
    mode: CorrectionMode,
) -> None:
    full = random_case(seed, lengths, loss_type)
    settings = config(
        loss_type,
        importance_sampling_level=level,
        beta=0.2,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_max=1.3,
    )
    edges = sorted({0, len(lengths), *(cut for cut in cuts if cut < len(lengths))})
    outs, slopes = [], []
    for start, stop in pairwise(edges):
        in_part = (start <= full.row) & (full.row < stop)
        part = replace(
            full,
            logprobs=full.logprobs.detach()[in_part].requires_grad_(),
            advantages=full.advantages[start:stop],
            row=full.row[in_part] - start,
            **{
                name: getattr(full, name)[in_part]
                for name in ("old_logprobs", "sampling_logprobs", "ref_logprobs", "weights")
            },
        )
        outs.append(policy_loss(part, settings))
        slopes.append(slope(part, settings))
    together = policy_loss(full, settings)
    assert_close(sum(out.loss for out in outs), together.loss)
    assert_close(torch.cat(slopes), slope(full, settings))
    tokens = {name: torch.cat([out.tokens[name] for out in outs]) for name in together.tokens}
    assert loss_metrics(tokens) == pytest.approx(loss_metrics(together.tokens), rel=1e-9)


def test_policy_loss__independent_of_token_order() -> None:
    inputs, order = random_case(9, [3, 2, 4]), torch.tensor([8, 1, 3, 0, 7, 5, 2, 6, 4])
    mixed = replace(
        inputs,
        **{
            name: values[order]
            for name, values in vars(inputs).items()
            if values is not None and name != "advantages"
        },
    )
    mixed = replace(mixed, logprobs=mixed.logprobs.detach().requires_grad_())
    for level in ("token", "sequence"):
        settings = config(importance_sampling_level=level, beta=0.1)  # type: ignore[arg-type]
        assert_close(policy_loss(mixed, settings).loss, policy_loss(inputs, settings).loss)
        assert_close(slope(mixed, settings), slope(inputs, settings)[order])


@loss_types
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("rows", [0, 2])
def test_policy_loss__no_tokens(loss_type: LossType, level: Any, rows: int) -> None:
    inputs = case([], [], [1.0] * rows, old=[], sampling=[], ref=[])
    settings = config(loss_type, importance_sampling_level=level, beta=0.1)
    out = policy_loss(inputs, settings)
    assert float(out.loss.detach()) == 0
    out.loss.backward()
    assert inputs.logprobs.grad is not None
    assert inputs.logprobs.grad.shape == (0,)
    assert loss_metrics(out.tokens) == {}


def test_policy_loss__empty_rows_change_only_weights() -> None:
    inputs, with_empty = random_case(4, [2, 3]), random_case(4, [2, 0, 3])
    with_empty = replace(
        inputs,
        row=torch.where(inputs.row == 1, 2, 0),
        advantages=torch.cat([inputs.advantages[:1], f64([9.0]), inputs.advantages[1:]]),
    )
    settings = config("grpo", importance_sampling_level="sequence")
    out, other = policy_loss(inputs, settings), policy_loss(with_empty, settings)
    assert_close(out.loss, other.loss)
    assert loss_metrics(out.tokens) == loss_metrics(other.tokens)


def test_policy_loss__dtype_of_logprobs() -> None:
    inputs = case([-1.0, -2.0], [0, 1], [1.0, 2.0], old=[-1.0, -1.5])
    inputs = replace(inputs, logprobs=inputs.logprobs.detach().float().requires_grad_())
    inputs = replace(inputs, old_logprobs=torch.tensor([-1.0, -1.5]))
    assert policy_loss(inputs, config()).loss.dtype == torch.float32


# --- metrics


def test_loss_metrics__by_hand() -> None:
    # Rows of 1 and 3 tokens; ratios 1.5 | 0.5, 1.5, 1.25; advantages +1 | −1.
    ratios, mismatch = f64([1.5, 0.5, 1.5, 1.25]), f64([2.0, 0.5, 1.0, 4.0])
    inputs = case(
        ratios.log().tolist(), [0, 1, 1, 1], [1.0, -1.0], old=[0.0] * 4, ref=ratios.log().tolist()
    )
    inputs = replace(inputs, sampling_logprobs=-mismatch.log())
    settings = config(beta=1.0, vllm_importance_sampling_mode="token_mask")
    logs = [math.log(2), math.log(2), 0, math.log(4)]
    assert loss_metrics(policy_loss(inputs, settings).tokens) == pytest.approx(
        {
            "kl": 0.0,
            "clip_ratio/low_mean": 1 / 4,
            "clip_ratio/low_min": 0.0,
            "clip_ratio/high_mean": 1 / 4,
            "clip_ratio/high_max": 1.0,
            "clip_ratio/region_mean": 1 / 2,
            "sampling/sampling_logp_difference/mean": sum(logs) / 4,
            "sampling/sampling_logp_difference/max": math.log(4),
            "sampling/importance_sampling_ratio/min": 0.0,
            "sampling/importance_sampling_ratio/mean": 3.5 / 4,
            "sampling/importance_sampling_ratio/max": 2.0,
        }
    )


def test_loss_metrics__sequence_level_by_hand() -> None:
    # As above; rows' ratios are 1.5 and (0.5 · 1.5 · 1.25)^(1/3) > 0.8, corrections both 2.
    ratios, mismatch = f64([1.5, 0.5, 1.5, 1.25]), f64([2.0, 0.5, 1.0, 5.0])
    inputs = case(ratios.log().tolist(), [0, 1, 1, 1], [1.0, -1.0], old=[0.0] * 4)
    inputs = replace(inputs, sampling_logprobs=-mismatch.log())
    tokens = policy_loss(inputs, config("grpo", importance_sampling_level="sequence")).tokens
    metrics = loss_metrics(tokens)
    assert metrics["clip_ratio/high_mean"] == pytest.approx(1 / 2)  # of rows, not of tokens
    assert metrics["clip_ratio/low_mean"] == 0
    assert metrics["clip_ratio/high_max"] == 1
    assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx((2 + 2.5) / 2)
    assert metrics["sampling/importance_sampling_ratio/min"] == pytest.approx(2)
    assert metrics["sampling/importance_sampling_ratio/max"] == pytest.approx(2.5)
    assert "kl" not in metrics


def test_loss_metrics__low_min_is_least_clipped_row() -> None:
    inputs = case([math.log(0.5)] * 2 + [0.0] + [math.log(0.5)], [0, 0, 0, 1], [-1.0, -1.0])
    inputs = replace(inputs, old_logprobs=f64([0.0] * 4))
    metrics = loss_metrics(policy_loss(inputs, config()).tokens)
    assert metrics["clip_ratio/low_min"] == pytest.approx(2 / 3)
    assert metrics["clip_ratio/low_mean"] == pytest.approx(3 / 4)


def test_loss_metrics__cispo() -> None:
    inputs = case([1.0, 0.0, 1.0], [0, 0, 1], [1.0, -1.0], old=[0.0] * 3)
    metrics = loss_metrics(policy_loss(inputs, config("cispo")).tokens)
    assert metrics == pytest.approx({"cispo_clip_ratio": 1 / 3})


def test_loss_metrics__no_difference_without_engine_logprobs() -> None:
    inputs = case([-1.0], [0], [1.0], sampling=[math.nan])
    assert not [
        name for name in loss_metrics(policy_loss(inputs, config()).tokens) if "logp_diff" in name
    ]


# --- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "ppo"}, "loss_type: 'ppo' is not one of grpo, dr_grpo, dapo, bnpo, cispo"),
        (
            {"importance_sampling_level": "row"},
            "importance_sampling_level: 'row' is not one of token, sequence",
        ),
        (
            {"vllm_importance_sampling_mode": "mask"},
            "vllm_importance_sampling_mode: 'mask' is not one of token_truncate, token_mask, "
            "sequence_truncate, sequence_mask",
        ),
        ({"epsilon": -0.1}, "epsilon: -0.1 is not a finite number ≥ 0"),
        ({"epsilon_high": math.inf}, "epsilon_high: inf is not a finite number ≥ 0"),
        ({"beta": math.nan}, "beta: nan is not a finite number ≥ 0"),
        (
            {"vllm_importance_sampling_clip_max": -1.0},
            "vllm_importance_sampling_clip_max: -1.0 is not a finite number ≥ 0",
        ),
        (
            {"vllm_importance_sampling_clip_min": 3.0},
            "vllm_importance_sampling_clip_min: 3.0 is not below "
            "vllm_importance_sampling_clip_max, 3.0",
        ),
        (
            {
                "vllm_importance_sampling_mode": "token_truncate",
                "vllm_importance_sampling_clip_max": None,
            },
            "vllm_importance_sampling_mode: 'token_truncate' needs "
            "vllm_importance_sampling_clip_min or vllm_importance_sampling_clip_max",
        ),
        (
            {"loss_type": "cispo"},
            "epsilon_high: for loss_type 'cispo' it is the largest ratio itself and must be at "
            "least 1 (5.0 is usual), not None",
        ),
        (
            {"loss_type": "cispo", "epsilon_high": 0.28},
            "epsilon_high: for loss_type 'cispo' it is the largest ratio itself and must be at "
            "least 1 (5.0 is usual), not 0.28",
        ),
    ],
)
def test_loss_config__bad_values_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        LossConfig(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logprobs": torch.zeros(2, 1)}, r"logprobs: shape \(2, 1\) is not \(tokens,\)"),
        ({"advantages": torch.zeros(2, 1)}, r"advantages: shape \(2, 1\) is not \(rows,\)"),
        ({"row": torch.zeros(2)}, "row: dtype torch.float32 is not torch.int64"),
        ({"old_logprobs": torch.zeros(1)}, r"old_logprobs: shape \(1,\) is not that of logprobs"),
        ({"sampling_logprobs": torch.zeros(2, 1)}, r"sampling_logprobs: shape \(2, 1\) is not"),
        ({"ref_logprobs": torch.zeros(3)}, r"ref_logprobs: shape \(3,\) is not"),
        ({"weights": torch.zeros(())}, r"weights: shape \(\) is not that of logprobs, \(2,\)"),
        ({"row": torch.zeros(3, dtype=torch.int64)}, r"row: shape \(3,\) is not"),
    ],
)
def test_loss_inputs__bad_shapes_named(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(case([-1.0, -2.0], [0, 1], [1.0, 1.0]), **changes)


def test_loss_weights__unknown_loss_type_refused() -> None:
    with pytest.raises(ValueError, match="loss_type: 'ppo' is not one of"):
        loss_weights(torch.tensor([1]), "ppo")  # type: ignore[arg-type]
