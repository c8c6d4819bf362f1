"""Tabular Markov decision processes as validated, immutable data.

An MDP here is (P, r, ρ) with either a finite horizon H (undiscounted) or a discount γ < 1:

    finite      J(π) = E_ρ Σ_{h<H} r(s_h, a_h)
    discounted  J(π) = E_ρ Σ_t γ^t r(s_t, a_t)      (not multiplied by 1−γ)

Transitions are dense, shape (S, A, S), or sparse rows, a CSR matrix of shape (S·A, S) whose row
s·A + a is the distribution of the next state. Rewards are expected rewards r(s, a), shape (S, A).
An episode ends by entering an absorbing state that pays nothing.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

FloatArray = NDArray[np.float64]

#: Largest accepted |Σ p − 1| of a distribution. It is above the rounding of float64 rows, and too
#: small to disturb identities that are checked to machine precision.
SUM_TOLERANCE = 1e-9


class MDPError(ValueError):
    """Invalid data of an MDP; the message names the state and action."""


def check_distribution(p: FloatArray, where: str) -> None:
    """Raise `MDPError` unless `p`, shape (n,), is a probability distribution."""
    if not np.isfinite(p).all():
        raise MDPError(f"{where}: entry {int(np.flatnonzero(~np.isfinite(p))[0])} is not finite")
    if (p < 0).any():
        index = int(np.argmin(p))
        raise MDPError(f"{where}: entry {index} is negative ({p[index]:g})")
    if abs(p.sum() - 1.0) > SUM_TOLERANCE:
        raise MDPError(f"{where}: sums to {p.sum():.12g}, not 1; divide it by its sum")


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A finite MDP with known transitions.

    Parameters
    ----------
    transitions : array (S, A, S), or scipy sparse (S·A, S)
        Probability of the next state; sparse row s·A + a belongs to state s, action a.
    rewards : array (S, A)
        Expected reward of an action, any sign.
    start : array (S,)
        Start distribution ρ.
    horizon : int, optional
        Number of steps H of an undiscounted episode.
    discount : float, optional
        γ in [0, 1) of an endless episode. Give exactly one of `horizon` and `discount`.
    name : str
        Name shown in tables.

    Raises
    ------
    MDPError
        If the data is invalid; the message names the state and the action.
    """

    transitions: Any
    rewards: FloatArray
    start: FloatArray
    horizon: int | None = None
    discount: float | None = None
    name: str = "mdp"

    def __post_init__(self) -> None:
        rewards = _frozen_array(self.rewards, "rewards")
        if rewards.ndim != 2 or 0 in rewards.shape:
            raise MDPError(f"rewards: shape {rewards.shape}, expected (S, A) with S, A ≥ 1")
        start = _frozen_array(self.start, "start")
        if start.shape != rewards.shape[:1]:
            raise MDPError(f"start: shape {start.shape}, expected ({rewards.shape[0]},)")
        object.__setattr__(self, "rewards", rewards)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "transitions", _frozen_transitions(self.transitions, rewards))
        self._check_time()
        self._check_numbers()

    def _check_time(self) -> None:
        if (self.horizon is None) == (self.discount is None):
            raise MDPError(
                "give exactly one of horizon and discount "
                f"(got horizon={self.horizon}, discount={self.discount})"
            )
        if self.discount is not None:
            discount = _number(self.discount, "discount")
            if not 0.0 <= discount < 1.0:
                hint = "; for γ = 1 give horizon=H instead" if discount == 1.0 else ""
                raise MDPError(f"discount: {self.discount} is not in [0, 1){hint}")
            object.__setattr__(self, "discount", discount)
        if self.horizon is not None:
            horizon = _number(self.horizon, "horizon")
            if not (horizon >= 1 and horizon.is_integer()):
                raise MDPError(f"horizon: {self.horizon} is not a whole number ≥ 1")
            object.__setattr__(self, "horizon", int(horizon))

    def _check_numbers(self) -> None:
        bad = ~np.isfinite(self.rewards)
        if bad.any():
            s, a = np.argwhere(bad)[0]
            value = self.rewards[s, a]
            raise MDPError(f"rewards: state {s}, action {a} is {value}, not a finite number")
        flat = self.flat
        sums = np.asarray(flat.sum(axis=1)).ravel()
        faulty = ~(np.abs(sums - 1.0) <= SUM_TOLERANCE)  # also true of NaN
        if self.is_sparse:
            faulty |= np.asarray(flat.min(axis=1).todense()).ravel() < 0
        else:
            faulty |= flat.min(axis=1) < 0
        if faulty.any():
            row = int(np.argmax(faulty))
            s, a = divmod(row, self.num_actions)
            p = flat[[row], :].toarray()[0] if self.is_sparse else flat[row]
            check_distribution(p, f"transitions: state {s}, action {a}")
        check_distribution(self.start, "start")

    def __repr__(self) -> str:
        time = f"horizon={self.horizon}" if self.horizon else f"discount={self.discount:g}"
        kind = "CSR" if self.is_sparse else "dense"
        return (
            f"TabularMDP({self.name!r}, S={self.num_states}, A={self.num_actions}, {time}, {kind})"
        )

    @property
    def num_states(self) -> int:
        """Number of states S."""
        return self.rewards.shape[0]

    @property
    def num_actions(self) -> int:
        """Number of actions |A|."""
        return self.rewards.shape[1]

    @property
    def is_sparse(self) -> bool:
        """Whether transitions are CSR rows rather than a dense array."""
        return bool(sparse.issparse(self.transitions))

    @cached_property
    def flat(self) -> Any:
        """Transitions as one matrix of shape (S·A, S), dense or CSR."""
        if self.is_sparse:
            return self.transitions
        return self.transitions.reshape(-1, self.num_states)

    @cached_property
    def reward_range(self) -> tuple[float, float]:
        """Smallest and largest r(s, a); the bounds use its width, so any sign is fine."""
        return float(self.rewards.min()), float(self.rewards.max())

    @property
    def reward_width(self) -> float:
        """r_max of the finite-horizon bounds and R of the discounted ones: max r − min r."""
        low, high = self.reward_range
        return high - low

    def successors(self, state: int, action: int) -> tuple[NDArray[np.intp], FloatArray]:
        """Next states of positive probability, and their probabilities."""
        row = state * self.num_actions + action
        if self.is_sparse:
            rows = self.transitions
            part = slice(rows.indptr[row], rows.indptr[row + 1])
            states, p = rows.indices[part], rows.data[part]
            return states[p > 0].astype(np.intp), p[p > 0]
        p = self.flat[row]
        states = np.flatnonzero(p)
        return states, p[states]

    @cached_property
    def terminal(self) -> NDArray[np.bool_]:
        """Mask (S,) of terminal states: absorbing and with reward 0 under every action."""
        states = np.repeat(np.arange(self.num_states), self.num_actions)
        stay = np.asarray(self.flat[np.arange(len(states)), states]).reshape(self.rewards.shape)
        forever = (stay >= 1.0 - SUM_TOLERANCE) & (self.rewards == 0)
        return np.asarray(forever.all(axis=1))

    def with_time(self, *, horizon: int | None = None, discount: float | None = None) -> TabularMDP:
        """The same MDP with another horizon or discount."""
        return replace(self, horizon=horizon, discount=discount)

    def save(self, path: str | Path) -> None:
        """Write `path` as a plain `.npz`: no pickles, readable by `load` and by numpy."""
        arrays: dict[str, Any] = {"rewards": self.rewards, "start": self.start, "name": self.name}
        if self.horizon is not None:
            arrays["horizon"] = self.horizon
        if self.discount is not None:
            arrays["discount"] = self.discount
        if self.is_sparse:
            rows = self.transitions
            arrays |= {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr}
        else:
            arrays["transitions"] = self.transitions
        with Path(path).open("wb") as file:  # a handle, so that numpy adds no second suffix
            np.savez_compressed(file, **arrays)

    @staticmethod
    def load(
        path: str | Path, *, horizon: int | None = None, discount: float | None = None
    ) -> TabularMDP:
        """Read the `.npz` file of an MDP.

        It holds `rewards`, `start` and `transitions` (or CSR `data`, `indices`, `indptr`), and
        `horizon` or `discount`. The arguments replace the time in the file.

        Raises
        ------
        FileNotFoundError, MDPError
            If the file does not exist or does not hold an MDP.
        """
        fields = load_arrays(path)
        names = ["rewards", "start"]
        names += ["transitions"] if "transitions" in fields else ["data", "indices", "indptr"]
        missing = [name for name in names if name not in fields]
        if missing:
            raise MDPError(
                f"{path}: no array {', '.join(missing)}; an MDP file holds rewards (S, A), "
                "start (S,), transitions (S, A, S) or CSR data, indices, indptr, "
                "and horizon or discount"
            )
        rewards, start = fields["rewards"], fields["start"]
        if "transitions" in fields:
            transitions: Any = fields["transitions"]
        else:
            shape = (rewards.size, rewards.shape[0] if rewards.ndim else 0)
            parts = (fields["data"], fields["indices"], fields["indptr"])
            try:
                if not all(np.issubdtype(part.dtype, np.integer) for part in parts[1:]):
                    raise ValueError("indices and indptr must be whole numbers")
                transitions = sparse.csr_array(parts, shape=shape)
                transitions.check_format(full_check=True)
            except ValueError as error:
                raise MDPError(f"{path}: not a CSR matrix of shape {shape}: {error}") from None
        if horizon is None and discount is None:
            time: dict[str, Any] = {name: array[()] for name, array in fields.items()}
            horizon, discount = time.get("horizon"), time.get("discount")
            if horizon is None and discount is None:
                raise MDPError(f"{path}: holds neither horizon nor discount; give one")
        name = str(fields["name"]) if "name" in fields else Path(path).stem
        return TabularMDP(transitions, rewards, start, horizon, discount, name)


def load_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz`, or the array of an `.npy` as "array"; never unpickles.

    Raises
    ------
    FileNotFoundError, MDPError
        If the file does not exist or is not a numpy file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with Path(path).open("rb") as file:  # numpy leaves its own handle open after an error
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"array": loaded}
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except (
        ValueError,
        EOFError,
        OSError,
        RuntimeError,  # encryption or compression that zipfile does not support
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        raise MDPError(f"{path}: not a readable .npz file ({error})") from None


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise MDPError(f"{name}: {value!r} is not a number") from None


def _frozen_array(values: ArrayLike, name: str) -> FloatArray:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MDPError(f"{name}: not an array of numbers ({error})") from None
    array.flags.writeable = False
    return array


def _frozen_transitions(transitions: Any, rewards: FloatArray) -> Any:
    """A read-only float64 copy, dense (S, A, S) or CSR (S·A, S)."""
    num_states, num_actions = rewards.shape
    expected: tuple[int, ...]
    if sparse.issparse(transitions):
        given: Any = transitions
        expected = (num_states * num_actions, num_states)
        if given.shape != expected:
            raise MDPError(f"transitions: sparse shape {given.shape}, expected {expected}")
        rows = sparse.csr_array(given, dtype=np.float64, copy=True)
        rows.sum_duplicates()
        for array in (rows.data, rows.indices, rows.indptr):
            array.flags.writeable = False
        return rows
    dense = _frozen_array(transitions, "transitions")
    expected = (num_states, num_actions, num_states)
    if dense.shape != expected:
        raise MDPError(f"transitions: shape {dense.shape}, expected {expected}")
    return dense
