"""Checks bounds on policy updates; the report has one row per bound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cpi.bounds import discounted, finite
from cpi.bounds.bound import Bound, Check
from cpi.exact.improvement import check_weights, default_tau, improvable_mask, visited_improvable
from cpi.exact.policies import check_policy
from cpi.exact.update import Update
from cpi.exact.values import Evaluation, evaluate
from cpi.reporting.notebook import Printed
from envs.tabular import FloatArray, TabularMDP, distribution, real_array

#: Default step sizes of `check_bounds`.
STEPS = (1.0, 0.3, 0.1, 0.01)

RATIOS = ("bound / truth", "penalty / loss")
CAPTION = (
    "smallest slack: distance to violation, where −1e-13 is rounding. bound / truth: 1 is tight; "
    "vacuous: promised no gain here; no power: both sides were always within rounding.\npenalty / "
    "loss: of a bound that takes a penalty off the first-order gain, penalty over what was truly "
    "lost; – : nothing to compare."
)


@dataclass
class Row:
    """Summary of all checks of one bound.

    `min_slack` is the smallest slack, `max_right` the largest right side. `tightness` and
    `penalty_ratio` are the ratios closest to 1. A number that no check defines is infinite. In
    `powerless` checks both sides are within rounding.
    """

    bound: Bound
    instances: int = 0
    violations: int = 0
    powerless: int = 0
    min_slack: float = math.inf
    max_right: float = -math.inf
    tightness: float = math.inf
    penalty_ratio: float = math.inf

    def add(self, check: Check) -> None:
        """Count one check."""
        self.instances += 1
        self.violations += check.violated
        self.powerless += check.powerless
        self.min_slack = min(self.min_slack, check.slack)
        self.max_right = max(self.max_right, check.right)
        self.tightness = _nearer_one(self.tightness, check.tightness)
        self.penalty_ratio = _nearer_one(self.penalty_ratio, check.penalty_ratio)

    @property
    def vacuous(self) -> bool:
        """Whether the bound promised no gain on any instance."""
        return self.bound.sense == ">=" and self.instances > 0 and self.max_right <= 0

    @property
    def without_power(self) -> bool:
        """Whether rounding would have hidden a violation on every instance."""
        return 0 < self.instances == self.powerless

    @property
    def summary(self) -> str:
        """The cell "bound / truth": a number, or a word where there is none."""
        if self.without_power:
            return "no power"
        return "vacuous" if self.vacuous else _ratio(self.tightness)


def _nearer_one(best: float, ratio: float) -> float:
    return ratio if ratio > 0 and abs(math.log(ratio)) < abs(math.log(best)) else best


def _ratio(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _number(value: float) -> float | None:
    """A number for JSON, which has no infinities."""
    return value if math.isfinite(value) else None


@dataclass
class BoundReport(Printed):
    """All rows, and the checks that failed; prints as a table (also in a notebook)."""

    rows: list[Row]
    failures: list[tuple[str, Check]] = field(default_factory=list)

    @property
    def violations(self) -> int:
        """Number of failed checks."""
        return sum(row.violations for row in self.rows)

    @property
    def instances(self) -> int:
        """Number of checks made."""
        return sum(row.instances for row in self.rows)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.bound.name == name:
                return row
        raise KeyError(f"no bound {name!r}; there are {[row.bound.name for row in self.rows]}")

    def add(self, label: str, update: Update) -> None:
        """Check the bounds that apply to the MDP of `update`, and those of one's own."""
        others = finite.BOUNDS if update.mdp.horizon is None else discounted.BOUNDS
        for row in self.rows:
            if row.bound not in others and (check := row.bound.check(update)) is not None:
                row.add(check)
                if check.violated:
                    self.failures.append((label, check))

    def verdict(self) -> str:
        """The result in one sentence."""
        used = sum(row.instances > 0 for row in self.rows)
        unused = len(self.rows) - used
        skipped = f" ({unused} did not apply)" if unused else ""
        if self.violations:
            failing = sum(row.violations > 0 for row in self.rows)
            return (
                f"{self.violations} violations of {failing} of {used} bounds in "
                f"{self.instances:,} checks{skipped}: the statement, or our code, is wrong."
            )
        verdict = f"All {used} bounds hold in {self.instances:,} checks{skipped}: no violation."
        empty = sum(row.without_power for row in self.rows)
        if empty:
            verdict += (
                f" No power in {empty} of them: all that these compare is within the rounding of "
                "this problem's values."
            )
        return verdict

    def to_json(self) -> list[dict[str, Any]]:
        """Rows as plain data; undefined numbers are None."""
        return [
            {
                "name": row.bound.name,
                "statement": row.bound.statement,
                "source": row.bound.source,
                "requires": row.bound.requires,
                "instances": row.instances,
                "violations": row.violations,
                "powerless": row.powerless,
                "min_slack": _number(row.min_slack),
                "tightness": _number(row.tightness),
                "penalty_ratio": _number(row.penalty_ratio),
            }
            for row in self.rows
        ]

    def __rich__(self) -> Any:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text  # no markup: a source or a name may have [brackets]

        frame: dict[str, Any] = {"box": SIMPLE_HEAD, "show_edge": False, "padding": (0, 1, 0, 0)}
        table = Table(caption=CAPTION, caption_justify="left", **frame)
        table.add_column("bound: statement, source", overflow="fold", ratio=1)
        for heading in ("checks", "violated", "smallest\nslack", *RATIOS):
            table.add_column(heading.replace(" / ", " /\n"), justify="right", no_wrap=True)
        for row in self.rows:
            style = "bold red" if row.violations else "green"
            table.add_row(
                Text.assemble(row.bound.__rich__(), (f"\n{row.bound.source}", "dim")),
                f"{row.instances:,}",
                Text(str(row.violations), style),
                f"{row.min_slack:.1e}" if row.instances else "–",
                row.summary,
                _ratio(row.penalty_ratio),
            )
        return table

    def __str__(self) -> str:
        more = "Symbols, and the bounds of other problems: python -m cpi.bounds --list"
        return f"{super().__str__()}{more}\n{self.verdict()}"

    def records(self) -> list[dict[str, Any]]:
        """A row for each bound, for `pandas.DataFrame`."""
        return self.to_json()


def bounds_for(mdp: TabularMDP) -> tuple[Bound, ...]:
    """The bounds for discounted or for finite-horizon MDPs, whichever `mdp` is."""
    return discounted.BOUNDS if mdp.horizon is None else finite.BOUNDS


def check_updates(updates: Iterable[tuple[str, Update]], bounds: Iterable[Bound]) -> BoundReport:
    """Check `bounds` on labelled updates."""
    report = BoundReport([Row(bound) for bound in bounds])
    for label, update in updates:
        report.add(label, update)
    return report


def variations(
    base: Evaluation,
    candidate: FloatArray,
    alphas: Sequence[float],
    weights: FloatArray | None,
    tau: float | None,
    restart: FloatArray | None = None,
) -> Iterator[Update]:
    """One update per step size and reset rule.

    The reset rule is `weights` if given, otherwise random resets and oracle resets.
    """
    rules: list[FloatArray | None] = [weights]
    if weights is None and tau is not None:
        rules.append(improvable_mask(base, tau).astype(np.float64))
    for rule in rules:
        for alpha in alphas:
            yield Update(base, candidate, alpha, rule, tau, restart)


def check_bounds(
    mdp: TabularMDP,
    policy: ArrayLike,
    candidate: ArrayLike,
    *,
    alpha: float | Sequence[float] = STEPS,
    weights: ArrayLike | None = None,
    tau: float | None = None,
    restart: ArrayLike | None = None,
) -> BoundReport:
    """Check every bound that applies to updates of `policy` towards `candidate`.

    Parameters
    ----------
    mdp : TabularMDP
    policy, candidate : array (S, A), or (H, S, A) on a finite horizon
    alpha : float or sequence of floats
        Step sizes in (0, 1]; a step of 0 would check nothing.
    weights : array (S,) or (H, S), optional
        Reset weights in [0, 1]; by default both random and oracle resets are checked.
    tau : float, optional
        Threshold of the improvable set; by default half the largest advantage in the states that
        the policy visits.
    restart : array (S,), optional
        Restart distribution μ of the coverage bounds; by default the start distribution.

    Returns
    -------
    BoundReport
        Prints as a table; `report.violations` should be 0.

    Raises
    ------
    cpi.PolicyError, ValueError
        If an argument does not fit `mdp`.
    """
    base = evaluate(mdp, policy)
    target = check_policy(mdp, candidate, what="candidate")
    if tau is None:
        tau = default_tau(base)
    else:
        visited_improvable(base, tau)  # refuse a threshold above every advantage
    steps = np.atleast_1d(real_array(alpha, "alpha", ValueError)[0]).tolist()
    if not steps:
        raise ValueError("alpha: no step size given")
    if 0.0 in steps:
        raise ValueError("alpha: 0 changes no policy, so there would be nothing to check")
    rule = None if weights is None else check_weights(base, weights)
    mu = None if restart is None else distribution(restart, "restart", mdp.num_states)
    updates = ((mdp.name, update) for update in variations(base, target, steps, rule, tau, mu))
    return check_updates(updates, bounds_for(mdp))
