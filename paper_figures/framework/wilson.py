"""Wilson interval of a proportion from clustered trials, such as rollouts of one prompt."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Share(NamedTuple):
    """A proportion, its interval, and the numbers of trials and clusters."""

    value: float
    low: float
    high: float
    trials: int
    clusters: int


def clustered_share(successes: ArrayLike, trials: ArrayLike, z: float = 1.959964) -> Share:
    """Share of successes, with a Wilson interval at the effective number of trials.

    The share p is a ratio of sums over clusters, with variance v = P/(P−1) Σ (y_i − p m_i)²
    / (Σ m_i)². n_eff = p(1 − p)/v independent trials would have the same variance (Kott & Carr
    1997, "Developing an estimation strategy for a pesticide data program"). n_eff is capped at the
    number of trials. With one cluster, or if all trials fail or all succeed, n_eff is the number of
    clusters.

    Parameters
    ----------
    successes, trials : arrays (P,)
        Counts per cluster; clusters without trials are ignored.
    z : float
        Normal quantile; the default gives 95 %.

    Raises
    ------
    ValueError
        If there are no trials.
    """
    y, m = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    y, m = y[m > 0], m[m > 0]
    if not len(m):
        raise ValueError("trials: there are none, so there is no share")
    p, n, clusters = float(y.sum() / m.sum()), float(m.sum()), len(m)
    effective = float(clusters)
    if 0 < p < 1 and clusters > 1:
        variance = clusters / (clusters - 1) * ((y - p * m) ** 2).sum() / n**2
        effective = min(n, p * (1 - p) / variance) if variance else n
    centre = (p + z**2 / (2 * effective)) / (1 + z**2 / effective)
    spread = p * (1 - p) / effective + z**2 / (4 * effective**2)
    radius = z * np.sqrt(spread) / (1 + z**2 / effective)
    low, high = float(max(centre - radius, 0)), float(min(centre + radius, 1))
    return Share(p, min(low, p), max(high, p), int(n), clusters)
