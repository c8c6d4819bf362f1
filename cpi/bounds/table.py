"""Bound reports as tables for a person."""

from __future__ import annotations

import math
import shutil
import sys
from typing import Any, TextIO

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from cpi.bounds.check import BoundReport
from cpi.bounds.registry import Bound
from cpi.bounds.theorem1 import Experiment

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


#: Arm of the Theorem 1 experiment → what is counted, and the exponent that theory predicts.
PREDICTED = {
    "rr": ("random resets, one action for all states", -2),
    "rr_per_state": ("random resets, an action per state", -1),
    "caro": ("oracle resets, accepted", 0),
    "caro_total": ("oracle resets, refused draws included", -1),
}


def theorem1_tables(experiment: Experiment) -> Group:
    """Resets needed and certified gain against p, and the localizer grid."""
    needed = Table(title="resets needed for a 90 %-correct choice, against coverage p")
    gains = Table(title="certified gain of one step, against coverage p (true gain below)")
    for table in (needed, gains):
        table.add_column("")
        for p in experiment.p:
            table.add_column(f"p = {p:g}", justify="right")
        for heading in ("slope", "theory"):
            table.add_column(heading, justify="right")
    for arm, (label, exponent) in PREDICTED.items():
        values = experiment.to_json()["theorem1"][arm]["resets"]
        cells = (f"{value:,.0f}" for value in values)
        needed.add_row(label, *cells, str(experiment.slopes[arm]["resets"]), f"{exponent:+d}")
    for arm, label, exponent in (("rr", "random resets", 2), ("caro", "oracle resets", 1)):
        cells = (f"{pt.certificate:.2g}\n{pt.gain:.2g}" for pt in experiment.arms[arm])
        gains.add_row(label, *cells, str(experiment.slopes[arm]["gain"]), f"{exponent:+d}")
    grid = Table(title="self resets by precision and recall: measured, and the formula below")
    for heading in ("precision", "recall", "accepted", "drawn", "𝔸_w", "certified", "true gain"):
        grid.add_column(heading, justify="right")
    for row in experiment.localizer:
        grid.add_row(
            f"{row['precision']:g}",
            f"{row['recall']:g}",
            f"{row['resets']:,.0f}",
            f"{row['drawn']:,.0f}",
            f"{row['advantage']:.3f}\n{row['predicted_advantage']:.3f}",
            f"{row['gain']:.2g}\n{row['predicted_gain']:.2g}",
            f"{row['true_gain']:.2g}",
        )
    return Group(needed, gains, grid)


def list_table(bounds: tuple[Bound, ...]) -> Table:
    """The registry: statement, hypothesis and source."""
    table = Table("statement", "requires", "source")
    for bound in bounds:
        table.add_row(describe(bound), bound.requires or "nothing", bound.source)
    return table


def describe(bound: Bound) -> Text:
    """The name in bold, the statement below it."""
    return Text.assemble((bound.name, "bold"), "\n", bound.statement)


def plain(renderable: Any) -> str:
    """A table as plain text."""
    paper = Console(width=PIPE_WIDTH, no_color=True)
    with paper.capture() as capture:
        paper.print(renderable)
    return capture.get()
