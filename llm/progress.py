"""Progress of a run: bars and a table a step on a terminal, a line a step elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from cpi.tables import console as make_console

#: Stages of a step, in order.
STAGES = ("generate", "localize", "reset", "train")

#: What the tables and the lines show, with a heading and a format.
SHOWN = {
    "reward": ("reward", ".3f"),
    "fresh/reward": ("fresh", ".3f"),
    "reset/reward": ("reset", ".3f"),
    "frac_reward_zero_std": ("no signal", ".0%"),
    "reset/position": ("reset at", ".0%"),
    "localize/exact": ("localized", ".0%"),
    "eval/pass@1": ("eval pass@1", ".3f"),
    "loss": ("loss", ".4f"),
    "grad_norm": ("grad norm", ".3f"),
    "entropy": ("entropy", ".3f"),
    "completions/mean_length": ("length", ".0f"),
    "step_time": ("seconds", ".2f"),
}


class Stage:
    """A stage of a step under way: tokens done and seconds since it began."""

    def __init__(self, shown: Callable[[int], None]) -> None:
        self._shown = shown
        self.tokens = 0
        self.began = time.perf_counter()

    def advance(self, tokens: int) -> None:
        """Count tokens that are done."""
        self.tokens += tokens
        self._shown(tokens)


class Reporter:
    """Shows a run; a context manager.

    Parameters
    ----------
    steps : int
        Of the whole run.
    console : rich Console, optional

    Attributes
    ----------
    timings : dict of str to (tokens, seconds)
        Of the stages since `clear_timings`.
    """

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self.console = console or make_console()
        self.steps = steps
        self.timings: dict[str, tuple[int, float]] = {}
        self._bars = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            refresh_per_second=8,
            disable=not self.console.is_terminal,
        )
        self._run = self._bars.add_task("run", total=steps, note=f"{steps} steps")
        # One bar for each kind of stage, used again: the display keeps its height.
        self._stages: dict[str, TaskID] = {}

    def __enter__(self) -> Reporter:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def message(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """Time a stage; `total` is its number of tokens, where that is known."""
        if name in self._stages:
            bar = self._stages[name]
            self._bars.reset(bar, total=total, note="")
        else:
            bar = self._stages[name] = self._bars.add_task(name, total=total, note="")
        stage = Stage(lambda tokens: self._bars.advance(bar, tokens))
        try:
            yield stage
        except BaseException:
            self._bars.stop_task(bar)
            self._bars.update(bar, note="stopped")
            raise
        seconds = time.perf_counter() - stage.began
        tokens, before = self.timings.get(name, (0, 0.0))
        self.timings[name] = (tokens + stage.tokens, before + seconds)
        self._bars.update(
            bar,
            total=stage.tokens or 1,
            completed=stage.tokens or 1,
            note=f"{stage.tokens:,} tokens, {stage.tokens / max(seconds, 1e-9):,.0f}/s",
        )

    def clear_timings(self) -> dict[str, float]:
        """Seconds and tokens a second of the stages since the last call, as metrics."""
        metrics = {}
        for name, (tokens, seconds) in self.timings.items():
            metrics[f"time/{name}"] = seconds
            metrics[f"tokens_per_second/{name}"] = tokens / max(seconds, 1e-9)
        self.timings.clear()
        return metrics

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show a step's metrics."""
        shown = {
            heading: format(metrics[name], form)
            for name, (heading, form) in SHOWN.items()
            if name in metrics
        }
        if self.console.is_terminal:
            self._bars.update(self._run, completed=step, note=f"step {step} of {self.steps}")
            self.console.print(_table(step, shown, self.console.width))
        else:
            words = "  ".join(f"{heading} {value}" for heading, value in shown.items())
            self.message(f"step {step}/{self.steps}  {words}")

    def summary(self, folder: Path) -> None:
        """Show what became of the run, and where to look next."""
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        table = Table("", "first", "last", title=Text(str(folder)), title_justify="left")
        for name in ("eval/pass@1", "fresh/reward", "reset/reward", "entropy"):
            values = [row[name] for row in rows if name in row]
            if values:
                table.add_row(name, f"{values[0]:.3f}", f"{values[-1]:.3f}")
        self.console.print(table)
        tokens = rows[-1].get("ledger/steps", 0) + rows[-1].get("ledger/localizer_cost", 0)
        seconds = sum(row.get("step_time", 0.0) for row in rows)
        self.message(f"{rows[-1]['step']} steps, {tokens:,} tokens generated, {seconds:,.0f} s")
        self.message(f"rollouts: python -m llm.show {folder}   metrics: {folder}/metrics.jsonl")


def _table(step: int, shown: Mapping[str, str], width: int) -> Table:
    """Headings over values, in as few rows of them as the width allows."""
    items = list(shown.items())
    for rows in range(1, len(items) + 1):
        columns = -(-len(items) // rows)
        lines = [items[at : at + columns] for at in range(0, len(items), columns)]
        needed = sum(
            2 + max(len(text) for line in lines for item in line[at : at + 1] for text in item)
            for at in range(columns)
        )
        if needed <= width:
            break
    title = Text(f"step {step}", style="bold")
    table = Table(box=None, show_header=False, title=title, title_justify="left")
    for _ in range(columns):
        table.add_column(justify="right")
    for line in lines:
        table.add_row(*(Text(heading, style="dim") for heading, _ in line))
        table.add_row(*(value for _, value in line))
    return table
