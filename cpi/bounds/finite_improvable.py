"""Guarantees on a finite horizon for a candidate that improves the improvable set I_τ.

Notation as in `cpi.bounds.finite`; t and q are the recall and precision of the weights on I_τ. The
constants ½ follow from the masked penalty, which allows for a candidate that is worse elsewhere.

Proof of the constant 7/8. If a ≥ 0 everywhere, only visits after a switch are lost: a share
E[Σ_{k<h} α w_k w_h] of τ. With M steps at which a ≥ τ is possible, Σ_{k<h} w_k w_h ≤ (M−1)/2 Σ w_h,
so that the lost part of the first-order gain is at most α (M−1)/(2q) = τ (M−1)/(2H² r). Values at
step h span (H−h) r, hence M − 1 ≤ H − τ/r, and x (H−x)/(2H²) ≤ 1/8. It is attained at H = 2, where
τ → r in both steps.
"""

from __future__ import annotations

from cpi.bounds.bound import Bound
from cpi.bounds.hypotheses import (
    good_everywhere,
    good_on_improvable,
    good_where_accepted,
    tau_of,
)
from cpi.exact.improvement import visit_probability
from cpi.exact.update import Update


def certified_step(u: Update, advantage: float) -> float:
    """α = 𝔸_w / (H² r), just below the maximiser; at most 1/H, but for rounding, as 𝔸_w ≤ H r."""
    return min(1.0, advantage / (u.H**2 * u.r_max))


def _localizer_gain(u: Update, constant: float) -> float:
    return constant * u.p * u.recall * u.precision * tau_of(u) ** 2 / (u.H * u.r_max)


BOUNDS: tuple[Bound, ...] = (
    Bound(
        name="full oracle step",
        statement="gain ≥ τ Pr_π(visit I_τ) at α = 1, w = 1[I_τ]",
        source="ours",
        sense=">=",
        left=lambda u: u.gain_at(1.0, u.improvable),
        right=lambda u: tau_of(u) * visit_probability(u.base, u.improvable),
        hypothesis=good_on_improvable,
        requires="a ≥ τ on I_τ",
    ),
    Bound(
        name="CPI-RR",
        statement="gain ≥ τ²p²/(2Hr) at α = τp/(H²r), w ≡ 1",
        source="Samanta et al. 2026, Thm 1 (constants ours)",
        sense=">=",
        left=lambda u: u.gain_at(certified_step(u, tau_of(u) * u.p)),
        right=lambda u: (tau_of(u) * u.p) ** 2 / (2 * u.H * u.r_max),
        hypothesis=good_everywhere,
        requires="a ≥ τ on I_τ, a ≥ 0 elsewhere",
        improved_by="localizer, nowhere worse",
    ),
    Bound(
        name="CPI-CARO",
        statement="gain ≥ τ²p/(2Hr) at α = τ/(H²r), w = 1[I_τ]",
        source="Samanta et al. 2026, Thm 1 (constants ours)",
        sense=">=",
        left=lambda u: u.gain_at(certified_step(u, tau_of(u)), u.improvable),
        right=lambda u: tau_of(u) ** 2 * u.p / (2 * u.H * u.r_max),
        hypothesis=good_on_improvable,
        requires="a ≥ τ on I_τ",
        improved_by="localizer, nowhere worse",
    ),
    Bound(
        name="localizer",
        statement="gain ≥ p t q τ²/(2Hr) at α = qτ/(H²r), recall t, precision q",
        source="ours",
        sense=">=",
        left=lambda u: u.gain_at(certified_step(u, u.precision * tau_of(u)), u.weights),
        right=lambda u: _localizer_gain(u, 1 / 2),
        hypothesis=lambda u: good_everywhere(u) and u.recall > 0,
        requires="a ≥ τ on I_τ, a ≥ 0 elsewhere, t > 0",
        improved_by="localizer, nowhere worse",
    ),
    Bound(
        name="localizer, nowhere worse",
        statement="gain ≥ 7 p t q τ²/(8Hr) at α = qτ/(H²r); w ≡ 1: t, q = 1, p; w = 1[I_τ]: 1, 1",
        source="ours",
        sense=">=",
        left=lambda u: u.gain_at(certified_step(u, u.precision * tau_of(u)), u.weights),
        right=lambda u: _localizer_gain(u, 7 / 8),
        hypothesis=good_where_accepted,
        requires="a ≥ τ on I_τ, a ≥ 0 where else w > 0, t > 0",
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
)
