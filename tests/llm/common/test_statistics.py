"""p-values: sign flips by exact enumeration, and Holm's correction by hand."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from llm.common.statistics import holm, sign_flip


def enumerated(differences: list[Fraction]) -> Fraction:
    """Share of all sign patterns with a sum as large, in rational arithmetic."""
    patterns = itertools.product((1, -1), repeat=len(differences))
    sums = [sum(s * d for s, d in zip(p, differences, strict=True)) for p in patterns]
    return Fraction(sum(x >= sums[0] for x in sums), len(sums))


@pytest.mark.parametrize(
    "differences",
    [
        [1, 2, 3, 4, 5, 6, 7, 8],
        [-1, 2, 3, 4, 5, 6, 7, 8],
        [-8, 2, 3, 4, 5, 6, 7, 1],
        [1, -2, 3, -4, 5, -6, 7, -8],
        [1, 1, 1, 2, 2, 2, -3, -3],  # sums of many patterns are equal
    ],
)
def test_sign_flip__exact_enumeration(differences: list[int]) -> None:
    tenths = [Fraction(d, 10) for d in differences]
    expected = enumerated(tenths)
    assert sign_flip([d / 10 for d in differences]) == expected
    # Of d and −d, one pattern is counted twice: that of the sums equal to the observed one.
    ties = Fraction(
        sum(
            sum(s * d for s, d in zip(p, tenths, strict=True)) == sum(tenths)
            for p in itertools.product((1, -1), repeat=8)
        ),
        256,
    )
    assert sign_flip([-d / 10 for d in differences]) == 1 + ties - expected


def test_sign_flip__by_hand() -> None:
    assert sign_flip([0.1] * 8) == 1 / 256
    assert sign_flip([-0.1] * 8) == 1.0
    assert sign_flip([0.0] * 8) == 1.0
    # Above or equal to 1 + 2 − 4 = −1: both signs of 4 with +1+2; 4 with each other pair: 5 of 8.
    assert sign_flip([1, 2, -4]) == 5 / 8
    assert sign_flip([3e-9, 2e-9, -1e-9]) == sign_flip([3, 2, -1]) == 2 / 8


def test_sign_flip__rejects_at_its_level() -> None:
    """Under the null hypothesis P(p ≤ k/256) = k/256; four standard deviations of 2,000 draws."""
    rng = np.random.default_rng(0)
    p = np.array([sign_flip(d) for d in rng.normal(size=(2000, 8))])
    for k in (13, 64, 128):
        share = k / 256
        assert abs((p <= share).mean() - share) < 4 * np.sqrt(share * (1 - share) / 2000)


def test_holm__by_hand() -> None:
    # In order 0.01, 0.02, 0.03, 0.04: 4 · 0.01, 3 · 0.02, max with 2 · 0.03, max with 0.04.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.01, 0.001, 0.9]) == pytest.approx([0.02, 0.003, 0.9])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
