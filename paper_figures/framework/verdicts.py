"""Verdicts from several comparisons, and numbers as text.

Each comparison has a value, a 95 % interval and a p-value. Holm's correction over the comparisons
of a claim decides which are ahead or behind. The chance of any false decision is then at most 5 %
per claim (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm.common.statistics import holm, interval
from paper_figures.framework.figure import Verdict

#: Sentences for `Claim.checked`.
CORRECTED = "Intervals are 95 % each; ahead and behind are decided jointly at 5 % (Holm, {test})."
PAIRED = CORRECTED.format(test="t tests of paired seeds")
BOOTSTRAPPED = CORRECTED.format(test="bootstrap over seeds, a little bold with so few")

#: A run whose final success is below this counts as stuck.
STUCK = 0.1


def paired(differences: Sequence[float]) -> dict[str, Any]:
    """Mean of a few differences, with bootstrap-t interval and two-sided t-test p-value."""
    from scipy import stats

    values = np.asarray(differences, dtype=float)
    low, high = interval(values)
    estimate = {"value": float(values.mean()), "low": low, "high": high, "seeds": len(values)}
    error = values.std(ddof=1) / math.sqrt(len(values))
    if error < 1e-12:  # all equal: the t statistic is undefined
        return estimate | {"p": 1.0 if abs(values.mean()) < 1e-12 else 0.0}
    t = abs(values.mean()) / error
    return estimate | {"p": float(2 * stats.t.sf(t, len(values) - 1))}


def signs(
    estimates: Sequence[Mapping[str, Any]], level: float = 0.0, alpha: float = 0.05
) -> list[int]:
    """Sign of each comparison: 1 above `level`, −1 below, 0 undecided.

    Parameters
    ----------
    estimates : sequence of mappings
        "value" (None for infinity) and "p", the two-sided p-value against `level`.
    level : float
        0 for differences, 1 for ratios.
    alpha : float
        Family-wise error rate over all comparisons.
    """
    decided = [0] * len(estimates)
    for i, p in enumerate(holm([estimate["p"] for estimate in estimates])):
        value = estimates[i]["value"]
        if p <= alpha:
            decided[i] = 1 if value is None or value > level else -1
    return decided


def ahead(estimates: Sequence[Mapping[str, Any]], level: float = 0.0) -> Verdict:
    """The verdict on "is ahead in these comparisons"; see `verdict`."""
    return verdict(signs(estimates, level))


def tally(estimates: Sequence[Mapping[str, Any]], level: float = 0.0) -> str:
    """Number of comparisons ahead, behind and undecided, as text."""
    return tally_signs(signs(estimates, level))


def verdict(decided: Sequence[int]) -> Verdict:
    """The verdict from the signs of all comparisons.

    All 1: "holds". Both 1 and −1: "mixed". −1 without 1: "does not hold here". No −1: "holds with
    a caveat" if at least half are 1, else "not seen here", which is no evidence against the claim.
    """
    if min(decided) > 0:
        return "holds"
    if -1 in decided:
        return "mixed" if 1 in decided else "does not hold here"
    return "holds with a caveat" if 2 * list(decided).count(1) >= len(decided) else "not seen here"


def tally_signs(decided: Sequence[int]) -> str:
    """Number of signs of each kind, as text."""
    better, worse, neither = (list(decided).count(sign) for sign in (1, -1, 0))
    return f"ahead in {better} of {len(decided)}, behind in {worse}, undecided in {neither}"


def compare_intervals(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    """1 if the interval of a is entirely above that of b, −1 if below, 0 if they overlap.

    For independent values with 95 % intervals of equal width, the error rate is below 6 in 1,000.
    Over eight comparisons it is below 1 in 20.
    """
    return (a["low"] > b["high"]) - (a["high"] < b["low"])


def stuck_words(ends: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Number of stuck runs by regime and arm, as text; "" if there are none."""
    counts = [
        f"{sum(e < STUCK for e in final)} of {len(final)} of {arm} in {regime}"
        for regime, arms in ends.items()
        for arm, final in arms.items()
        if min(final) < STUCK
    ]
    return f"Ended below {STUCK}: {', '.join(counts)}." if counts else ""


def estimate_text(estimate: Mapping[str, Any], form: str = "+.3f") -> str:
    """A value and its interval, as text."""
    value, low, high = (
        "∞" if estimate[name] is None else f"{estimate[name]:{form}}"
        for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]".replace("-", "−")
