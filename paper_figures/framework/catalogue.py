"""All figures, in the order of the report."""

from __future__ import annotations

from collections.abc import Sequence

from paper_figures import (
    l1_curves,
    l2_localization,
    l3_signal,
    l4_ablations,
    l5_model,
    l6_published,
    t1_resets_needed,
    t2_localizer,
    t3_iterations,
    t4_tightness,
    t5_signal,
    t6_chain,
)
from paper_figures.framework.figure import Figure

FIGURES: tuple[Figure, ...] = (
    t1_resets_needed.FIGURE,
    t2_localizer.FIGURE,
    t3_iterations.FIGURE,
    t4_tightness.FIGURE,
    t5_signal.FIGURE,
    t6_chain.FIGURE,
    l1_curves.FIGURE,
    l2_localization.FIGURE,
    l3_signal.FIGURE,
    l4_ablations.FIGURE,
    l5_model.FIGURE,
    l6_published.FIGURE,
)


def choose(names: list[str]) -> list[Figure]:
    """Select figures by name, without repeats; no names select all.

    Parameters
    ----------
    names : list of str
        Full names, "t6_chain", or their prefixes, "t6".

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    chosen = []
    for name in names:
        matches = [f for f in FIGURES if name in (f.name, f.name.split("_")[0])]
        if not matches:
            known = ", ".join(f.name for f in FIGURES)
            raise ValueError(f"NAMES: {name!r} is none of the figures: {known}")
        chosen += [figure for figure in matches if figure not in chosen]
    return chosen or list(FIGURES)


def inputs_first(figures: Sequence[Figure]) -> list[Figure]:
    """Sort figures so that each follows the figures whose records it reads."""
    ordered: list[Figure] = []
    for figure in figures:
        sources = [other for other in figures if f"{other.name}.json" in figure.inputs]
        ordered += [f for f in (*inputs_first(sources), figure) if f not in ordered]
    return ordered
