"""Guarantees for finite-horizon MDPs.

The update is the reset-masked mixture (1 − α w) π + α w π'; random resets are w ≡ 1. r is the width
of the reward range, a = E_{π'} A^π, p_w = E_d w, 𝔸_w = E_{ν_w} a. The paper is Samanta et al. 2026
(arXiv 2605.25507), which states orders; the constants are derived here.

Proof of the masked penalty. Until its first accepted switch the new policy follows the trajectory
of π. A first switch at step t has two losses. At most (H−t) r·(t α) of its first-order gain is lost
to trajectories that switched before. After it, each later step u costs at most α (H−u) r. Together
they are α² r E[w_t] (H−t)(H+t−1)/2, and (H−t)(H+t−1) ≤ H(H−1). With |w a| ≤ c a first
switch at step t may cost 2c α in each of the H−1−t later steps: the weighted form.
"""

from __future__ import annotations

import numpy as np

from cpi.bounds import finite_improvable
from cpi.bounds.bound import Bound
from cpi.bounds.finite_improvable import certified_step
from cpi.bounds.hypotheses import nowhere_worse
from cpi.exact.improvement import expectation, switch_free_mass
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


def _weighted_right(u: Update) -> float:
    """Every accepted state t may cost 2 max|w a| in each of the H−1−t later steps."""
    accepted = u.H * (u.d * u.w).sum(axis=1)
    disturbed = float((accepted * np.arange(u.H)[::-1]).sum())
    return _surrogate(u) - 2 * u.alpha**2 * float(np.abs(u.w * u.a).max()) * disturbed


def _span_right(u: Update) -> float:
    per_step = u.H * (u.d * u.w * u.a).sum(axis=1)
    span = np.ptp(u.w * u.a, axis=1)
    return float(u.alpha * (per_step - span * u.switched_before(u.alpha)).sum())


def _first_switch_gain(u: Update) -> float:
    return float((switch_free_mass(u.base, u.alpha * u.w) * u.alpha * u.w * u.a).sum())


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
        name="masked CPI, weighted form",
        statement="gain ≥ αH p_w 𝔸_w − 2α² max|w·a| Σ_t E[w_t] (H−1−t)",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=_weighted_right,
        first_order=_surrogate,
    ),
    Bound(
        name="masked CPI, bounded returns",
        statement="gain ≥ αH p_w 𝔸_w − α²H(H−1) p_w R, all V and Q in a range of width R",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _surrogate(u) - u.alpha**2 * _count(u) * u.return_width,
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
        statement="gain ≥ (1+1/H) p_w 𝔸_w²/(2Hr) at α = 𝔸_w/(H²r)",
        source="ours (paper's Thm 1, step 2)",
        sense=">=",
        left=lambda u: u.gain_at(certified_step(u, u.masked_advantage), u.weights),
        right=lambda u: (1 + 1 / u.H) * u.p_w * u.masked_advantage**2 / (2 * u.H * u.r_max),
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
        statement="gain ≥ (1+1/H) p_w 𝔸_w²/(4R) at α = 𝔸_w/(2HR)",
        source="ours",
        sense=">=",
        left=lambda u: u.gain_at(u.masked_advantage / (2 * u.H * u.return_width), u.weights),
        right=lambda u: (1 + 1 / u.H) * u.p_w * u.masked_advantage**2 / (4 * u.return_width),
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
        hypothesis=nowhere_worse,
        requires="a ≥ 0 where w > 0 and π_new goes",
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
    *finite_improvable.BOUNDS,
)
