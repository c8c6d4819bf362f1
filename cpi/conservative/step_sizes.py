"""Step sizes of conservative policy iteration: α from an advantage, measured or exact.

Each rule is the maximiser of a bound of `cpi.bounds`, or the step with which a bound is quoted. Its
arguments are the update and the advantage to trust. The update supplies H, γ, the reward width, and
the exact ε, Δ and D. The advantage is 𝔸_w, or a lower confidence bound of it. The discounted rules
but "certified" are those of random resets, w ≡ 1. An advantage ≤ 0 guarantees nothing and gives
α = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cpi.exact.improvement import expectation
from cpi.exact.update import Update
from envs.tabular import TabularMDP

StepRule = Callable[[Update, float], float]


def kl_step(u: Update, advantage: float) -> float:
    """(1−γ)²𝔸/(4R): Kakade & Langford 2002, Cor 4.2, unnormalised."""
    return _divide((1 - u.gamma) ** 2 * advantage, 4 * u.r_max)


def kl_maximiser(u: Update, advantage: float) -> float:
    """Maximiser of Kakade & Langford's Thm 4.1 in α, with the exact ε."""
    return _mixture_maximiser(u, advantage, 2 * float(np.abs(u.a).max()))


def span_maximiser(u: Update, advantage: float) -> float:
    """`kl_maximiser` with the span of a for 2ε: a longer step, equally safe."""
    return _mixture_maximiser(u, advantage, float(np.ptp(u.a)))


def _mixture_maximiser(u: Update, advantage: float, spread: float) -> float:
    # d/dα of α𝔸 − γ spread α²/x, x = 1−γ+γα, vanishes at x² = (1−γ)² spread/(spread − 𝔸).
    g = u.gamma
    if advantage >= spread or g == 0:
        return 1.0
    return (1 - g) * (math.sqrt(spread / (spread - advantage)) - 1) / g


def uspi_step(u: Update, advantage: float) -> float:
    """(1−γ)𝔸/(γDΔ): Pirotta et al. 2013, Cor 4.1."""
    distance = float(np.abs(u.candidate - u.base.policy).sum(axis=-1).max())
    return _divide((1 - u.gamma) * advantage, u.gamma * distance * float(np.ptp(u.a)))


def cpo_maximiser(u: Update, advantage: float) -> float:
    """(1−γ)𝔸/(4γ ε E_d TV): maximiser of Achiam et al. 2017, Cor 1, along the mixture."""
    tv = 0.5 * np.abs(u.candidate - u.base.policy).sum(axis=-1)
    mean_tv = float((u.d * tv).sum())
    largest = float(np.abs(u.a).max())
    return _divide((1 - u.gamma) * advantage, 4 * u.gamma * largest * mean_tv)


def masked_step(u: Update, advantage: float) -> float:
    """𝔸_w/(H²r): certifies p_w𝔸_w²/(2Hr) (Samanta et al. 2026, Thm 1; constants ours)."""
    return _divide(advantage, u.H**2 * u.r_max)


def masked_maximiser(u: Update, advantage: float) -> float:
    """𝔸_w/(H(H−1)r): maximiser of the masked bound itself."""
    return _divide(advantage, u.H * (u.H - 1) * u.r_max)


def stepwise_maximiser(u: Update, advantage: float) -> float:
    """H p_w 𝔸_w/(r Σ_t E[w_t] (H−t)(H+t−1)): maximiser of the bound step by step.

    It is at least `masked_maximiser`, and certifies at least as much.
    """
    return _divide(u.H * u.p_w * advantage, u.r_max * u.disturbance)


def certified_maximiser(u: Update, advantage: float) -> float:
    """Maximiser of the best of several bounds, whichever the MDP and the weights are.

    Finite horizon: step by step, or for bounded returns. Returns of a width R below Hr favour the
    second, early resets the first. Discounted: the pair form, or the span form of CPO.
    """
    return _divide(u.steps * u.p_w * advantage, 2 * masked_penalty(u))


def masked_penalty(u: Update) -> float:
    """Smallest c for which a bound gives gain ≥ α H p_w 𝔸_w − α² c, with 1/(1−γ) for H."""
    if u.mdp.horizon is not None:
        by_step = u.r_max * u.disturbance / 2
        return min(by_step, u.H * (u.H - 1) * u.p_w * u.return_width)
    deviations = expectation(u.base, u.w * np.abs(u.candidate - u.base.policy).sum(axis=-1) / 2)
    cpo = u.gamma * float(np.ptp(u.w * u.a)) * deviations / (1 - u.gamma) ** 2
    return min(u.return_width * u.disturbance, cpo)


def returns_step(u: Update, advantage: float) -> float:
    """𝔸_w/(2HR) for V and Q in a range of width R: certifies p_w𝔸_w²/(4R)."""
    return _divide(advantage, 2 * u.H * u.return_width)


def full_step(u: Update, advantage: float) -> float:
    """1: policy iteration where the candidate is greedy; no certificate."""
    return 1.0


def _divide(numerator: float, denominator: float) -> float:
    return math.inf if denominator <= 0 else numerator / denominator


DISCOUNTED: dict[str, StepRule] = {
    "kl": kl_step,
    "kl-max": kl_maximiser,
    "span-max": span_maximiser,
    "uspi": uspi_step,
    "cpo-max": cpo_maximiser,
}
FINITE: dict[str, StepRule] = {
    "masked": masked_step,
    "masked-max": masked_maximiser,
    "stepwise": stepwise_maximiser,
    "returns": returns_step,
}
ANYWHERE: dict[str, StepRule] = {"certified": certified_maximiser, "full": full_step}


def step_rule(name: str, mdp: TabularMDP) -> StepRule:
    """The rule of a name.

    Raises
    ------
    ValueError
        If the name is unknown or belongs to the other kind of MDP.
    """
    known = ANYWHERE | (DISCOUNTED if mdp.horizon is None else FINITE)
    if name not in known:
        raise ValueError(f"step: {name!r} is none of {', '.join(known)} for {mdp!r}")
    return known[name]


def step_size(rule: str | StepRule, update: Update, advantage: float) -> float:
    """α in [0, 1] of a rule, by name or as a function.

    Raises
    ------
    ValueError
        If the name is unknown, belongs to the other kind of MDP, or is a discounted rule of random
        resets and the update has other weights; or if a function gives NaN.
    """
    if isinstance(rule, str):
        name, rule = rule, step_rule(rule, update.mdp)
        if name in DISCOUNTED and (update.w != 1).any():
            raise ValueError(f"step: {name!r} is for random resets only; use 'certified'")
    if not advantage > 0:
        return 0.0
    alpha = float(rule(update, advantage))
    if math.isnan(alpha):
        raise ValueError(f"step: {getattr(rule, '__name__', rule)} gave nan for {advantage:g}")
    return min(1.0, max(0.0, alpha))
