"""Bound reports as tables for a person."""

from __future__ import annotations

import math
import shutil
import sys
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cpi.bounds.check import BoundReport
from cpi.bounds.registry import Bound

CAPTION = (
    "smallest slack: distance to violation, where −1e-13 is rounding. bound / truth: 1 is tight; "
    "vacuous: promised no gain here.\npenalty / loss: of a bound that takes a penalty off the "
    "first-order gain, penalty over what was truly lost; – : nothing to compare."
)
PIPE_WIDTH = 150  # a pipe or a file has no width of its own; this fits every statement


def console(file: TextIO | None = None) -> Console:
    """A console as wide as the terminal, or wide enough for the table in a file."""
    stream = sys.stdout if file is None else file
    width = shutil.get_terminal_size().columns if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False)


def report_table(report: BoundReport) -> Table:
    """One row a bound: statement, source, instances, violations, smallest slack, tightness."""
    table = Table(caption=CAPTION, caption_justify="left")
    table.add_column("statement", ratio=3)
    table.add_column("source", ratio=1)
    headings = ("instances", "violations", "smallest slack", "bound / truth", "penalty / loss")
    for heading in headings:
        table.add_column(heading, justify="right", max_width=10)
    for row in report.rows:
        table.add_row(
            describe(row.bound),
            row.bound.source,
            f"{row.instances:,}",
            Text(str(row.violations), style="bold red" if row.violations else "green"),
            f"{row.min_slack:.1e}" if row.instances else "–",
            "vacuous" if row.vacuous else _ratio(row.tightness),
            _ratio(row.penalty_ratio),
        )
    return table


def _ratio(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def list_table(bounds: tuple[Bound, ...]) -> Table:
    """The registry: statement, hypothesis and source."""
    table = Table("statement", "requires", "source")
    for bound in bounds:
        table.add_row(describe(bound), bound.requires or "nothing", bound.source)
    return table


def describe(bound: Bound) -> Text:
    """The name in bold, the statement below it."""
    return Text.assemble((bound.name, "bold"), "\n", bound.statement)


def render(report: BoundReport) -> str:
    """The table as plain text."""
    plain = Console(width=PIPE_WIDTH, no_color=True)
    with plain.capture() as capture:
        plain.print(report_table(report))
    return capture.get()
