"""One look for all figures: colours that colour-blind readers tell apart, one for each method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
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
    """The method whose colour a name such as "srpo-prompted" has."""
    return name.split("-")[0]


def marks(name: str, *, line: bool = True) -> dict[str, Any]:
    """Colour, dashes and marker of a method, for `plot`."""
    of = family(name)
    dash = DASHES[of] if line else ""
    return {"color": COLOURS[of], "ls": dash, "marker": MARKERS[of]}


#: Widths of a figure in a two-column paper, in inches.
SINGLE, DOUBLE = 3.3, 6.8


@contextmanager
def look() -> Iterator[None]:
    """The project's style; draw and save within it."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def blank(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, which no window or global state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure in the project's style."""
    with look():
        yield blank(width, height)


def save(made: Figure, path: Path) -> None:
    """Write a figure, without the time of day, so that the same data give the same file."""
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    drawn = BytesIO()
    made.savefig(drawn, format=path.suffix[1:] or "png", metadata=metadata.get(path.suffix))
    content = _smaller(drawn) if path.suffix == ".png" else drawn.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)  # whole or not at all, also after Ctrl-C


def _smaller(png: BytesIO) -> bytes:
    """A PNG with 64 colours: a quarter of the size, and it looks the same."""
    from PIL import Image

    small = BytesIO()
    with Image.open(png) as picture:
        picture.convert("RGB").quantize(64).save(small, "png", optimize=True)
    return small.getvalue()
