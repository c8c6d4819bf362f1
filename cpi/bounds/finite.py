"""Guarantees for finite-horizon MDPs.

The update is the reset-masked mixture (1 − α w) π + α w π'; random resets are w ≡ 1. r is the width
of the reward range, a = E_{π'} A^π, p_w = E_d w, 𝔸_w = E_{ν_w} a. The paper is Samanta et al. 2026
(arXiv 2605.25507), which states orders; the constants are derived here.

Proof of the masked penalty. Until its first accepted switch the new policy follows the trajectory
of π. A first switch at step t has two losses. At most (H−t) r·(t α) of its first-order gain is lost
to trajectories that switched before. After it, each later step u costs at most α (H−u) r. Together
they are α² r E[w_t] (H−t)(H+t−1)/2, and (H−t)(H+t−1) ≤ H(H−1).
"""

from __future__ import annotations

import numpy as np

from cpi.bounds.bound import Bound
from cpi.exact.improvement import expectation, switch_free_mass, visit_probability
from cpi.exact.update import Update
from envs.tabular import FloatArray


def _surrogate(u: Update) -> float:
    """First-order gain α H p_w 𝔸_w of the masked update."""
    return u.alpha * u.H * expectation(u.base, u.w * u.a)


def _plain_surrogate(u: Update) -> float:
    """First-order gain α H 𝔸 of the unmasked update."""
    return u.alpha * u.H * u.advantage


def _count(u: Update) -> float:
    """H(H−1) p_w: accepted states times the steps that each can disturb."""
    return u.H * (u.H - 1) * u.p_w


def _largest(u: Update) -> float:
    """max |a| over the states with w > 0."""
    return float(np.abs(np.where(u.w > 0, u.a, 0.0)).max())


def _return_width(u: Update) -> float:
    """R: width of an interval that holds every V and Q of π."""
    return float(u.base.Q.max() - u.base.Q.min())


def _span_right(u: Update) -> float:
    per_step = u.H * (u.d * u.w * u.a).sum(axis=1)
    span = np.ptp(u.w * u.a, axis=1)
    return float(u.alpha * (per_step - span * u.switched_before(u.alpha)).sum())


def _at_least(u: Update, a: FloatArray, level: float) -> bool:
    """Whether a ≥ `level`, but for a share of the rounding that a check allows at each step."""
    return bool((a >= level - u.rounding / u.H).all())


def _nowhere_worse(u: Update) -> bool:
    visited = u.new.occupancy > 0
    return _at_least(u, u.a[(u.w > 0) & visited], 0.0)


def _first_switch_gain(u: Update) -> float:
    return float((switch_free_mass(u.base, u.alpha * u.w) * u.alpha * u.w * u.a).sum())


def _tau(u: Update) -> float:
    return 0.0 if u.tau is None else u.tau


def _good_on_improvable(u: Update) -> bool:
    """Whether τ > 0 is given, π visits I_τ, and a ≥ τ on it."""
    return _tau(u) > 0 and u.p > 0 and _at_least(u, u.a[u.improvable], _tau(u))


def _good_everywhere(u: Update) -> bool:
    return _good_on_improvable(u) and _at_least(u, u.a[~u.improvable], 0.0)


def _certified_step(u: Update, advantage: float) -> float:
    """α = 𝔸_w / (H² r), just below the maximiser; at most 1/H, but for rounding: 𝔸_w ≤ H r."""
    return min(1.0, advantage / (u.H**2 * u.r_max))


def _stepwise_step(u: Update) -> float:
    """α = H p_w 𝔸_w / (rD); at most 1, but for rounding, because a_t ≤ (H−t) r and t + H > 1."""
    return min(1.0, _accepted_advantage(u) / (u.r_max * u.disturbance))


def _accepted_advantage(u: Update) -> float:
    """H p_w 𝔸_w = Σ_t E[w_t a_t]."""
    return u.H * u.p_w * u.masked_advantage


def _stepwise_ratio(u: Update) -> FloatArray:
    """‖d*_h / μ_h‖_∞ for each h, where μ_h is the state distribution of π from the restart."""
    return u.density_ratio(u.restarted).max(axis=1)


def _stepwise_opt(u: Update) -> FloatArray:
    """ε_h = E_{μ_h} max_a A_h for each h."""
    return np.asarray(u.H * (u.restarted * u.improvement_left).sum(axis=1))


BOUNDS: tuple[Bound, ...] = (
    Bound(
        name="performance difference, finite",
        statement="J(π_new) − J(π) = Σ_h E_{d_h^π_new}[a_new]",
        source="K&L 2002, Lemma 6.1, finite horizon",
        sense="=",
        left=lambda u: u.gain,
        right=lambda u: u.H * float((u.new.occupancy * u.new_advantage).sum()),
    ),
    Bound(
        name="masked CPI",
        statement="gain ≥ αH p_w 𝔸_w − ½α²H²(H−1) r p_w",
        source="ours (paper's Thm 1, step 1)",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _surrogate(u) - u.alpha**2 * u.H * _count(u) * u.r_max / 2,
        first_order=_surrogate,
    ),
    Bound(
        name="masked CPI, step by step",
        statement="gain ≥ αH p_w 𝔸_w − ½α² r Σ_t E[w_t] (H−t)(H+t−1)",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _surrogate(u) - u.alpha**2 * u.r_max * u.disturbance / 2,
        first_order=_surrogate,
    ),
    Bound(
        name="random resets",
        statement="gain(α, w≡1) ≥ αH𝔸 − α² r (H−1)H(H+1)/3",
        source="ours (paper's Thm 1, step 1)",
        sense=">=",
        left=lambda u: u.gain_at(u.alpha),
        right=lambda u: (
            _plain_surrogate(u) - u.alpha**2 * u.r_max * (u.H - 1) * u.H * (u.H + 1) / 3
        ),
        first_order=_plain_surrogate,
    ),
    Bound(
        name="masked CPI, ε form",
        statement="gain ≥ αH p_w 𝔸_w − α²H(H−1) p_w max_{w>0}|a|",
        source="ours, after K&L 2002",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _surrogate(u) - u.alpha**2 * _count(u) * _largest(u),
        first_order=_surrogate,
    ),
    Bound(
        name="masked CPI, bounded returns",
        statement="gain ≥ αH p_w 𝔸_w − α²H(H−1) p_w R, all V and Q in a range of width R",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _surrogate(u) - u.alpha**2 * _count(u) * _return_width(u),
        first_order=_surrogate,
    ),
    Bound(
        name="masked CPI, span form",
        statement="gain ≥ α Σ_h (E_{d_h}[w a] − span(w_h a_h) Pr(switched before h))",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=_span_right,
        first_order=_surrogate,
    ),
    Bound(
        name="masked step",
        statement="gain ≥ p_w 𝔸_w²/(2Hr) at α = 𝔸_w/(H²r)",
        source="ours (paper's Thm 1, step 2)",
        sense=">=",
        left=lambda u: u.gain_at(_certified_step(u, u.masked_advantage), u.weights),
        right=lambda u: u.p_w * u.masked_advantage**2 / (2 * u.H * u.r_max),
        hypothesis=lambda u: u.masked_advantage > u.rounding,
        requires="𝔸_w > 0",
    ),
    Bound(
        name="masked step, step by step",
        statement="gain ≥ (H p_w 𝔸_w)²/(2rD) at α = H p_w 𝔸_w/(rD), D = Σ_t E[w_t] (H−t)(H+t−1)",
        source="ours",
        sense=">=",
        left=lambda u: u.gain_at(_stepwise_step(u), u.weights),
        right=lambda u: _accepted_advantage(u) ** 2 / (2 * u.r_max * u.disturbance),
        hypothesis=lambda u: u.masked_advantage > u.rounding and u.H > 1,
        requires="𝔸_w > 0, H > 1",
    ),
    Bound(
        name="masked step, bounded returns",
        statement="gain ≥ p_w 𝔸_w²/(4R) at α = 𝔸_w/(2HR)",
        source="ours",
        sense=">=",
        left=lambda u: u.gain_at(u.masked_advantage / (2 * u.H * _return_width(u)), u.weights),
        right=lambda u: u.p_w * u.masked_advantage**2 / (4 * _return_width(u)),
        hypothesis=lambda u: u.masked_advantage > u.rounding,
        requires="𝔸_w > 0",
    ),
    Bound(
        name="first switch",
        statement="gain ≥ α E_π[Σ_h w_h a_h Π_{t<h}(1 − α w_t)]",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=_first_switch_gain,
        hypothesis=_nowhere_worse,
        requires="a ≥ 0 where w > 0 and π_new goes",
    ),
    Bound(
        name="full oracle step",
        statement="gain ≥ τ Pr_π(visit I_τ) at α = 1, w = 1[I_τ]",
        source="ours",
        sense=">=",
        left=lambda u: u.gain_at(1.0, u.improvable),
        right=lambda u: _tau(u) * visit_probability(u.base, u.improvable),
        hypothesis=_good_on_improvable,
        requires="a ≥ τ on I_τ",
    ),
    Bound(
        name="CPI-RR",
        statement="gain ≥ τ²p²/(2Hr) at α = τp/(H²r), w ≡ 1",
        source="Samanta et al. 2026, Thm 1 (constants ours)",
        sense=">=",
        left=lambda u: u.gain_at(_certified_step(u, _tau(u) * u.p)),
        right=lambda u: (_tau(u) * u.p) ** 2 / (2 * u.H * u.r_max),
        hypothesis=_good_everywhere,
        requires="a ≥ τ on I_τ, a ≥ 0 elsewhere",
    ),
    Bound(
        name="CPI-CARO",
        statement="gain ≥ τ²p/(2Hr) at α = τ/(H²r), w = 1[I_τ]",
        source="Samanta et al. 2026, Thm 1 (constants ours)",
        sense=">=",
        left=lambda u: u.gain_at(_certified_step(u, _tau(u)), u.improvable),
        right=lambda u: _tau(u) ** 2 * u.p / (2 * u.H * u.r_max),
        hypothesis=_good_on_improvable,
        requires="a ≥ τ on I_τ",
    ),
    Bound(
        name="localizer",
        statement="gain ≥ p t q τ²/(2Hr) at α = qτ/(H²r), recall t, precision q",
        source="ours",
        sense=">=",
        left=lambda u: u.gain_at(_certified_step(u, u.precision * _tau(u)), u.weights),
        right=lambda u: u.p * u.recall * u.precision * _tau(u) ** 2 / (2 * u.H * u.r_max),
        hypothesis=lambda u: _good_everywhere(u) and u.recall > 0,
        requires="a ≥ τ on I_τ, a ≥ 0 elsewhere, t > 0",
    ),
    Bound(
        name="visit probability",
        statement="Pr_π(visit I_τ) ≤ H p_π(τ)",
        source="union bound",
        sense="<=",
        left=lambda u: visit_probability(u.base, u.improvable),
        right=lambda u: u.H * u.p,
        unit="probability",
        hypothesis=lambda u: bool(u.improvable.any()),
        requires="I_τ not empty",
    ),
    Bound(
        name="coverage, finite",
        statement="J* − J(π) ≤ max_h‖d*_h/μ_h‖_∞ Σ_h E_{μ_h} max_a A_h",
        source="K&L 2002, Cor 4.5, finite horizon",
        sense="<=",
        left=lambda u: u.best.J - u.base.J,
        right=lambda u: float(_stepwise_ratio(u).max() * _stepwise_opt(u).sum()),
        hypothesis=lambda u: bool(np.isfinite(_stepwise_ratio(u)).all()),
        requires="μ_h covers d*_h",
    ),
    Bound(
        name="PSDP",
        statement="J* − J(π) ≤ Σ_t ‖d*_t/μ_t‖_∞ E_{μ_t}[max_a Q_t − V_t]",
        source="after Bagnell et al. 2003, density-ratio form",
        sense="<=",
        left=lambda u: u.best.J - u.base.J,
        right=lambda u: float((_stepwise_ratio(u) * _stepwise_opt(u)).sum()),
        hypothesis=lambda u: bool(np.isfinite(_stepwise_ratio(u)).all()),
        requires="μ_t covers d*_t",
    ),
)
