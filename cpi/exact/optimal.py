"""Optimal values: backward induction, policy iteration, and linear programming as a check.

V*_h = max_a r + P V*_{h+1}                          (finite: backward induction)
V*   = max_a r + γ P V*                              (discounted: Howard's policy iteration)
min Σ_s V(s)  subject to  V(s) ≥ r(s,a) + γ P V      (LP; its dual is an occupancy)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from cpi.exact.policies import deterministic_policy
from cpi.exact.values import Evaluation, action_values
from envs.tabular import FloatArray, TabularMDP, frozen


@dataclass(frozen=True, eq=False)
class Optimum:
    """V* and a best action: arrays of shape (S,), or (H, S) on a finite horizon."""

    V: FloatArray
    actions: NDArray[np.intp]
    num_actions: int

    @cached_property
    def policy(self) -> FloatArray:
        """The deterministic optimal policy, (S, A) or (H, S, A)."""
        return frozen(deterministic_policy(self.actions, self.num_actions))


def optimal(mdp: TabularMDP) -> Optimum:
    """Backward induction on a finite horizon, else policy iteration."""
    return policy_iteration(mdp) if mdp.horizon is None else backward_induction(mdp)


def backward_induction(mdp: TabularMDP) -> Optimum:
    """Optimal values of a finite-horizon MDP.

    Raises
    ------
    ValueError
        If the MDP is discounted.
    """
    if mdp.horizon is None:
        raise ValueError("backward induction needs a horizon; use policy_iteration")
    shape = mdp.rewards.shape
    V = np.empty((mdp.horizon, shape[0]))
    actions = np.empty((mdp.horizon, shape[0]), dtype=np.intp)
    Q = mdp.rewards
    for h in reversed(range(mdp.horizon)):
        if h + 1 < mdp.horizon:
            Q = action_values(mdp, V[h + 1])
        V[h], actions[h] = _best(Q)
    actions.flags.writeable = False
    return Optimum(frozen(V), actions, shape[1])


def policy_iteration(mdp: TabularMDP) -> Optimum:
    """Optimal values of a discounted MDP, by exact evaluations (Howard 1960).

    An action is replaced only by one that is better by more than a few ulp. A round whose values do
    not rise is the last. Neither ties nor rounding can therefore make it cycle.

    Raises
    ------
    ValueError
        If the MDP has a finite horizon.
    """
    if mdp.discount is None:
        raise ValueError("policy iteration needs a discount; use backward_induction")
    states = np.arange(mdp.num_states)
    # One look-ahead is cheaper than the round that it usually saves.
    _, actions = _best(action_values(mdp, mdp.rewards.max(axis=1)))
    last = np.full(mdp.num_states, -np.inf)
    while True:
        evaluation = Evaluation(mdp, deterministic_policy(actions, mdp.num_actions))
        Q = evaluation.Q
        highest, best = _best(Q)
        ulps = 8.0 * np.finfo(float).eps * np.abs(Q).max()
        better = highest > Q[states, actions] + ulps
        if not better.any() or (evaluation.V - last).sum() <= 0:
            actions.flags.writeable = False
            return Optimum(evaluation.V, actions, mdp.num_actions)
        last = evaluation.V
        actions = np.where(better, best, actions)


def _best(Q: FloatArray) -> tuple[FloatArray, NDArray[np.intp]]:
    """max_a Q(s,a) and the first action that attains it, both of shape (S,)."""
    num_states, num_actions = Q.shape
    if num_states < 1000 or num_actions > 8:
        actions = Q.argmax(axis=1)
        return Q.take(num_actions * np.arange(num_states) + actions), actions
    # numpy's argmax goes row by row, which takes two or three times as long for few actions.
    highest, actions = Q[:, 0], np.zeros(num_states, dtype=np.intp)
    for a in range(1, num_actions):
        actions = np.maximum(actions, a * (Q[:, a] > highest))
        highest = np.maximum(highest, Q[:, a])
    return highest, actions


def linear_program(mdp: TabularMDP) -> tuple[FloatArray, FloatArray]:
    """V* by linear programming (HiGHS), sharing no code with the other two.

    Returns
    -------
    V : array (S,) or (H, S)
        Optimal values, to the solver's tolerance (about 1e-7 of the largest reward).
    measure : array (S, A) or (H, S, A)
        The dual solution: discounted (or summed) visits of an optimal policy that starts once in
        every state (and step), because the objective has equal weights.
    """
    num_states, num_actions = mdp.rewards.shape
    same_state: Any = sparse.kron(sparse.eye_array(num_states), np.ones((num_actions, 1)))
    next_state: Any = sparse.csr_array(mdp.flat)
    if mdp.horizon is None:
        rewards = mdp.rewards.ravel()
        constraint = same_state - mdp.discount * next_state
    else:
        rewards = np.tile(mdp.rewards.ravel(), mdp.horizon)
        same_step = sparse.eye_array(mdp.horizon)
        next_step = sparse.eye_array(mdp.horizon, k=1)
        constraint = sparse.kron(same_step, same_state) - sparse.kron(next_step, next_state)
    rows: Any = sparse.csr_array(-constraint)
    unit = float(np.abs(rewards).max()) or 1.0  # the solver's tolerance is absolute
    solution = linprog(
        np.ones(constraint.shape[1]),
        A_ub=rows,
        b_ub=-rewards / unit,
        bounds=(None, None),
        method="highs",
    )
    if not solution.success or solution.x is None:
        raise ArithmeticError(f"linear program: {solution.message}")
    steps_shape = () if mdp.horizon is None else (mdp.horizon,)
    return (
        unit * solution.x.reshape(*steps_shape, num_states),
        -solution.ineqlin.marginals.reshape(*steps_shape, num_states, num_actions),
    )
