"""Advantages within groups, against arrays computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpi.core.advantages import (
    DDOF,
    EPSILON,
    Scale,
    group_advantages,
)
from tests.cpi.worlds import repeatable

SCALES: tuple[Scale, ...] = ("group", "batch", "none")
scales = pytest.mark.parametrize("scale", SCALES)
#: Returns in eighths, whose sums and differences are exact.
eighths = st.integers(-80, 80).map(lambda n: n / 8)
batches = st.lists(st.lists(eighths, max_size=6), min_size=1, max_size=4)


def assert_advantages(returns: Any, scale: Scale, expected: Any) -> None:
    advantages = group_advantages(returns, scale)
    assert len(advantages) == len(expected)
    for ours, by_hand in zip(advantages, expected, strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, by_hand, rtol=1e-14, atol=0)


def test_group_advantages__conventions_of_trl() -> None:
    assert (DDOF, EPSILON) == (1, 1e-4)


def test_group_advantages__one_success_of_four() -> None:
    # Mean 1/4; squared deviations 9/16 + 3/16 = 3/4, over 3: variance 1/4.
    expected = [[0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001]]
    assert_advantages([[1, 0, 0, 0]], "group", expected)
    assert_advantages([[1, 0, 0, 0]], "batch", expected)
    assert_advantages([[1, 0, 0, 0]], "none", [[0.75, -0.25, -0.25, -0.25]])


def test_group_advantages__groups_of_two() -> None:
    expected = [[-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4)]]
    assert_advantages([[3, 5]], "group", expected)


def test_group_advantages__groups_are_normalised_separately() -> None:
    # Means 1 and 12; variances 2 and (9 + 4 + 4 + 9 + 0)/4 = 13/2.
    first, second = math.sqrt(2) + 1e-4, math.sqrt(6.5) + 1e-4
    expected = [[-1 / first, 1 / first], [x / second for x in (-3, -2, 2, 3, 0)]]
    assert_advantages([[0, 2], [9, 10, 14, 15, 12]], "group", expected)


def test_group_advantages__batch_scale_shares_only_the_deviation() -> None:
    # Means 0 and 5, of all five 3; squared deviations (16 + 4 + 1 + 4 + 25)/4 = 25/2.
    divisor = math.sqrt(12.5) + 1e-4
    expected = [[-1 / divisor, 1 / divisor], [-3 / divisor, 0, 3 / divisor]]
    assert_advantages([[-1, 1], [2, 5, 8]], "batch", expected)
    assert_advantages([[-1, 1], [2, 5, 8]], "none", [[-1, 1], [-3, 0, 3]])


@scales
def test_group_advantages__epsilon_limits_small_spreads(scale: Scale) -> None:
    divisor = {"group": 2e-4, "batch": 2e-4, "none": 1.0}[scale]
    a = math.sqrt(0.5) * 1e-4  # deviation 1e-4, as large as ε
    assert_advantages([[-a, a]], scale, [[-a / divisor, a / divisor]])


@scales
def test_group_advantages__zero_in_a_group_of_one(scale: Scale) -> None:
    assert_advantages([[7.0]], scale, [[0.0]])
    np.testing.assert_array_equal(group_advantages([[7.0], [1.0, 2.0]], scale)[0], [0.0])


@scales
def test_group_advantages__no_group_and_an_empty_group(scale: Scale) -> None:
    assert group_advantages([], scale) == []
    (nothing,) = group_advantages([[]], scale)
    assert nothing.shape == (0,)
    empty, pair = group_advantages([[], [1.0, 3.0]], scale)
    assert empty.shape == (0,)
    np.testing.assert_array_equal(pair, group_advantages([[1.0, 3.0]], scale)[0])


@scales
@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e9])
def test_group_advantages__exactly_zero_for_equal_returns(value: float, scale: Scale) -> None:
    for advantages in group_advantages([[value] * 4, [value], [value] * 7], scale):
        np.testing.assert_array_equal(advantages, np.zeros(len(advantages)))


@scales
def test_group_advantages__exactly_zero_despite_rounding(scale: Scale) -> None:
    for size, value in ((3, 0.1), (6, 0.7), (7, 1 / 3), (8, 0.3)):
        (advantages,) = group_advantages([[value] * size], scale)
        np.testing.assert_array_equal(advantages, np.zeros(size))


@scales
def test_group_advantages__exactly_zero_in_one_group_of_equal_returns(scale: Scale) -> None:
    flat, _ = group_advantages([[1.0, 1.0, 1.0], [0.0, 1.0]], scale)
    np.testing.assert_array_equal(flat, np.zeros(3))


def test_group_advantages__arrays_and_lists_agree_unmodified() -> None:
    given_returns = np.array([0.0, 1.0, 1.0])
    (from_array,) = group_advantages([given_returns])
    (from_list,) = group_advantages([[0, 1, 1]])
    np.testing.assert_array_equal(from_array, from_list)
    np.testing.assert_array_equal(given_returns, [0.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("returns", "number"),
    [
        ([[1.0], [1.0, math.nan]], 1),
        ([[math.inf, 1.0]], 0),
        ([[1.0], [2.0], [[1.0, 2.0]]], 2),
        ([[1.0], 3.0], 1),
    ],
)
def test_group_advantages__invalid_returns_are_named(returns: Any, number: int) -> None:
    with pytest.raises(ValueError, match=rf"returns: group {number} is .*, not a list of finite"):
        group_advantages(returns)


@pytest.mark.parametrize("bad", [["1.0x"], [1j], np.ma.masked_array([1.0, 2.0], [True, False])])
def test_group_advantages__returns_that_are_not_real_numbers(bad: Any) -> None:
    with pytest.raises(ValueError, match="returns: group 1: not an array of real numbers"):
        group_advantages([[1.0], bad])


def test_group_advantages__unknown_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="scale: 'std' is not 'group', 'batch' or 'none'"):
        group_advantages([[1.0, 2.0]], "std")  # type: ignore[arg-type]


@repeatable
@given(returns=batches, scale=st.sampled_from(SCALES))
def test_group_advantages__sum_to_zero_and_keep_the_order(
    returns: list[list[float]], scale: Scale
) -> None:
    for group, advantages in zip(returns, group_advantages(returns, scale), strict=True):
        assert len(group) == len(advantages)
        assert abs(advantages.sum()) <= 1e-12 * max(1.0, np.abs(advantages).sum())
        higher = np.subtract.outer(group, group) > 0
        assert (np.subtract.outer(advantages, advantages)[higher] > 0).all()


@repeatable
@given(returns=batches, scale=st.sampled_from(SCALES[::2]), shift=eighths, group=st.integers(0, 3))
def test_group_advantages__invariant_to_a_shift_of_one_group(
    returns: list[list[float]], scale: Scale, shift: float, group: int
) -> None:
    shifted = [
        [ret + shift * (number == group) for ret in members]
        for number, members in enumerate(returns)
    ]
    for ours, other in zip(
        group_advantages(returns, scale), group_advantages(shifted, scale), strict=True
    ):
        np.testing.assert_allclose(ours, other, rtol=0, atol=1e-9)


@repeatable
@given(returns=batches, shift=eighths)
def test_group_advantages__invariant_to_a_shift_of_the_batch(
    returns: list[list[float]], shift: float
) -> None:
    shifted = [[ret + shift for ret in members] for members in returns]
    for ours, other in zip(
        group_advantages(returns, "batch"), group_advantages(shifted, "batch"), strict=True
    ):
        np.testing.assert_allclose(ours, other, rtol=0, atol=1e-9)


@repeatable
@given(returns=batches)
def test_group_advantages__independent_of_other_groups(returns: list[list[float]]) -> None:
    for number, advantages in enumerate(group_advantages(returns)):
        np.testing.assert_array_equal(advantages, group_advantages([returns[number]])[0])


@repeatable
@given(
    returns=batches.filter(lambda groups: len({ret for members in groups for ret in members}) > 1)
)
def test_group_advantages__batch_scale_has_deviation_one(returns: list[list[float]]) -> None:
    # Advantages of "batch" are those of "none" over the deviation of all returns.
    everything = np.concatenate([np.asarray(members, dtype=float) for members in returns])
    mean = everything.sum() / len(everything)
    deviation = math.sqrt(((everything - mean) ** 2).sum() / (len(everything) - 1))
    for scaled, plain in zip(
        group_advantages(returns, "batch"), group_advantages(returns, "none"), strict=True
    ):
        np.testing.assert_allclose(scaled * (deviation + 1e-4), plain, rtol=1e-12, atol=1e-12)
