"""Checks of arguments; errors name the argument and its value."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.tabular import real_array


def check_number(name: str, value: Any, least: float = 0.0) -> None:
    """Raise ValueError unless `value` is a number ≥ `least`."""
    try:
        fits = bool(value >= least)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        limit = "" if least == -np.inf else f" ≥ {least:g}"
        raise ValueError(f"{name}: {value} is not a number{limit}")


def check_whole(name: str, value: Any, least: int = 0, error: type[ValueError] = ValueError) -> int:
    """`value` as an int; raise `error` unless it is a whole number ≥ `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise error(f"{name}: {value!r} is not a whole number ≥ {least}")
    return number


def check_probability(name: str, value: Any, error: type[ValueError] = ValueError) -> float:
    """`value` as a float; raise `error` unless it is a number in [0, 1]."""
    try:
        inside = bool(0 <= value <= 1)
    except (TypeError, ValueError):
        inside = False
    if not inside:
        raise error(f"{name}: {value} is not in [0, 1]")
    return float(value)


def check_range(name: str, ends: Any) -> tuple[float, float]:
    """A range (low, high) as floats; raise ValueError unless it is two finite numbers in order."""
    array, _ = real_array(ends, name, ValueError)
    if array.shape != (2,) or not (np.isfinite(array).all() and array[0] <= array[1]):
        raise ValueError(f"{name}: {ends!r} is not (low, high), two finite numbers with low ≤ high")
    return float(array[0]), float(array[1])


def check_fractions(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """`values` as a float array; raise ValueError unless all lie in [0, 1]."""
    array, _ = real_array(values, name, ValueError)
    outside = ~((array >= 0) & (array <= 1))  # true of NaN too
    if outside.any():
        raise ValueError(f"{name}: must lie in [0, 1], found {array[outside].flat[0]:g}")
    return array
