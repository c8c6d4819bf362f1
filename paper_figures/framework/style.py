"""Shared style of all figures: one colour-blind-safe colour per method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Palette of Okabe & Ito. Methods also differ by dashes and markers, for greyscale print.
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

MARKERS = {
    "grpo": "s",
    "rrpo": "o",
    "srpo": "^",
    "oracle": "D",
    "deepest": "v",
    "one": "P",
    "random": "X",
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
    """The method whose style an arm uses: "srpo" for "srpo-prompted"."""
    return name.split("-")[0]


def marks(name: str, *, line: bool = True) -> dict[str, Any]:
    """Colour, dashes and marker of a method, for `plot`."""
    method = family(name)
    dash = DASHES[method] if line else ""
    return {"color": COLOURS[method], "ls": dash, "marker": MARKERS[method]}


#: Widths of a figure in a two-column paper, in inches.
SINGLE, DOUBLE = 3.3, 6.8


@contextmanager
def look() -> Iterator[None]:
    """Apply the project's style; draw and save inside this context."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def blank(width: float, height: float) -> Figure:
    """An empty figure without pyplot state; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure in the project's style; sizes in inches."""
    with look():
        yield blank(width, height)


def save(fig: Figure, path: Path) -> None:
    """Write a figure without timestamps, so that equal data give equal files."""
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    rendered = BytesIO()
    fig.savefig(rendered, format=path.suffix[1:] or "png", metadata=metadata.get(path.suffix))
    content = _smaller(rendered) if path.suffix == ".png" else rendered.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)  # atomic, also after Ctrl-C


def _smaller(png: BytesIO) -> bytes:
    """Reduce a PNG to 256 colours: a third of the size, with no visible difference."""
    from PIL import Image

    small = BytesIO()
    with Image.open(png) as picture:
        picture.convert("RGB").quantize(256).save(small, "png", optimize=True)
    return small.getvalue()
