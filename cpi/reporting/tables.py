"""Tables as text: on a terminal, in a file, in a notebook."""

from __future__ import annotations

import functools
import io
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions

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
    """An empty table of numbers: no frame, narrow, right-aligned columns.

    Where it is wider than the console, columns go below one another, each block with the first
    column: no digit is lost.
    """
    from rich.text import Text

    empty = _table_type()(
        title=Text(title),  # a folder's name may have [brackets]
        **_LOOK,
    )
    for heading in headings:
        empty.add_column(heading, justify="right")
    return empty


#: Characters between two columns.
GAP = 2

_LOOK: dict[str, Any] = {
    "title_justify": "left",
    "show_edge": False,
    "pad_edge": False,
    "padding": (0, 1, 0, 0),
}


@functools.cache
def _table_type() -> Any:
    """The class of `table`; rich's tables are imported when one is made."""
    from rich.box import SIMPLE_HEAD
    from rich.measure import Measurement
    from rich.table import Table

    class Blocks(Table):
        def __init__(self, **options: Any) -> None:
            super().__init__(box=SIMPLE_HEAD, **options)

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
            wide = options.update(width=10_000)

            def width(texts: Iterable[Any]) -> int:
                return GAP + max(Measurement.get(console, wide, text).maximum for text in texts)

            widths = [width((column.header, *column.cells)) for column in self.columns]
            if sum(widths) <= options.max_width + GAP:
                yield from super().__rich_console__(console, options)
                return
            for number, block in enumerate(blocks(widths, options.max_width)):
                part = Table(title=None if number else self.title, box=SIMPLE_HEAD, **_LOOK)
                for index in block:
                    part.add_column(self.columns[index].header, justify="right")
                cells = [list(self.columns[index].cells) for index in block]
                for row in zip(*cells, strict=True):
                    part.add_row(*row)
                yield part

    return Blocks


def blocks(widths: Sequence[int], width: int) -> list[list[int]]:
    """Columns of each block: the first one, and as many others as the width allows."""
    parts: list[list[int]] = [[0]]
    for column in range(1, len(widths)):
        if len(parts[-1]) > 1 and sum(widths[i] for i in (*parts[-1], column)) > width + GAP:
            parts.append([0])
        parts[-1].append(column)
    return parts
