"""Optimal values: backward induction, policy iteration, and linear programming as a check.

V*_h = max_a r + P V*_{h+1}                          (finite: backward induction)
V*   = max_a r + γ P V*                              (discounted: Howard's policy iteration)
min Σ_s V(s)  subject to  V(s) ≥ r(s,a) + γ P V      (LP; its dual is an occupancy)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from cpi.exact.linear import REFINED_DISCOUNT, RESIDUAL_ULPS, may_have_a_band, resolvent
from cpi.exact.policies import (
    average_transitions,
    chosen_transitions,
    deterministic_policy,
    uniform_policy,
)
from cpi.exact.values import action_values
from envs.tabular import FloatArray, TabularMDP, frozen

EPS = float(np.finfo(float).eps)
LARGE = 300  # with fewer states, a factorisation takes no longer than a few sweeps
ROUNDS = 200
SWEEPS = 20  # for a tenth of the residual
FEW = 0.01  # of the states


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
    # One look-ahead is cheaper than the round that it usually saves.
    V = mdp.rewards.max(axis=1)
    _, actions = _best(action_values(mdp, V))
    if mdp.num_states >= LARGE and mdp.discount <= REFINED_DISCOUNT:
        V, actions, solved = _sweeps(mdp, V, actions)
        if solved:
            return _optimum(mdp, V, actions)
    states = np.arange(mdp.num_states)
    last = np.full(mdp.num_states, -np.inf)
    while True:
        moves = chosen_transitions(mdp, actions)
        V = resolvent(moves, mdp.discount, overwrite=True).solve(mdp.rewards[states, actions])
        Q = action_values(mdp, V)
        highest, best = _best(Q)
        ulps = 8.0 * EPS * float(np.abs(Q).max())
        better = highest > Q[states, actions] + ulps
        if not better.any() or (V - last).sum() <= 0:
            return _optimum(mdp, V, actions)
        last = V
        actions = np.where(better, best, actions)
        if mdp.is_sparse and better.sum() <= FEW * mdp.num_states:
            _spread(mdp, np.where(better, highest, V), actions, np.flatnonzero(better), ulps)


def _optimum(mdp: TabularMDP, V: FloatArray, actions: NDArray[np.intp]) -> Optimum:
    actions.flags.writeable = False
    return Optimum(frozen(V), actions, mdp.num_actions)


def _sweeps(
    mdp: TabularMDP, V: FloatArray, actions: NDArray[np.intp]
) -> tuple[FloatArray, NDArray[np.intp], bool]:
    """Modified policy iteration (Puterman & Shin 1978), while it is cheaper than exact evaluation.

    A residual that is the same in every state, c, means an error of c / (1 − γ) in every state,
    which is removed. What remains shrinks at the rate at which the chain mixes. Where that is slow,
    evaluations are left to `resolvent` as soon as the policy settles, or at once if it is fast.

    Returns
    -------
    V : array (S,)
    actions : array (S,)
        Best actions by V.
    solved : bool
        Whether the residual of V is at rounding level in every state, both in the optimality
        equation and in that of `actions`: as exact as iterative solutions in `cpi.exact.linear`.
    """
    assert mdp.discount is not None
    states = np.arange(mdp.num_states)
    moves: Any = None
    patient: bool | None = None
    for _ in range(ROUNDS):
        highest, best = _best(action_values(mdp, V))
        residual = highest - V
        rounding = RESIDUAL_ULPS * EPS * float(np.abs(mdp.rewards).max() + 2.0 * np.abs(V).max())
        if np.abs(residual).max() <= rounding:
            return V, best, True
        settled = moves is not None and (best == actions).all()
        if not settled:
            actions = best
            moves, rewards = chosen_transitions(mdp, actions), mdp.rewards[states, actions]
        goal = rounding if settled else max(rounding, 0.1 * np.ptp(residual))
        V = highest
        for _ in range(5 * SWEEPS if settled else SWEEPS):
            following = rewards + mdp.discount * (moves @ V)
            residual, V = following - V, following
            if np.ptp(residual) <= goal:
                middle = 0.5 * float(residual.min() + residual.max())
                V = V + middle * mdp.discount / (1.0 - mdp.discount)
                break
        else:
            if patient is None:
                patient = mdp.is_sparse and not may_have_a_band(
                    average_transitions(mdp, uniform_policy(mdp))
                )
            if settled or not patient:
                break
    return V, best, False


def _spread(
    mdp: TabularMDP,
    V: FloatArray,
    actions: NDArray[np.intp],
    improved: NDArray[np.intp],
    ulps: float,
) -> None:
    """Improve the predecessors of improved states in turn, each state once, while they are few.

    V and `actions` are changed in place. After an action is chosen by V, V only rises: the new
    policy is at least as good as V, so that this belongs to one step of policy iteration. Along a
    chain it replaces a round for each state.
    """
    into: Any = sparse.csr_array(mdp.flat.T)
    # Views give Python's numbers, with which single states are faster than with numpy.
    view: Any = memoryview
    data, columns, starts = map(view, (mdp.flat.data, mdp.flat.indices, mdp.flat.indptr))
    pairs, ends, values = map(view, (into.indices, into.indptr, V))
    rewards, num_actions = view(mdp.rewards), mdp.num_actions
    few = FEW * mdp.num_states
    queue = deque(improved.tolist())
    seen = set(queue)
    while queue and len(queue) <= few:
        state = queue.popleft()
        before = {pair // num_actions for pair in pairs[ends[state] : ends[state + 1]]} - seen
        for s in before:
            highest = values[s] + ulps
            for a in range(num_actions):
                row = slice(starts[s * num_actions + a], starts[s * num_actions + a + 1])
                ahead = sum(map(mul, data[row], map(values.__getitem__, columns[row])))
                value = rewards[s, a] + mdp.discount * ahead
                if value > highest:
                    highest, actions[s] = value, a
                    seen.add(s)
            if s in seen:
                values[s] = highest
                queue.append(s)


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
