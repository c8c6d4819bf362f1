"""Report of `llm.evaluate`: results with intervals, computed from records, and their tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cpi.reporting.notebook import Printed
from cpi.reporting.tables import table
from llm.common.statistics import (
    LEVEL,
    RESAMPLES,
    Estimate,
    format_estimate,
    mean_over_problems,
    pass_at_k,
)
from llm.evaluate.correction_report import Correction, correction_tables, summarize_correction
from llm.evaluate.pictures import draw_pass_at_k
from llm.evaluate.published import Measured, Published, comparisons

if TYPE_CHECKING:
    from llm.evaluate.measurement import Measurement


@dataclass(frozen=True)
class Result:
    """Result of a measurement.

    Attributes
    ----------
    task : str
        Label of the task: its name and arguments.
    decoding : str
        "greedy", or temperature and top-p.
    problems, of, samples : int
        Problems measured, test problems of the task, and completions per problem.
    pass_at : dict of k to Estimate
    reward, tokens, cut, unjudged : float
        Means over completions: reward, generated tokens, share cut off by a limit, and share whose
        verification failed (these count as wrong).
    correction : Correction or None
    notes : list of str
        Remarks on the problems.
    settings : dict
    records : str
        Name of the file of records.
    """

    task: str
    decoding: str
    problems: int
    of: int
    samples: int
    pass_at: dict[int, Estimate]
    reward: float
    tokens: float
    cut: float
    unjudged: float
    correction: Correction | None
    notes: list[str]
    settings: dict[str, Any]
    records: str


@dataclass(frozen=True)
class EvaluationReport(Printed):
    """Results of all measurements; prints as tables (also in a notebook)."""

    model: str
    step: int | None
    revision: str
    results: list[Result]
    environment: dict[str, Any]
    options: dict[str, Any]

    @property
    def published(self) -> list[tuple[Published, float]]:
        """Published numbers for the tasks that were measured in full, with the measured ones."""
        measured = {
            result.settings["task"]: Measured(result.reward, result.settings["task_args"])
            for result in self.results  # a sampled result replaces the greedy one before it
            if result.problems == result.of
        }
        return comparisons(measured)

    @property
    def name(self) -> str:
        """Name of the model, with its step."""
        return self.model if self.step is None else f"{self.model}, step {self.step}"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        published = [{**asdict(paper), "here": 100 * reward} for paper, reward in self.published]
        more = {"level": LEVEL, "resamples": RESAMPLES, "published": published}
        return {**asdict(self), **more}

    def records(self) -> list[dict[str, Any]]:
        """A row for each measure of each task, for `pandas.DataFrame`."""
        return [
            {"task": r.task, "decoding": r.decoding, "problems": r.problems, "samples": r.samples,
             "measure": measure, "value": e.value, "low": e.low, "high": e.high}
            for r in self.results for measure, e in _measures(r)
        ]  # fmt: skip

    def plot(self, axes: Any = None) -> Any:
        """Draw pass@k over k on matplotlib axes, by default the current ones; returns them."""
        curves = {f"{r.task}, {r.decoding}": r.pass_at for r in self.results}
        return draw_pass_at_k(curves, axes)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [self._results_table()]
        notes = dict.fromkeys(f"{r.task}: {note}" for r in self.results for note in r.notes)
        parts += map(Text, notes)  # without duplicates: greedy and sampled share theirs
        for result in self.results:
            if result.correction is not None:
                parts += ["", *correction_tables(result.task, result.correction)]
        if self.published:
            parts += ["", _published_table(self.published)]
        return Group(*parts, "")

    def _results_table(self) -> Any:
        from rich.text import Text  # no markup: an argument may have [brackets]

        ks = sorted({k for result in self.results for k in result.pass_at})
        any_unjudged = any(result.unjudged for result in self.results)
        rows = table(
            f"{self.name}: held-out problems; {LEVEL:.0%} intervals over problems",
            ["task", "decoding", "problems", "samples", *(f"pass@{k}" for k in ks), "reward",
             "tokens", "cut", *(["unjudged"] if any_unjudged else [])],
        )  # fmt: skip
        for result in self.results:
            rows.add_row(
                Text(result.task), result.decoding, str(result.problems), str(result.samples),
                *(format_estimate(result.pass_at.get(k)) for k in ks),
                f"{result.reward:.3f}", f"{result.tokens:.1f}", f"{result.cut:.0%}",
                *([f"{result.unjudged:.0%}"] if any_unjudged else []),
            )  # fmt: skip
        return rows


def _measures(result: Result) -> Iterator[tuple[str, Estimate | _Mean]]:
    """Every measure of a result by name: pass@k, means, and the rounds of self-correction."""
    for k, estimate in result.pass_at.items():
        yield f"pass@{k}", estimate
    for name in ("reward", "tokens", "cut", "unjudged"):
        yield name, _Mean(getattr(result, name))
    if result.correction is not None:
        for r in result.correction.rounds:
            yield f"right after correction {r.round}", r.right
        for control in result.correction.controls:
            yield f"correction minus {control.name}", control.gain


class _Mean(NamedTuple):
    """A mean without an interval."""

    value: float
    low: None = None
    high: None = None


def summarize(
    measurement: Measurement,
    records: Sequence[dict[str, Any]],
    ks: Sequence[int],
    settings: dict[str, Any],
) -> Result:
    """Compute the result of a measurement from its records."""
    n = measurement.samples
    pass_at = {
        k: mean_over_problems(np.array([pass_at_k(n, record["c"], k) for record in records]))
        for k in ks
        if k <= n
    }
    correction = None
    if measurement.correct:
        correction = summarize_correction(records, settings["localizer"], measurement.correct)

    def mean(name: str) -> float:
        return float(np.mean([record[name] for record in records]))

    unjudged = sum(len(record["unjudged"]) for record in records) / (n * len(records))
    return Result(
        measurement.spec.label, measurement.decoding, len(records),
        measurement.of, n, pass_at, mean("rewards"), mean("tokens"), mean("cut"), unjudged,
        correction, [*measurement.task.notes(), *measurement.notes], settings, measurement.file,
    )  # fmt: skip


def _published_table(published: Sequence[tuple[Published, float]]) -> Any:
    rows = table(
        "Published numbers (%), of other models on other hardware, beside this model's: an order "
        "of magnitude, no comparison of methods",
        ["measure", "model", *(methods := ["base", "GRPO", "RRPO", "SRPO"]), "here"],
    )
    for paper, reward in published:
        cells = [f"{v:.1f}" if (v := paper.percent.get(m)) is not None else "–" for m in methods]
        rows.add_row(paper.measure, paper.model, *cells, f"{100 * reward:.1f}")
    return rows
