"""Pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.common.statistics import LEVEL, Estimate


def draw_pass_at_k(curves: Mapping[str, Mapping[int, Estimate]], axes: Any = None) -> Any:
    """Draw pass@k over k with intervals, a curve for each label.

    Parameters
    ----------
    curves : mapping of label to mapping of k to Estimate
    axes : matplotlib.axes.Axes, optional
        By default the current ones of pyplot.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from matplotlib.ticker import NullLocator

    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.gca()
    for label, curve in curves.items():
        values = [e.value for e in curve.values()]
        down = [e.value - e.low for e in curve.values()]
        up = [e.high - e.value for e in curve.values()]
        axes.errorbar(list(curve), values, [down, up], marker=".", capsize=2, label=label)
    ks = sorted({k for curve in curves.values() for k in curve})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="k", ylabel=f"pass@k, {LEVEL:.0%} intervals")
    axes.legend()
    return axes
