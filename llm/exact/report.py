"""Report of `llm.exact`: one row per checkpoint, two tables and a conclusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cpi.reporting.tables import plain, table
from llm.common.statistics import Estimate
from llm.exact.gains import ResetQuality

#: Joint error probability of the measured intervals of a run.
ERROR = 0.05


@dataclass(frozen=True)
class Gain:
    """Improvement of J since the previous checkpoint."""

    exact: float
    predicted: Estimate
    measured: Estimate


@dataclass(frozen=True)
class Row:
    """Results of a checkpoint.

    Attributes
    ----------
    step : int
    J : float
        Exact success probability, mean over problems.
    success : Estimate
        Sampled success rate.
    largest, coverage, visit : float
        Largest advantage in visited states, p_π(τ), and probability that an episode visits I_τ.
    gain : Gain or None
        None for the first checkpoint.
    resets : ResetQuality
        Quality of the localizer.
    unusable : float or None
        Share of the prompted localizer's replies that name no step; None for other localizers.
    certified : dict
        Guaranteed gain of one step with resets by "random", "localizer" and "oracle".
    q : lists (P, n)
        Probability of each right step, from which all exact numbers follow.
    """

    step: int
    J: float
    success: Estimate
    largest: float
    coverage: float
    visit: float
    gain: Gain | None
    resets: ResetQuality
    unusable: float | None
    certified: dict[str, float]
    q: list[list[float]]


@dataclass(frozen=True)
class ExactReport:
    """Results of all checkpoints of a run; prints as two tables and a conclusion.

    Attributes
    ----------
    run : str
        Folder of the run.
    horizon : int
        Steps of a problem.
    problems : list of str
        Ids of the held-out problems.
    samples : int
        Completions per problem and checkpoint.
    tau : float
        Threshold of improvable states.
    localizer : str
    rounding : float
        How far an exact number may lie outside an interval because of rounding.
    rows : list of Row
    config : dict
        Settings of the run.
    environment : dict
        Software and machine of this report, not of the run.
    """

    run: str
    horizon: int
    problems: list[str]
    samples: int
    tau: float
    localizer: str
    rounding: float
    rows: list[Row]
    config: dict[str, Any]
    environment: dict[str, Any]

    @property
    def gains(self) -> list[Gain]:
        """Gains between successive checkpoints."""
        return [row.gain for row in self.rows if row.gain is not None]

    @property
    def violations(self) -> int:
        """Number of exact improvements outside the predicted interval; 0 by the theorem."""
        return sum(gain.predicted.miss(gain.exact) > self.rounding for gain in self.gains)

    def conclusion(self) -> str:
        """How many exact numbers lie inside each kind of interval."""
        J = _inside([row.success.miss(row.J) for row in self.rows], self.rounding)
        if not self.gains:
            return f"One checkpoint, no improvement. Exact J inside the measured interval: {J}."
        predicted = _inside([g.predicted.miss(g.exact) for g in self.gains], self.rounding)
        measured = _inside([g.measured.miss(g.exact) for g in self.gains], self.rounding)
        theorem = "THE THEOREM OR OUR CODE IS WRONG" if self.violations else "it is a theorem"
        level = f"joint level {1 - ERROR:.0%}"
        return (
            f"Exact improvements inside the predicted interval: {predicted}; {theorem}.\n"
            f"Exact improvements inside the measured interval: {measured}; {level}.\n"
            f"Exact J inside the measured interval: {J}; {level}."
        )

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {**asdict(self), "level": 1 - ERROR, "verdict": self.conclusion()}

    def __rich__(self) -> Any:
        from rich.console import Group

        return Group(self._improvements(), "", self._resets(), "")

    def _improvements(self) -> Any:
        rows = table(
            f"{self.run}: {len(self.problems)} held-out problems of {self.horizon} steps, "
            f"{self.samples} samples of each; τ = {self.tau:.4g}",
            [
                "step",
                "J",
                "J sampled",
                "max A",
                "p(τ)",
                "visit",
                "gain",
                "predicted",
                "gain sampled",
            ],
        )
        for row in self.rows:
            rows.add_row(
                str(row.step), f"{row.J:.4f}", _interval(row.success), f"{row.largest:.3f}",
                f"{row.coverage:.3f}", f"{row.visit:.3f}", *_cells(row.gain),
            )  # fmt: skip
        return rows

    def _resets(self) -> Any:
        rows = table(
            f"Resets by the localizer {self.localizer}, and gains certified at each checkpoint",
            ["step", "p_w", "precision", "recall", "hits", "no step", "certified: random",
             "localizer", "oracle", "gained next"],
        )  # fmt: skip
        next_rows: list[Row | None] = [*self.rows[1:], None]
        for row, next_row in zip(self.rows, next_rows, strict=True):
            resets = row.resets
            rows.add_row(
                str(row.step), f"{resets.accepted:.3f}", f"{resets.precision:.3f}",
                f"{resets.recall:.3f}", _share(resets.hit_rate), _share(row.unusable),
                *(f"{gain:.1e}" if gain else "0" for gain in row.certified.values()),
                "–" if next_row is None or next_row.gain is None else f"{next_row.gain.exact:+.4f}",
            )  # fmt: skip
        return rows

    def __str__(self) -> str:
        return plain(self) + self.conclusion()


def _cells(gain: Gain | None) -> list[str]:
    """Cells of the exact, predicted and sampled gain."""
    if gain is None:
        return ["–"] * 3
    predicted = gain.predicted
    radius = predicted.high - predicted.value
    return [
        f"{gain.exact:+.4f}",
        f"{predicted.value:+.4f} ± {radius:.4f}",
        _interval(gain.measured, "+"),
    ]


def _interval(estimate: Estimate, sign: str = "") -> str:
    return f"[{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _inside(misses: Sequence[float], rounding: float) -> str:
    count = sum(miss <= rounding for miss in misses)
    return f"{count} of {len(misses)}, largest violation {max(misses):.1g}"
