"""Exact values of a policy: V, Q, A, occupancy and J, from one factorisation.

Discounted, with P_π and r_π averaged over the policy:

    V = (I − γ P_π)⁻¹ r_π            Q(s,a) = r(s,a) + γ Σ P(s'|s,a) V(s')      A = Q − V
    d = (1−γ) (I − γ P_π)⁻ᵀ ρ        J = ρ·V = Σ_s d(s) r_π(s) / (1−γ)

Finite horizon, where all of these carry the step h as first axis:

    Q_h = r + P V_{h+1},  V_h = Σ_a π_h Q_h,  V_H = 0;    d_{h+1} = P_{π_h}ᵀ d_h,  d_0 = ρ

The occupancy d is normalised: it sums to 1 over states, or over pairs (h, s), where it is
(1/H) Pr(s_h = s). J is never multiplied by 1−γ.

All arrays are read-only: quantities are computed when they are first used, and one that had been
changed would contradict the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from cpi.exact.linear import Resolvent, resolvent
from cpi.exact.policies import average_transitions, check_policy
from envs.tabular import FloatArray, TabularMDP, distribution, frozen

#: Rounding of a sum, relative to its size.
ULPS = 64.0 * float(np.finfo(float).eps)
#: Rounding of values, relative to the largest reward, above which they are looked at.
COARSE = 1e-6


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Exact values of a policy; each quantity is computed at first use, then kept."""

    mdp: TabularMDP
    policy: FloatArray

    @cached_property
    def resolvent(self) -> Resolvent:
        """(I − γ P_π)⁻¹ of a discounted MDP, factorised once."""
        assert self.mdp.discount is not None
        transitions = average_transitions(self.mdp, self.policy)
        return resolvent(transitions, self.mdp.discount, overwrite=True)

    @cached_property
    def V(self) -> FloatArray:
        """State values, (S,) or (H, S), in units of reward."""
        if self.mdp.horizon is None:
            rewards = np.vecdot(self.policy, self.mdp.rewards)
            return frozen(self.resolvent.solve(rewards))
        V, self.__dict__["Q"] = self._backward()
        return V

    @cached_property
    def Q(self) -> FloatArray:
        """Action values, (S, A) or (H, S, A)."""
        if self.mdp.horizon is None:
            return frozen(action_values(self.mdp, self.V))
        self.__dict__["V"], Q = self._backward()
        return Q

    @cached_property
    def A(self) -> FloatArray:
        """Advantages Q − V, (S, A) or (H, S, A)."""
        return frozen(self.Q - self.V[..., None])

    @cached_property
    def occupancy(self) -> FloatArray:
        """d^π from the MDP's start, (S,) or (H, S), summing to 1."""
        return self.occupancy_from(self.mdp.start)

    @cached_property
    def J(self) -> float:
        """Expected return E_ρ V."""
        return float(self.mdp.start @ (self.V if self.mdp.horizon is None else self.V[0]))

    def occupancy_from(self, start: ArrayLike) -> FloatArray:
        """d^{π,μ}: the occupancy when episodes start from μ = `start`, shape (S,).

        Raises
        ------
        ValueError
            If `start` is not a distribution over the MDP's states.
        """
        start = distribution(start, "start", self.mdp.num_states)
        if self.mdp.horizon is None:
            assert self.mdp.discount is not None
            visits = self.resolvent.solve_transposed(start)
            d = np.maximum(visits, 0.0)  # rounding can leave −1e−20 in states never visited
            # Near γ = 1 rounding is amplified by 1/(1−γ) in the total alone, which is known.
            return frozen(d / d.sum())
        return frozen(forward(self.mdp, self.policy, start) / self.mdp.horizon)

    def _backward(self) -> tuple[FloatArray, FloatArray]:
        horizon = self.mdp.horizon
        assert horizon is not None
        shape = self.mdp.rewards.shape
        Q = np.empty((horizon, *shape))
        V = np.empty((horizon, shape[0]))
        for h in reversed(range(horizon)):
            Q[h] = action_values(self.mdp, V[h + 1]) if h + 1 < horizon else self.mdp.rewards
            V[h] = np.einsum("sa,sa->s", policy_at(self.policy, h), Q[h])
        return frozen(V), frozen(Q)


def evaluate(mdp: TabularMDP, policy: ArrayLike) -> Evaluation:
    """Exact values of `policy`, shape (S, A), or (H, S, A) on a finite horizon.

    The policy is copied. Actions, shape (S,) or (H, S), are a policy too.

    Raises
    ------
    cpi.PolicyError
        If `policy` is not one of `mdp`.
    """
    return Evaluation(mdp, check_policy(mdp, policy))


def action_values(mdp: TabularMDP, V: FloatArray) -> FloatArray:
    """r + γ P V, shape (S, A), of values V one step later, shape (S,); γ is 1 if H is finite."""
    Q = np.asarray(mdp.flat @ V).reshape(mdp.rewards.shape)
    if mdp.discount is not None:
        Q *= mdp.discount
    Q += mdp.rewards
    return Q


def policy_at(policy: FloatArray, step: int) -> FloatArray:
    """The (S, A) rows in force at `step`."""
    return policy if policy.ndim == 2 else policy[step]


def forward(
    mdp: TabularMDP, policy: FloatArray, start: FloatArray, keep: FloatArray | None = None
) -> FloatArray:
    """Pr(s_h = s) of a finite-horizon policy, shape (H, S).

    With `keep`, shape (H, S), each visit to (h, s) survives with that probability, and the result
    is the mass that survived all steps before h (a sub-distribution).
    """
    assert mdp.horizon is not None
    into = mdp.flat.T
    mass = np.empty((mdp.horizon, mdp.num_states))
    mass[0] = start
    for h in range(mdp.horizon - 1):
        kept = mass[h] if keep is None else mass[h] * keep[h]
        mass[h + 1] = into @ (kept[:, None] * policy_at(policy, h)).ravel()
    return mass


def tolerance(mdp: TabularMDP, scale: float | None = None) -> float:
    """Rounding that identities between values of `mdp` may show: 64 eps max|r| × horizon².

    `scale` replaces max|r|: 1 for identities between probabilities.
    Values are sums of up to H = 1/(1−γ) rewards, and sums of them take that factor again.
    """
    largest = float(np.abs(mdp.rewards).max()) if scale is None else scale
    return ULPS * largest * _steps(mdp) ** 2


def is_coarse(mdp: TabularMDP) -> bool:
    """Whether `tolerance` is above a millionth of the largest reward: H > 8000, or γ near 1."""
    return tolerance(mdp, 1.0) > COARSE


def rounding_of(*evaluations: Evaluation) -> float:
    """`tolerance` of these policies of an MDP; where that is coarse, from their largest value.

    The values of an episode that pays once do not grow with the horizon, so neither does that
    factor of their rounding.
    """
    mdp = evaluations[0].mdp
    if not is_coarse(mdp):
        return tolerance(mdp)
    return ULPS * _steps(mdp) * max(float(np.abs(each.Q).max()) for each in evaluations)


def _steps(mdp: TabularMDP) -> float:
    """H, or 1/(1−γ)."""
    return mdp.horizon if mdp.horizon is not None else 1.0 / (1.0 - (mdp.discount or 0.0))


def probability_rounding(mdp: TabularMDP) -> float:
    """Rounding of occupancies and of probabilities of visits."""
    return ULPS * _steps(mdp) if is_coarse(mdp) else tolerance(mdp, 1.0)
