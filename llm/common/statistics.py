"""Confidence intervals, p-values and pass@k.

Percentile bootstrap over problems (an exact bound where all are alike), bootstrap-t over a few
random seeds, Clopper-Pearson for shares. Sign-flip p-values of a few differences, and Holm's
correction of several p-values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from envs.tabular import FloatArray

#: Level of the percentile intervals, and their number of bootstrap resamples.
LEVEL, RESAMPLES = 0.95, 5000


def mean_over_problems(values: FloatArray, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
    """Mean of one value within bounds per problem, with its interval."""
    return _estimate(values, np.mean, bounds, vectorized=True)


def bootstrap(
    statistic: Callable[[Any], float], problems: int, bounds: tuple[float, float]
) -> Estimate:
    """A statistic within bounds, and its interval; `statistic` takes resampled problem indices."""
    return _estimate(np.arange(problems), statistic, bounds, vectorized=False)


def _estimate(
    data: Any, statistic: Callable[..., Any], bounds: tuple[float, float], vectorized: bool
) -> Estimate:
    """A statistic with its percentile interval, or that of `_alike` if all resamples agree."""
    from scipy import stats

    value = float(statistic(data))
    if len(data) < 2:
        return _alike(value, len(data), bounds)
    percentiles = stats.bootstrap(
        (data,), statistic, vectorized=vectorized, method="percentile", confidence_level=LEVEL,
        n_resamples=RESAMPLES, batch=500, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    low, high = float(percentiles.low), float(percentiles.high)
    return Estimate(value, low, high) if high - low > 1e-12 else _alike(value, len(data), bounds)


def _alike(value: float, n: int, bounds: tuple[float, float]) -> Estimate:
    """A mean with its interval, where all n problems have the same value.

    If a share above q = 1 − (1 − level)^(1/n) of all problems were different, n equal ones would be
    seen with a probability below 1 − level. The mean is farthest off if a share q is at a bound.
    For 0 of n successes this is the exact bound, which the "rule of three" approximates.
    """
    q = 1 - (1 - LEVEL) ** (1 / n)
    low, high = bounds
    return Estimate(value, value - q * (value - low), value + q * (high - value))


def interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap-t interval of the mean of a few values (Efron & Tibshirani 1993, ch. 12.5).

    For 8 normal values its coverage is about 95 %; that of a percentile interval is 88 %.
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    resamples = np.random.default_rng(seed).choice(values, (10_000, n))
    errors = resamples.std(axis=1, ddof=1) / np.sqrt(n)
    # A resample of n equal values has standard error 0, or rounding.
    varied = errors > 1e-14 * np.abs(values).max()
    if not varied.any():
        return float(values.mean()), float(values.mean())
    t = (resamples.mean(axis=1)[varied] - values.mean()) / errors[varied]
    high, low = np.quantile(t, [0.025, 0.975]) * values.std(ddof=1) / np.sqrt(n)
    return float(values.mean() - low), float(values.mean() - high)


def sign_flip(differences: Sequence[float] | np.ndarray) -> float:
    """One-sided p-value of a mean above 0: the share of sign patterns with a mean as large.

    It is exact if the differences are symmetric about 0 under the null hypothesis (Fisher 1935).
    All 2ⁿ patterns are enumerated, so the smallest value is 1/2ⁿ.
    """
    values = np.asarray(differences, dtype=float)
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
    sums = signs @ values
    # Equal sums differ by rounding.
    return float(np.mean(sums >= sums[0] - 1e-12 * np.abs(values).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: all below α are rejected with a family-wise error of α (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, (len(p_values) - rank) * p_values[i])
        adjusted[i] = min(largest, 1.0)
    return adjusted


def format_estimate(estimate: Estimate | None, sign: str = "") -> str:
    """Table cell: the value and its interval, or a dash; `sign` is a format specifier."""
    if estimate is None:
        return "–"
    e = estimate
    return f"{e.value:{sign}.3f} [{e.low:{sign}.3f}, {e.high:{sign}.3f}]"


@dataclass(frozen=True)
class Estimate:
    """A value and a confidence interval for its true value."""

    value: float
    low: float
    high: float

    def miss(self, truth: float) -> float:
        """Distance of `truth` from the interval; 0 inside."""
        return max(self.low - truth, truth - self.high, 0.0)


def proportion(successes: int, trials: int, delta: float) -> Estimate:
    """Share of successes, with its two-sided interval of level 1 − δ (Clopper & Pearson 1934).

    Trials must be independent but need not have equal success probabilities. A sum of different
    Bernoulli variables has lighter tails than the binomial of the same mean (Hoeffding 1956, Thm
    4). So the interval also holds for a mean over fixed problems.
    """
    from scipy.stats import beta

    fails = trials - successes
    low = float(beta.ppf(delta / 2, successes, fails + 1)) if successes else 0.0
    high = float(beta.ppf(1 - delta / 2, successes + 1, fails)) if fails else 1.0
    return Estimate(successes / trials, low, high)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n samples, c of them correct, include a correct one.

    It equals 1 − C(n−c, k) / C(n, k).

    Chen et al. (2021), "Evaluating Large Language Models Trained on Code", eq. 1.

    Raises
    ------
    ValueError
        Unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"n={n}, c={c}, k={k}: 0 ≤ c ≤ n and 1 ≤ k ≤ n is needed")
    return 1.0 - comb(n - c, k) / comb(n, k)
