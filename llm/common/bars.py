"""Progress bars of commands that work through problems."""

from __future__ import annotations

import sys
import time
from typing import Any

from cpi.reporting.tables import console


class ProblemBars:
    """One bar per measurement on a terminal, else one line per batch.

    Parameters
    ----------
    unit : str
        What is counted.
    """

    def __init__(self, unit: str = "problems") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.console, self.unit = console(sys.stderr), unit
        self.bars = Bars(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TextColumn(unit + "{task.fields[rate]}"), TimeRemainingColumn(), console=self.console,
            disable=not self.console.is_terminal,
        )  # fmt: skip
        self.bar_ids: dict[str, Any] = {}
        self.starts: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> ProblemBars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Show how many problems of a measurement are finished, how fast, and the time left.

        The first call gives the number at the start.
        """
        now = time.monotonic()
        began, before = self.starts.setdefault(name, (now, done))
        rate = 60 * (done - before) / max(now - began, 1e-9)
        shown = f", {rate:.3g} a minute" if rate else ""
        if self.bars.disable:
            left = f", {(total - done) / rate:.0f} min left" if rate and done < total else ""
            text = f"{name}: {done} of {total} {self.unit}{shown}{left}"
            self.console.print(text, markup=False, soft_wrap=True)
            return
        if name not in self.bar_ids:
            self.bar_ids[name] = self.bars.add_task(name, total=total, rate="")
        self.bars.update(self.bar_ids[name], completed=done, rate=shown)
