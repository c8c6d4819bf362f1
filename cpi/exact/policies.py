"""Policies are arrays: (S, A), or (H, S, A) where they depend on the step; rows sum to 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from envs.tabular import SUM_TOLERANCE, FloatArray, TabularMDP, load_arrays


class PolicyError(ValueError):
    """An array is not a policy of the MDP; the message names the state."""


def check_policy(mdp: TabularMDP, policy: ArrayLike, what: str = "policy") -> FloatArray:
    """The policy as a float array of shape (S, A) or (H, S, A).

    Raises
    ------
    PolicyError
        If the shape is wrong for `mdp`, or a row is not a distribution.
    """
    try:
        array = np.asarray(policy, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PolicyError(f"{what}: not an array of numbers ({error})") from None
    shape = (mdp.num_states, mdp.num_actions)
    shapes = [shape] if mdp.horizon is None else [shape, (mdp.horizon, *shape)]
    if array.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise PolicyError(f"{what}: shape {array.shape}, expected {expected} for {mdp!r}")
    with np.errstate(invalid="ignore"):
        bad = ~(np.abs(array.sum(axis=-1) - 1.0) <= SUM_TOLERANCE) | (array < 0).any(axis=-1)
    if bad.any():
        where = np.argwhere(bad)[0]
        step = f"step {where[0]}, " if len(where) == 2 else ""
        raise PolicyError(
            f"{what}: {step}state {where[-1]} has probabilities {array[tuple(where)]}, "
            "which are not non-negative numbers that sum to 1"
        )
    return array


def uniform_policy(mdp: TabularMDP) -> FloatArray:
    """Every action equally likely; shape (S, A)."""
    return np.full((mdp.num_states, mdp.num_actions), 1.0 / mdp.num_actions)


def random_policy(
    mdp: TabularMDP, rng: np.random.Generator, *, time_dependent: bool = False
) -> FloatArray:
    """Rows drawn uniformly from the simplex; shape (S, A), or (H, S, A) if time-dependent."""
    steps = (mdp.horizon,) if time_dependent and mdp.horizon else ()
    return rng.dirichlet(np.ones(mdp.num_actions), size=(*steps, mdp.num_states))


def deterministic_policy(actions: NDArray[np.integer[Any]], num_actions: int) -> FloatArray:
    """One-hot rows from `actions`, shape (S,) or (H, S); the result adds an axis A."""
    return np.asarray(np.arange(num_actions) == np.asarray(actions)[..., None], dtype=np.float64)


def greedy_policy(Q: FloatArray) -> FloatArray:
    """The first best action of each state, from Q of shape (S, A) or (H, S, A)."""
    return deterministic_policy(Q.argmax(axis=-1), Q.shape[-1])


def mixture(
    policy: FloatArray,
    candidate: FloatArray,
    alpha: float,
    weights: FloatArray | float = 1.0,
) -> FloatArray:
    """The masked mixture (1 − α w) π + α w π' of conservative policy iteration.

    Parameters
    ----------
    policy, candidate : array (S, A) or (H, S, A)
    alpha : float
        Step size in [0, 1].
    weights : array (S,) or (H, S), or 1
        w in [0, 1]; 1 is Kakade & Langford's update.
    """
    share = alpha * np.asarray(weights, dtype=np.float64)[..., None]
    return np.asarray((1.0 - share) * policy + share * candidate)


def load_policy(mdp: TabularMDP, path: str | Path) -> FloatArray:
    """Read a policy of `mdp` from `.npy`, or from `.npz` with an array named `policy`.

    `envs.gym.mdp_from_env` adds a terminal state to an environment. If only the row of that state
    is missing, a uniform row is added: no action matters there.

    Raises
    ------
    FileNotFoundError, envs.MDPError, PolicyError
        If the file does not exist, is not a numpy file, or holds no policy of `mdp`.
    """
    arrays = load_arrays(path)
    array = arrays.get("policy", arrays.get("array"))
    if array is None:
        names = ", ".join(arrays) or "nothing"
        raise PolicyError(f"{path}: no array named policy (found {names})")
    lacks_last = array.ndim >= 2 and array.shape[-2:] == (mdp.num_states - 1, mdp.num_actions)
    if lacks_last and mdp.terminal[-1]:
        row = np.full((*array.shape[:-2], 1, mdp.num_actions), 1.0 / mdp.num_actions)
        array = np.concatenate([array, row], axis=-2)
    return check_policy(mdp, array, what=f"{path}: policy")


def policy_transitions(mdp: TabularMDP, policy: FloatArray) -> Any:
    """P_π of a stationary policy, shape (S, S), dense or CSR as the MDP is."""
    num_states, num_actions = policy.shape
    actions = policy.argmax(axis=1)
    states = np.arange(num_states)
    if (policy[states, actions] == 1.0).all():  # deterministic: pick rows, a quarter of the work
        if mdp.is_sparse:
            return mdp.flat[states * num_actions + actions]
        return mdp.transitions[states, actions]
    if not mdp.is_sparse:
        return np.matmul(policy[:, None, :], mdp.transitions)[:, 0]
    pairs = num_states * num_actions
    choose = sparse.csr_array(
        (policy.ravel(), np.arange(pairs), np.arange(0, pairs + 1, num_actions)),
        shape=(num_states, pairs),
    )
    return choose @ mdp.flat
