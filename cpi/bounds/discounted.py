"""Guarantees for discounted MDPs.

d is normalised; J, V and A are not multiplied by 1−γ. 𝔸 = E_d a, ε = max|a|, Δ = max a − min a,
D = max_s ‖π_new − π‖₁, TV = ½‖·‖₁, and R is the width of the reward range. The bounds on two
arbitrary policies are checked on π and the update π_new. `cpi.bounds.discounted_masked` has those
with reset weights. K&L is Kakade & Langford, "Approximately
optimal approximate reinforcement learning", ICML 2002.

KL forms. Pinsker: TV² ≤ KL/2, so that TRPO's 4 TV² is at most 2 KL. On whole trajectories it gives
more: the first t actions have a divergence of at most t KL, hence ‖d_t^π_new − d_t^π‖₁ ≤ √(2t KL).
With |a_new| ≤ 2 max|A| TV ≤ max|A| √(2KL) the loss at step t is at most γ^t 2 max|A| KL √t, and
Σ γ^t √t ≤ γ/(1−γ)^{3/2} by Cauchy and Schwarz.
"""

from __future__ import annotations

import numpy as np

from cpi.bounds import discounted_masked
from cpi.bounds.bound import Bound
from cpi.exact.update import Update
from envs.tabular import FloatArray


def _span(a: FloatArray) -> float:
    return float(a.max() - a.min())


def _surrogate(u: Update) -> float:
    """First-order gain E_d[E_{π_new} A] / (1−γ)."""
    return float((u.d * u.new_advantage).sum()) / (1 - u.gamma)


def _cpi_first_order(u: Update) -> float:
    return u.alpha * u.advantage / (1 - u.gamma)


def _cpi_penalty(u: Update, spread: float) -> float:
    g, alpha = u.gamma, u.alpha
    return alpha**2 * g * spread / ((1 - g) * (1 - g * (1 - alpha)))


def _kl_alpha(u: Update) -> float:
    return (1 - u.gamma) ** 2 * u.advantage / (4 * u.r_max)


def _uspi(u: Update) -> tuple[float, float]:
    """Step and guaranteed gain of unique-parameter safe policy improvement."""
    g = u.gamma
    distance = float(np.abs(u.candidate - u.base.policy).sum(axis=-1).max())
    curvature = g * distance * _span(u.a)
    if (1 - g) * u.advantage >= curvature:
        return 1.0, (u.advantage - curvature / (2 * (1 - g))) / (1 - g)
    return (1 - g) * u.advantage / curvature, u.advantage**2 / (2 * curvature)


def _distance(u: Update) -> float:
    return 2.0 * float(u.tv.max())


def _mean_tv(u: Update) -> float:
    return float((u.d * u.tv).sum())


def _trpo(u: Update, divergence: float) -> float:
    worst = float(np.abs(u.base.A).max())
    return _surrogate(u) - 4 * u.gamma * worst * divergence / (1 - u.gamma) ** 2


def _has_kl(u: Update) -> bool:
    return bool(np.isfinite(u.kl_max))


def _cpo(u: Update, spread: float) -> float:
    return _surrogate(u) - u.gamma * spread * _mean_tv(u) / (1 - u.gamma) ** 2


def _opt(u: Update) -> float:
    """OPT = max_{π'} 𝔸 under the restart distribution."""
    return float((u.restarted * u.improvement_left).sum())


def _suboptimality(u: Update) -> float:
    return u.best.J - u.base.J


def _ratio_to_occupancy(u: Update) -> float:
    return float(u.density_ratio(u.restarted).max())


def _ratio_to_restart(u: Update) -> float:
    restart = u.mdp.start if u.restart is None else np.asarray(u.restart)
    return float(u.density_ratio(restart).max())


BOUNDS: tuple[Bound, ...] = (
    Bound(
        name="performance difference",
        statement="J(π_new) − J(π) = E_{d^π_new}[a_new] / (1−γ)",
        source="K&L 2002, Lemma 6.1",
        sense="=",
        left=lambda u: u.gain,
        right=lambda u: float((u.new.occupancy * u.new_advantage).sum()) / (1 - u.gamma),
    ),
    Bound(
        name="CPI",
        statement="gain(α) ≥ α/(1−γ) (𝔸 − 2αγε/(1−γ(1−α)))",
        source="K&L 2002, Thm 4.1",
        sense=">=",
        left=lambda u: u.gain_at(u.alpha),
        right=lambda u: _cpi_first_order(u) - _cpi_penalty(u, 2 * float(np.abs(u.a).max())),
        first_order=_cpi_first_order,
    ),
    Bound(
        name="CPI, span form",
        statement="gain(α) ≥ α/(1−γ) (𝔸 − αγΔ/(1−γ(1−α)))",
        source="K&L 2002, Thm 4.1, with Δ for 2ε (ours)",
        sense=">=",
        left=lambda u: u.gain_at(u.alpha),
        right=lambda u: _cpi_first_order(u) - _cpi_penalty(u, _span(u.a)),
        first_order=_cpi_first_order,
    ),
    Bound(
        name="CPI step",
        statement="gain ≥ (1−γ)𝔸²/(8R) at α = (1−γ)²𝔸/(4R)",
        source="K&L 2002, Cor 4.2, unnormalised",
        sense=">=",
        left=lambda u: u.gain_at(_kl_alpha(u)),
        right=lambda u: (1 - u.gamma) * u.advantage**2 / (8 * u.r_max),
        hypothesis=lambda u: u.advantage > u.rounding,
        requires="𝔸 > 0",
        improved_by="masked step, discounted",
    ),
    Bound(
        name="safe policy iteration",
        statement="J(π_new) − J(π) ≥ (E_d[a_new] − γD span(a_new)/(2(1−γ))) / (1−γ)",
        source="Pirotta et al. 2013, Thm 3.5",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: (
            _surrogate(u)
            - u.gamma * _distance(u) * _span(u.new_advantage) / (2 * (1 - u.gamma) ** 2)
        ),
        first_order=_surrogate,
    ),
    Bound(
        name="safe policy iteration, value form",
        statement="J(π_new) − J(π) ≥ (E_d[a_new] − γD²‖Q‖_∞/(2(1−γ))) / (1−γ)",
        source="Pirotta et al. 2013, Cor 3.6",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: (
            _surrogate(u)
            - u.gamma * _distance(u) ** 2 * float(u.base.Q.max()) / (2 * (1 - u.gamma) ** 2)
        ),
        hypothesis=lambda u: float(u.base.Q.min()) >= 0,
        requires="Q ≥ 0",
        first_order=_surrogate,
    ),
    Bound(
        name="USPI step",
        statement="gain ≥ 𝔸²/(2γD'Δ) at α = (1−γ)𝔸/(γD'Δ), or the full step's bound if that is > 1",
        source="Pirotta et al. 2013, Cor 4.1",
        sense=">=",
        left=lambda u: u.gain_at(_uspi(u)[0]),
        right=lambda u: _uspi(u)[1],
        hypothesis=lambda u: u.advantage > u.rounding,
        requires="𝔸 > 0",
        first_order=lambda u: _uspi(u)[0] * u.advantage / (1 - u.gamma),
    ),
    Bound(
        name="TRPO, TV form",
        statement="J(π_new) − J(π) ≥ E_d[a_new]/(1−γ) − 4γ max|A| max_s TV² / (1−γ)²",
        source="Schulman et al. 2015 (arXiv 1502.05477), Thm 1",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _trpo(u, float(u.tv.max()) ** 2),
        first_order=_surrogate,
    ),
    Bound(
        name="TRPO, KL form",
        statement="J(π_new) − J(π) ≥ E_d[a_new]/(1−γ) − 4γ max|A| max_s KL(π‖π_new) / (1−γ)²",
        source="Schulman et al. 2015 (arXiv 1502.05477), eq. 9",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _trpo(u, u.kl_max),
        hypothesis=_has_kl,
        requires="π_new keeps every action of π",
        first_order=_surrogate,
        improved_by="TRPO, KL form by Pinsker",
    ),
    Bound(
        name="TRPO, KL form by Pinsker",
        statement="J(π_new) − J(π) ≥ E_d[a_new]/(1−γ) − 2γ max|A| max_s KL(π‖π_new) / (1−γ)²",
        source="ours, after Schulman et al. 2015",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _trpo(u, u.kl_max / 2),
        hypothesis=_has_kl,
        requires="π_new keeps every action of π",
        first_order=_surrogate,
    ),
    Bound(
        name="TRPO, KL form of trajectories",
        statement="J(π_new) − J(π) ≥ E_d[a_new]/(1−γ) − 2γ max|A| max_s KL(π‖π_new) / (1−γ)^{3/2}",
        source="ours",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _trpo(u, u.kl_max / 2 * np.sqrt(1 - u.gamma)),
        hypothesis=_has_kl,
        requires="π_new keeps every action of π",
        first_order=_surrogate,
    ),
    Bound(
        name="CPO",
        statement="J(π_new) − J(π) ≥ (E_d[a_new] − 2γ max|a_new| E_d[TV]/(1−γ)) / (1−γ)",
        source="Achiam et al. 2017, Cor 1",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _cpo(u, 2 * float(np.abs(u.new_advantage).max())),
        first_order=_surrogate,
    ),
    Bound(
        name="CPO, span form",
        statement="J(π_new) − J(π) ≥ (E_d[a_new] − γ span(a_new) E_d[TV]/(1−γ)) / (1−γ)",
        source="Achiam et al. 2017, Cor 1, with the span for 2 max (ours)",
        sense=">=",
        left=lambda u: u.gain,
        right=lambda u: _cpo(u, _span(u.new_advantage)),
        first_order=_surrogate,
    ),
    Bound(
        name="occupancy shift",
        statement="‖d^π_new − d^π‖₁ ≤ 2γ/(1−γ) E_d[TV]",
        source="Achiam et al. 2017, Lemma 3",
        sense="<=",
        left=lambda u: float(np.abs(u.new.occupancy - u.d).sum()),
        right=lambda u: 2 * u.gamma / (1 - u.gamma) * _mean_tv(u),
        unit="probability",
    ),
    Bound(
        name="termination",
        statement="J* − J(π) ≤ OPT/(1−γ) ‖d^π*/d^{π,μ}‖_∞, OPT = E_{d^{π,μ}} max_a A",
        source="K&L 2002, Cor 4.5",
        sense="<=",
        left=_suboptimality,
        right=lambda u: _opt(u) / (1 - u.gamma) * _ratio_to_occupancy(u),
        hypothesis=lambda u: bool(np.isfinite(_ratio_to_occupancy(u))),
        requires="d^{π,μ} covers d^π*",
    ),
    Bound(
        name="termination, restart form",
        statement="J* − J(π) ≤ OPT/(1−γ)² ‖d^π*/μ‖_∞",
        source="K&L 2002, Cor 4.5",
        sense="<=",
        left=_suboptimality,
        right=lambda u: _opt(u) / (1 - u.gamma) ** 2 * _ratio_to_restart(u),
        hypothesis=lambda u: bool(np.isfinite(_ratio_to_restart(u))),
        requires="μ covers d^π*",
    ),
    *discounted_masked.BOUNDS,
)
