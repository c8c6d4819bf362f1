"""Confidence radii: bounds on the distance of a mean of bounded samples from its expectation.

Radii are one-sided at level δ. For statements about a whole class of policies give `members`, and
for two-sided ones `sides=2`; both divide δ. `acceptance_interval` bounds a probability.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betainc, gammaincinv

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


def acceptance_interval(
    accepted: int, drawn: int, delta: float, *, exhausted: bool = False
) -> tuple[float, float]:
    """Exact interval of a probability of acceptance (Clopper & Pearson 1934), each end at level δ.

    Draws stop at the acceptance with number `accepted`, so their number is negative binomial. With
    `exhausted` they stopped at a limit of `drawn` instead, before that acceptance.

    The lower end is the same either way: at least `accepted` of the `drawn` were accepted. For the
    upper end, the last draw of the first kind says nothing: it was accepted for certain.
    """
    check_delta(delta)
    last = 0 if exhausted else 1
    refused = drawn - accepted
    low = beta_quantile(accepted, refused + 1, delta)[0] if accepted else 0.0
    high = beta_quantile(accepted + 1 - last, refused, 1 - delta)[1] if refused else 1.0
    return low, high


def beta_quantile(a: int, b: int, level: float) -> tuple[float, float]:
    """Two numbers that enclose the quantile of Beta(a, b), for whole a and b, to 12 digits.

    X ~ Beta(a, b) is the a-th smallest of a+b−1 uniform variables. So −ln(1 − X) is a sum of a
    exponential variables with rates b … a+b−1 (Rényi 1953), and lies between a Gamma(a) variable
    over a+b−1 and the same over b. Bisection starts there.
    """
    # scipy 1.17's betaincinv is wrong below 1e-5: 1.5e-8 for the quantiles of Beta(1000, 1e16).
    total = float(gammaincinv(a, level))
    low, high = -math.expm1(-total / (a + b - 1)), -math.expm1(-total / b)
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if betainc(a, b, middle) < level else (low, middle)
    return low, high


def check_delta(delta: float) -> None:
    """Raise ValueError unless δ is in (0, 1)."""
    if not 0 < delta < 1:
        raise ValueError(f"delta: {delta} is not in (0, 1)")


def _inverse(delta: float, parts: int) -> float:
    check_delta(delta)
    return parts / delta
