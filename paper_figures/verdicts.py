"""Verdicts from intervals, and numbers in words, for claims about several comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paper_figures.figure import Verdict


def ahead(estimates: Sequence[Mapping[str, Any]], level: float = 0.0) -> Verdict:
    """Whether something is ahead: above `level` throughout, or somewhere and nowhere behind.

    "not seen here" where no interval says either: that is not the same as being wrong.

    Parameters
    ----------
    estimates : sequence of mappings
        With "low" and "high", None for infinity.
    level : float
        0 of differences, 1 of ratios.
    """
    better = [e["low"] is None or e["low"] > level for e in estimates]
    worse = [e["high"] is not None and e["high"] < level for e in estimates]
    if all(better):
        return "holds"
    if any(worse):
        return "does not hold here"
    return "holds with a caveat" if any(better) else "not seen here"


def where(estimates: Sequence[Mapping[str, Any]], level: float = 0.0) -> str:
    """In how many comparisons it is ahead, behind, or neither."""
    better = sum(e["low"] is None or e["low"] > level for e in estimates)
    worse = sum(e["high"] is not None and e["high"] < level for e in estimates)
    return f"ahead in {better} of {len(estimates)}, behind in {worse}, level in the others"


def said(estimate: Mapping[str, Any], form: str = "+.3f") -> str:
    """A value and its interval."""
    value, low, high = (
        "∞" if estimate[name] is None else f"{estimate[name]:{form}}"
        for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]"
