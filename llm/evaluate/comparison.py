"""A run's checkpoint against its base model: paired differences on the same problems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cpi.reporting.notebook import Printed
from cpi.reporting.tables import table
from envs.tabular import FloatArray
from llm.common.statistics import (
    LEVEL,
    Estimate,
    format_estimate,
    mean_over_problems,
    pass_at_k,
)
from llm.evaluate.pictures import draw_pass_at_k
from llm.evaluate.report import EvaluationReport, Result
from llm.runs.saved_model import SavedModel


def base_model(saved: SavedModel) -> SavedModel:
    """The base model of a run; it is evaluated on the problems that the run was not trained on.

    Raises
    ------
    ValueError
        If the model is no run.
    """
    if saved.config is None:
        raise ValueError(
            f"baseline: {saved.name} is no training run, so there is no base model to compare with"
        )
    return replace(saved, name=saved.config.model, checkpoint=None, step=None)


@dataclass(frozen=True)
class Difference:
    """Success of two models on the same problems, with the same random numbers.

    Attributes
    ----------
    task, decoding : str
    k : int
        The measure is pass@k.
    problems : int
    base, trained, difference : Estimate
        The interval of the difference is that of its mean over problems.
    """

    task: str
    decoding: str
    k: int
    problems: int
    base: Estimate
    trained: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Comparison(Printed):
    """Differences of all measurements; prints as a table (also in a notebook)."""

    base: str
    trained: str
    differences: list[Difference]

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON data."""
        return asdict(self)

    def __rich__(self) -> Any:
        from rich.text import Text

        rows = table(
            f"{self.trained} against its base model, {self.base}: the same problems, {LEVEL:.0%} "
            "intervals over problems",
            ["task", "decoding", "problems", "measure", "base", "trained", "difference"],
        )
        for d in self.differences:
            rows.add_row(
                Text(d.task), d.decoding, str(d.problems), f"pass@{d.k}", f"{d.base.value:.3f}",
                f"{d.trained.value:.3f}", format_estimate(d.difference, "+"),
            )  # fmt: skip
        return rows

    def records(self) -> list[dict[str, Any]]:
        """A row for each pass@k of each task, for `pandas.DataFrame`."""
        return [
            {"task": d.task, "decoding": d.decoding, "problems": d.problems, "k": d.k,
             "base": d.base.value, "trained": d.trained.value, "difference": d.difference.value,
             "low": d.difference.low, "high": d.difference.high}
            for d in self.differences
        ]  # fmt: skip

    def plot(self, axes: Any = None) -> Any:
        """Draw pass@k of both models on matplotlib axes, by default the current ones."""
        curves: dict[str, dict[int, Estimate]] = {}
        for d in self.differences:
            before, after = f"base, {self.base}", f"trained, {self.trained}"
            for model, estimate in ((before, d.base), (after, d.trained)):
                curves.setdefault(f"{model}: {d.task}, {d.decoding}", {})[d.k] = estimate
        return draw_pass_at_k(curves, axes)


def compare(
    base: EvaluationReport, base_folder: Path, trained: EvaluationReport, folder: Path
) -> Comparison:
    """Compare two evaluations by `evaluate_model` of the same tasks with the same options.

    Parameters
    ----------
    base, trained : EvaluationReport
    base_folder, folder : Path
        Folders of their records.
    """
    differences = []
    for one, two in zip(base.results, trained.results, strict=True):
        before, after = _records(base_folder, one), _records(folder, two)
        for k in two.pass_at:
            a, b = (_success(records, two.samples, k) for records in (before, after))
            differences.append(
                Difference(
                    two.task, two.decoding, k, two.problems,
                    mean_over_problems(a), mean_over_problems(b),
                    mean_over_problems(b - a, (-1.0, 1.0)),
                )
            )  # fmt: skip
    return Comparison(base.name, trained.name, differences)


def _records(folder: Path, result: Result) -> list[dict[str, Any]]:
    """Records of a measurement, by number of the problem."""
    lines = (folder / result.records).read_text(encoding="utf-8").split("\n")[1:]
    records = sorted(
        (json.loads(line) for line in lines if line), key=lambda record: int(record["index"])
    )
    return records[: result.problems]


def _success(records: Sequence[dict[str, Any]], n: int, k: int) -> FloatArray:
    """pass@k of each problem."""
    return np.array([pass_at_k(n, record["c"], k) for record in records])
