"""Policies are arrays: (S, A), or (H, S, A) where they depend on the step; rows sum to 1.

Rows are accepted if they sum to 1 within the rounding of their number type, or of ten decimals, and
are then divided by their sum.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from envs.checks import check_fractions
from envs.tabular import (
    ROUNDING,
    FloatArray,
    TabularMDP,
    frozen,
    load_arrays,
    real_array,
    sum_tolerance,
)

#: Suffixes of policies that are written as text.
TEXT = (".txt", ".csv")


class PolicyError(ValueError):
    """An array is not a policy of the MDP; the message names the state."""


def check_mdp(mdp: TabularMDP) -> None:
    """Raise ValueError for anything but a TabularMDP, such as a Gymnasium environment."""
    if not isinstance(mdp, TabularMDP):
        raise ValueError(
            f"mdp: {mdp!r} is no TabularMDP; envs.gym.mdp_from_env(env) reads one from an "
            "environment"
        )


def check_policy(mdp: TabularMDP, policy: ArrayLike, what: str = "policy") -> FloatArray:
    """The policy as a read-only copy, floats of shape (S, A) or (H, S, A).

    Actions, whole numbers of shape (S,) or (H, S), are turned into one-hot rows.

    Raises
    ------
    PolicyError
        If the shape is wrong for `mdp`, an action does not exist, or a row is not a distribution.
    """
    check_mdp(mdp)
    array, dtype = real_array(policy, what, PolicyError)
    shape = mdp.rewards.shape
    shapes = (shape,) if mdp.horizon is None else (shape, (mdp.horizon, *shape))
    if array.shape not in shapes:
        if dtype.kind in "iu" and (*array.shape, shape[1]) in shapes:
            return frozen(deterministic_policy(array.astype(np.intp), shape[1], what))
        expected = " or ".join(map(str, shapes))
        raise PolicyError(f"{what}: shape {array.shape}, expected {expected} for {mdp!r}")
    return _distributions(array, dtype, what)


def check_rows(policy: ArrayLike, what: str = "policy") -> FloatArray:
    """`check_policy` without an MDP: rows of any number of states and actions that sum to 1."""
    return _distributions(*real_array(policy, what, PolicyError), what)


def _distributions(array: FloatArray, dtype: np.dtype[Any], what: str) -> FloatArray:
    if array.size and array.min() >= 0 and np.abs(array.sum(axis=-1) - 1.0).max() <= ROUNDING:
        return frozen(array)  # as nearly always: the rest would take longer than small values do
    with np.errstate(invalid="ignore"):
        sums = array.sum(axis=-1)
        off = np.abs(sums - 1.0)
        bad = ~(off <= sum_tolerance(dtype)) | (array < 0).any(axis=-1)
    if bad.any():
        where = tuple(np.argwhere(bad)[0])
        cure = "divide them by their sum"
        if not (np.isfinite(array[where]).all() and (array[where] >= 0).all()):
            cure = "replace those that are negative or no numbers"
        elif sums[where] == 0:
            cure = "give an action some"
        raise PolicyError(
            f"{what}: {_place(where)} has probabilities {array[where]}, which are not non-negative "
            f"numbers that sum to 1 (they sum to {sums[where]:.12g}); {cure}"
        )
    rounded = off > ROUNDING
    array[rounded] /= sums[rounded, None]
    return frozen(array)


def _place(where: tuple[Any, ...]) -> str:
    """The state of an index (s,) or (h, s), and its step."""
    step = f"step {where[0]}, " if len(where) == 2 else ""
    return f"{step}state {where[-1]}"


def uniform_policy(mdp: TabularMDP) -> FloatArray:
    """Every action equally likely; shape (S, A)."""
    check_mdp(mdp)
    return np.full((mdp.num_states, mdp.num_actions), 1.0 / mdp.num_actions)


def random_policy(
    mdp: TabularMDP, rng: np.random.Generator, *, time_dependent: bool = False
) -> FloatArray:
    """Rows drawn uniformly from the simplex; shape (S, A), or (H, S, A) if time-dependent."""
    steps = (mdp.horizon,) if time_dependent and mdp.horizon else ()
    return rng.dirichlet(np.ones(mdp.num_actions), size=(*steps, mdp.num_states))


def deterministic_policy(
    actions: NDArray[np.integer[Any]], num_actions: int, what: str = "actions"
) -> FloatArray:
    """One-hot rows from `actions`, shape (S,) or (H, S); the result adds an axis A.

    Raises
    ------
    PolicyError
        If an action is not one of 0 … A−1.
    """
    chosen = np.asarray(actions)
    rows = np.arange(num_actions) == chosen[..., None]
    if np.count_nonzero(rows) < chosen.size:
        missing = ~rows.any(axis=-1)
        where = tuple(np.argwhere(missing)[0])
        place = f"{_place(where)} has action" if where else "action"
        last = num_actions - 1
        raise PolicyError(f"{what}: {place} {chosen[where]}, not a whole number in 0 … {last}")
    return rows.astype(np.float64)


def greedy_policy(Q: ArrayLike) -> FloatArray:
    """The first best action of each state, from Q of shape (S, A) or (H, S, A).

    Raises
    ------
    PolicyError
        If the shape is another.
    """
    values = np.asarray(Q)
    if values.ndim not in (2, 3):
        raise PolicyError(
            f"Q: shape {values.shape}, expected (S, A) or (H, S, A); V has no actions, give "
            "evaluation.Q"
        )
    return deterministic_policy(values.argmax(axis=-1), values.shape[-1])


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
        Step size in [0, 1]; for slopes also a negative one that leaves no probability negative.
    weights : array (S,) or (H, S), or 1
        w in [0, 1]; 1 is Kakade & Langford's update.

    Raises
    ------
    ValueError
        If α or a weight is out of range, or the policies differ in states or actions.
    """
    ours, theirs = np.shape(policy)[-2:], np.shape(candidate)[-2:]
    if len(ours) != 2 or ours != theirs:
        raise PolicyError(f"candidate: rows of shape {theirs}, those of the policy have {ours}")
    share = alpha * check_fractions("weights", weights)[..., None]
    mixed = np.asarray((1.0 - share) * policy + share * candidate)
    if not (alpha <= 1 and (mixed >= 0).all()):
        raise ValueError(f"alpha: {alpha} is not in [0, 1]")
    return mixed


def load_policy(mdp: TabularMDP, path: str | Path) -> FloatArray:
    """Read a policy of `mdp` from `.npy`, or from `.npz` with an array named `policy`.

    A `.txt` or `.csv` file, in UTF-8, holds a line per state: its probabilities, or its action. It
    has no heading; numbers are separated by white space or commas.

    `envs.gym.mdp_from_env` adds a terminal state to an environment. If only the row of that state
    is missing, one is added: no action matters there.

    Raises
    ------
    FileNotFoundError, envs.MDPError, PolicyError
        If the file does not exist, cannot be read, or holds no policy of `mdp`.
    """
    if Path(path).suffix in TEXT and Path(path).is_file():
        array = _read_text(path, mdp)
    else:
        arrays = load_arrays(path)
        if not arrays.keys() & {"policy", "array"}:
            names = ", ".join(arrays) or "nothing"
            raise PolicyError(f"{path}: no array named policy (found {names})")
        array = arrays["policy"] if "policy" in arrays else arrays["array"]
    if mdp.terminal[-1]:
        others = (mdp.num_states - 1,)
        if array.shape[-2:] == (*others, mdp.num_actions):
            row = np.full((*array.shape[:-2], 1, mdp.num_actions), 1.0 / mdp.num_actions)
            array = np.concatenate([array, row], axis=-2)
        elif array.shape in (others, (mdp.horizon, *others)) and array.dtype.kind in "iu":
            array = np.concatenate([array, np.zeros_like(array[..., :1])], axis=-1)
    return check_policy(mdp, array, what=f"{path}: policy")


def _read_text(path: str | Path, mdp: TabularMDP) -> NDArray[Any]:
    """Probabilities (S, A), or a column of actions (S,) as whole numbers."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").replace(",", " ").splitlines()
        array = np.array([line.split() for line in lines if line.strip()], dtype=np.float64)
    except ValueError as error:  # text that is no number, or lines of different lengths
        raise PolicyError(f"{path}: policy: not a table of numbers ({error})") from None
    column = array.shape[1:] == (1,) and mdp.num_actions > 1
    if column and (array == np.floor(array)).all() and (np.abs(array) < 2**53).all():
        return array[:, 0].astype(np.intp)
    return array


def policy_transitions(mdp: TabularMDP, policy: ArrayLike) -> Any:
    """P_π of a stationary policy, shape (S, S), dense or CSR as the MDP is."""
    return average_transitions(mdp, check_policy(mdp, policy))


def average_transitions(mdp: TabularMDP, policy: FloatArray) -> Any:
    """`policy_transitions` of a policy that has been checked."""
    num_states, num_actions = policy.shape
    certain = (policy == 1.0).ravel().nonzero()[0]
    if len(certain) == num_states:  # deterministic: a quarter of the work
        return _rows(mdp, certain)
    if not mdp.is_sparse:
        return np.matmul(policy[:, None, :], mdp.transitions)[:, 0]
    pairs = num_states * num_actions
    choose = sparse.csr_array(
        (policy.ravel(), np.arange(pairs), np.arange(0, pairs + 1, num_actions)),
        shape=(num_states, pairs),
    )
    return choose @ mdp.flat


def chosen_transitions(mdp: TabularMDP, actions: NDArray[np.intp]) -> Any:
    """P_π of the policy that takes `actions`, shape (S,): rows of the MDP."""
    return _rows(mdp, np.arange(0, mdp.rewards.size, mdp.num_actions) + actions)


def _rows(mdp: TabularMDP, pairs: NDArray[np.intp]) -> Any:
    """Transitions of the pairs s·A + a."""
    return mdp.flat[pairs] if mdp.is_sparse else mdp.flat.take(pairs, axis=0)
