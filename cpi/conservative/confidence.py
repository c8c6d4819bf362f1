"""Confidence radii: bounds on the distance of a mean of bounded samples from its expectation.

Radii are one-sided at level δ. For statements about a whole class of policies give `members`, and
for two-sided ones `sides=2`; both divide δ.
"""

from __future__ import annotations

import math

import numpy as np

from envs.tabular import FloatArray


def hoeffding(n: int, width: float, delta: float, *, members: int = 1, sides: int = 1) -> float:
    """Radius width · sqrt(ln(1/δ) / 2n) (Hoeffding 1963) for samples in a range of `width`."""
    return width * math.sqrt(math.log(_inverse(delta, members * sides)) / (2 * n))


def empirical_bernstein(
    samples: FloatArray, width: float, delta: float, *, members: int = 1, sides: int = 1
) -> float:
    """Radius sqrt(2 V ln(2/δ) / n) + 7 width ln(2/δ) / (3(n−1)) (Maurer & Pontil 2009, Thm 4).

    V is the sample variance (ddof 1). Infinite for fewer than two samples.
    """
    n = len(samples)
    if n < 2:
        return math.inf
    log = math.log(2 * _inverse(delta, members * sides))
    variance = float(np.var(samples, ddof=1))
    return math.sqrt(2 * variance * log / n) + 7 * width * log / (3 * (n - 1))


def _inverse(delta: float, parts: int) -> float:
    if not 0 < delta < 1:
        raise ValueError(f"delta: {delta} is not in (0, 1)")
    return parts / delta
