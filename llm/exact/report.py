"""What `llm.exact` found of a run: a row a checkpoint, two tables, a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cpi.reporting.tables import plain, table
from llm.common.statistics import Estimate
from llm.exact.gains import ResetQuality

#: Joint error of the measured intervals of a run.
ERROR = 0.05


@dataclass(frozen=True)
class Gain:
    """What became of J since the checkpoint before."""

    exact: float
    predicted: Estimate
    measured: Estimate


@dataclass(frozen=True)
class Row:
    """A checkpoint.

    Attributes
    ----------
    step : int
    J : float
        Exact success probability, mean over problems.
    success : Estimate
        The same, from samples.
    largest, coverage, visit : float
        Largest advantage met, p_π(τ), and the probability that an episode visits I_τ.
    gain : Gain or None
        None at the first.
    resets : ResetQuality
        The localizer's.
    unusable : float or None
        Share of the prompted localizer's replies that name no step.
    certified : dict
        Gain of one step under resets that are "random", the "localizer"'s, the "oracle"'s.
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
    """All checkpoints of a run; prints as two tables and a verdict (also in a notebook).

    `rounding` is by how much an exact number may miss an interval, `problems` names the held-out
    problems, `config` is the run's and `environment` this computation's.
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
        """One fewer than checkpoints."""
        return [row.gain for row in self.rows if row.gain is not None]

    @property
    def violations(self) -> int:
        """Exact improvements outside the predicted interval; 0, says the theorem."""
        return sum(gain.predicted.miss(gain.exact) > self.rounding for gain in self.gains)

    def verdict(self) -> str:
        """How many exact numbers lie inside which interval."""
        J = _inside([row.success.miss(row.J) for row in self.rows], self.rounding)
        if not self.gains:
            return f"One checkpoint, no improvement to judge. Exact J inside the measured one: {J}."
        predicted = _inside([g.predicted.miss(g.exact) for g in self.gains], self.rounding)
        measured = _inside([g.measured.miss(g.exact) for g in self.gains], self.rounding)
        theorem = "THE THEOREM, OR OUR CODE, IS WRONG" if self.violations else "it is a theorem"
        level = f"joint level {1 - ERROR:.0%}"
        return (
            f"Exact improvements inside the predicted interval: {predicted}; {theorem}.\n"
            f"Exact improvements inside the measured interval: {measured}; {level}.\n"
            f"Exact J inside the measured interval: {J}; {level}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "level": 1 - ERROR, "verdict": self.verdict()}

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
        nexts: list[Row | None] = [*self.rows[1:], None]
        for row, after in zip(self.rows, nexts, strict=True):
            resets = row.resets
            rows.add_row(
                str(row.step), f"{resets.accepted:.3f}", f"{resets.precision:.3f}",
                f"{resets.recall:.3f}", _share(resets.hit_rate), _share(row.unusable),
                *(f"{gain:.1e}" if gain else "0" for gain in row.certified.values()),
                "–" if after is None or after.gain is None else f"{after.gain.exact:+.4f}",
            )  # fmt: skip
        return rows

    def __str__(self) -> str:
        return plain(self) + self.verdict()


def _cells(gain: Gain | None) -> list[str]:
    """Exact, predicted, sampled."""
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
