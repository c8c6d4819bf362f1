"""Tables for a person: on a terminal, in a file, in a notebook."""

from __future__ import annotations

import shutil
import sys
from typing import Any, TextIO

from rich.console import Console

PIPE_WIDTH = 150  # a pipe or a file has no width of its own; this fits every statement


def console(file: TextIO | None = None) -> Console:
    """A console as wide as the terminal, or wide enough for our tables in a file."""
    stream = sys.stdout if file is None else file
    width = shutil.get_terminal_size().columns if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False)


def plain(renderable: Any) -> str:
    """A table as plain text."""
    paper = Console(width=PIPE_WIDTH, no_color=True)
    with paper.capture() as capture:
        paper.print(renderable)
    return capture.get()
