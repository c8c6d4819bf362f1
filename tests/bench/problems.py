"""The MDPs of the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from envs import TabularMDP, garnet, kl_chain, lock_policy
from envs.tabular import FloatArray

DISCOUNT = 0.95
CHAIN_DISCOUNT = 0.99
HORIZON = 20

#: The questions. The policy of VALUES is deterministic: the other libraries accept no other.
VALUES = "V"
MIXED = "V, stochastic π"
BOTH = "V and d"
BACKWARD = "backward induction"
ITERATION = "policy iteration"


@dataclass(frozen=True)
class Problem:
    """An MDP, and the (question, library) pairs that are too slow to repeat.

    Parameters
    ----------
    title : str
        Title of its table.
    make : function
        Builds the MDP, discounted.
    once : set of (question, library)
        Calls of tens of seconds: made once, in a separate process with a time limit.
    never : dict of (question, library) to reason
        Calls that would take too long: omitted.
    """

    title: str
    make: Callable[[], TabularMDP]
    once: frozenset[tuple[str, str]] = frozenset()
    never: dict[tuple[str, str], str] = field(default_factory=dict)


def dense(num_states: int) -> TabularMDP:
    """A garnet in which each action has S/2 successors."""
    return garnet(num_states, 4, num_states // 2, discount=DISCOUNT)


def scattered(num_states: int) -> TabularMDP:
    """A sparse garnet with three successors anywhere: no state order gives a narrow band."""
    return garnet(num_states, 4, 3, discount=DISCOUNT, sparse=True)


def band(num_states: int, reach: int = 5) -> TabularMDP:
    """A banded MDP: four actions, each with three successors at most `reach` states away."""
    rng = np.random.default_rng(0)
    pairs = 4 * num_states
    moves = rng.random((pairs, 2 * reach + 1)).argsort(axis=1)[:, :3] - reach
    # Reflection at the ends keeps the three successors distinct or adds their probabilities.
    after = np.abs(np.repeat(np.arange(num_states), 4)[:, None] + moves)
    after = (num_states - 1) - np.abs((num_states - 1) - after)
    parts = (rng.dirichlet(np.ones(3), size=pairs).ravel(), after.ravel(), np.arange(pairs + 1) * 3)
    return TabularMDP(
        sparse.csr_array(parts, shape=(pairs, num_states)),
        rng.random((num_states, 4)),
        np.full(num_states, 1.0 / num_states),
        discount=DISCOUNT,
        name=f"band({num_states})",
    )


def lock(num_states: int) -> TabularMDP:
    """The lock chain as CSR: action 0 advances one state, action 1 leads to the absorbing last."""
    over = num_states - 1
    after = np.full((num_states, 2), over)
    after[:over, 0] = np.arange(1, num_states)
    rewards = np.zeros((num_states, 2))
    rewards[over - 1, 0] = 1.0
    parts = (np.ones(after.size), after.ravel(), np.arange(after.size + 1))
    return TabularMDP(
        sparse.csr_array(parts, shape=(after.size, num_states)),
        rewards,
        np.eye(1, num_states)[0],
        discount=CHAIN_DISCOUNT,
        name=f"lock({num_states})",
    )


def _uniform(mdp: TabularMDP) -> FloatArray:
    return np.full((mdp.num_states, mdp.num_actions), 1.0 / mdp.num_actions)


#: Family → constructor of an MDP with S states, its policy, and the sizes S.
FAMILIES: dict[
    str,
    tuple[Callable[[int], TabularMDP], Callable[[TabularMDP], FloatArray], tuple[int, ...]],
] = {
    "kl_chain, CSR": (
        lambda n: kl_chain(n, CHAIN_DISCOUNT, sparse=True),
        _uniform,
        (10**2, 10**3, 10**4, 10**5, 10**6),
    ),
    "lock chain, CSR": (
        lock,
        lambda mdp: lock_policy(np.full(mdp.num_states - 1, 0.99), num_actions=2),
        (10**2, 10**3, 10**4, 10**5, 10**6),
    ),
    "garnet, CSR": (scattered, _uniform, (10**2, 10**3, 10**4, 10**5)),
    "garnet, dense": (dense, _uniform, (10**2, 300, 10**3, 2000)),
}

_DENSE_SOLVE = "each round would solve a dense system of 10⁴ states, as in V"

PROBLEMS: dict[str, Problem] = {
    "dense-100": Problem("S = 100, dense", lambda: dense(100)),
    "dense-1000": Problem("S = 1000, dense", lambda: dense(1000)),
    "band": Problem(
        "S = 10⁴, band: successors at most 5 states away, CSR",
        lambda: band(10**4),
        once=frozenset({(VALUES, "pymdptoolbox")}),
        never={(ITERATION, "pymdptoolbox"): _DENSE_SOLVE},
    ),
    "chain": Problem(
        "S = 10⁴, kl_chain, CSR",
        lambda: kl_chain(10**4, DISCOUNT, sparse=True),
        once=frozenset({(ITERATION, "quantecon")}),
        never={
            (VALUES, "pymdptoolbox"): "a dense system of 10⁴ states, as above",
            (ITERATION, "pymdptoolbox"): _DENSE_SOLVE,
        },
    ),
    "scattered": Problem(
        "S = 10⁴, random sparsity: 3 successors anywhere, CSR",
        lambda: scattered(10**4),
        once=frozenset({(VALUES, "quantecon"), (VALUES, "pymdptoolbox"), (ITERATION, "quantecon")}),
        never={(ITERATION, "pymdptoolbox"): _DENSE_SOLVE},
    ),
}
