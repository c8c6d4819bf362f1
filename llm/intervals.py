"""Intervals over problems, by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from envs.tabular import FloatArray
from llm.gains import Estimate

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


def shown(estimate: Estimate | None, sign: str = "") -> str:
    """For a table."""
    if estimate is None:
        return "–"
    e = estimate
    return f"{e.value:{sign}.3f} [{e.low:{sign}.3f}, {e.high:{sign}.3f}]"
