"""Figures of `python -m cpi.run`, the only place of `cpi` that needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpi.run.methods import CPI, METHODS, RULES, Record, method_names
from cpi.run.own_theorem1 import TARGET, OwnExperiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Palette of Okabe & Ito; lines also differ by dashes, for greyscale print.
COLOURS = ("#0072B2", "#009E73", "#E69F00", "#000000", "#D55E00", "#CC79A7", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))

NAMES = method_names(list(METHODS), list(RULES))


def draw_records(records: Sequence[Record], best: float) -> Figure:
    """J over iterations, and over environment steps if any method took some."""
    sampled = [record for record in records if record.steps[-1]]
    fig = _figure(2 if sampled else 1)
    for record in records:
        fig.axes[0].plot(record.J, label=record.name, **_style(record.name))
    fig.axes[0].set(xlabel="iterations", ylabel=f"J(π), where J* = {best:.4g}")
    fig.axes[0].legend(frameon=False)
    if sampled:
        for record in sampled:  # the start took no step, which has no place on a log axis
            fig.axes[1].plot(record.steps[1:], record.J[1:], **_style(record.name))
        fig.axes[1].set(xlabel="environment steps", xscale="log", ylabel="J(π)")
    return fig


def draw_theorem1(experiment: OwnExperiment) -> Figure:
    """Share of certified repeats over the number of accepted resets."""
    fig = _figure(1)
    (ax,) = fig.axes
    for need in experiment.needs:
        style = _style(f"{CPI}-{need.rule}")
        ax.plot(need.sizes, need.rates, marker=".", label=f"{need.rule} resets", **style)
    ax.axhline(TARGET, color="0.5", lw=0.8, ls=":", label=f"{TARGET:.0%}")
    ax.set(xscale="log", xlabel="accepted resets", ylabel="share of repeats that certify")
    ax.set_ylim(-0.02, 1.02)
    ax.legend(frameon=False)
    return fig


def save(fig: Figure, path: Path) -> None:
    """Write a PNG atomically, and the same one for the same data."""
    rendered = BytesIO()
    fig.savefig(rendered, format="png", dpi=150, metadata={"Software": None})
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(rendered.getvalue())
    partial.replace(path)


def _figure(panels: int) -> Figure:
    from matplotlib.figure import Figure

    fig = Figure(figsize=(1 + 3.6 * panels, 3.2), layout="constrained")
    for ax in np.atleast_1d(fig.subplots(1, panels)):
        ax.spines[["top", "right"]].set_visible(False)
    return fig


def _style(name: str) -> dict[str, Any]:
    """Colour and dashes of a method, the same in all figures."""
    number = NAMES.index(name)
    return {"color": COLOURS[number % len(COLOURS)], "ls": DASHES[number % len(DASHES)]}
