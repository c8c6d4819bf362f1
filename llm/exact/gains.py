"""Predicted and measured gain of an update, and precision and recall of resets.

Pure functions of exact values (`cpi`) and arrays; `llm.exact.bridge` applies them to a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpi.exact.improvement import check_tau
from cpi.exact.policies import uniform_policy
from cpi.exact.update import Update
from cpi.exact.values import Evaluation, evaluate, tolerance
from envs.tabular import FloatArray
from llm.common.statistics import Estimate, proportion


def predicted_gain(update: Update, problems: int = 1) -> Estimate:
    """First-order gain of a policy over another, and an interval that contains the exact gain.

        J(π') − J(π) = L ± Σ_h span(a_h) min(1, Σ_{t<h} E_{d_t} TV(π'_t, π_t)),   L = H E_{d^π} a

    with a = E_{π'} A^π. The reason is J(π') − J(π) − L = Σ_h (E_{d'_h} − E_{d_h}) a_h (Kakade &
    Langford 2002, Lemma 6.1). The two means of a_h differ by at most span(a_h) TV(d'_h, d_h). That
    TV is at most the probability that the policies take different actions before h. The bound uses
    only the old occupancy d; of the new one, only that its states are reachable by some policy.

    With several problems, span and probability are computed per problem and averaged.

    Parameters
    ----------
    update : Update
        With a finite horizon, step size 1 and no weights.
    problems : int
        Number of problems: blocks of equally many states that no transition leaves.
    """
    shape = (update.H, problems, -1)
    # The uniform policy visits every reachable state.
    reachable = evaluate(update.mdp, uniform_policy(update.mdp)).occupancy.reshape(shape) > 0
    a = update.a.reshape(shape)
    highest = np.where(reachable, a, -np.inf).max(axis=-1)
    span = highest - np.where(reachable, a, np.inf).min(axis=-1)
    parting = update.H * (update.d * update.tv).reshape(shape).sum(axis=-1)
    before = np.cumsum(parting, axis=0) - parting
    share = update.mdp.start.reshape(problems, -1).sum(axis=-1)
    # A problem without start probability has no span.
    radius = float((np.where(share, span, 0.0) * np.minimum(before, share)).sum())
    gain = update.H * update.advantage
    return Estimate(gain, gain - radius, gain + radius)


def measured_gain(before: NDArray[np.bool_], after: NDArray[np.bool_], delta: float) -> Estimate:
    """Difference of two success rates that were sampled with the same random numbers.

    It is the share of pairs that only π' solved minus the share that only π solved. Each share has
    an interval of level 1 − δ/2. Similar policies give few such pairs and so a narrow interval.

    Parameters
    ----------
    before, after : arrays (P, N) of bool
        Whether completion j of problem i is right, under π and π'.
    delta : float
        Error probability δ of the interval.
    """
    won = proportion(int((after & ~before).sum()), after.size, delta / 2)
    lost = proportion(int((before & ~after).sum()), after.size, delta / 2)
    return Estimate(won.value - lost.value, won.low - lost.high, won.high - lost.low)


def largest_met(base: Evaluation) -> float:
    """Largest advantage in the visited states; the others do not matter to an improvement."""
    return float(base.A.max(axis=-1)[base.occupancy > 0].max())


def threshold(base: Evaluation, tau: float | None) -> float:
    """Check τ; by default, half the largest advantage in the states that `base` visits.

    Raises
    ------
    ValueError
        If τ is not a number ≥ 0 below that advantage.
    """
    largest = largest_met(base)
    if tau is None:
        if largest <= tolerance(base.mdp):
            raise ValueError("tau: the first checkpoint visits no state that could be improved")
        return largest / 2
    check_tau(tau)
    if not tau < largest:
        raise ValueError(
            f"tau: {tau:g} is above every advantage in the states that the first checkpoint visits "
            f"(the largest is {largest:.4g}); choose a smaller one"
        )
    return tau


@dataclass(frozen=True)
class ResetQuality:
    """Precision and recall of reset weights for the improvable set I_τ, on on-policy episodes.

    Attributes
    ----------
    accepted : float
        p_w = E[w], the share of accepted steps.
    precision : float
        q = E[w·1_I] / E[w]; 0 if no step is accepted.
    recall : float
        t = E[w·1_I] / p_π(τ); 0 if p_π(τ) is 0.
    hit_rate : float, optional
        Share of resets at the first wrong step, with one reset per failed episode, drawn ∝ w.
    """

    accepted: float
    precision: float
    recall: float
    hit_rate: float | None


def reset_quality(
    weights: Sequence[FloatArray],
    improvable: Sequence[FloatArray],
    errors: Sequence[int | None],
    horizon: int,
    p: float,
) -> ResetQuality:
    """Compute the quality of reset weights in [0, 1].

    Parameters
    ----------
    weights, improvable : one array per episode
        w and 1_I before each step. Steps beyond the horizon are not in I_τ.
    errors : sequence of int or None
        First wrong step of each episode, from 0.
    horizon : int
    p : float
        Exact p_π(τ).
    """
    steps = len(weights) * horizon
    accepted = sum(float(w.sum()) for w in weights) / steps
    caught = sum(float(w @ mask) for w, mask in zip(weights, improvable, strict=True)) / steps
    hits = [
        float(w[error] / w.sum())
        for w, error in zip(weights, errors, strict=True)
        if error is not None and w.any()
    ]
    return ResetQuality(
        accepted,
        caught / accepted if accepted else 0.0,
        caught / p if p else 0.0,
        float(np.mean(hits)) if hits else None,
    )


def certificate(base: Evaluation, p: float, recall: float, precision: float, tau: float) -> float:
    """Guaranteed gain p t q τ²/(2Hr) of one conservative step; "localizer" in `cpi.bounds`.

    Random resets have t = 1, q = p, and the improvable oracle has t = q = 1 (Samanta et al. 2026,
    arXiv 2605.25507, Theorem 1, with our constants).
    """
    assert base.mdp.horizon is not None
    return p * recall * precision * tau**2 / (2 * base.mdp.horizon * base.mdp.reward_width)
