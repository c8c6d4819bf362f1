"""Accuracy of localizers on labelled solutions, with intervals over problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cpi.reporting.notebook import Printed
from cpi.reporting.tables import table
from envs.tabular import FloatArray
from llm.common.statistics import LEVEL, Estimate, bootstrap, format_estimate, mean_over_problems
from llm.localize.data import LabelledSolutions, Solution
from llm.localize.verdicts import Verdict


@dataclass(frozen=True)
class Result:
    """Accuracy of one localizer on one data set.

    Ties between steps count in equal parts; a reply without a usable number counts as wrong.

    Attributes
    ----------
    data, localizer : str
    may_be_right : bool
        Whether the localizer can answer that no step is wrong.
    wrong, right, problems : int
        Solutions with and without a wrong step, and distinct problems.
    available : int
        Solutions from which these were drawn.
    exact, within_1, at_or_before : Estimate or None
        Shares of the wrong solutions in which the verdict is the first wrong step, at most one step
        from it, or no later.
    drawn : Estimate or None
        Probability that training, which draws a step by the weights, resets to the first wrong
        step.
    over_chance : Estimate or None
        `exact` minus its value for a random step, 1/n; None for the localizer random.
    on_right : Estimate or None
        Share of the right solutions in which no step is named; None if the localizer always names
        one.
    f1 : Estimate or None
        Harmonic mean of `exact` and `on_right` (ProcessBench).
    unusable : float
        Share of verdicts without a usable number.
    tokens : float
        Mean number of tokens generated for a verdict.
    """

    data: str
    localizer: str
    may_be_right: bool
    wrong: int
    right: int
    problems: int
    available: int
    exact: Estimate | None
    within_1: Estimate | None
    at_or_before: Estimate | None
    drawn: Estimate | None
    over_chance: Estimate | None
    on_right: Estimate | None
    f1: Estimate | None
    unusable: float
    tokens: float


def summarize(
    data: LabelledSolutions, localizer: str, verdicts: Sequence[Verdict], may_be_right: bool
) -> Result:
    """Accuracy of a localizer's verdicts on a data set."""
    pairs = list(zip(data.solutions, verdicts, strict=True))
    wrong = [(s, s.first_error + 1, v) for s, v in pairs if s.first_error is not None]
    right = [(s, v) for s, v in pairs if s.first_error is None]
    problems = [s.problem for s, _, _ in wrong]

    def share(test: Callable[[int, int], bool]) -> FloatArray:
        return np.array([_share([test(int(k), e) for k in v.best]) for _, e, v in wrong])

    exact = share(lambda step, error: step == error)
    chance = np.array([1 / len(s.steps) for s, _, _ in wrong])
    near = share(lambda step, error: step > 0 and abs(step - error) <= 1)
    before = share(lambda step, error: 0 < step <= error)
    drawn = np.array([v.steps[e - 1] for _, e, v in wrong])
    none = np.array([_share([k == 0 for k in v.best]) for _, v in right])
    others = [s.problem for s, _ in right]
    both = may_be_right and wrong and right
    return Result(
        data.name, localizer, may_be_right, len(wrong), len(right),
        len({s.problem for s in data.solutions}), data.available,
        _mean(exact, problems), _mean(near, problems), _mean(before, problems),
        _mean(drawn, problems),
        None if localizer == "random" else _mean(exact - chance, problems, low=-1.0),
        _mean(none, others) if may_be_right else None,
        _f1(exact, problems, none, others) if both else None,
        float(np.mean([not v.usable for v in verdicts])),
        float(np.mean([v.tokens for v in verdicts])),
    )  # fmt: skip


def _share(outcomes: Sequence[bool]) -> float:
    """Share of the best entries that pass a test; 0 if there is none."""
    return float(np.mean(outcomes)) if outcomes else 0.0


def _sums(values: FloatArray, rows: Sequence[str], problems: Sequence[str]) -> FloatArray:
    """Sum and number of the values of each problem, shape (problems, 2)."""
    index = {problem: i for i, problem in enumerate(problems)}
    sums = np.zeros((len(index), 2))
    np.add.at(sums, [index[row] for row in rows], np.stack([values, np.ones(len(values))], 1))
    return sums


def _mean(values: FloatArray, rows: Sequence[str], low: float = 0.0) -> Estimate | None:
    """Mean over solutions; the bootstrap draws problems. None without solutions."""
    if not len(values):
        return None
    sums = _sums(values, rows, sorted(set(rows)))
    if len(sums) == len(values):
        return mean_over_problems(sums[:, 0], (low, 1.0))
    return bootstrap(lambda i: _ratio(sums[i]), len(sums), (low, 1.0))


def _f1(
    exact: FloatArray, wrong: Sequence[str], none: FloatArray, right: Sequence[str]
) -> Estimate:
    """Harmonic mean of the accuracies on wrong and on right solutions."""
    problems = sorted({*wrong, *right})
    first, second = _sums(exact, wrong, problems), _sums(none, right, problems)

    def harmonic(i: Any) -> float:
        a, b = _ratio(first[i]), _ratio(second[i])
        return 2 * a * b / (a + b) if a + b else 0.0

    return bootstrap(harmonic, len(problems), (0.0, 1.0))


def _ratio(sums: FloatArray) -> float:
    """Mean of values from rows of (sum, number); 0 for a resample without any."""
    total, number = sums.sum(0)
    return float(total / number) if number else 0.0


@dataclass(frozen=True)
class LocalizationReport(Printed):
    """Results of localizers; prints as tables (also in a notebook)."""

    model: str
    step: int | None
    revision: str
    results: list[Result]
    notes: list[str]
    options: dict[str, Any]
    environment: dict[str, Any]
    verdicts: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {**asdict(self), "level": LEVEL}

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        name = self.model if self.step is None else f"{self.model}, step {self.step}"
        parts: list[Any] = []
        for data in dict.fromkeys(result.data for result in self.results):
            results = [result for result in self.results if result.data == data]
            parts += [_wrong_table(name, data, results), "", _right_table(results), ""]
        return Group(*parts, *map(Text, [*self.notes, *remarks(self.results)]))

    def records(self) -> list[dict[str, Any]]:
        """A row for each measure of each localizer, for `pandas.DataFrame`."""
        rows = []
        for result in self.results:
            values = asdict(result)
            name = {key: values.pop(key) for key in ("data", "localizer", "may_be_right")}
            for measure, value in values.items():
                if value is not None:
                    estimate = value if isinstance(value, dict) else {"value": value}
                    empty = {"value": None, "low": None, "high": None}
                    rows.append({**name, "measure": measure, **empty, **estimate})
        return rows


def _wrong_table(name: str, data: str, results: Sequence[Result]) -> Any:
    used, available = results[0].wrong + results[0].right, results[0].available
    sample = f", in a random sample of {used} of {available} rows" if used < available else ""
    rows = table(
        f"{name} on {data}: {results[0].wrong} solutions with a wrong step{sample}; {LEVEL:.0%} "
        "intervals over problems",
        ["localizer", "exact", "exact − chance", "within 1", "at or before", "drawn"],
    )
    for r in results:
        rows.add_row(
            r.localizer, format_estimate(r.exact), format_estimate(r.over_chance, "+"),
            *map(format_estimate, (r.within_1, r.at_or_before, r.drawn)),
        )  # fmt: skip
    return rows


def _right_table(results: Sequence[Result]) -> Any:
    right = results[0].right
    heads = ["localizer", "unusable", "tokens per verdict"]
    if any(r.may_be_right for r in results):
        heads += [f"accuracy on {right} right solutions", "F1"]
    rows = table("Cost, and solutions without a wrong step", heads)
    for r in results:
        cells = [r.localizer, f"{r.unusable:.1%}", f"{r.tokens:.1f}"]
        rows.add_row(*[*cells, format_estimate(r.on_right), format_estimate(r.f1)][: len(heads)])
    return rows


def remarks(results: Sequence[Result]) -> list[str]:
    """Which localizers always name a step, and which are no better than chance."""
    always = list(dict.fromkeys(r.localizer for r in results if not r.may_be_right))
    lines = []
    if always:
        lines.append(
            f"Always name a step, as in training, so that F1 is not defined: {', '.join(always)}."
        )
    if len(always) == len({r.localizer for r in results}):
        lines.append(
            "With --may_be_right, prompted and step_logprob may answer that none is wrong."
        )
    compared = [(r, r.over_chance) for r in results if r.over_chance is not None]
    for data in dict.fromkeys(r.data for r in results):
        here = [(r.localizer, over) for r, over in compared if r.data == data]
        worse = [name for name, over in here if over.high < 0]
        equal = [name for name, over in here if over.low <= 0 <= over.high]
        for names, words in ((worse, "worse than"), (equal, "not shown to differ from")):
            if names:
                lines.append(f"{data}: {words} a random step: {', '.join(names)}.")
    return lines


def verdict_records(
    data: LabelledSolutions, verdicts: Mapping[str, Sequence[Verdict]]
) -> list[dict[str, Any]]:
    """JSON records of all verdicts, one per solution; entry 0 of weights is "no wrong step"."""

    def record(i: int, solution: Solution) -> dict[str, Any]:
        return {
            "data": data.name,
            "id": solution.id,
            "number": solution.number,
            "first_error": solution.first_error,
            "weights": {
                name: each[i].weights.round(6).tolist() if each[i].usable else None
                for name, each in verdicts.items()
            },
        }

    return [record(i, solution) for i, solution in enumerate(data.solutions)]
