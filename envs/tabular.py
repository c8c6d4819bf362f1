"""Tabular Markov decision processes as validated, immutable data.

An MDP here is (P, r, ρ) with either a finite horizon H (undiscounted) or a discount γ < 1:

    finite      J(π) = E_ρ Σ_{h<H} r(s_h, a_h)
    discounted  J(π) = E_ρ Σ_t γ^t r(s_t, a_t)      (not multiplied by 1−γ)

Transitions are dense, shape (S, A, S), or sparse rows, a CSR matrix of shape (S·A, S) whose row
s·A + a is the distribution of the next state. Rewards are expected rewards r(s, a), shape (S, A).
An episode ends by entering an absorbing state that pays nothing.

Rows that sum to 1 within the rounding of their number type are divided by their sum, so that
identities between values hold to the rounding of float64.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

FloatArray = NDArray[np.float64]

#: Largest accepted |Σ p − 1| of a distribution, such as ten decimals leave. Number types that are
#: coarser than that have 8 ulp.
SUM_TOLERANCE = 1e-9
#: Rounding of a sum of probabilities; a distribution that is off by more is divided by its sum.
ROUNDING = 8 * float(np.finfo(float).eps)
#: Largest horizon. Every quantity is computed step by step, and has an entry for every step.
MAX_HORIZON = 1_000_000
#: Smallest 1 − γ. Values lose the digits of 1/(1−γ), and of float64's 16 some should be left.
MIN_STOPPING = 1e-13
#: Sizes of the largest reward between which squares of values are floats with all their digits.
REWARD_SIZES = 1e-100, 1e100


class MDPError(ValueError):
    """Invalid data of an MDP; the message names the state and action."""


def real_array(
    values: Any, name: str, error: type[ValueError] = MDPError
) -> tuple[FloatArray, np.dtype[Any]]:
    """A float64 copy of `values`, and their own number type; raises `error` for other data."""
    try:
        given = np.asarray(values)
        if np.ma.is_masked(values):
            reason = "some are masked"
        elif np.iscomplexobj(given):
            reason = "they are complex"
        else:
            return np.array(given, dtype=np.float64, order="C"), given.dtype
    except (TypeError, ValueError) as failure:
        reason = str(failure)
    raise error(f"{name}: not an array of real numbers ({reason})")


def frozen(array: FloatArray) -> FloatArray:
    """The array itself, read-only from now on."""
    array.flags.writeable = False
    return array


def sum_tolerance(dtype: np.dtype[Any]) -> float:
    """Largest accepted |Σ p − 1| of a distribution whose numbers were of this type."""
    coarse = float(np.finfo(dtype).eps) if np.issubdtype(dtype, np.floating) else 0.0
    return max(SUM_TOLERANCE, 8 * coarse)


def distribution(values: Any, name: str, size: int) -> FloatArray:
    """A read-only probability distribution, shape (size,), that sums to 1 up to rounding.

    Raises
    ------
    MDPError
        If the shape is another, or the numbers are no distribution.
    """
    p, dtype = real_array(values, name)
    if p.shape != (size,):
        raise MDPError(f"{name}: shape {p.shape}, expected ({size},)")
    check_distribution(p, name, sum_tolerance(dtype))
    if abs(p.sum() - 1.0) > ROUNDING:
        p /= p.sum()
    return frozen(p)


def check_distribution(p: FloatArray, where: str, tolerance: float = SUM_TOLERANCE) -> None:
    """Raise `MDPError` unless `p`, shape (n,), is a probability distribution."""
    if not np.isfinite(p).all():
        raise MDPError(f"{where}: entry {int(np.flatnonzero(~np.isfinite(p))[0])} is not finite")
    if (p < 0).any():
        index = int(np.argmin(p))
        raise MDPError(f"{where}: entry {index} is negative ({p[index]:g})")
    if abs(p.sum() - 1.0) > tolerance:
        cure = "divide it by its sum" if p.any() else "give it an outcome"
        raise MDPError(f"{where}: sums to {p.sum():.12g}, not 1; {cure}")


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A finite MDP with known transitions.

    Parameters
    ----------
    transitions : array (S, A, S), or scipy sparse (S·A, S)
        Probability of the next state; sparse row s·A + a belongs to state s, action a.
    rewards : array (S, A)
        Expected reward of an action, any sign. Rewards of a state, shape (S,), and of a transition,
        shape (S, A, S), are turned into these.
    start : array (S,)
        Start distribution ρ.
    horizon : int, optional
        Number of steps H of an undiscounted episode, at most a million.
    discount : float, optional
        γ in [0, 1 − 1e-13] of an endless episode. Give exactly one of `horizon` and `discount`.
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
        rewards, _ = real_array(self.rewards, "rewards")
        shape = _shape(rewards, self.transitions)
        start = distribution(self.start, "start", shape[0])
        transitions, tolerance = _transitions(self.transitions, shape)
        self._check_time()
        _check_rewards(rewards)
        _normalise(transitions, shape, tolerance)
        if rewards.ndim == 1:
            rewards = np.repeat(rewards[:, None], shape[1], axis=1)
        elif rewards.ndim == 3:
            rewards = _expected(transitions, rewards)
        object.__setattr__(self, "rewards", frozen(rewards))
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "transitions", transitions)

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
            if 1.0 - discount < MIN_STOPPING:
                raise MDPError(
                    f"discount: {discount} is within {MIN_STOPPING:g} of 1, where values have no "
                    "digits left; give a horizon instead"
                )
            object.__setattr__(self, "discount", discount)
        if self.horizon is not None:
            horizon = _number(self.horizon, "horizon")
            if not (horizon >= 1 and horizon.is_integer()):
                raise MDPError(f"horizon: {self.horizon} is not a whole number ≥ 1")
            if horizon > MAX_HORIZON:
                raise MDPError(
                    f"horizon: {horizon:.12g} steps are more than {MAX_HORIZON:,}, the most that "
                    "are computed one by one; give a discount instead"
                )
            object.__setattr__(self, "horizon", int(horizon))

    def __repr__(self) -> str:
        time = f"horizon={self.horizon}" if self.horizon else f"discount={self.discount}"
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
        """Next states of positive probability, and their probabilities.

        Raises
        ------
        IndexError
            If the MDP has no such state or action.
        """
        if not (0 <= state < self.num_states and 0 <= action < self.num_actions):
            raise IndexError(f"{self!r} has no state {state} with action {action}")
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
        forever = (stay >= 1.0 - ROUNDING) & (self.rewards == 0)
        return np.asarray(forever.all(axis=1))

    def with_time(self, *, horizon: int | None = None, discount: float | None = None) -> TabularMDP:
        """The same MDP with another horizon or discount."""
        return replace(self, horizon=horizon, discount=discount)

    def save(self, path: str | Path) -> None:
        """Write `path` as a plain `.npz`: no pickles, readable by `load` and by numpy."""
        arrays: dict[str, Any] = {"rewards": self.rewards, "start": self.start}
        arrays["name"] = str(self.name)  # of None, numpy would write a pickle
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
        if fields.keys() == {"array"}:
            raise MDPError(
                f"{path}: a single array (.npy) of shape {fields['array'].shape}; an MDP has "
                "several in an .npz: write it with TabularMDP(...).save(path)"
            )
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
            parts = (fields["data"], fields["indices"], fields["indptr"])
            rows = rewards.size if rewards.ndim == 2 else max(fields["indptr"].size - 1, 0)
            shape = (rows, rewards.shape[0] if rewards.ndim else 0)
            try:
                if not all(np.issubdtype(part.dtype, np.integer) for part in parts[1:]):
                    raise ValueError("indices and indptr must be whole numbers")
                transitions = sparse.csr_array(parts, shape=shape)
                transitions.check_format(full_check=True)
            except ValueError as error:
                raise MDPError(f"{path}: not a CSR matrix of shape {shape}: {error}") from None
        if horizon is None and discount is None:
            horizon, discount = (_scalar(fields.get(name)) for name in ("horizon", "discount"))
            if horizon is None and discount is None:
                raise MDPError(f"{path}: holds neither horizon nor discount; give one")
        name = str(fields["name"]) if "name" in fields else Path(path).stem
        return TabularMDP(transitions, rewards, start, horizon, discount, name)


def load_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz`, or the array of an `.npy` as "array"; never unpickles.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, MDPError
        If the file does not exist, is a folder, or is not a numpy file.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file in it")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with Path(path).open("rb") as file:  # numpy leaves its own handle open after an error
            head = file.read(6)
            if head and not head.startswith((b"\x93NUMPY", b"PK", b"\x80")):  # \x80: a pickle
                raise ValueError(f"it begins with {head!r}, as no file of numpy's does")
            file.seek(0)
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


def _scalar(array: NDArray[Any] | None) -> Any:
    """The number in an array of any shape, such as MATLAB's (1, 1); other arrays as they are."""
    return array.item() if array is not None and array.size == 1 else array


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise MDPError(f"{name}: too large a number") from None
    except (TypeError, ValueError):
        raise MDPError(f"{name}: {value!r} is not a number") from None


def _shape(rewards: FloatArray, transitions: Any) -> tuple[int, int]:
    """S and A, from rewards (S, A) or (S, A, S), or from rewards (S,) and the transitions."""
    shape = rewards.shape
    if len(shape) == 1:
        try:
            given = np.shape(transitions)
        except ValueError:  # ragged lists, which have no shape
            given = ()
        rows = math.prod(given[:-1])
        shape += (rows // shape[0] if shape[0] else 0,)
    if len(shape) not in (2, 3) or 0 in shape or shape[2:] not in ((), shape[:1]):
        raise MDPError(
            f"rewards: shape {rewards.shape}, expected (S, A), (S,) or (S, A, S) with S, A ≥ 1"
        )
    return shape[0], shape[1]


def _check_rewards(rewards: FloatArray) -> None:
    bad = ~np.isfinite(rewards)
    if bad.any():
        where = np.argwhere(bad)[0]
        names = zip(("state", "action", "next state"), where, strict=False)
        place = ", ".join(f"{name} {index}" for name, index in names)
        raise MDPError(f"rewards: {place} is {rewards[tuple(where)]}, not a finite number")
    largest = float(np.abs(rewards).max())
    if largest > 0 and not REWARD_SIZES[0] <= largest <= REWARD_SIZES[1]:
        raise MDPError(
            f"rewards: the largest is {largest:g} in size, not between {REWARD_SIZES[0]:g} and "
            f"{REWARD_SIZES[1]:g}; choose another unit"
        )


def _transitions(transitions: Any, shape: tuple[int, int]) -> tuple[Any, float]:
    """A float64 copy, dense (S, A, S) or CSR (S·A, S), and the tolerance of its sums."""
    num_states, num_actions = shape
    expected: tuple[int, ...]
    if not sparse.issparse(transitions):
        dense, dtype = real_array(transitions, "transitions")
        expected = (num_states, num_actions, num_states)
        if dense.shape != expected:
            raise MDPError(f"transitions: shape {dense.shape}, expected {expected}")
        return dense, sum_tolerance(dtype)
    given: Any = transitions
    expected = (num_states * num_actions, num_states)
    if given.shape != expected:
        raise MDPError(f"transitions: sparse shape {given.shape}, expected {expected}")
    if np.issubdtype(given.dtype, np.complexfloating):
        raise MDPError("transitions: not a matrix of real numbers (they are complex)")
    if hasattr(given, "check_format"):
        try:  # indices outside the matrix would read and write foreign memory
            given.check_format(full_check=True)
        except ValueError as error:
            raise MDPError(f"transitions: not a sparse matrix of that shape ({error})") from None
    rows = sparse.csr_array(given, dtype=np.float64, copy=True)
    rows.sum_duplicates()
    return rows, sum_tolerance(given.dtype)


def _normalise(transitions: Any, shape: tuple[int, int], tolerance: float) -> None:
    """Check the rows, divide those that are off by their sum, and make them read-only."""
    compressed = sparse.issparse(transitions)
    rows: Any = transitions if compressed else transitions.reshape(-1, shape[0])
    sums = np.asarray(rows.sum(axis=1)).ravel()
    faulty = ~(np.abs(sums - 1.0) <= tolerance)  # also true of NaN
    lowest = rows.min(axis=1)
    faulty |= (lowest.toarray().ravel() if compressed else lowest) < 0
    if faulty.any():
        row = int(np.argmax(faulty))
        s, a = divmod(row, shape[1])
        p = rows[[row], :].toarray()[0] if compressed else rows[row]
        check_distribution(p, f"transitions: state {s}, action {a}", tolerance)
    off = np.abs(sums - 1.0) > ROUNDING
    if compressed:
        if off.any():
            rows.data /= np.repeat(np.where(off, sums, 1.0), np.diff(rows.indptr))
        for array in (rows.data, rows.indices, rows.indptr):
            array.flags.writeable = False
    else:
        rows[off] /= sums[off, None]
        frozen(transitions)


def _expected(transitions: Any, rewards: FloatArray) -> FloatArray:
    """r(s, a) = Σ p r from rewards (S, A, S)."""
    if sparse.issparse(transitions):
        rows: Any = transitions
        products = rows.multiply(rewards.reshape(rows.shape))
        return np.asarray(products.sum(axis=1), dtype=np.float64).reshape(rewards.shape[:2])
    return np.asarray(np.einsum("sat,sat->sa", transitions, rewards))
