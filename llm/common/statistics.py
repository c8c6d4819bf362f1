"""Intervals by the bootstrap: over problems by percentiles; over a few random seeds by t."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from envs.tabular import FloatArray

#: Of the intervals; and the samples of problems that they take.
LEVEL, RESAMPLES = 0.95, 5000


def mean_over_problems(values: FloatArray) -> Estimate:
    """Mean of one value a problem, and its interval."""
    return _estimate(values, np.mean, vectorized=True)


def bootstrap(statistic: Callable[[Any], float], problems: int) -> Estimate:
    """A statistic of some problems (their numbers, with repetitions), and its interval."""
    return _estimate(np.arange(problems), statistic, vectorized=False)


def _estimate(data: Any, statistic: Callable[..., Any], vectorized: bool) -> Estimate:
    """A statistic and its percentile interval; of one problem it is the value alone."""
    from scipy import stats

    value = float(statistic(data))
    if len(data) < 2:
        return Estimate(value, value, value)
    found = stats.bootstrap(
        (data,), statistic, vectorized=vectorized, method="percentile", confidence_level=LEVEL,
        n_resamples=RESAMPLES, batch=500, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Estimate(value, float(found.low), float(found.high))


def interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap-t interval of the mean of a few values (Efron & Tibshirani 1993, ch. 12.5).

    Of 8 normal values it covers the truth about as often as it says; an interval by percentiles
    does so 88 times in 100.
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).choice(values, (10_000, n))
    errors = drawn.std(axis=1, ddof=1) / np.sqrt(n)
    some = errors > 1e-12  # a sample of one value n times over has no error of its own
    if not some.any():
        return float(values.mean()), float(values.mean())
    t = (drawn.mean(axis=1)[some] - values.mean()) / errors[some]
    high, low = np.quantile(t, [0.025, 0.975]) * values.std(ddof=1) / np.sqrt(n)
    return float(values.mean() - low), float(values.mean() - high)


def shown(estimate: Estimate | None, sign: str = "") -> str:
    """For a table."""
    if estimate is None:
        return "–"
    e = estimate
    return f"{e.value:{sign}.3f} [{e.low:{sign}.3f}, {e.high:{sign}.3f}]"


@dataclass(frozen=True)
class Estimate:
    """A value and an interval for the truth."""

    value: float
    low: float
    high: float

    def miss(self, truth: float) -> float:
        """How far the truth lies outside; 0 inside."""
        return max(self.low - truth, truth - self.high, 0.0)


def proportion(successes: int, trials: int, delta: float) -> Estimate:
    """Share of successes and its two-sided interval of level 1 − δ (Clopper & Pearson 1934).

    Trials must be independent, not alike: a sum of different Bernoulli variables has lighter tails
    than the binomial of the same mean (Hoeffding 1956, Thm 4), so the interval also holds for a
    mean over fixed problems.
    """
    from scipy.stats import beta

    fails = trials - successes
    low = float(beta.ppf(delta / 2, successes, fails + 1)) if successes else 0.0
    high = float(beta.ppf(1 - delta / 2, successes + 1, fails)) if fails else 1.0
    return Estimate(successes / trials, low, high)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that one of k of n samples passes, of which c do: 1 − C(n−c, k) / C(n, k).

    Chen et al. (2021), "Evaluating Large Language Models Trained on Code", eq. 1.

    Raises
    ------
    ValueError
        Unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"n={n}, c={c}, k={k}: 0 ≤ c ≤ n and 1 ≤ k ≤ n is needed")
    return 1.0 - comb(n - c, k) / comb(n, k)
