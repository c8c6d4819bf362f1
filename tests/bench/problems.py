"""The MDPs of the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from envs import TabularMDP, garnet, kl_chain, lock_policy
from envs.tabular import FloatArray

DISCOUNT = 0.95
CHAIN_DISCOUNT = 0.99
GRID_DISCOUNT = 0.9999
HORIZON = 20

#: The questions. The policy of VALUES and BOTH is deterministic: the other libraries accept no
#: other.
VALUES = "V"
BOTH = "V and d"
BACKWARD = "backward induction"
OPTIMUM = "optimal policy"


@dataclass(frozen=True)
class Problem:
    """An MDP, the questions asked of it, and the calls that take too long to repeat.

    Parameters
    ----------
    title : str
        First column of the table.
    make : function
        Builds the MDP, discounted.
    questions : tuple of str
    once : set of (question, contestant)
        Calls of tens of seconds: made once, in a separate process with a time limit.
    never : set of (question, contestant)
        Calls that would take much longer, or more memory than there is: omitted.
    """

    title: str
    make: Callable[[], TabularMDP]
    questions: tuple[str, ...] = (VALUES, BOTH, OPTIMUM)
    once: frozenset[tuple[str, str]] = frozenset()
    never: frozenset[tuple[str, str]] = frozenset()


def dense(num_states: int) -> TabularMDP:
    """A garnet in which each action has S/2 successors."""
    return garnet(num_states, 4, num_states // 2, discount=DISCOUNT)


def scattered(num_states: int, discount: float = DISCOUNT) -> TabularMDP:
    """A sparse garnet with three successors anywhere: no state order gives a narrow band."""
    return garnet(num_states, 4, 3, discount=discount, sparse=True)


def grid(size: int) -> TabularMDP:
    """Four moves on `size` × `size` cells; each slips to either side with probability 0.1.

    The last corner pays 1 on entry and ends the episode. Walls stop a move.
    """
    cells = np.arange(size * size)
    place = np.stack(np.divmod(cells, size))[:, :, None]
    moves = np.array([[0, 1, 0, -1], [1, 0, -1, 0]])[:, None]
    row, column = np.clip(place + moves, 0, size - 1)
    after = row * size + column  # (S, 4)
    after = np.stack([after, np.roll(after, 1, axis=1), np.roll(after, -1, axis=1)], axis=2)
    after[-1] = cells[-1]
    chances = np.broadcast_to([0.8, 0.1, 0.1], after.shape)
    enters = (after == cells[-1]) * chances
    enters[-1] = 0
    pairs = 4 * size * size
    parts = (chances.ravel(), after.ravel(), np.arange(pairs + 1) * 3)
    return TabularMDP(
        sparse.csr_array(parts, shape=(pairs, size * size)),
        enters.sum(axis=2),
        np.eye(1, size * size)[0],
        discount=GRID_DISCOUNT,
        name=f"grid({size})",
    )


def shuffled_chain(num_states: int) -> TabularMDP:
    """The K&L chain with its states in random order."""
    chain = kl_chain(num_states, CHAIN_DISCOUNT, sparse=True)
    order = np.random.default_rng(0).permutation(num_states)
    rows = (3 * order[:, None] + np.arange(3)).ravel()
    return TabularMDP(
        chain.transitions[rows][:, order],
        chain.rewards[order],
        chain.start[order],
        discount=CHAIN_DISCOUNT,
        name=f"shuffled {chain.name}",
    )


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


def _all(questions: tuple[str, ...], *contestants: str) -> frozenset[tuple[str, str]]:
    return frozenset((question, each) for question in questions for each in contestants)


EVALUATIONS = (VALUES, BOTH)
ALL = (VALUES, BOTH, BACKWARD, OPTIMUM)
#: pymdptoolbox evaluates a policy by a dense system, whose (S, S) array does not fit or takes
#: tens of seconds.
_DENSE = _all((VALUES, BOTH, OPTIMUM), "pymdptoolbox")
#: The LU factors of random sparsity fill up: tens of seconds at S = 10⁴, no memory at 10⁵. Value
#: iteration takes minutes at γ = .999.
_FILLED = _DENSE | _all((VALUES, BOTH, OPTIMUM), "quantecon") | {(OPTIMUM, "quantecon VI")}

PROBLEMS: dict[str, Problem] = {
    "dense-100": Problem("dense, S = 100", lambda: dense(100), ALL),
    "dense-1000": Problem("dense, S = 1000", lambda: dense(1000), ALL),
    "dense-2000": Problem("dense, S = 2000", lambda: dense(2000), ALL),
    "band": Problem("band of ±5, S = 10⁴", lambda: band(10**4), ALL, never=_DENSE),
    "sparse-1e4": Problem(
        "3 successors, S = 10⁴, γ = .95",
        lambda: scattered(10**4),
        ALL,
        once=frozenset({(VALUES, "quantecon")}),
        never=_FILLED - {(VALUES, "quantecon")},
    ),
    "sparse-1e4-99": Problem("… γ = .99", lambda: scattered(10**4, 0.99), never=_FILLED),
    "sparse-1e4-999": Problem("… γ = .999", lambda: scattered(10**4, 0.999), never=_FILLED),
    "sparse-1e5": Problem(
        "3 successors, S = 10⁵, γ = .95", lambda: scattered(10**5), ALL, never=_FILLED
    ),
    "sparse-1e5-99": Problem("… γ = .99", lambda: scattered(10**5, 0.99), never=_FILLED),
    "sparse-1e5-999": Problem("… γ = .999", lambda: scattered(10**5, 0.999), never=_FILLED),
    "chain-4000": Problem(
        "K&L chain, S = 4000",
        lambda: kl_chain(4000, CHAIN_DISCOUNT, sparse=True),
        ALL,
        once=_all((OPTIMUM,), "quantecon", "quantecon MPI"),
        never=_DENSE,
    ),
    "chain-1e6": Problem(
        "K&L chain, S = 10⁶",
        lambda: kl_chain(10**6, CHAIN_DISCOUNT, sparse=True),
        once=frozenset({(OPTIMUM, "quantecon VI")}),
        never=_DENSE | _all((OPTIMUM,), "quantecon", "quantecon MPI"),
    ),
    "shuffled-1e5": Problem(
        "shuffled K&L chain, S = 10⁵",
        lambda: shuffled_chain(10**5),
        once=frozenset({(OPTIMUM, "quantecon VI")}),
        never=_DENSE | _all((OPTIMUM,), "quantecon", "quantecon MPI"),
    ),
    "grid": Problem(
        "grid, 300 × 300, γ = .9999",
        lambda: grid(300),
        once=_all((OPTIMUM,), "quantecon", "quantecon VI"),
        never=_DENSE,
    ),
}
