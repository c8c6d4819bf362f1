"""Verdicts from several comparisons at once, and numbers in words.

Each comparison has a value with a 95 % interval of its own, for the eye, and a p-value. What is
ahead or behind is decided by p-values after Holm's correction over the comparisons of a claim: that
any is called so by chance is at most 5 % for the claim (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm.common.statistics import interval
from paper_figures.framework.figure import Verdict

#: For the `checked` of a claim.
CORRECTED = "Intervals are 95 % each; ahead and behind are decided jointly at 5 % (Holm, {test})."
PAIRED = CORRECTED.format(test="t tests of paired seeds")
BOOTSTRAPPED = CORRECTED.format(test="bootstrap over seeds, a little bold with so few")

#: A run that ended below this success never took off.
STUCK = 0.1


def paired(differences: Sequence[float]) -> dict[str, Any]:
    """The mean of a few differences, its bootstrap-t interval, and Student's two-sided p-value."""
    from scipy import stats

    values = np.asarray(differences, dtype=float)
    low, high = interval(values)
    found = {"value": float(values.mean()), "low": low, "high": high, "seeds": len(values)}
    error = values.std(ddof=1) / math.sqrt(len(values))
    if error < 1e-12:  # all alike: no test is needed
        return found | {"p": 1.0 if abs(values.mean()) < 1e-12 else 0.0}
    t = abs(values.mean()) / error
    return found | {"p": float(2 * stats.t.sf(t, len(values) - 1))}


def signs(
    estimates: Sequence[Mapping[str, Any]], level: float = 0.0, alpha: float = 0.05
) -> list[int]:
    """Of each comparison 1 if it is above `level`, −1 if below, 0 if that is not decided.

    Parameters
    ----------
    estimates : sequence of mappings
        With "value", None for infinity, and "p", two-sided for `level`.
    level : float
        0 of differences, 1 of ratios.
    alpha : float
        Of all comparisons together.
    """
    found = [0] * len(estimates)
    order = sorted(range(len(estimates)), key=lambda i: estimates[i]["p"])
    for rank, i in enumerate(order):
        if estimates[i]["p"] > alpha / (len(order) - rank):
            break
        value = estimates[i]["value"]
        found[i] = 1 if value is None or value > level else -1
    return found


def ahead(estimates: Sequence[Mapping[str, Any]], level: float = 0.0) -> Verdict:
    """Whether something is ahead in some comparisons; see `verdict`."""
    return verdict(signs(estimates, level))


def where(estimates: Sequence[Mapping[str, Any]], level: float = 0.0) -> str:
    """In how many comparisons it is ahead, behind, or neither."""
    return counted(signs(estimates, level))


def verdict(found: Sequence[int]) -> Verdict:
    """Of signs: ahead throughout; in half or more and nowhere behind; ahead here and behind there.

    "not seen here" where nothing is behind and less than half is ahead: that is not the same as
    being wrong.
    """
    if min(found) > 0:
        return "holds"
    if -1 in found:
        return "mixed" if 1 in found else "does not hold here"
    return "holds with a caveat" if 2 * list(found).count(1) >= len(found) else "not seen here"


def counted(found: Sequence[int]) -> str:
    """How many signs are what, in words."""
    better, worse, neither = (list(found).count(sign) for sign in (1, -1, 0))
    return f"ahead in {better} of {len(found)}, behind in {worse}, undecided in {neither}"


def apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    """1 if all of the interval of a is above that of b, −1 if below, 0 if they overlap.

    Of independent values with 95 % intervals alike in width it errs less than 6 times in 1,000, so
    of eight comparisons less than once in 20.
    """
    return (a["low"] > b["high"]) - (a["high"] < b["low"])


def stuck_words(ends: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """How many runs never took off, by regime and arm; "" if all did."""
    told = [
        f"{sum(e < STUCK for e in own)} of {len(own)} of {arm} in {regime}"
        for regime, arms in ends.items()
        for arm, own in arms.items()
        if min(own) < STUCK
    ]
    return f"Ended below {STUCK}: {', '.join(told)}." if told else ""


def said(estimate: Mapping[str, Any], form: str = "+.3f") -> str:
    """A value and its interval."""
    value, low, high = (
        "∞" if estimate[name] is None else f"{estimate[name]:{form}}"
        for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]".replace("-", "−")
