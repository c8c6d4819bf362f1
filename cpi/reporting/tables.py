"""Tables as text: on a terminal, in a file, in a notebook."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Console

PIPE_WIDTH = 150  # a pipe or a file has no width of its own; this fits every statement


def console(file: TextIO | None = None) -> Console:
    """A console as wide as the terminal; `PIPE_WIDTH` wide for a pipe or a file.

    Text is printed as it is: a name or path with [brackets] or :colons: is no markup. Characters
    that the encoding of the stream lacks are escaped. Where the standard streams are closed, which
    Python tells by None, nothing is shown.
    """
    stream = sys.stdout if file is None else file
    if stream is None:
        stream = io.StringIO()
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    width = shutil.get_terminal_size().columns if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def plain(renderable: Any) -> str:
    """A table as plain text."""
    recorder = Console(width=PIPE_WIDTH, no_color=True, markup=False, emoji=False)
    with recorder.capture() as capture:
        recorder.print(renderable)
    return capture.get()


def table(title: str, headings: Sequence[str]) -> Any:
    """An empty table of numbers: no frame, narrow, right-aligned columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    empty = Table(
        title=Text(title),  # a folder's name may have [brackets]
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in headings:
        empty.add_column(heading, justify="right")
    return empty
