"""Results in a notebook: tables as HTML, curves as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any


class Printed:
    """Mixin of results that have a table, `__rich__`: it is their text, also in a notebook."""

    def __str__(self) -> str:
        from cpi.reporting.tables import plain  # rich is loaded where something is printed

        return plain(self)

    def _repr_html_(self) -> str:
        style = "white-space: pre; overflow-x: auto; line-height: 1.2"
        return f'<pre style="{style}">{escape(str(self))}</pre>'


def draw_returns(returns: Sequence[float], first: int, axes: Any = None) -> Any:
    """Draw J over iterations, from number `first` on.

    Parameters
    ----------
    returns : sequence of float
    first : int
    axes : matplotlib.axes.Axes, optional
        By default the current ones of pyplot.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.gca()
    axes.plot(range(first, first + len(returns)), returns, marker=".")
    axes.set(xlabel="iterations", ylabel="J(π)")
    return axes
