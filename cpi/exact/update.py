"""An update of a policy, with the exact quantities that bounds and step sizes use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from cpi.exact.improvement import (
    UNVISITED,
    candidate_advantage,
    check_tau,
    check_weights,
    coverage,
    expectation,
    improvable_mask,
    switch_free_mass,
)
from cpi.exact.optimal import optimal
from cpi.exact.policies import check_policy, mixture
from cpi.exact.values import Evaluation, evaluate, is_coarse, rounding_of, tolerance
from envs.checks import check_probability
from envs.tabular import FloatArray, TabularMDP, distribution, frozen


@dataclass(frozen=True, eq=False)
class Update:
    """The update π → (1 − α w) π + α w π', with the exact quantities of the bounds.

    Arrays are copied, because quantities are computed when they are first used.

    Parameters
    ----------
    base : Evaluation
        The current policy π, evaluated on its MDP.
    candidate : array, shape of a policy
        π'.
    alpha : float
        Step size in [0, 1].
    weights : array (S,) or (H, S), optional
        Reset weights w in [0, 1]; all ones (random resets) by default.
    tau : float, optional
        Threshold τ ≥ 0 of the improvable set; bounds about I_τ apply only if it is given.
    restart : array (S,), optional
        Distribution μ of the coverage results; the MDP's start by default.

    Raises
    ------
    cpi.PolicyError, ValueError
        If an argument is out of range or of the wrong shape.
    """

    base: Evaluation
    candidate: FloatArray
    alpha: float = 1.0
    weights: FloatArray | None = None
    tau: float | None = None
    restart: FloatArray | None = None

    def __post_init__(self) -> None:
        candidate = check_policy(self.mdp, self.candidate, what="candidate")
        object.__setattr__(self, "candidate", candidate)
        object.__setattr__(self, "alpha", check_probability("alpha", self.alpha))
        if self.tau is not None:
            check_tau(self.tau)
        if self.weights is not None:
            weights = frozen(check_weights(self.base, self.weights).copy())
            object.__setattr__(self, "weights", weights)
        if self.restart is not None:
            restart = distribution(self.restart, "restart", self.mdp.num_states)
            object.__setattr__(self, "restart", restart)

    @property
    def mdp(self) -> TabularMDP:
        """The MDP of `base`."""
        return self.base.mdp

    @property
    def gamma(self) -> float:
        """γ of a discounted MDP."""
        assert self.mdp.discount is not None
        return self.mdp.discount

    @property
    def H(self) -> int:
        """Horizon of a finite MDP."""
        assert self.mdp.horizon is not None
        return self.mdp.horizon

    @property
    def steps(self) -> float:
        """H, or 1/(1−γ): what turns a mean over the occupancy into a sum over steps."""
        return 1 / (1 - self.gamma) if self.mdp.horizon is None else self.H

    @property
    def r_max(self) -> float:
        """Width of the reward range."""
        return self.mdp.reward_width

    @property
    def d(self) -> FloatArray:
        """Occupancy of π."""
        return self.base.occupancy

    @cached_property
    def w(self) -> FloatArray:
        """Reset weights, in the shape of the occupancy."""
        return np.broadcast_to(1.0 if self.weights is None else self.weights, self.d.shape)

    @cached_property
    def a(self) -> FloatArray:
        """Candidate's advantage a = E_{π'} A^π in each state."""
        return candidate_advantage(self.base, self.candidate)

    @cached_property
    def advantage(self) -> float:
        """Policy advantage 𝔸 = E_d a."""
        return expectation(self.base, self.a)

    @cached_property
    def p_w(self) -> float:
        """Fraction of visited states accepted as reset states."""
        return coverage(self.base, self.w)

    @cached_property
    def disturbance(self) -> float:
        """Accepted states, weighted by what a switch there can disturb.

        Finite horizon: Σ_t E[w_t] (H−t)(H+t−1). Discounted: Σ_{k<t} γ^t E[w_k (w_t + 1)], where
        w_t stands for the visits that a switch at k may lose, and 1 for what follows it.
        """
        if self.mdp.horizon is None:
            ahead = self.base.resolvent.solve(np.asarray(self.w, dtype=np.float64)) - self.w
            follow = self.gamma / (1 - self.gamma)
            return expectation(self.base, self.w * (ahead + follow)) / (1 - self.gamma)
        t = np.arange(self.H)
        accepted = self.H * (self.d * self.w).sum(axis=1)
        return float((accepted * (self.H - t) * (self.H + t - 1)).sum())

    @cached_property
    def return_width(self) -> float:
        """Width of an interval that holds every V and Q of π."""
        return float(self.base.Q.max() - self.base.Q.min())

    @cached_property
    def masked_advantage(self) -> float:
        """𝔸_w = E_{ν_w} a; 0 where no state is accepted."""
        return expectation(self.base, self.w * self.a) / self.p_w if self.p_w > 0 else 0.0

    @cached_property
    def new(self) -> Evaluation:
        """The updated policy (1 − α w) π + α w π', evaluated."""
        return self.mixed(self.alpha, self.weights)

    @cached_property
    def gain(self) -> float:
        """J of the updated policy minus J(π)."""
        return self.new.J - self.base.J

    @cached_property
    def rounding(self) -> float:
        """Rounding of returns: of π, of the updated policy, and of the optimal one."""
        if not is_coarse(self.mdp):
            return tolerance(self.mdp)
        return rounding_of(self.base, self.new, self.best)

    @cached_property
    def new_advantage(self) -> FloatArray:
        """E_{π_new} A^π in each state, for bounds on two arbitrary policies."""
        return candidate_advantage(self.base, self.new.policy)

    @cached_property
    def tv(self) -> FloatArray:
        """Total variation ½‖π_new − π‖₁ in each state."""
        return 0.5 * np.abs(self.new.policy - self.base.policy).sum(axis=-1)

    @cached_property
    def kl_max(self) -> float:
        """max_s KL(π ‖ π_new); infinite where π_new drops an action of π.

        It is summed as Σ [new − old − old log(new/old)], because Σ (new − old) = 0. For small
        changes, where that would lose all digits, x − log(1 + x) is a series in x = new/old − 1.
        """
        old, new = self.base.policy, self.new.policy
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            x = (new - old) / old
            series = old * x**2 * (1 / 2 - x * (1 / 3 - x * (1 / 4 - x / 5)))
            plain = new - old - old * (np.log(new) - np.log(old))
        terms = np.where(old > 0, np.where(np.abs(x) < 1e-3, series, plain), new)
        return float(terms.sum(axis=-1).max())

    @cached_property
    def improvable(self) -> NDArray[np.bool_]:
        """I_τ as a mask; all False where τ was not given."""
        return improvable_mask(self.base, np.inf if self.tau is None else self.tau)

    @cached_property
    def p(self) -> float:
        """Coverage p_π(τ) = d(I_τ)."""
        return coverage(self.base, self.improvable)

    @cached_property
    def precision(self) -> float:
        """Precision q = Pr(I_τ | accepted); 0 where no state is accepted."""
        return coverage(self.base, self.w * self.improvable) / self.p_w if self.p_w > 0 else 0.0

    @cached_property
    def recall(self) -> float:
        """Recall t = Pr(accepted | I_τ); 0 where I_τ is never visited."""
        return coverage(self.base, self.w * self.improvable) / self.p if self.p > 0 else 0.0

    @cached_property
    def best(self) -> Evaluation:
        """The optimal policy, evaluated."""
        return _best(self.mdp)

    @cached_property
    def restarted(self) -> FloatArray:
        """d^{π,μ}, the occupancy of π from the restart distribution."""
        return self.d if self.restart is None else self.base.occupancy_from(self.restart)

    @cached_property
    def improvement_left(self) -> FloatArray:
        """max_a A^π in each state; negative values are rounding, the maximum is ≥ E_π A = 0."""
        return np.maximum(self.base.A.max(axis=-1), 0.0)

    def mixed(self, alpha: float, weights: FloatArray | NDArray[np.bool_] | None) -> Evaluation:
        """The masked mixture at another α and w, evaluated."""
        mask = 1.0 if weights is None else np.asarray(weights, dtype=np.float64)
        return evaluate(self.mdp, mixture(self.base.policy, self.candidate, alpha, mask))

    def gain_at(self, alpha: float, weights: FloatArray | NDArray[np.bool_] | None = None) -> float:
        """J of the masked mixture at another α and w (default: all ones) minus J(π)."""
        if alpha == self.alpha and weights is self.weights:
            return self.gain
        return self.mixed(alpha, weights).J - self.base.J

    def switched_before(self, alpha: float) -> FloatArray:
        """Pr(an on-policy trajectory switched to π' before step h), shape (H,)."""
        return np.asarray(1.0 - switch_free_mass(self.base, alpha * self.w).sum(axis=1))

    def switched_share(self, alpha: float) -> float:
        """(1−γ) Σ_t γ^t Pr(an on-policy trajectory switched to π' before t), discounted.

        It is γ E[γ^T], where T is the step of the first switch.
        """
        mass = switch_free_mass(self.base, alpha * self.w)
        return self.gamma * alpha * float((mass * self.w).sum())

    def density_ratio(self, over: FloatArray) -> FloatArray:
        """d^{π*} / over, taken as 0 where the optimal policy never goes; may be infinite."""
        best = self.best.occupancy
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(best > UNVISITED, best / over, 0.0)


@lru_cache(maxsize=8)
def _best(mdp: TabularMDP) -> Evaluation:
    """An optimal policy, evaluated once per MDP object."""
    return evaluate(mdp, optimal(mdp).policy)
