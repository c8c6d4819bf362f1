"""Small MDPs and policies for the tests of `cpi`, and their slow, independent solutions.

The solutions follow the definitions: they enumerate every trajectory, or solve the dense system by
numpy. They share neither an algorithm nor a line with the code that they check.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from scipy import sparse

from cpi.exact.values import tolerance
from envs import TabularMDP

DISCOUNTS = [0.0, 0.5, 0.9, 0.99, 0.999]

#: Reproducible: a failure comes from a change of the code, not from another draw.
repeatable = settings(max_examples=60, deadline=None, derandomize=True)

#: A trajectory: its probability, then its (state, action) pairs.
Trajectory = tuple[float, tuple[tuple[int, int], ...]]


def normalised(weights: Any) -> Any:
    """Rows of non-negative integer weights as distributions; a row of zeros picks its first."""
    weights = np.array(weights, dtype=np.float64)
    weights[..., 0] += weights.sum(axis=-1) == 0
    return weights / weights.sum(axis=-1, keepdims=True)


@st.composite
def distributions(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Small integer weights, normalised: they shrink well, and hit zeros and ties."""
    size = int(np.prod(shape))
    weights = draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    return normalised(np.reshape(weights, shape))


@st.composite
def worlds(draw: st.DrawFn, finite: bool, states: int = 4, actions: int = 3) -> TabularMDP:
    """An MDP of up to `states` states and `actions` actions, dense or CSR; H ≤ 4."""
    shape = draw(st.integers(1, states)), draw(st.integers(1, actions))
    size = shape[0] * shape[1]
    rewards = draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
    mdp = TabularMDP(
        draw(distributions((*shape, shape[0]))),
        np.reshape(rewards, shape),
        draw(distributions(shape[:1])),
        horizon=draw(st.integers(1, 4)) if finite else None,
        discount=None if finite else draw(st.sampled_from(DISCOUNTS)),
    )
    return as_csr(mdp) if draw(st.booleans()) else mdp


@st.composite
def policies(draw: st.DrawFn, mdp: TabularMDP) -> Any:
    """A policy: stationary, or on a finite horizon also one that depends on the step."""
    shape = mdp.rewards.shape
    varies = mdp.horizon is not None and draw(st.booleans())
    return draw(distributions((mdp.horizon, *shape) if varies else shape))


@st.composite
def problems(
    draw: st.DrawFn, finite: bool, states: int = 4, actions: int = 3
) -> tuple[TabularMDP, Any]:
    """An MDP and a policy of it."""
    mdp = draw(worlds(finite, states, actions))
    return mdp, draw(policies(mdp))


def world(
    seed: int,
    num_states: int = 5,
    num_actions: int = 3,
    *,
    horizon: int | None = None,
    discount: float | None = None,
) -> TabularMDP:
    """A dense MDP of small integer weights and rewards without ties, in [−1, 1]."""
    rng = np.random.default_rng(seed)
    shape = num_states, num_actions
    return TabularMDP(
        normalised(rng.integers(0, 4, (*shape, num_states))),
        rng.uniform(-1, 1, shape),
        normalised(rng.integers(0, 4, num_states)),
        horizon,
        discount,
    )


def endless_chain(discount: float) -> TabularMDP:
    """Four states in a row; action 1 moves on, and the last step pays 1 and ends; thirds slip."""
    moves = np.zeros((5, 2, 5))
    for s in range(4):
        for following in (0, s, s):
            moves[s, 0, following] += 1 / 3
        for following in (0, s, s + 1):
            moves[s, 1, following] += 1 / 3
    moves[4, :, 4] = 1.0
    rewards = np.zeros((5, 2))
    rewards[3, 1] = 1 / 3
    return TabularMDP(moves, rewards, np.eye(5)[0], discount=discount)


def interior_policy(mdp: TabularMDP, seed: int) -> Any:
    """A policy of positive probabilities; time-dependent on a finite horizon."""
    rng = np.random.default_rng(seed)
    steps = () if mdp.horizon is None else (mdp.horizon,)
    return normalised(rng.integers(1, 5, (*steps, *mdp.rewards.shape)))


def as_csr(mdp: TabularMDP) -> TabularMDP:
    """The same MDP, its transitions as CSR rows."""
    return replace(mdp, transitions=sparse.csr_array(mdp.flat))


def dense_transitions(mdp: TabularMDP) -> Any:
    """Dense P of shape (S, A, S)."""
    flat = mdp.flat.toarray() if mdp.is_sparse else mdp.flat
    return flat.reshape(mdp.num_states, mdp.num_actions, mdp.num_states)


def affine(mdp: TabularMDP, factor: float, offset: float) -> TabularMDP:
    """The MDP with rewards factor · r + offset."""
    return replace(mdp, rewards=factor * mdp.rewards + offset)


def relabelled(mdp: TabularMDP, states: Any, actions: Any) -> TabularMDP:
    """The MDP whose state i and action k are `states[i]` and `actions[k]` of `mdp`."""
    transitions = dense_transitions(mdp)[np.ix_(states, actions, states)]
    renamed = replace(
        mdp,
        transitions=transitions,
        rewards=mdp.rewards[np.ix_(states, actions)],
        start=mdp.start[states],
    )
    return as_csr(renamed) if mdp.is_sparse else renamed


def layered(mdp: TabularMDP, discount: float) -> TabularMDP:
    """A finite-horizon MDP as a discounted one.

    State h·S + s is s at step h, the last state is "over"; rewards at step h are divided by γ^h,
    so that discounting, as seen from the start, leaves the rewards of `mdp`.
    """
    assert mdp.horizon is not None
    num_states, num_actions = mdp.rewards.shape
    over = mdp.horizon * num_states
    transitions = np.zeros((over + 1, num_actions, over + 1))
    rewards = np.zeros((over + 1, num_actions))
    for h in range(mdp.horizon):
        layer = slice(h * num_states, (h + 1) * num_states)
        rewards[layer] = mdp.rewards / discount**h
        if h + 1 < mdp.horizon:
            next_layer = slice((h + 1) * num_states, (h + 2) * num_states)
            transitions[layer, :, next_layer] = dense_transitions(mdp)
        else:
            transitions[layer, :, over] = 1.0
    transitions[over, :, over] = 1.0
    start = np.concatenate([mdp.start, np.zeros(over + 1 - num_states)])
    unrolled = TabularMDP(transitions, rewards, start, discount=discount)
    return as_csr(unrolled) if mdp.is_sparse else unrolled


def over_layers(array: Any, last: Any) -> Any:
    """An array (H, S, …) as one over the states of `layered`, with `last` for "over"."""
    array = np.asarray(array)
    flat = array.reshape(-1, *array.shape[2:])
    return np.concatenate([flat, np.broadcast_to(last, (1, *flat.shape[1:]))])


def repeated(mdp: TabularMDP, policy: Any) -> Any:
    """A policy of a finite-horizon MDP with its rows for every step, (H, S, A)."""
    assert mdp.horizon is not None
    return np.array(np.broadcast_to(policy, (mdp.horizon, *mdp.rewards.shape)))


def stopping(mdp: TabularMDP, horizon: int) -> TabularMDP:
    """A discounted MDP as an undiscounted one: continue with probability γ, up to `horizon`."""
    assert mdp.discount is not None
    over = mdp.num_states
    transitions = np.zeros((over + 1, mdp.num_actions, over + 1))
    transitions[:over, :, :over] = mdp.discount * dense_transitions(mdp)
    transitions[:over, :, over] = 1.0 - mdp.discount
    transitions[over, :, over] = 1.0
    return TabularMDP(
        transitions,
        np.vstack([mdp.rewards, np.zeros(mdp.num_actions)]),
        np.append(mdp.start, 0.0),
        horizon=horizon,
    )


def rounding(mdp: TabularMDP) -> float:
    """Tolerance of probabilities: that of an MDP whose rewards are all 1."""
    return tolerance(affine(mdp, 0.0, 1.0))


def rows_at(policy: Any, step: int) -> Any:
    """Action probabilities (S, A) at a step."""
    return policy[step] if np.ndim(policy) == 3 else policy


def trajectories(
    mdp: TabularMDP, policy: Any, *, step: int = 0, state: int | None = None
) -> Iterator[Trajectory]:
    """Every trajectory from `step` to the horizon, from `state` or else from the MDP's start."""
    if state is None:
        for first in np.flatnonzero(mdp.start):
            for p, pairs in trajectories(mdp, policy, step=step, state=int(first)):
                yield float(mdp.start[first]) * p, pairs
        return
    assert mdp.horizon is not None
    if step == mdp.horizon:
        yield 1.0, ()
        return
    for action in np.flatnonzero(rows_at(policy, step)[state]):
        chance = float(rows_at(policy, step)[state, action])
        last = step + 1 == mdp.horizon
        moves = [(state, 1.0)] if last else zip(*mdp.successors(state, action), strict=True)
        for following, odds in moves:
            for p, pairs in trajectories(mdp, policy, step=step + 1, state=int(following)):
                yield chance * float(odds) * p, ((state, int(action)), *pairs)


def total_reward(mdp: TabularMDP, pairs: Sequence[tuple[int, int]]) -> float:
    """Sum of the rewards along a trajectory."""
    return float(sum(mdp.rewards[pair] for pair in pairs))


def policy_system(mdp: TabularMDP, policy: Any) -> tuple[Any, Any]:
    """I − γP_π and r_π of a discounted MDP, dense, by one sum over indices."""
    moves = np.einsum("sa,sat->st", policy, dense_transitions(mdp))
    rewards = (policy * mdp.rewards).sum(axis=1)
    return np.eye(mdp.num_states) - (mdp.discount or 0.0) * moves, rewards
