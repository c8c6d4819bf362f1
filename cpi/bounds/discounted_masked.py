"""Guarantees for discounted MDPs with reset weights: the twins of `cpi.bounds.finite`.

The update is the mixture (1 − α w) π + α w π' with w(s) in [0, 1]. W = R/(1−γ), and B is the width
of an interval that holds every V and Q of π, hence B ≤ W and |a| ≤ B. T is the step of the first
switch of a trajectory, M(s) = Σ γ^t Pr(s_t = s, T ≥ t) the visits before it, x = α/(1−γ).

Penalties. By the performance difference, gain = α Σ γ^t E_new[w a]. Up to the first switch the new
policy follows π. What is lost of visits of π, and what later visits cost, have both the mass
S = Σ γ^t Pr(T < t) = γ E[γ^T]/(1−γ) = γ α M·w/(1−γ) ≤ γ α p_w/(1−γ)². This is the span form, and
with |w a| ≤ B the others. Lost visits alone are at most α Σ_{k<t} γ^t E[w_k w_t]: the pair form.

Steps. The share z_t = Pr(T < t | trajectory) at accepted visits exceeds 1 − q^x on at most a
fraction q of them: n accepted visits discount what follows by γ^n, and (1−α)^n ≥ γ^{nx}. An average
of a = y B, |a| ≤ B, has at most P = (1+y)/2 of its weight at a = B. So at most P − P^{1+x}/(1+x)
of B is lost, and gain ≥ x p_w B [y − P + P^{1+x}/(1+x) − γ x], which at x = y/4 is at least
2 p_w B y²/15. If a ≥ 0 wherever π_new switches, a visit to I_τ can only be lost:
Σ γ^t E[u_t (1 − z_t)] ≥ q^{1+x}/(1+γx) p_w/(1−γ) for u = w 1[I_τ], q the precision. For q = 1 it is
D·w − M·w = α M·(w γ P N) ≤ γ x M·w, where N, the accepted visits from a state on, is ≤ 1/(1−γ).
"""

from __future__ import annotations

import numpy as np

from cpi.bounds.bound import Bound
from cpi.bounds.hypotheses import (
    good_everywhere,
    good_on_improvable,
    good_where_accepted,
    nowhere_worse,
    tau_of,
)
from cpi.exact.improvement import expectation, switch_free_mass, visit_probability
from cpi.exact.update import Update


def _surrogate(u: Update) -> float:
    """First-order gain α p_w 𝔸_w / (1−γ)."""
    return u.alpha * expectation(u.base, u.w * u.a) / (1 - u.gamma)


def _count(u: Update) -> float:
    """γ p_w / (1−γ)²: accepted states times the later steps that each can disturb."""
    return u.gamma * u.p_w / (1 - u.gamma) ** 2


def _largest_return(u: Update) -> float:
    """W = R/(1−γ)."""
    return u.r_max / (1 - u.gamma)


def _quarter_step(u: Update, advantage: float, width: float) -> float:
    """α = (1−γ)𝔸_w / (4B): a quarter of 1−γ at most."""
    return (1 - u.gamma) * advantage / (4 * width)


def _pair_step(u: Update) -> float:
    """Maximiser of the pair form; infinite without a future."""
    penalty = 2 * u.return_width * u.disturbance
    gain = u.p_w * u.masked_advantage / (1 - u.gamma)
    return gain / penalty if penalty > 0 else np.inf


def _improvable_gain(u: Update, alpha: float, mass: float, precision: float) -> float:
    """First-order gain ατ·mass/(1−γ) of visits to I_τ, without those that earlier switches lose."""
    x = alpha / (1 - u.gamma)
    kept = precision**x / (1 + u.gamma * x)
    return alpha * tau_of(u) * mass / (1 - u.gamma) * kept


def _tau_step(u: Update, precision: float) -> float:
    return _quarter_step(u, precision * tau_of(u), _largest_return(u))


BOUNDS: tuple[Bound, ...] = (
    Bound(
        name="masked CPI, discounted",
        statement="gain ≥ α p_w 𝔸_w/(1−γ) − 2α²γ R p_w/(1−γ)³",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _surrogate(u) - 2 * u.alpha**2 * _count(u) * _largest_return(u),
        first_order=_surrogate,
    ),
    Bound(
        name="masked CPI, discounted, returns",
        statement="gain ≥ α p_w 𝔸_w/(1−γ) − 2α²γ B p_w/(1−γ)², all V and Q in a range of width B",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _surrogate(u) - 2 * u.alpha**2 * _count(u) * u.return_width,
        first_order=_surrogate,
    ),
    Bound(
        name="masked CPI, discounted, pair form",
        statement="gain ≥ α p_w 𝔸_w/(1−γ) − α² B (Σ_{k<t} γ^t E[w_k w_t] + γ p_w/(1−γ)²)",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _surrogate(u) - u.alpha**2 * u.return_width * u.disturbance,
        first_order=_surrogate,
    ),
    Bound(
        name="masked CPI, discounted, weighted",
        statement="gain ≥ α p_w 𝔸_w/(1−γ) − 2α²γ max|w·a| p_w/(1−γ)²",
        source="ours, after K&L 2002",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _surrogate(u) - 2 * u.alpha**2 * _count(u) * float(np.abs(u.w * u.a).max()),
        first_order=_surrogate,
    ),
    Bound(
        name="masked CPI, discounted, span form",
        statement="gain ≥ α/(1−γ) (p_w 𝔸_w − span(w·a) γ E[γ^T]), T the first switch",
        source="ours; K&L 2002, Thm 4.1 with Δ for 2ε at w ≡ 1",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: (
            _surrogate(u)
            - u.alpha / (1 - u.gamma) * float(np.ptp(u.w * u.a)) * u.switched_share(u.alpha)
        ),
        first_order=_surrogate,
    ),
    Bound(
        name="masked step, discounted",
        statement="gain ≥ 2(1−γ) p_w 𝔸_w²/(15R) at α = (1−γ)²𝔸_w/(4R)",
        source="ours; w ≡ 1: K&L 2002, Cor 4.2 with 2/15 for 1/8",
        sense=">=",
        left=lambda u: u.gain_at(
            _quarter_step(u, u.masked_advantage, _largest_return(u)), u.weights
        ),
        right=lambda u: 2 * u.p_w * u.masked_advantage**2 / (15 * _largest_return(u)),
        hypothesis=lambda u: u.masked_advantage > u.rounding,
        requires="𝔸_w > 0",
    ),
    Bound(
        name="masked step, discounted, returns",
        statement="gain ≥ 2 p_w 𝔸_w²/(15B) at α = (1−γ)𝔸_w/(4B)",
        source="ours",
        sense=">=",
        left=lambda u: u.gain_at(_quarter_step(u, u.masked_advantage, u.return_width), u.weights),
        right=lambda u: 2 * u.p_w * u.masked_advantage**2 / (15 * u.return_width),
        hypothesis=lambda u: u.masked_advantage > u.rounding,
        requires="𝔸_w > 0",
    ),
    Bound(
        name="masked step, discounted, pair form",
        statement="gain ≥ αp_w𝔸_w/(2(1−γ)) at α = p_w𝔸_w/(2(1−γ)BC), BC α² the pair form's penalty",
        source="ours",
        sense=">=",
        left=lambda u: u.gain_at(_pair_step(u), u.weights),
        right=lambda u: _pair_step(u) * u.p_w * u.masked_advantage / (2 * (1 - u.gamma)),
        hypothesis=lambda u: u.masked_advantage > u.rounding and _pair_step(u) <= 1,
        requires="𝔸_w > 0, α ≤ 1",
    ),
    Bound(
        name="first switch, discounted",
        statement="gain ≥ α E_π[Σ_t γ^t w_t a_t Π_{k<t}(1 − α w_k)]",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: (
            u.alpha * float((switch_free_mass(u.base, u.alpha * u.w) * u.w * u.a).sum())
        ),
        hypothesis=nowhere_worse,
        requires="a ≥ 0 where w > 0 and π_new goes",
    ),
    Bound(
        name="full oracle step, discounted",
        statement="gain ≥ τ E_π[γ^(first visit to I_τ)] at α = 1, w = 1[I_τ]",
        source="ours",
        sense=">=",
        left=lambda u: u.gain_at(1.0, u.improvable),
        right=lambda u: tau_of(u) * visit_probability(u.base, u.improvable),
        hypothesis=good_on_improvable,
        requires="a ≥ τ on I_τ",
    ),
    Bound(
        name="CPI-RR, discounted",
        statement="gain ≥ ατp p^x/((1−γ)(1+γx)), x = α/(1−γ), at α = (1−γ)²τp/(4R), w ≡ 1",
        source="ours, after Samanta et al. 2026, Thm 1",
        sense=">=",
        left=lambda u: u.gain_at(_tau_step(u, u.p)),
        right=lambda u: _improvable_gain(u, _tau_step(u, u.p), u.p, u.p),
        hypothesis=good_everywhere,
        requires="a ≥ τ on I_τ, a ≥ 0 elsewhere",
    ),
    Bound(
        name="CPI-CARO, discounted",
        statement="gain ≥ ατp/((1−γ)(1+γx)), x = α/(1−γ), at α = (1−γ)²τ/(4R), w = 1[I_τ]",
        source="ours, after Samanta et al. 2026, Thm 1",
        sense=">=",
        left=lambda u: u.gain_at(_tau_step(u, 1.0), u.improvable),
        right=lambda u: _improvable_gain(u, _tau_step(u, 1.0), u.p, 1.0),
        hypothesis=good_on_improvable,
        requires="a ≥ τ on I_τ",
    ),
    Bound(
        name="localizer, discounted",
        statement="gain ≥ ατpt q^x/((1−γ)(1+γx)), x = α/(1−γ) ≤ 1, recall t, precision q",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _improvable_gain(u, u.alpha, u.p * u.recall, u.precision),
        hypothesis=lambda u: good_where_accepted(u) and u.alpha <= 1 - u.gamma,
        requires="a ≥ τ on I_τ, a ≥ 0 where else w > 0, t > 0, α ≤ 1−γ",
    ),
    Bound(
        name="visit probability, discounted",
        statement="E_π[γ^(first visit to I_τ)] ≤ p_π(τ)/(1−γ)",
        source="union bound",
        sense="<=",
        left=lambda u: visit_probability(u.base, u.improvable),
        right=lambda u: u.p / (1 - u.gamma),
        unit="probability",
        hypothesis=lambda u: bool(u.improvable.any()),
        requires="I_τ not empty",
    ),
)
