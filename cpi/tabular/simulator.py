"""A tabular MDP as a `Simulator`, vectorised over episodes."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cpi.core.episodes import Episode, Prefix
from cpi.exact.optimal import optimal
from cpi.exact.policies import check_policy
from cpi.exact.values import Evaluation, evaluate, rounding_of
from envs.checks import check_number
from envs.tabular import FloatArray, TabularMDP

#: Rounding of a return, relative to the largest reward and to the return itself.
RETURN_ROUNDING = 1e-9


class Walk(NamedTuple):
    """N trajectories as arrays (N, H) over the steps of the horizon.

    Before a trajectory's first step and after its last, `states` and `actions` hold −1 and
    `rewards` 0. `ends`, shape (N,), is the step after the last one.
    """

    states: NDArray[np.int32]
    actions: NDArray[np.int32]
    rewards: FloatArray
    ends: NDArray[np.intp]


#: Trajectories that are simulated at a time.
CHUNK = 8192

#: Outcomes of a row up to which `Rows` compares instead of searching.
SHORT = 8


class Rows:
    """Vectorised draws from the rows of a table of distributions.

    The rows' cumulative sums are laid end to end, row r on [r, r + 1). One binary search therefore
    serves any mix of rows.
    """

    def __init__(self, table: FloatArray | sparse.csr_array) -> None:
        rows = sparse.csr_array(table, copy=True)
        rows.eliminate_zeros()
        self.outcomes = rows.indices.astype(np.int32)
        counts = np.diff(rows.indptr)
        owner = np.repeat(np.arange(len(counts)), counts)
        total = np.cumsum(rows.data)
        before = np.concatenate([[0.0], total])[rows.indptr[:-1]]
        self.upper = owner + np.minimum(total - before[owner], 1.0)
        self.upper[rows.indptr[1:] - 1] = np.arange(len(counts)) + 1.0  # no gap from rounding
        self.first = rows.indptr[:-1].astype(np.intp)
        # Adding a large row number could round u up to 1.
        self.largest = np.nextafter(np.arange(len(counts)) + 1.0, 0.0)
        # Where rows are short, comparing with each sum is faster than searching all of them.
        self.short = counts.max(initial=0) <= SHORT
        self.columns = [
            np.where(k < counts - 1, self.upper[np.minimum(self.first + k, len(owner) - 1)], np.inf)
            for k in range(counts.max(initial=1) - 1 if self.short else 0)
        ]

    def draw(self, rows: NDArray[np.intp], u: FloatArray) -> NDArray[np.int32]:
        """One outcome per entry of `rows`, given u in [0, 1)."""
        position = np.minimum(rows + u, self.largest[rows])
        if self.short:
            place = self.first[rows]
            for column in self.columns:
                place += column[rows] <= position
        else:
            place = np.searchsorted(self.upper, position, side="right")
        return self.outcomes[place]


class Actions:
    """Vectorised draws of actions from a policy, shape (S, A) or (H, S, A)."""

    def __init__(self, policy: FloatArray) -> None:
        self.rows = Rows(policy.reshape(-1, policy.shape[-1]))
        self.stride = policy.shape[1] if policy.ndim == 3 else 0

    def draw(self, step: int, states: NDArray[np.intp], u: FloatArray) -> NDArray[np.int32]:
        """One action per state, given u in [0, 1)."""
        return self.rows.draw(step * self.stride + states, u)


class TabularOracle:
    """Oracle from the exact values of a policy, for `cpi.core.resets.OracleReset`.

    A step is an *error* if it gives up optimal value: Q*_h(s, a) < V*_h(s).
    """

    def __init__(self, evaluation: Evaluation) -> None:
        mdp = evaluation.mdp
        if mdp.horizon is None:
            raise ValueError(f"{mdp!r}: episodes need a horizon; use mdp.with_time(horizon=H)")
        self.best = evaluation.A.max(axis=-1)
        self.best[self.best <= rounding_of(evaluation)] = 0.0  # rounding is no improvement
        optimum = evaluate(mdp, optimal(mdp).policy)
        highest = optimum.Q.max(axis=-1, keepdims=True)
        self.wrong = optimum.Q < highest - rounding_of(optimum)

    def improvement(self, episode: Episode) -> FloatArray:
        """max_a A^π in the state of each step, shape (n,)."""
        states = np.asarray(episode.steps)[:, 0]
        return np.asarray(self.best[np.arange(len(states)), states])

    def errors(self, episode: Episode) -> NDArray[np.bool_]:
        """Which steps are errors, shape (n,)."""
        states, actions = np.asarray(episode.steps).T
        return np.asarray(self.wrong[np.arange(len(states)), states, actions])


def least_success(mdp: TabularMDP, success: float) -> float:
    """Smallest return of an episode that is not a failure: `success`, but for rounding.

    Raises
    ------
    ValueError
        If `success` is NaN.
    """
    check_number("success", success, -math.inf)
    if math.isinf(success):
        return success
    return success - RETURN_ROUNDING * max(abs(success), float(np.abs(mdp.rewards).max()))


class TabularSimulator:
    """Simulator of a policy in a finite-horizon MDP.

    Episodes end at the horizon or in a terminal state. An episode fails if its return stays below
    `success`.

    Parameters
    ----------
    mdp : TabularMDP
        With a finite horizon.
    policy : array (S, A) or (H, S, A)
    success : float
        Smallest return of an episode that is not a failure.
    first : array (S, A) or (H, S, A), optional
        Policy of the first step after the prefix, if another: uniform, to estimate Q per action.

    Raises
    ------
    ValueError, cpi.PolicyError
        If the MDP is discounted, or a policy does not fit it.
    """

    def __init__(
        self,
        mdp: TabularMDP,
        policy: FloatArray,
        *,
        success: float = 1.0,
        first: FloatArray | None = None,
    ) -> None:
        if mdp.horizon is None:
            raise ValueError(f"{mdp!r}: simulation needs a horizon; use mdp.with_time(horizon=H)")
        self.mdp, self.horizon = mdp, mdp.horizon
        self.least_success = least_success(mdp, success)
        self.policy = check_policy(mdp, policy)
        self._actions = Actions(self.policy)
        self._first = self._actions if first is None else Actions(check_policy(mdp, first))
        self._next = Rows(mdp.flat)
        self._terminal = mdp.terminal

    def draw_starts(self, n: int, rng: np.random.Generator) -> list[int]:
        """`n` start states from ρ."""
        return [int(s) for s in rng.choice(self.mdp.num_states, size=n, p=self.mdp.start)]

    def walk(
        self, states: NDArray[np.integer], steps: NDArray[np.integer], rng: np.random.Generator
    ) -> Walk:
        """Trajectories from (step, state) pairs, arrays (N,), to the end of the episode.

        Each trajectory uses its own row of random numbers. It depends on its index in the batch,
        not on the other trajectories.
        """
        num = len(states)
        uniform = rng.random((num, self.horizon, 2))
        visited = np.full((num, self.horizon), -1, dtype=np.int32)
        actions = np.full((num, self.horizon), -1, dtype=np.int32)
        rewards, ends = np.zeros((num, self.horizon)), np.zeros(num, dtype=np.intp)
        # In parts that the processor's cache holds, which is several times faster.
        for at in range(0, num, CHUNK):
            part = slice(at, at + CHUNK)
            walk = Walk(visited[part], actions[part], rewards[part], ends[part])
            self._walk(states[part], steps[part], uniform[part], walk)
        return Walk(visited, actions, rewards, ends)

    def _walk(
        self,
        states: NDArray[np.integer],
        steps: NDArray[np.integer],
        uniform: FloatArray,
        walk: Walk,
    ) -> None:
        """Fill in the trajectories that some random numbers, shape (N, H, 2), give."""
        visited, taken, rewards, ends = walk
        state = np.asarray(states, dtype=np.intp).copy()
        begin = np.asarray(steps, dtype=np.intp)
        alive = ~self._terminal[state]
        ends[:] = np.where(alive, self.horizon, begin)
        for h in range(int(begin.min(initial=self.horizon)), self.horizon):
            live = np.flatnonzero(alive & (begin <= h))
            current = state[live]
            action = self._actions.draw(h, current, uniform[live, h, 0])
            if self._first is not self._actions:
                first = begin[live] == h
                action[first] = self._first.draw(h, current[first], uniform[live[first], h, 0])
            visited[live, h], taken[live, h] = current, action
            rewards[live, h] = self.mdp.rewards[current, action]
            pairs = current * self.mdp.num_actions + action
            following = self._next.draw(pairs, uniform[live, h, 1])
            state[live] = following
            ended = live[self._terminal[following]]
            alive[ended], ends[ended] = False, h + 1

    def _is_state(self, number: Any) -> bool:
        """Whether it is a whole number in 0 … S−1; 1.5 would be taken for 1."""
        try:
            return 0 <= operator.index(number) < self.mdp.num_states
        except TypeError:
            return False

    def _check_kept(self, prefix: Prefix, where: str) -> None:
        """Raise ValueError unless a prefix keeps (state, action) pairs, each with a reward or none.

        Of other shapes, numpy would spread steps over steps, and rewards over those to come.
        """
        steps, rewards = np.asarray(prefix.steps), np.asarray(prefix.rewards)
        pairs = steps.ndim == 2 and steps.shape[1] == 2 and np.issubdtype(steps.dtype, np.integer)
        if not (pairs and (steps >= 0).all() and (steps < self.mdp.rewards.shape).all()):
            raise ValueError(f"{where}: its steps are not (state, action) pairs of {self.mdp!r}")
        if len(rewards) not in (0, len(steps)) or not np.isfinite(rewards).all():
            raise ValueError(
                f"{where}: {len(rewards)} rewards for {len(steps)} steps; give a finite number for "
                "each step, or none"
            )

    def rollout(
        self, prefixes: Sequence[Prefix], n: int, rng: np.random.Generator
    ) -> list[list[Episode]]:
        """`n` episodes from each prefix; steps are arrays (length, 2) of (state, action).

        Raises
        ------
        ValueError
            If a prefix keeps steps but not the state that they led to, keeps more than the
            horizon, starts in no state of the MDP, or has steps or rewards that are none of it.
        """
        for number, prefix in enumerate(prefixes):
            if prefix.length and prefix.state is None:
                raise ValueError(
                    f"prefix {number}: keeps {prefix.length} steps but not the state they led to"
                )
            if prefix.length > self.horizon:
                raise ValueError(f"prefix {number}: keeps {prefix.length} steps of {self.horizon}")
            if prefix.length:
                self._check_kept(prefix, f"prefix {number}")
        origins = [p.start if p.state is None else p.state for p in prefixes]
        for number, state in enumerate(origins):
            if not self._is_state(state):
                raise ValueError(
                    f"prefix {number}: state {state!r} is not in 0 … S−1 of {self.mdp!r}"
                )
        begin = np.repeat([p.length for p in prefixes], n).astype(np.intp)
        walk = self.walk(np.repeat(np.asarray(origins, dtype=np.intp), n), begin, rng)
        steps = np.stack([walk.states, walk.actions], axis=2)
        for number, prefix in enumerate(prefixes):
            if prefix.length:
                rows = slice(number * n, (number + 1) * n)
                steps[rows, : prefix.length] = prefix.steps
                walk.rewards[rows, : len(prefix.rewards)] = prefix.rewards
        returns = walk.rewards.sum(axis=1)
        flat = [
            Episode(prefix, kept[:end], ret, failed, cost, states[:end], rewards[:end])
            for prefix, kept, states, rewards, end, ret, failed, cost in zip(
                (prefix for prefix in prefixes for _ in range(n)),
                steps,
                steps[..., 0],
                walk.rewards,
                walk.ends.tolist(),
                returns.tolist(),
                (returns < self.least_success).tolist(),
                (walk.ends - begin).tolist(),
                strict=True,
            )
        ]
        return [flat[number * n : (number + 1) * n] for number in range(len(prefixes))]
