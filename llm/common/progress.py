"""Progress of a run: a table with progress bars on a terminal, else one line per step."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from types import TracebackType

import numpy as np
from rich.box import SIMPLE_HEAD
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

from cpi.core.episodes import Episode, Prefix, Simulator
from cpi.reporting.tables import console as make_console

#: Stages of a step, in order.
STAGES = ("generate", "localize", "reset", "retry", "train")

#: Displayed metrics, by their names in metrics.jsonl, and the format of each.
SHOWN = {
    "reward": ".3f",
    "fresh/reward": ".3f",
    "reset/reward": ".3f",
    "frac_reward_zero_std": ".2f",
    "reset/position": ".2f",
    "localize/exact": ".2f",
    "localize/parse_failure_rate": ".2f",
    "eval/pass@1": ".3f",
    "loss": ".4f",
    "grad_norm": ".3f",
    "entropy": ".3f",
    "completions/mean_length": ".0f",
    "step_time": ".2f",
}

#: Minimum width of a column; number of steps between headings.
CELL, HEADINGS_EVERY = 8, 20


class Stage:
    """A stage in progress: number of tokens done, and its start time."""

    def __init__(self, on_advance: Callable[[int], None]) -> None:
        self._on_advance = on_advance
        self.tokens = 0
        self.began = time.perf_counter()

    def advance(self, tokens: int) -> None:
        """Count tokens as done."""
        self.tokens += tokens
        self._on_advance(tokens)


class Reporter:
    """Context manager that displays the progress of a run.

    Parameters
    ----------
    steps : int
        Number of steps of the whole run.
    console : rich Console, optional

    Attributes
    ----------
    timings : dict of str to (tokens, seconds)
        Totals of each stage since the last `clear_timings`.
    prompts : dict of str to (tokens, cached)
        The same for tokens of prompts, and for those of them that engines had computed before.
    prompt_counts : function () -> (tokens, cached)
        Totals of the run so far.
    """

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self.console = console or make_console()
        self.steps = steps
        self.timings: dict[str, tuple[int, float]] = {}
        self.prompts: dict[str, tuple[int, int]] = {}
        self.prompt_counts: Callable[[], tuple[int, int]] = lambda: (0, 0)
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
        # One bar per stage, reused in each step, so that the display keeps its height. Bars are
        # created in the order of STAGES and hidden until their stage first runs.
        self._stages: dict[str, TaskID] = {}
        for name in STAGES:
            self._bar(name)
        self._began = False
        self._headings: list[str] = []
        self._rows = 0  # rows since the last headings

    def __enter__(self) -> Reporter:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._began:
            self._bars.live.transient = True  # no progress to keep on screen
        self._bars.stop()

    def message(self, text: str) -> None:
        """Print a line above the bars; an indented line is a command to copy and is not wrapped."""
        prose = self.console.is_terminal and not text.startswith(" ")
        self.console.print(text, markup=False, soft_wrap=not prose)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """Time a stage; `total` is its number of tokens, if known."""
        self._began = True
        bar = self._bar(name)
        self._bars.reset(bar, total=total, note="", visible=True)
        for later in self._later(bar):
            self._bars.reset(later, start=False, total=1, note="")
        sent, cached = self.prompt_counts()
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
        now, earlier = self.prompt_counts(), self.prompts.get(name, (0, 0))
        self.prompts[name] = (earlier[0] + now[0] - sent, earlier[1] + now[1] - cached)
        self._bars.update(
            bar,
            total=stage.tokens or 1,
            completed=stage.tokens or 1,
            note=f"{stage.tokens:,} tokens, {stage.tokens / max(seconds, 1e-9):,.0f}/s",
        )

    def _bar(self, name: str) -> TaskID:
        """The bar of a stage, created at its first use."""
        if name not in self._stages:
            self._stages[name] = self._bars.add_task(name, start=False, note="", visible=False)
        return self._stages[name]

    def _later(self, bar: TaskID) -> Iterator[TaskID]:
        """Bars of later stages; they still show the previous step."""
        bars = list(self._stages.values())
        yield from bars[bars.index(bar) + 1 :]

    def clear_timings(self) -> dict[str, float]:
        """Metrics of each stage since the last call.

        `time/*` are seconds; `tokens_per_second/*` counts generated or trained tokens;
        `prefix_cache_hit_rate/*` is the share of prompt tokens, those of every sample, that the
        engine had already computed.
        """
        metrics = {}
        for name, (tokens, seconds) in self.timings.items():
            metrics[f"time/{name}"] = seconds
            metrics[f"tokens_per_second/{name}"] = tokens / max(seconds, 1e-9)
        for name, (sent, cached) in self.prompts.items():
            if sent:
                metrics[f"prefix_cache_hit_rate/{name}"] = cached / sent
        self.timings.clear()
        self.prompts.clear()
        return metrics

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a step."""
        shown = {
            name: _cell(metrics[name], form) for name, form in SHOWN.items() if name in metrics
        }
        if self.console.is_terminal:
            self._bars.update(self._run, completed=step, note=f"step {step} of {self.steps}")
            self._row({"step": str(step), **shown})
        else:
            words = "  ".join(f"{name} {value}" for name, value in shown.items())
            self.message(f"step {step}/{self.steps}  {words}")

    def _row(self, shown: Mapping[str, str]) -> None:
        """Print values under headings: one line per step if the width allows."""
        order = ["step", *SHOWN]
        headings = [heading for heading in order if heading in shown or heading in self._headings]
        lines = _lines(headings, self.console.width)
        repeat = headings != self._headings or self._rows == HEADINGS_EVERY or len(lines) > 1
        self._headings, self._rows = headings, 1 if repeat else self._rows + 1
        for line in lines:
            if repeat:
                head = "  ".join(heading.rjust(width) for heading, width in line)
                self.console.print(Text(head, style="dim"))
            self.console.print(
                Text("  ".join(shown.get(heading, "").rjust(width) for heading, width in line))
            )

    def summary(self, folder: Path) -> None:
        """Show first and last metrics of the run, and where its files are."""
        path = folder / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        if not rows:
            self.message("nothing was left to do")
            return
        table = Table("", "first", "last", box=SIMPLE_HEAD)
        for name in ("eval/pass@1", "fresh/reward", "reset/reward", "entropy"):
            values = [row[name] for row in rows if name in row]
            if values:
                table.add_row(name, f"{values[0]:.3f}", f"{values[-1]:.3f}")
        self.console.print(table)
        tokens = rows[-1].get("ledger/steps", 0) + rows[-1].get("ledger/localizer_cost", 0)
        seconds = sum(row.get("step_time", 0.0) for row in rows)
        self.message(f"{rows[-1]['step']} steps, {tokens:,} tokens generated, {seconds:,.0f} s")
        self.message(f"metrics are in {path}")
        if (folder / "rollouts").is_dir():
            self.message("to look at rollouts:")
            self.message(f"  python -m llm.show {shlex.quote(str(folder))}")


class Staged:
    """A simulator that shows its n-th call as the n-th of the given stages, others as the last."""

    def __init__(self, simulator: Simulator, reporter: Reporter, *stages: str) -> None:
        self.simulator, self.reporter = simulator, reporter
        self.stages = chain(stages, repeat(stages[-1]))

    def rollout(
        self, prefixes: Sequence[Prefix], n: int, rng: np.random.Generator
    ) -> list[list[Episode]]:
        """See `cpi.Simulator`."""
        with self.reporter.stage(next(self.stages)) as stage:
            groups = self.simulator.rollout(prefixes, n, rng)
            stage.advance(sum(episode.cost for group in groups for episode in group))
        return groups


def _cell(value: float, form: str) -> str:
    """Format a value; in scientific notation if it exceeds the width of a column."""
    text = format(value, form)
    return text if len(text) <= CELL else format(value, ".1e")


def _lines(headings: Sequence[str], width: int) -> list[list[tuple[str, int]]]:
    """Distribute columns over as few lines as `width` allows: (heading, column width) per line."""
    for number in range(1, len(headings) + 1):
        columns = -(-len(headings) // number)
        lines = [headings[start : start + columns] for start in range(0, len(headings), columns)]
        widths = [
            max(CELL, *(len(heading) for line in lines for heading in line[column : column + 1]))
            for column in range(columns)
        ]
        if sum(widths) + 2 * (columns - 1) <= width:
            break
    return [list(zip(line, widths, strict=False)) for line in lines]
