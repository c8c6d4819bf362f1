"""Hypotheses about a candidate that finite-horizon and discounted bounds share."""

from __future__ import annotations

from cpi.exact.update import Update
from envs.tabular import FloatArray


def tau_of(u: Update) -> float:
    """τ; 0 where none was given."""
    return 0.0 if u.tau is None else u.tau


def nowhere_worse(u: Update) -> bool:
    """Whether a ≥ 0 in the accepted states that π_new visits."""
    return _at_least(u, u.a[(u.w > 0) & (u.new.occupancy > 0)], 0.0)


def good_on_improvable(u: Update) -> bool:
    """Whether τ > 0 is given, π visits I_τ, and a ≥ τ on it."""
    return tau_of(u) > 0 and u.p > 0 and _at_least(u, u.a[u.improvable], tau_of(u))


def good_everywhere(u: Update) -> bool:
    """Whether, besides, a ≥ 0 elsewhere."""
    return good_on_improvable(u) and _at_least(u, u.a[~u.improvable], 0.0)


def good_where_accepted(u: Update) -> bool:
    """Whether a ≥ τ on I_τ, some of which is accepted, and a ≥ 0 in the other accepted states."""
    others = u.a[~u.improvable & (u.w > 0)]
    return good_on_improvable(u) and u.recall > 0 and _at_least(u, others, 0.0)


def _at_least(u: Update, a: FloatArray, level: float) -> bool:
    """Whether a ≥ `level`, but for a share of the rounding that a check allows at each step."""
    return bool((a >= level - u.rounding / u.steps).all())
