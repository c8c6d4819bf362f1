"""One look for all figures: colours that colour-blind readers tell apart, one for each method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe & Ito's palette; methods also differ by dashes and markers, for readers in grey.
COLOURS = {
    "grpo": "#000000",
    "rrpo": "#E69F00",
    "srpo": "#0072B2",
    "oracle": "#009E73",
    "deepest": "#D55E00",
    "one": "#CC79A7",
    "random": "#56B4E9",
}
DASHES: dict[str, Any] = {
    "grpo": "-",
    "rrpo": (0, (1, 1)),
    "srpo": (0, (5, 1)),
    "oracle": (0, (3, 1, 1, 1)),
    "deepest": (0, (7, 2)),
    "one": (0, (2, 2)),
    "random": (0, (1, 2)),
}

_SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "credit-resets",
    "savefig.dpi": 200,
}


def family(name: str) -> str:
    """The method whose colour a name such as "srpo-prompted" has."""
    return name.split("-")[0]


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """A figure in inches, in the project's style, closed at the end."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(_SETTINGS):
        made = plt.figure(figsize=(width, height))
        try:
            yield made
        finally:
            plt.close(made)


def save(made: Figure, path: Path) -> None:
    """Write a figure, without the time of day, so that the same data give the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    made.savefig(path, metadata=metadata.get(path.suffix))
